"""Model files from a hub on loopback that speaks the real one's protocol."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import pytest

from tests.hub import LARGE, Hub
from voicepool.engines import hub
from voicepool.engines.base import Download
from voicepool.errors import EngineUnavailable

REPO = "someone/a-model"
BIG = random.Random(1).randbytes(3 * LARGE)
FILES = {"config.json": b"{}", "model.bin": BIG, "vocabulary.txt": b"a\nb\n", "README.md": b"#"}
NEEDED = ("config.json", "model.bin", "vocabulary.*")


def fetch(needed: tuple[str, ...] = NEEDED, repo: str = REPO) -> list[Download]:
    told: list[Download] = []
    hub.fetch(repo, needed, told.append, label="engine", optional=("extra.json",))
    return told


def test_a_fetch_brings_what_is_needed_and_find_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Hub({REPO: FILES}) as server:
        server.use(monkeypatch, tmp_path)
        assert hub.find(REPO, "model.bin") is None
        told = fetch()
    for name in ("config.json", "model.bin", "vocabulary.txt"):
        path = hub.find(REPO, name)
        assert path is not None
        assert path.read_bytes() == FILES[name]
        ends = [it for it in told if it.name == f"engine: {name}" and it.done == it.total]
        assert ends
        assert ends[-1].total == len(FILES[name])
    assert hub.find(REPO, "README.md") is None
    for name in {it.name for it in told}:
        done = [it.done for it in told if it.name == name]
        assert done == sorted(done)


def test_what_is_there_is_not_downloaded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Hub({REPO: FILES}) as server:
        server.use(monkeypatch, tmp_path)
        fetch()
        server.requests.clear()
        told = fetch()
        assert not [path for method, path, _ in server.requests if "/stored/" in path]
    assert {it.name for it in told} == {
        f"engine: {name}" for name in ("config.json", "model.bin", "vocabulary.txt")
    }


def test_a_download_that_breaks_off_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Hub({REPO: FILES}, breaks="model.bin") as server:
        server.use(monkeypatch, tmp_path)
        fetch()
        assert server.breaks == ""
    path = hub.find(REPO, "model.bin")
    assert path is not None
    assert path.read_bytes() == BIG


def test_another_folder_may_hold_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = str(tmp_path / "own")
    with Hub({REPO: FILES}) as server:
        server.use(monkeypatch, tmp_path)
        hub.fetch(REPO, NEEDED, lambda told: None, label="engine", cache=own)
    assert hub.find(REPO, "model.bin") is None
    assert hub.find(REPO, "model.bin", cache=own) is not None


def test_failures_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Hub({REPO: FILES}) as server:
        server.use(monkeypatch, tmp_path)
        with pytest.raises(EngineUnavailable, match=r"no repository someone/else"):
            fetch(repo="someone/else")
        with pytest.raises(EngineUnavailable, match=r"someone/a-model has no file weights\.pt"):
            fetch(needed=("config.json", "weights.pt"))
        server.close()
        with pytest.raises(EngineUnavailable, match=r"cannot be downloaded .*check the network"):
            fetch()
    monkeypatch.undo()
    with pytest.raises(EngineUnavailable, match="turned off by HF_HUB_OFFLINE"):
        fetch()


def test_a_full_disk_is_not_taken_for_a_broken_network() -> None:
    told = hub._explain("a/b", OSError(errno.ENOSPC, "No space left on device"))
    assert "does not fit on the disk" in told
    assert "network" not in told
