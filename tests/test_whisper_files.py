"""Model files: where they are looked for, how they come, and what is said when they are bad."""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path

import pytest

from tests.hub import Hub
from tests.models import whisper
from tests.speech import noisy, say
from tests.whisper_engine import loaded
from voicepool.engines import base
from voicepool.engines.faster_whisper import engine
from voicepool.engines.faster_whisper.files import ModelFiles
from voicepool.errors import ConfigError, EngineUnavailable

FILES = ("config.json", "model.bin", "preprocessor_config.json", "tokenizer.json")
REPO = "Systran/faster-whisper-base"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whisper.make(tmp_path_factory.mktemp("whisper"))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("bsae", r"model: 'bsae' does not exist; did you mean 'base'\?"),
        ("./nowhere", r"model: there is no folder './nowhere'"),
        ("some one/x", r"model: there is no folder 'some one/x'"),
    ],
)
def test_unknown_models_stop_the_start(model: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        engine.create({"model": model}).preload()


def test_a_missing_model_names_file_repository_and_command(tmp_path: Path) -> None:
    recognizer = engine.create({"model": "base", "download_root": str(tmp_path)})
    with pytest.raises(
        EngineUnavailable,
        match=r"model.bin of the model 'base' \(Systran/faster-whisper-base\).*voicepool prefetch",
    ):
        recognizer.preload()


@pytest.mark.parametrize("name", ["model.bin", "tokenizer.json", "config.json"])
def test_a_folder_without_a_file_is_reported(folder: Path, tmp_path: Path, name: str) -> None:
    for path in folder.iterdir():
        if path.name != name:
            (tmp_path / path.name).symlink_to(path)
    with pytest.raises(EngineUnavailable, match=f"has no {name}; convert the model with"):
        engine.create({"model": str(tmp_path)}).preload()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.bin", "cannot load the model .*voicepool prefetch"),
        ("tokenizer.json", "tokenizer.json cannot be read .*voicepool prefetch"),
    ],
)
def test_a_broken_file_is_reported(folder: Path, tmp_path: Path, name: str, message: str) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes()[: 5000 if path.name == name else None])
    with pytest.raises(EngineUnavailable, match=message):
        loaded(tmp_path)


def test_features_of_another_model_are_reported(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"feature_size": 128}))
    with pytest.raises(EngineUnavailable, match=r"preprocessor_config.json is .* another model's"):
        loaded(tmp_path)


def test_prefetch_brings_what_preload_needs(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {path.name: path.read_bytes() for path in folder.iterdir()} | {"README.md": b"#"}
    recognizer = engine.create({"model": "base", "device": "cpu"})
    assert isinstance(recognizer, base.Fetching)
    told: list[base.Download] = []
    with Hub({REPO: files}) as hub:
        hub.use(monkeypatch, tmp_path)
        recognizer.fetch(told.append)
    assert {it.name for it in told} == {
        f"faster-whisper base: {name}" for name in (*FILES, "vocabulary.json")
    }
    ended = {it.name for it in told if it.done == it.total}
    assert ended == {it.name for it in told}
    recognizer.preload()
    recognizer.load("host")
    stream = recognizer.stream()
    stream.feed(noisy(say(whisper.TEXT), seed=1))
    assert stream.finish().text == whisper.TEXT


def test_a_folder_needs_no_download(folder: Path) -> None:
    told: list[base.Download] = []
    engine.create({"model": str(folder)}).fetch(told.append)
    assert told == []


def test_converted_weights_are_given_back(folder: Path) -> None:
    def descriptors() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    before = descriptors()
    files = ModelFiles(folder, int8=True)
    assert descriptors() == before + 1
    del files
    assert descriptors() == before
