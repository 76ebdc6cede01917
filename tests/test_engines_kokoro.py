"""Speech by Kokoro: the real library on a small random model."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models import kokoro as models
from voicepool.engines.base import (
    Advising,
    Fetching,
    Polyglot,
    Samples,
    SpeechChunk,
    SpeechSynthesizer,
)
from voicepool.engines.kokoro import engine, pieces
from voicepool.engines.kokoro.library import library
from voicepool.errors import ConfigError, EngineError, EngineUnavailable

RATE = 24_000
FRAME = 600
SENTENCE = "Well, that is a good question, my friend."
LONG = (
    "The quick brown fox, who never sleeps, jumps over the lazy dog and walks through the forest "
    "every day until it is night again."
)


@pytest.fixture(scope="module")
def model() -> Path:
    return models.shared()


@pytest.fixture(scope="module")
def synthesizer(model: Path) -> engine.KokoroSynthesizer:
    made = engine.create({"model": str(model)})
    made.preload()
    made.load("host")
    made.warm_up()
    return made


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Phonemes of each run of the model."""
    kmodel = library("kokoro", "kokoro").KModel
    run, seen = kmodel.forward, []

    def forward(self: Any, phonemes: str, *args: Any, **kwargs: Any) -> Any:
        seen.append(len(phonemes))
        return run(self, phonemes, *args, **kwargs)

    monkeypatch.setattr(kmodel, "forward", forward)
    return seen


@pytest.fixture
def slow(synthesizer: engine.KokoroSynthesizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device on which a second of speech takes many."""
    pace = pieces.Pace()
    pace.observe(1000, 1000.0)
    monkeypatch.setattr(synthesizer, "_pace", pace)


def sound_of(chunks: list[SpeechChunk]) -> Samples:
    return np.concatenate([np.zeros(0, np.float32), *(chunk.samples for chunk in chunks)])


def seconds(chunks: list[SpeechChunk]) -> float:
    return len(sound_of(chunks)) / RATE


# --- sound -----------------------------------------------------------------------------------


def test_it_is_what_a_pipeline_asks_of_a_synthesiser(
    synthesizer: engine.KokoroSynthesizer,
) -> None:
    tts: SpeechSynthesizer = synthesizer
    assert isinstance(tts, Polyglot)
    assert isinstance(tts, Advising)
    assert isinstance(tts, Fetching)
    assert (tts.name, tts.sample_rate) == ("kokoro", RATE)


def test_speech_comes_in_chunks_of_200_ms(synthesizer: engine.KokoroSynthesizer) -> None:
    chunks = list(synthesizer.synthesize(SENTENCE))
    for chunk in chunks:
        assert chunk.samples.dtype == np.float32
        assert 0 < len(chunk.samples) <= RATE // 5
        assert np.abs(chunk.samples).max() <= 1.0
    assert all(len(chunk.samples) == RATE // 5 for chunk in chunks[:-1])
    assert np.abs(sound_of(chunks)).max() > 0.1
    assert 1.0 < seconds(chunks) < 4.0


def test_words_have_their_places_and_times(synthesizer: engine.KokoroSynthesizer) -> None:
    said = "Café number 56 isn't open, my (good) friend. It opens at 12:30, “maybe”."
    chunks = list(synthesizer.synthesize(said))
    words = [word for chunk in chunks for word in chunk.words]
    assert [said[word.text_start : word.text_end] for word in words] == said.split()
    starts = [word.start for word in words]
    assert starts == sorted(starts)
    assert len(set(starts)) == len(starts)
    at = 0.0
    for chunk in chunks:
        end = at + len(chunk.samples) / RATE
        for word in chunk.words:
            assert at - 1e-6 <= word.start <= end
        at = end


def test_times_follow_the_durations_that_the_model_predicts(
    synthesizer: engine.KokoroSynthesizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the model held the first word long, and made sound as soon as it may."""
    kmodel = library("kokoro", "kokoro").KModel
    run = kmodel.forward

    def forward(self: Any, phonemes: str, *args: Any, **kwargs: Any) -> Any:
        output = run(self, phonemes, *args, **kwargs)
        first = phonemes.index(" ")
        output.pred_dur = output.pred_dur.clone()
        output.pred_dur[1 : first + 1] += 40
        output.audio = output.audio.repeat(50)[: int(output.pred_dur.sum()) * FRAME]
        return output

    monkeypatch.setattr(kmodel, "forward", forward)
    words = [word for c in synthesizer.synthesize("Well now then") for word in c.words]
    assert words[1].start > 3 * 40 * FRAME / RATE
    assert words[2].start - words[1].start < 1.0


def test_padding_is_trimmed(
    synthesizer: engine.KokoroSynthesizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trained model is silent where it holds the start, the end and the mark before it."""
    kmodel = library("kokoro", "kokoro").KModel
    run = kmodel.forward
    raw: list[int] = []

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = run(self, *args, **kwargs)
        lead, tail = torch.zeros(4 * FRAME), torch.zeros(20 * FRAME)
        output.audio = torch.cat([lead, output.audio, tail])
        output.pred_dur = output.pred_dur.clone()
        output.pred_dur[0] += 4
        output.pred_dur[-1] += 20
        raw.append(len(output.audio))
        return output

    torch = library("torch", "torch")
    monkeypatch.setattr(kmodel, "forward", forward)
    samples = sound_of(list(synthesizer.synthesize("Good morning.")))
    loud = np.flatnonzero(np.abs(samples) > 0.01)
    assert loud[0] < 0.03 * RATE
    assert 0.2 * RATE < len(samples) - loud[-1] < 0.35 * RATE
    assert len(samples) < raw[0] - 0.3 * RATE


@pytest.mark.parametrize(
    "text", ["", " ", "...", "\x00\n", "😀 👍", "你好。", "\ud800", "—", "( )"]
)
def test_nothing_to_say_is_no_sound(
    synthesizer: engine.KokoroSynthesizer, runs: list[int], text: str
) -> None:
    assert list(synthesizer.synthesize(text)) == []
    assert runs == []


@settings(max_examples=15, deadline=None)
@given(st.text(max_size=40))
def test_any_text_can_be_spoken(synthesizer: engine.KokoroSynthesizer, text: str) -> None:
    chunks = list(synthesizer.synthesize(text, speed=4.0))
    words = [word for chunk in chunks for word in chunk.words]
    assert [word.start for word in words] == sorted(word.start for word in words)
    for word in words:
        assert 0 <= word.text_start < word.text_end <= len(text)
        assert 0.0 <= word.start <= seconds(chunks)


# --- pieces ----------------------------------------------------------------------------------


def test_a_clause_that_takes_long_is_spoken_in_pieces(
    synthesizer: engine.KokoroSynthesizer, slow: None, runs: list[int]
) -> None:
    speech = synthesizer.synthesize(LONG)
    first = next(speech)
    assert len(runs) == 1
    assert runs[0] < 40
    chunks = [first, *speech]
    assert len(runs) >= 3
    words = [word for chunk in chunks for word in chunk.words]
    assert [LONG[word.text_start : word.text_end] for word in words] == LONG.split()
    assert [word.start for word in words] == sorted(word.start for word in words)


def test_closing_cancels_what_is_not_yet_made(
    synthesizer: engine.KokoroSynthesizer, slow: None, runs: list[int]
) -> None:
    speech = synthesizer.synthesize(LONG)
    next(speech)
    speech.close()
    assert len(runs) == 1
    assert list(synthesizer.synthesize("And it speaks on."))


def test_an_endless_text_is_pronounced_as_it_is_spoken(
    synthesizer: engine.KokoroSynthesizer,
    slow: None,
    runs: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    pronouncer = synthesizer._pronouncers["a"]
    pronounce: Callable[[str], Any] = pronouncer.pronounce

    def counted(text: str) -> Any:
        asked.append(len(text))
        return pronounce(text)

    monkeypatch.setattr(pronouncer, "pronounce", counted)
    speech = synthesizer.synthesize("the quick brown fox jumps over the lazy dog. " * 20_000)
    assert len(next(speech).samples)
    speech.close()
    assert (len(asked), len(runs)) == (1, 1)
    assert asked[0] <= 400


def test_a_word_longer_than_the_model_takes_is_spoken(
    synthesizer: engine.KokoroSynthesizer, runs: list[int]
) -> None:
    chunks = list(synthesizer.synthesize("7%" * 40 + "." + " ! ? ; ." * 9, speed=4.0))
    assert seconds(chunks) > 1.0
    assert len(runs) > 1
    assert max(runs) <= 510
    assert [(w.text_start, w.text_end) for c in chunks for w in c.words] == [(0, 81)]


# --- voices, languages, speed ----------------------------------------------------------------


def seeded(synthesizer: engine.KokoroSynthesizer, **how: Any) -> Samples:
    """The same noise goes into each."""
    library("torch", "torch").manual_seed(0)
    return sound_of(list(synthesizer.synthesize("Good morning", **how)))


def test_voices_sound_different_and_an_unknown_one_is_the_default(
    synthesizer: engine.KokoroSynthesizer,
) -> None:
    assert synthesizer.voices == ("af_heart", "am_adam", "bf_emma")
    default = seeded(synthesizer)
    assert np.array_equal(seeded(synthesizer, voice="alloy"), default)
    assert np.array_equal(seeded(synthesizer, voice="af_heart"), default)
    assert not np.array_equal(seeded(synthesizer, voice="am_adam"), default)


def test_each_voice_speaks_its_language(model: Path, synthesizer: engine.KokoroSynthesizer) -> None:
    languages = [synthesizer.language_of(voice) for voice in ("", "bf_emma", "no such voice")]
    assert languages == ["en-US", "en-GB", "en-US"]
    spanish = engine.create({"model": str(model), "voice": "ef_dora", "voices": ["am_adam"]})
    spanish.preload()
    assert spanish.voices == ("ef_dora", "am_adam")
    assert [spanish.language_of(voice) for voice in spanish.voices] == ["es", "en-US"]
    one = engine.create({"model": str(model), "voice": "ef_dora", "language": "en-gb"})
    one.preload()
    assert one.language_of("ef_dora") == "en-GB"
    assert one.voices == ("ef_dora", "af_heart", "am_adam", "bf_emma")


def test_speed_divides_the_time(synthesizer: engine.KokoroSynthesizer) -> None:
    def length(speed: float) -> float:
        return seconds(list(synthesizer.synthesize(SENTENCE, speed=speed)))

    assert length(2.0) / length(1.0) == pytest.approx(0.5, abs=0.1)
    assert length(0.5) / length(1.0) == pytest.approx(2.0, abs=0.2)


@pytest.mark.parametrize("speed", [1e-9, 1e9, -1.0, float("nan"), float("inf")])
def test_absurd_speeds_are_bounded(synthesizer: engine.KokoroSynthesizer, speed: float) -> None:
    assert 0.02 < seconds(list(synthesizer.synthesize("oh", speed=speed))) < 5.0


def test_the_configured_speed_multiplies(
    model: Path, synthesizer: engine.KokoroSynthesizer
) -> None:
    fast = engine.create({"model": str(model), "speed": 2.0})
    fast.preload()
    ours = seconds(list(fast.synthesize(SENTENCE)))
    assert ours == pytest.approx(
        seconds(list(synthesizer.synthesize(SENTENCE, speed=2.0))), abs=0.1
    )


# --- faults ----------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [RuntimeError, SystemExit, AssertionError])
def test_what_the_library_raises_is_an_engine_error_that_quotes_nobody(
    synthesizer: engine.KokoroSynthesizer,
    monkeypatch: pytest.MonkeyPatch,
    fault: type[BaseException],
) -> None:
    def forward(self: Any, phonemes: str, *args: Any, **kwargs: Any) -> Any:
        raise fault(phonemes)

    with monkeypatch.context() as patch:
        patch.setattr(library("kokoro", "kokoro").KModel, "forward", forward)
        with pytest.raises(EngineError, match=rf"^kokoro could not speak: {fault.__name__}$"):
            list(synthesizer.synthesize("secret"))
    assert list(synthesizer.synthesize("It speaks again."))


def test_neither_texts_nor_phonemes_are_logged_or_printed(
    synthesizer: engine.KokoroSynthesizer,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    list(synthesizer.synthesize("My raison d'être is 4111 1111 1111 1111."))
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]
    assert "4111" not in caplog.text


def test_it_speaks_in_any_thread(synthesizer: engine.KokoroSynthesizer) -> None:
    made: list[SpeechChunk] = []
    thread = threading.Thread(target=lambda: made.extend(synthesizer.synthesize("Hello there.")))
    thread.start()
    thread.join(30)
    assert made


# --- options ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"voise": "x"}, r"unknown option 'voise'; did you mean 'voice'\?"),
        ({"speed": 9.0}, r"speed: expected `float` <= 4.0"),
        ({"device": "tpu"}, "device: invalid enum value 'tpu'"),
        ({"language": "klingon"}, "language 'klingon' is not spoken"),
        ({"voice": "zf_xiaobei"}, "speaks Mandarin, which is not supported"),
        ({"voice": "../../etc/passwd"}, "is not the name of a voice"),
        ({"model": "./nowhere"}, r"model = './nowhere': there is no such folder"),
        ({"model": "kokoro"}, "neither a folder nor a repository"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_loaded(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        engine.create(options)


def test_a_gpu_that_is_asked_for_must_be_there(
    model: Path, synthesizer: engine.KokoroSynthesizer
) -> None:
    with pytest.raises(EngineUnavailable, match=r"cannot use the GPU: torch .* finds none"):
        synthesizer.load("cuda:0")
    cuda = engine.create({"model": str(model), "device": "cuda"})
    with pytest.raises(ConfigError, match=r'device = "cuda", but this worker has no GPU'):
        cuda.load("host")
    on_host = engine.create({"model": str(model), "device": "cpu"})
    on_host.load("cuda:0")
    assert list(on_host.synthesize("Here."))


def test_operators_are_told_of_a_better_pronunciation(
    model: Path, synthesizer: engine.KokoroSynthesizer
) -> None:
    assert synthesizer.pronunciation == "espeak"
    (line,) = synthesizer.advise(1)
    assert "python -m spacy download en_core_web_sm" in line
    assert engine.create({"model": str(model), "voice": "ef_dora"}).advise(1) == ()
    assert engine.create({"model": str(model), "g2p": "espeak"}).advise(1) == ()
