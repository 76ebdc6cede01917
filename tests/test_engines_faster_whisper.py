"""Whisper by the real library, on small models with a script instead of training."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ctranslate2
import faster_whisper as library
import numpy as np
import pytest

from tests.models import whisper
from tests.speech import noisy, pieces, say
from tests.whisper_engine import loaded
from voicepool.engines import base
from voicepool.engines.base import INPUT_RATE, Samples
from voicepool.engines.faster_whisper import engine
from voicepool.errors import ConfigError, EngineError, EngineUnavailable


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whisper.make(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="module")
def recognizer(folder: Path) -> engine.WhisperRecognizer:
    return loaded(folder)


@pytest.fixture(scope="module")
def speech() -> Samples:
    return noisy(say(whisper.TEXT), seed=1)


# --- transcripts -----------------------------------------------------------------------------


def test_it_transcribes(recognizer: engine.WhisperRecognizer, speech: Samples) -> None:
    stream = recognizer.stream(language="en", prompt="A talk about geography.")
    for piece in pieces(speech):
        stream.feed(piece)
    said = stream.finish()
    assert said.text == whisper.TEXT
    assert said.final
    assert said.confidence == pytest.approx(0.99, abs=0.002)
    assert said.rejected == ""


def test_partials_come_while_the_caller_speaks(folder: Path, speech: Samples) -> None:
    now = 0.0
    recognizer = loaded(folder)
    stream = recognizer.stream()
    stream._clock = lambda: now  # the sound's own time: what is fed at once is not slept for
    partials = []
    for piece in pieces(speech):
        now += len(piece) / INPUT_RATE
        partials.append(stream.feed(piece))
    told = [partial for partial in partials if partial is not None]
    assert [(partial.text, partial.final) for partial in told] == [
        (whisper.TEXT.rstrip("?"), False)
    ]
    assert stream.finish().text == whisper.TEXT


def test_streams_do_not_share_state(recognizer: engine.WhisperRecognizer, speech: Samples) -> None:
    call, clip = recognizer.stream(), recognizer.stream(language="de")
    call.feed(speech)
    clip.feed(speech[:100])
    assert clip.finish().text == ""
    assert call.snapshot().text == whisper.TEXT
    call.close()
    call.close()


def test_a_long_utterance_is_transcribed_window_by_window(
    recognizer: engine.WhisperRecognizer,
) -> None:
    stream = recognizer.stream()
    rng = np.random.default_rng(1)
    for _ in range(70):
        stream.feed((rng.standard_normal(INPUT_RATE) * 0.1).astype(np.float32))
    said = stream.finish()
    assert said.text == " ".join([whisper.TEXT] * said.text.count("?"))
    assert said.text.count("?") in (3, 4)
    assert said.confidence == pytest.approx(0.99, abs=0.002)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_broken_samples_do_no_harm(recognizer: engine.WhisperRecognizer, value: float) -> None:
    stream = recognizer.stream()
    stream.feed(np.full(INPUT_RATE, value, np.float32))
    assert stream.finish().text == whisper.TEXT


def test_windows_that_are_likely_silent_are_nothing(tmp_path: Path, speech: Samples) -> None:
    stream = loaded(whisper.make(tmp_path, probability=0.1, no_speech=0.9)).stream()
    stream.feed(speech)
    assert stream.finish() == base.Transcript("", final=True, confidence=0.0)


def test_an_unsure_transcript_has_a_low_confidence(tmp_path: Path, speech: Samples) -> None:
    stream = loaded(whisper.make(tmp_path, probability=0.6)).stream()
    stream.feed(speech)
    assert stream.finish().confidence == pytest.approx(0.6, abs=0.02)


def test_marks_alone_are_nothing(tmp_path: Path, speech: Samples) -> None:
    stream = loaded(whisper.make(tmp_path, text="...")).stream()
    stream.feed(speech)
    assert stream.finish().text == ""


def test_other_scripts_come_through(tmp_path: Path, speech: Samples) -> None:
    recognizer = loaded(whisper.make(tmp_path, text="今天天气很好。 Да, конечно!", language="zh"))
    stream = recognizer.stream()
    stream.feed(speech)
    assert stream.finish().text == "今天天气很好。 Да, конечно!"


@pytest.mark.parametrize(
    "options", [{"beam_size": 2}, {"threads": 2}, {"compute_type": "float32"}, {"device": "auto"}]
)
def test_how_it_decodes_can_be_chosen(
    folder: Path, speech: Samples, options: dict[str, Any]
) -> None:
    stream = loaded(folder, **options).stream()
    stream.feed(speech)
    assert stream.finish().text == whisper.TEXT


def test_a_transcript_is_no_longer_than_its_sound_allows(tmp_path: Path) -> None:
    recognizer = loaded(whisper.make(tmp_path, text=" ".join(f"w{n}" for n in range(50))))
    stream = recognizer.stream()
    stream.feed(np.ones(INPUT_RATE // 10, np.float32))
    assert len(stream.finish().text.split()) == 30  # and half of the prompt's four tokens


# --- languages and prompts -------------------------------------------------------------------


class Prompts:
    """The prompts that the library gives its model, as text."""

    def __init__(self, recognizer: engine.WhisperRecognizer, patch: pytest.MonkeyPatch) -> None:
        self.heard: list[str] = []
        model: library.WhisperModel = recognizer._model
        generate = model.generate_with_fallback

        def noting(encoded: Any, prompt: list[int], *rest: Any) -> Any:
            self.heard.append(model.hf_tokenizer.decode(prompt, skip_special_tokens=False))
            return generate(encoded, prompt, *rest)

        patch.setattr(model, "generate_with_fallback", noting)


@pytest.mark.parametrize(
    ("configured", "hint", "expected"),
    [
        ("", None, "de"),  # what the model detects
        ("", "fr", "fr"),
        ("", "pt-BR", "pt"),
        ("", "EN", "en"),
        ("", "xx", "de"),
        ("", "<|fr|>", "de"),
        ("it", "fr", "it"),
    ],
)
def test_the_language_is_configured_hinted_or_detected(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    speech: Samples,
    configured: str,
    hint: str | None,
    expected: str,
) -> None:
    recognizer = loaded(whisper.make(tmp_path, language="de"), language=configured)
    prompts = Prompts(recognizer, monkeypatch)
    stream = recognizer.stream(language=hint)
    stream.feed(speech)
    assert stream.finish().text == whisper.TEXT
    control = f"<|startoftranscript|><|{expected}|><|transcribe|><|notimestamps|>"
    assert prompts.heard == [control]


def test_english_only_models_hear_english(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speech: Samples
) -> None:
    model = whisper.make(tmp_path, multilingual=False)
    recognizer = loaded(model, language="en")
    prompts = Prompts(recognizer, monkeypatch)
    for hint in (None, "de", "en"):
        stream = recognizer.stream(language=hint)
        stream.feed(speech)
        assert stream.finish().text == whisper.TEXT
    assert prompts.heard == ["<|startoftranscript|><|notimestamps|>"] * 3
    with pytest.raises(ConfigError, match="does not know 'de'; known: en"):
        loaded(model, language="de")


def test_prompts_are_joined_and_hold_no_control_tokens(
    folder: Path, monkeypatch: pytest.MonkeyPatch, speech: Samples
) -> None:
    recognizer = loaded(folder, initial_prompt=" Voicepool, h11. ")
    prompts = Prompts(recognizer, monkeypatch)
    stream = recognizer.stream(language="en", prompt="Ada<|endoftext|> \ud800Lovelace")
    stream.feed(speech)
    assert stream.finish().text == whisper.TEXT
    said, _, control = prompts.heard[0].partition("<|startoftranscript|>")
    assert said == "<|startofprev|> Voicepool, h11. Ada Lovelace"
    assert control == "<|en|><|transcribe|><|notimestamps|>"


def test_an_endless_prompt_is_cut(recognizer: engine.WhisperRecognizer, speech: Samples) -> None:
    stream = recognizer.stream(prompt="<|" * 5_000_000 + "Ünïcödé " * 100_000)
    stream.feed(speech)
    assert stream.finish().text == whisper.TEXT


# --- what is wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "gpu"}, "device: 'gpu' does not exist; did you mean 'cpu'"),
        ({"compute_type": "int9"}, "compute_type: 'int9' does not exist; did you mean 'int8'"),
        ({"beam_size": 0}, "beam_size: expected `int` >= 1"),
        ({"threads": 0}, "threads: expected `int` >= 1"),
        ({"partials": 0.7}, "partials: expected `float` <= 0.5"),
        ({"langauge": "en"}, "unknown option 'langauge'; did you mean 'language'"),
    ],
)
def test_mistakes_in_options_name_the_remedy(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        engine.create(options)


def test_a_check_finds_what_a_start_would(folder: Path) -> None:
    sound = engine.create({"model": str(folder), "device": "cpu"})
    assert isinstance(sound, base.Checking)
    sound.check()
    with pytest.raises(ConfigError, match="float16"):
        engine.create({"model": str(folder), "device": "cpu", "compute_type": "float16"}).check()
    with pytest.raises(EngineUnavailable, match="voicepool prefetch"):
        engine.create({"model": "someone/absent"}).check()


def test_a_compute_type_is_checked_before_the_fork_where_that_can_be(folder: Path) -> None:
    recognizer = engine.create({"model": str(folder), "device": "cpu", "compute_type": "float16"})
    with pytest.raises(ConfigError, match=r"cpu does not support 'float16' here; write one of: .*"):
        recognizer.preload()
    later = engine.create({"model": str(folder), "compute_type": "float16"})
    later.preload()
    with pytest.raises(ConfigError, match="cpu does not support 'float16'"):
        later.load("host")


def test_a_language_that_the_model_lacks_stops_the_start(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"language: the model .* does not know 'english'"):
        loaded(folder, language="english")


def test_a_gpu_that_is_not_there_is_reported(folder: Path) -> None:
    recognizer = engine.create({"model": str(folder), "device": "cuda"})
    recognizer.preload()
    with pytest.raises(EngineUnavailable, match="this worker has no GPU; run `voicepool doctor`"):
        recognizer.load("host")
    if not ctranslate2.get_cuda_device_count():
        with pytest.raises(EngineUnavailable, match=r"cannot use cuda: .*run `voicepool doctor`"):
            recognizer.load("cuda:0")


def test_a_failure_does_not_quote_the_caller(
    folder: Path, monkeypatch: pytest.MonkeyPatch, speech: Samples
) -> None:
    recognizer = loaded(folder)

    def failing(*args: Any) -> None:
        raise RuntimeError("secret words")

    monkeypatch.setattr(recognizer._model, "encode", failing)
    stream = recognizer.stream()
    stream.feed(speech[: INPUT_RATE - 1])
    with pytest.raises(EngineError, match=r"^faster-whisper failed with RuntimeError$"):
        stream.snapshot()
    monkeypatch.undo()
    assert stream.finish().text == whisper.TEXT  # the sound is still there


def test_streams_need_a_loaded_engine() -> None:
    with pytest.raises(EngineError, match="not been loaded"):
        engine.create({}).stream()


def test_nothing_is_logged_of_a_call(
    folder: Path, speech: Samples, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    stream = loaded(folder).stream(prompt="Names.")
    stream.feed(speech)
    stream.finish()
    assert caplog.records == []


# --- forks -----------------------------------------------------------------------------------

SCRIPT = r"""
import gc, json, os, sys
from tests.forking import in_children_and_here
from tests.speech import noisy, pieces, say
from tests.whisper_engine import loaded
from voicepool import linux
from voicepool.engines.faster_whisper import engine

def talk(recognizer):
    recognizer.load("host")
    recognizer.warm_up()
    stream = recognizer.stream(prompt="Geography.")
    for piece in pieces(SOUND):
        stream.feed(piece)
    snapshot, said = stream.snapshot(), stream.finish()
    assert snapshot == said
    return [said.text, said.confidence]

model, temporary = sys.argv[1:]
os.environ["TMPDIR"] = temporary
SOUND = noisy(say("what is the capital of norway"), seed=1)
before = linux.thread_count()
recognizer = engine.create({"model": model, "device": "cpu"})
recognizer.preload()
assert linux.thread_count() == before == 1, "preload made threads"
assert "onnxruntime" not in sys.modules, "importing it makes a thread"
assert not os.listdir(temporary)
gc.collect(); gc.freeze()
results = in_children_and_here(lambda: talk(recognizer), 3)
assert not os.listdir(temporary)
print(json.dumps(results))
"""


def test_a_forked_worker_hears_what_an_unforked_one_hears(folder: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, str(folder), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": ":".join(sys.path),
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        },
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    *forked, unforked = json.loads(done.stdout)
    assert unforked[0] == whisper.TEXT
    assert len(forked) == 3
    assert all(result == unforked for result in forked)
