"""Kokoro's files: found without a network, named where they are missing, checked, downloaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.hub import COMMIT, Hub
from tests.models import kokoro as models
from voicepool.engines.base import Download
from voicepool.engines.kokoro import engine, weights
from voicepool.engines.kokoro.files import REPOSITORY, Source
from voicepool.errors import ConfigError, EngineUnavailable

FILES = {
    "config.json": b"{}",
    "kokoro-v1_0.pth": b"w" * 300_000,
    "voices/af_heart.pt": b"v" * 1000,
    "voices/bf_emma.pt": b"v" * 1000,
    "README.md": b"not needed",
}


def fill(folder: Path, names: Mapping[str, bytes] = FILES) -> Path:
    for name, content in names.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the Hub's library."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def snapshot(cache: Path, repository: str = REPOSITORY) -> Path:
    """The folder in which the cache has the latest version of a repository."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    (folder / "snapshots" / COMMIT).mkdir(parents=True)
    return folder / "snapshots" / COMMIT


# --- where they are --------------------------------------------------------------------------


def test_a_folder_is_used_as_it_is(tmp_path: Path) -> None:
    folder = fill(tmp_path)
    (folder / "mine.pt").write_bytes(b"v")
    found = Source(str(folder)).locate(["af_heart", "mine"])
    assert found.config == folder / "config.json"
    assert found.weights == folder / "kokoro-v1_0.pth"
    assert sorted(found.voices) == ["af_heart", "bf_emma", "mine"]


def test_what_is_missing_in_a_folder_is_named(tmp_path: Path) -> None:
    folder = fill(tmp_path)
    (folder / "kokoro-v1_0.pth").unlink()
    with pytest.raises(EngineUnavailable, match=rf"kokoro-v1_0.pth is missing in {folder}; copy"):
        Source(str(folder)).locate(["af_heart"])
    shutil.rmtree(folder / "voices")
    names = "kokoro-v1_0.pth and voices/af_heart.pt are missing"
    with pytest.raises(EngineUnavailable, match=names):
        Source(str(folder)).locate(["af_heart"])


def test_downloads_of_others_are_found(cache: Path) -> None:
    folder = fill(snapshot(cache))
    found = Source(REPOSITORY).locate(["af_heart"])
    assert found.weights == folder / "kokoro-v1_0.pth"
    assert sorted(found.voices) == ["af_heart", "bf_emma"]


def test_what_is_not_downloaded_is_named_with_the_command_that_does_it(cache: Path) -> None:
    names = "config.json, kokoro-v1_0.pth and voices/af_heart.pt of hexgrad/Kokoro-82M are not on"
    with pytest.raises(EngineUnavailable, match=names):
        Source(REPOSITORY).locate(["af_heart"])
    folder = fill(snapshot(cache))
    (folder / "voices" / "af_heart.pt").unlink()
    with pytest.raises(EngineUnavailable) as raised:
        Source(REPOSITORY).locate(["af_heart"])
    assert str(raised.value) == (
        "kokoro: voices/af_heart.pt of hexgrad/Kokoro-82M is not on this machine; "
        "download what is missing with: voicepool prefetch"
    )


def test_a_voice_that_does_not_exist_is_told_from_one_that_is_missing(
    cache: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"'af_hart' does not exist; did you mean 'af_heart'"):
        Source(REPOSITORY).locate(["af_hart"])
    folder = fill(tmp_path / "mine")
    with pytest.raises(ConfigError, match=r"'bf_ema' does not exist; did you mean 'bf_emma'"):
        Source(str(folder)).locate(["bf_ema"])
    with pytest.raises(EngineUnavailable, match=r"voices/af_ours.pt of ours/kokoro"):
        Source("ours/kokoro").locate(["af_ours"])


def test_missing_files_are_known_before_anything_is_imported(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "load_model", None)
    with pytest.raises(EngineUnavailable, match="are not on this machine"):
        engine.create({}).preload()


# --- what is in them -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pristine() -> Path:
    return models.shared()


@pytest.fixture
def copy(pristine: Path, tmp_path: Path) -> Iterator[Path]:
    """A model of one's own to spoil."""
    folder = tmp_path / "copy"
    shutil.copytree(pristine, folder)
    yield folder
    shutil.rmtree(folder)


def load(folder: Path) -> Any:
    return weights.load_model(folder / "config.json", folder / "kokoro-v1_0.pth")


def test_weights_are_plain_and_without_gradients(pristine: Path) -> None:
    model = load(pristine)
    names = [name for name, _ in model.named_parameters()]
    assert not [name for name in names if name.endswith(("_g", "_v"))]
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model.training
    norm = model.decoder.encode.norm1.norm
    assert torch.equal(norm.weight, torch.ones_like(norm.weight))


def test_folding_changes_no_sound() -> None:
    def layers() -> torch.nn.Sequential:
        torch.manual_seed(0)
        plain = torch.nn.Conv1d(3, 3, 3)
        with pytest.warns(FutureWarning):
            old = torch.nn.utils.weight_norm(torch.nn.Conv1d(3, 3, 3))
        new = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv1d(3, 3, 3))
        for norm in (old.weight_g, new.parametrizations.weight.original0):
            torch.nn.init.uniform_(norm, 0.5, 2.0)
        return torch.nn.Sequential(plain, old, new)

    normed, folded = layers(), layers()
    weights.fold(torch, folded)
    assert len(list(folded.parameters())) == 6
    heard = torch.randn(1, 3, 20)
    assert torch.allclose(normed(heard), folded(heard), atol=1e-6)


def test_checkpoints_of_newer_torch_fit(copy: Path, pristine: Path) -> None:
    path = copy / "kokoro-v1_0.pth"
    parts = torch.load(path, weights_only=True)
    renamed = {
        part: {
            name.removeprefix("module.")
            .replace("weight_g", "parametrizations.weight.original0")
            .replace("weight_v", "parametrizations.weight.original1"): tensor
            for name, tensor in state.items()
        }
        for part, state in parts.items()
    }
    torch.save(renamed, path)
    ours, theirs = load(copy).state_dict(), load(pristine).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_checkpoint_with_gaps_is_refused(copy: Path) -> None:
    """KModel itself would fill them with noise, and say nothing."""
    path = copy / "kokoro-v1_0.pth"
    parts = torch.load(path, weights_only=True)
    del parts["predictor"]["module.F0_proj.weight"]
    torch.save(parts, path)
    with pytest.raises(EngineUnavailable, match=r"cannot use .*pth \(ValueError: it lacks F0_proj"):
        load(copy)
    del parts["predictor"]
    torch.save(parts, path)
    with pytest.raises(EngineUnavailable, match=r"KeyError: 'predictor'"):
        load(copy)


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs\n", b"PK\3\4"])
def test_what_is_no_checkpoint_is_refused(copy: Path, content: bytes) -> None:
    (copy / "kokoro-v1_0.pth").write_bytes(content)
    with pytest.raises(EngineUnavailable, match=r"kokoro-v1_0.pth .*is damaged or belongs"):
        load(copy)


def test_a_config_of_another_model_is_refused(copy: Path) -> None:
    config = copy / "config.json"
    settings = json.loads(config.read_text())
    config.write_text(json.dumps(settings | {"hidden_dim": 256}))
    with pytest.raises(EngineUnavailable, match=r"cannot use .*\.pth \(RuntimeError"):
        load(copy)
    config.write_text('{"model_type": "bert"}')
    with pytest.raises(EngineUnavailable, match=r"cannot use .*config\.json \(KeyError"):
        load(copy)


@pytest.mark.parametrize("voice", [torch.zeros(510, 256), torch.zeros(510, 1, 128), {"a": 1}])
def test_what_is_no_voice_is_refused(copy: Path, voice: Any) -> None:
    torch.save(voice, copy / "voices" / "af_heart.pt")
    with pytest.raises(EngineUnavailable, match=r"cannot use .*af_heart\.pt"):
        engine.create({"model": str(copy)}).preload()


def test_other_tensors_beside_the_voices_are_no_voices(copy: Path) -> None:
    (copy / "backup.pt").write_bytes(b"")
    (copy / "am_mine.pt").write_bytes((copy / "voices" / "am_adam.pt").read_bytes())
    made = engine.create({"model": str(copy)})
    made.preload()
    assert made.voices == ("af_heart", "am_adam", "am_mine", "bf_emma")


# --- how they get there ----------------------------------------------------------------------


def test_what_is_needed_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Download] = []
    with Hub({REPOSITORY: FILES}) as hub:
        hub.use(monkeypatch, tmp_path)
        made = engine.create({"voices": ["bf_emma"]})
        made.fetch(told.append)
    finished = {it.name: it.done for it in told if it.done == it.total}
    assert finished == {
        f"kokoro {REPOSITORY}: {name}": len(content)
        for name, content in FILES.items()
        if name != "README.md"
    }
    assert sorted(Source(REPOSITORY).locate(["af_heart", "bf_emma"]).voices) == [
        "af_heart",
        "bf_emma",
    ]


def test_a_voice_that_a_repository_lacks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Hub({"ours/kokoro": FILES}) as hub:
        hub.use(monkeypatch, tmp_path)
        made = engine.create({"model": "ours/kokoro", "voice": "af_ours"})
        with pytest.raises(EngineUnavailable, match=r"ours/kokoro has no file voices/af_ours\.pt"):
            made.fetch(lambda _: None)


def test_a_folder_is_not_downloaded_but_checked(tmp_path: Path) -> None:
    folder = fill(tmp_path)
    engine.create({"model": str(folder)}).fetch(lambda _: None)
    (folder / "config.json").unlink()
    with pytest.raises(EngineUnavailable, match=r"config\.json is missing"):
        engine.create({"model": str(folder)}).fetch(lambda _: None)
