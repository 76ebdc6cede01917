"""One utterance in windows: what is heard when, and that nothing is lost or heard twice."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voicepool.engines.base import INPUT_RATE, Samples, Transcript
from voicepool.engines.faster_whisper.pacing import Pace
from voicepool.engines.faster_whisper.stream import NOTHING, SHORTEST, WINDOW, Heard, WhisperStream

WORD = INPUT_RATE // 2
"""Samples of a word, in the language of Ear: a number spoken as a constant level."""


class Ear:
    """Understands words of half a second that are counted up, and notes what it hears.

    A word that is cut is understood on the side that has more of it.
    """

    def __init__(self) -> None:
        self.heard: list[Samples] = []
        self.now = 0.0
        self.cost = 0.2

    def __call__(self, sound: Samples) -> Heard:
        assert SHORTEST <= len(sound) <= WINDOW
        self.heard.append(sound.copy())
        self.now += self.cost
        numbers, lengths = np.unique(np.rint(sound * 1000).astype(int), return_counts=True)
        counted = zip(numbers, lengths, strict=True)
        words = [f"w{number}" for number, length in counted if number and length * 2 > WORD]
        return Heard(" ".join(words), len(words) + 1, -0.1 * (len(words) + 1))

    def stream(self, share: float = 0.5) -> WhisperStream:
        return WhisperStream(self, Pace(share, 0.5), lambda: self.now)

    def say(self, stream: WhisperStream, sound: Samples, piece: int) -> list[Transcript]:
        """Feed it in real time; the partial transcripts."""
        partials = []
        for at in range(0, len(sound), piece):
            fed = sound[at : at + piece]
            self.now += len(fed) / INPUT_RATE
            partial = stream.feed(fed)
            if partial is not None:
                partials.append(partial)
        return partials


def counting(words: int) -> Samples:
    return np.repeat(np.arange(1, words + 1, dtype=np.float32) / 1000, WORD)


def text(words: int) -> str:
    return " ".join(f"w{number}" for number in range(1, words + 1))


def test_partials_grow_and_the_final_has_all() -> None:
    ear = Ear()
    stream = ear.stream()
    partials = ear.say(stream, counting(20), 640)
    assert len(partials) >= 10
    for earlier, later in itertools.pairwise(partials):
        assert later.text.startswith(earlier.text)
        assert later.text != earlier.text
    assert not any(partial.final for partial in partials)
    final = stream.finish()
    assert (final.text, final.final) == (text(20), True)
    assert final.confidence == pytest.approx(np.exp(-0.1))


def test_a_snapshot_is_the_final_where_nothing_is_fed_after_it() -> None:
    ear = Ear()
    stream = ear.stream(share=0.0)
    stream.feed(counting(4))
    snapshot = stream.snapshot()
    assert stream.finish() == snapshot
    assert len(ear.heard) == 1


def test_more_may_be_fed_after_a_snapshot() -> None:
    ear = Ear()
    stream = ear.stream(share=0.0)
    sound = counting(6)
    stream.feed(sound[: 3 * WORD])
    assert stream.snapshot().text == text(3)
    stream.feed(sound[3 * WORD :])
    assert stream.finish().text == text(6)
    np.testing.assert_array_equal(ear.heard[-1], sound)


def test_a_partial_of_all_that_was_fed_is_the_final() -> None:
    ear = Ear()
    stream = ear.stream()
    stream.feed(counting(4))
    assert len(ear.heard) == 1
    assert stream.finish().text == text(4)
    assert len(ear.heard) == 1


def test_no_partial_is_begun_in_a_pause() -> None:
    ear = Ear()
    stream = ear.stream()
    stream.feed(counting(4))
    before = len(ear.heard)
    ear.say(stream, np.zeros(2 * INPUT_RATE, np.float32), 512)
    # The first pieces are still too short for a pause.
    assert len(ear.heard) <= before + 1
    assert stream.finish().text == text(4)


def test_partials_can_be_turned_off() -> None:
    ear = Ear()
    stream = ear.stream(share=0.0)
    assert ear.say(stream, counting(20), 640) == []
    assert ear.heard == []
    assert stream.finish().text == text(20)


def test_sound_faster_than_time_makes_no_more_partials() -> None:
    ear = Ear()
    ear.cost = 0.0
    stream = ear.stream()
    for at in range(0, 20 * WORD, 640):
        stream.feed(counting(20)[at : at + 640])
    assert len(ear.heard) == 1


@pytest.mark.parametrize("length", [0, 1, SHORTEST - 1])
def test_less_than_a_word_is_nothing(length: int) -> None:
    ear = Ear()
    stream = ear.stream()
    stream.feed(np.ones(length, np.float32))
    assert stream.finish() == Transcript("", final=True, confidence=0.0)
    assert ear.heard == []


def test_nothing_understood_has_no_confidence() -> None:
    stream = WhisperStream(lambda sound: NOTHING, Pace(0.5, 0.5))
    stream.feed(counting(4))
    assert stream.finish() == Transcript("", final=True, confidence=0.0)


def test_broken_samples_become_silence_and_loud_ones_are_clipped() -> None:
    ear = Ear()
    stream = ear.stream(share=0.0)
    sound = np.array([np.nan, np.inf, -np.inf, 7.0, -7.0, 0.5] * 1000, np.float32)
    given = sound.copy()
    stream.feed(sound)
    stream.finish()
    np.testing.assert_array_equal(ear.heard[0][:6], [0, 0, 0, 1, -1, 0.5])
    np.testing.assert_array_equal(sound, given)


def test_an_engine_may_reuse_its_buffer() -> None:
    ear = Ear()
    stream = ear.stream(share=0.0)
    buffer = counting(2)
    stream.feed(buffer)
    buffer[:] = 0
    assert stream.finish().text == text(2)


def test_a_failure_loses_nothing() -> None:
    ear = Ear()
    failing = True

    def hear(sound: Samples) -> Heard:
        if failing:
            raise RuntimeError
        return ear(sound)

    stream = WhisperStream(hear, Pace(0.5, 0.5))
    with pytest.raises(RuntimeError):
        stream.feed(counting(100))
    failing = False
    assert stream.finish().text == text(100)


@settings(deadline=None, max_examples=30)
@given(
    words=st.integers(55, 150),
    pieces=st.lists(st.integers(5000, 40 * INPUT_RATE), min_size=1, max_size=6),
    share=st.sampled_from([0.0, 0.5]),
    seed=st.integers(0, 9),
)
def test_a_long_utterance_is_heard_once_and_whole(
    words: int, pieces: list[int], share: float, seed: int
) -> None:
    ear = Ear()
    stream = ear.stream(share)
    sound = counting(words)
    # A breath in every fifth word, so that there are places to cut.
    for at in range(0, len(sound), 5 * WORD):
        sound[at + 100 : at + 1000] = 0
    at, sizes = 0, itertools.cycle(pieces)
    texts = []
    while at < len(sound):
        size = next(sizes) + seed
        fed = sound[at : at + size]
        ear.now += len(fed) / INPUT_RATE
        partial = stream.feed(fed)
        if partial is not None:
            texts.append(partial.text)
        at += size
    for earlier, later in itertools.pairwise(texts):
        assert later.startswith(earlier)
    assert stream.finish().text == text(words)
    if share == 0.0:
        np.testing.assert_array_equal(np.concatenate(ear.heard), sound)


def test_memory_is_bounded_and_each_transcript_is_of_one_window() -> None:
    ear = Ear()
    stream = ear.stream()
    for _ in range(20):
        stream.feed(counting(100))
    assert stream._length <= WINDOW
    assert sum(len(piece) for piece in stream._pieces) == stream._length
    assert stream._pieces[0].base is None
    stream.close()
    stream.close()
    assert stream._length == 0


@pytest.mark.parametrize("language", ["", "de"])
def test_a_transcript_says_what_it_is_in_where_that_is_known(language: str) -> None:
    ear = Ear()
    stream = WhisperStream(ear, Pace(0.5, 0.5), lambda: ear.now, language=language)
    stream.feed(counting(2))
    assert stream.snapshot().language == stream.finish().language == language
