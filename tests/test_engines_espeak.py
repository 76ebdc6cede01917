"""Speech by espeak."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voicepool.engines import espeak
from voicepool.engines.base import Polyglot, Samples, SpeechChunk
from voicepool.errors import EngineUnavailable


@pytest.fixture(scope="module")
def synthesizer() -> espeak.EspeakSynthesizer:
    synthesizer = espeak.create({})
    synthesizer.preload()
    synthesizer.load("host")
    synthesizer.warm_up()
    return synthesizer


def seconds(synthesizer: espeak.EspeakSynthesizer, chunks: list[SpeechChunk]) -> float:
    return sum(len(chunk.samples) for chunk in chunks) / synthesizer.sample_rate


def test_speech_comes_in_short_chunks(synthesizer: espeak.EspeakSynthesizer) -> None:
    chunks = list(synthesizer.synthesize("Hello world, how are you today?"))
    assert len(chunks) > 10
    for chunk in chunks:
        assert chunk.samples.dtype == np.float32
        assert 0 < len(chunk.samples) <= synthesizer.sample_rate * 0.2
    loudest = max(np.abs(chunk.samples).max() for chunk in chunks)
    assert 0.1 < loudest <= 1.0
    assert 1.5 < seconds(synthesizer, chunks) < 4


def test_words_have_their_places_and_times(synthesizer: espeak.EspeakSynthesizer) -> None:
    said = "Café number 56 isn't open, my good old friend. It opens at 12:30, “maybe”."
    chunks = list(synthesizer.synthesize(said))
    words = [word for chunk in chunks for word in chunk.words]
    assert [said[word.text_start : word.text_end] for word in words] == said.split()
    assert [word.start for word in words] == sorted(word.start for word in words)
    at = 0.0
    for chunk in chunks:
        end = at + len(chunk.samples) / synthesizer.sample_rate
        for word in chunk.words:
            assert at - 1e-6 <= word.start <= end
        at = end


def test_a_clause_more_does_not_move_the_words_before_it(
    synthesizer: espeak.EspeakSynthesizer,
) -> None:
    first = "One morning, after breakfast, "
    chunks = list(synthesizer.synthesize(first))
    alone = [word for chunk in chunks for word in chunk.words]
    both = [word for c in synthesizer.synthesize(first + "it rained.") for word in c.words]
    assert [word.text_start for word in both] == [0, 4, 13, 19, 30, 33]
    times = [word.start for word in alone] + [seconds(synthesizer, chunks)]
    assert [word.start for word in both[:5]] == pytest.approx(times, abs=0.02)


@pytest.mark.parametrize("text", ["", " ", "...", "\n\t", "\x00\x01", "?!", "\ud800"])
def test_nothing_to_say_is_no_sound(synthesizer: espeak.EspeakSynthesizer, text: str) -> None:
    assert list(synthesizer.synthesize(text)) == []


def test_markup_is_spoken_and_not_obeyed(synthesizer: espeak.EspeakSynthesizer) -> None:
    with_break = list(synthesizer.synthesize("wait <break time='9s'/> here"))
    assert seconds(synthesizer, with_break) < 8
    words = [word for chunk in synthesizer.synthesize("[[h@l'oU]] you") for word in chunk.words]
    assert [word.text_start for word in words] == [0, 11]
    after_nul = [w for c in synthesizer.synthesize("be\0fore and after") for w in c.words]
    assert after_nul[-1].text_end == len("be\0fore and after")


def test_a_long_text_can_be_cancelled(synthesizer: espeak.EspeakSynthesizer) -> None:
    speech = synthesizer.synthesize("the quick brown fox jumps over the lazy dog. " * 2000)
    assert len(next(speech).samples)
    speech.close()
    assert list(synthesizer.synthesize("And it speaks on."))


def test_a_text_without_spaces_is_spoken_in_parts() -> None:
    parts = list(espeak.split_clauses("x" * 1000))
    assert "".join(clause for _, clause in parts) == "x" * 1000
    assert max(len(clause) for _, clause in parts) <= 200


@given(st.text(max_size=600))
def test_clauses_cover_the_text(text: str) -> None:
    at = 0
    for start, clause in espeak.split_clauses(text):
        assert start >= at
        assert not any(ch.isalnum() for ch in text[at:start])
        at = start + len(clause)
        for ours, given_ in zip(clause, text[start:at], strict=True):
            assert ours in (given_, " ")
    assert not any(ch.isalnum() for ch in text[at:])


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_any_text_can_be_spoken(text: str) -> None:
    synthesizer = espeak.create({"rate": 450})
    synthesizer.preload()
    for chunk in synthesizer.synthesize(text):
        assert np.isfinite(chunk.samples).all()
        for word in chunk.words:
            assert 0 <= word.text_start < word.text_end <= len(text)


def spectrum(chunks: list[SpeechChunk]) -> Samples:
    """Long-term spectrum on a logarithmic scale: what tells one voice from another."""
    sound = np.concatenate([chunk.samples for chunk in chunks])
    frames = sound[: len(sound) // 512 * 512].reshape(-1, 512) * np.hanning(512)
    power: Samples = np.log10((np.abs(np.fft.rfft(frames)) ** 2).mean(axis=0) + 1e-9)
    return power


def test_voices_sound_different_and_an_unknown_one_is_the_default(
    synthesizer: espeak.EspeakSynthesizer,
) -> None:
    text = "This is how I sound when I speak a whole sentence."
    default = spectrum(list(synthesizer.synthesize(text)))

    def distance(voice: str) -> float:
        other = spectrum(list(synthesizer.synthesize(text, voice=voice)))
        return float(np.abs(default - other).mean())

    same = distance("alloy")
    assert synthesizer.voices[0] == "en-us"
    for voice in ("en-us+f3", "en-us+m3"):
        assert voice in synthesizer.voices
        assert distance(voice) > 1.5 * same


def test_every_offered_voice_speaks(synthesizer: espeak.EspeakSynthesizer) -> None:
    for voice in synthesizer.voices:
        assert seconds(synthesizer, list(synthesizer.synthesize("Good morning", voice=voice))) > 0.5


def test_speed_divides_the_time(synthesizer: espeak.EspeakSynthesizer) -> None:
    text = "This is how fast I speak when I am told to."
    plain = seconds(synthesizer, list(synthesizer.synthesize(text)))
    fast = seconds(synthesizer, list(synthesizer.synthesize(text, speed=1.5)))
    assert 0.55 < fast / plain < 0.85


@pytest.mark.parametrize("speed", [0.001, 1000.0])
def test_absurd_speeds_are_bounded(synthesizer: espeak.EspeakSynthesizer, speed: float) -> None:
    assert list(synthesizer.synthesize("hello", speed=speed))


@pytest.mark.parametrize("speed", [1.0, 1.5])
@pytest.mark.parametrize("text", ["Hello there.", "Yes, please", "Is it?"])
def test_little_silence_before_and_after(
    synthesizer: espeak.EspeakSynthesizer, text: str, speed: float
) -> None:
    rate = synthesizer.sample_rate
    spoken = np.concatenate([each.samples for each in synthesizer.synthesize(text, speed=speed)])
    loud = np.flatnonzero(np.abs(spoken) > 0.01 * np.abs(spoken).max())
    assert loud[0] < 0.05 * rate
    assert len(spoken) - loud[-1] <= espeak.LONGEST_PAUSE / speed * rate + 1


def test_two_texts_at_once_do_not_mix(synthesizer: espeak.EspeakSynthesizer) -> None:
    texts = ["The first one speaks slowly. " * 5, "Yes! Another sound, and longer too. " * 9]
    alone = [seconds(synthesizer, list(synthesizer.synthesize(text))) for text in texts]
    together = [0.0, 0.0]

    def speak(number: int) -> None:
        together[number] = seconds(synthesizer, list(synthesizer.synthesize(texts[number])))

    threads = [threading.Thread(target=speak, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert together == pytest.approx(alone, rel=0.01)


def test_an_unknown_voice_is_refused_before_any_call() -> None:
    with pytest.raises(EngineUnavailable, match="no voice 'en-uz'; did you mean 'en-us'"):
        espeak.create({"voice": "en-uz"}).preload()


@pytest.mark.parametrize(
    ("configured", "voice", "language"),
    [
        ("en-us", "", "en-us"),
        ("en-us", "en+f3", "en"),
        ("en-us", "en-gb-x-rp", "en-gb"),
        ("en-us", "no such voice", "en-us"),
        ("de", "", "de"),
        ("de", "en-029", "en"),
        ("german", "", ""),
    ],
)
def test_voices_tell_their_language(configured: str, voice: str, language: str) -> None:
    synthesizer = espeak.create({"voice": configured})
    synthesizer.preload()
    assert isinstance(synthesizer, Polyglot)
    assert synthesizer.language_of(voice) == language
