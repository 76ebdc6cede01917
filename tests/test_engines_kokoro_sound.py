"""What becomes of the model's sound: trimmed, with pauses and word times."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from voicepool.engines.base import Samples, WordTime
from voicepool.engines.kokoro import sound
from voicepool.engines.kokoro.g2p import Word
from voicepool.engines.kokoro.sound import CHUNK, RATE, Spoken

FRAME = 600
"""Samples for which the published model holds a phoneme, at least."""

HELLO = [Word(0, 5, "hello "), Word(6, 12, "world.")]


def durations(words: list[Word], *, before: int, each: int, after: int) -> NDArray[np.int64]:
    phonemes = sum(len(word.phonemes) for word in words)
    return np.array([before, *[each] * phonemes, after])


def tone(frames: int, level: float = 0.5) -> Samples:
    phase = 2 * np.pi * 220 / RATE * np.arange(frames * FRAME)
    return np.asarray(level * np.sin(phase), np.float32)


def silence(frames: int) -> Samples:
    return np.zeros(frames * FRAME, np.float32)


def heard(samples: Samples) -> tuple[int, int]:
    """First sound and last, in samples."""
    loud = np.flatnonzero(np.abs(samples) > 0.01)
    return int(loud[0]), int(loud[-1])


def test_silence_goes_and_a_pause_is_set() -> None:
    spans = durations(HELLO, before=5, each=2, after=20)
    audio = np.concatenate([silence(5), tone(22), silence(22)])  # "hello world" has 11 phonemes
    spoken = sound.finish(audio, spans, HELLO, 1.0)
    begin, end = heard(spoken.samples)
    assert begin <= 0.025 * RATE
    assert end / RATE == pytest.approx(22 * FRAME / RATE, abs=0.05)
    pause = (len(spoken.samples) - end) / RATE
    assert sound.SENTENCE_PAUSE <= pause <= sound.SENTENCE_PAUSE + 0.1
    assert spoken.starts[0] == 0.0
    assert spoken.starts[1] == pytest.approx(12 * FRAME / RATE, abs=0.08)


@pytest.mark.parametrize(
    ("last", "pause"), [("world,", 0.12), ("world?”", 0.25), ("world", 0.0), ("world ", 0.0)]
)
def test_the_pause_is_that_of_the_mark(last: str, pause: float) -> None:
    words = [Word(0, 6, last)]
    spans = durations(words, before=1, each=2, after=1)
    spoken = sound.finish(tone(int(spans.sum())), spans, words, 1.0)
    kept = len(spoken.samples) - int(pause * RATE)
    assert np.abs(spoken.samples[kept:]).max(initial=0.0) == 0.0
    assert np.abs(spoken.samples[kept - 2400 : kept]).max() > 0.3


def test_pauses_shrink_with_speed() -> None:
    spans = durations(HELLO, before=1, each=2, after=1)
    audio = tone(int(spans.sum()))
    plain, fast = (len(sound.finish(audio, spans, HELLO, speed).samples) for speed in (1.0, 2.0))
    assert plain - fast == int(sound.SENTENCE_PAUSE / 2 * RATE)


def test_noise_under_the_last_mark_is_not_heard() -> None:
    spans = durations(HELLO, before=2, each=2, after=20)
    audio = np.concatenate([silence(2), tone(22), silence(4), tone(18, 0.2)])
    spoken = sound.finish(audio, spans, HELLO, 1.0)
    assert heard(spoken.samples)[1] < 23 * FRAME


def test_a_word_that_begins_early_keeps_its_beginning() -> None:
    """Before the model says that its first phoneme is held."""
    spans = durations(HELLO, before=6, each=2, after=2)
    audio = np.concatenate([silence(3), tone(3 + 22), silence(4)])
    spoken = sound.finish(audio, spans, HELLO, 1.0)
    assert heard(spoken.samples)[1] - heard(spoken.samples)[0] > 24 * FRAME


def test_there_are_no_clicks() -> None:
    spans = durations(HELLO, before=1, each=2, after=1)
    audio = np.full(int(spans.sum()) * FRAME, 0.5, np.float32)
    samples = sound.finish(audio, spans, HELLO, 1.0).samples
    assert np.abs(np.diff(samples, prepend=0.0, append=0.0)).max() < 0.02


def test_a_model_that_says_nothing_is_heard_as_silence() -> None:
    spans = durations(HELLO, before=1, each=2, after=1)
    spoken = sound.finish(silence(int(spans.sum())), spans, HELLO, 1.0)
    assert np.abs(spoken.samples).max() == 0.0
    assert list(spoken.starts) == sorted(spoken.starts)


def test_numbers_that_are_no_sound_are_silence() -> None:
    spans = durations(HELLO, before=1, each=2, after=1)
    audio = tone(int(spans.sum()))
    audio[1000:2000] = np.nan
    audio[3000:4000] = np.inf
    samples = sound.finish(audio, spans, HELLO, 1.0).samples
    assert np.isfinite(samples).all()
    assert np.abs(samples).max() <= 1.0


WORDS = st.lists(
    st.tuples(st.text("ab,. ”", max_size=8), st.booleans()).map(
        lambda it: Word(0, int(it[1]), it[0])
    ),
    max_size=8,
)


@given(WORDS, st.data())
def test_times_are_in_order_and_inside_the_sound(words: list[Word], data: st.DataObject) -> None:
    count = sum(len(word.phonemes) for word in words) + 2
    spans = np.array(data.draw(st.lists(st.integers(0, 9), min_size=count, max_size=count)))
    length = data.draw(st.integers(0, int(spans.sum()) * FRAME + 5))
    loudness = data.draw(st.sampled_from([0.0, 1e-6, 0.5]))
    audio = np.random.default_rng(0).normal(0.0, 1.0, length) * loudness
    spoken = sound.finish(audio, spans, words, 1.0)
    assert len(spoken.starts) == len(words)
    assert list(spoken.starts) == sorted(spoken.starts)
    if words:
        assert spoken.starts[0] >= 0.0
        assert spoken.starts[-1] <= len(spoken.samples) / RATE


@given(
    st.integers(0, 5 * CHUNK),
    st.lists(st.floats(0.0, 1.0), max_size=9).map(sorted),
    st.floats(0.0, 100.0),
)
def test_chunks_are_the_sound_with_each_word_where_it_begins(
    length: int, shares: list[float], before: float
) -> None:
    samples = np.arange(length, dtype=np.float32)
    times = [
        WordTime(number, number + 1, before + share * length / RATE)
        for number, share in enumerate(shares)
    ]
    found = list(sound.chunks(Spoken(samples, tuple(shares)), times, before))
    assert all(0 < len(chunk.samples) <= CHUNK for chunk in found)
    if length:
        assert np.array_equal(np.concatenate([chunk.samples for chunk in found]), samples)
        assert [word for chunk in found for word in chunk.words] == times
    at = before
    for chunk in found:
        end = at + len(chunk.samples) / RATE
        for word in chunk.words:
            assert at - 1e-6 <= word.start <= end + 1e-6
        at = end
