"""`voicepool prefetch` against a hub and an Ollama on loopback that speak the real protocols."""

from __future__ import annotations

import os
import pty
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.hub import LARGE, Hub, _Handler
from tests.ollama_server import OllamaServer, Pullable
from voicepool.engines.base import Download
from voicepool.errors import ExitCode
from voicepool.prefetch import Tally

DEADLINE = 100.0
COMMAND = [sys.executable, "-m", "voicepool", "prefetch"]
WEIGHTS = random.Random(1).randbytes(3 * LARGE)
REPOS = {
    "someone/whisper": {
        "model.bin": WEIGHTS,
        "tokenizer.json": b"{}",
        "config.json": b"{}",
        "vocabulary.txt": b"a\n",
        "README.md": b"#",
    },
    "someone/kokoro": {
        "config.json": b"{}",
        "kokoro-v1_0.pth": WEIGHTS[::-1],
        "voices/af_heart.pt": b"voice",
        "voices/am_adam.pt": b"voice",
    },
}
WANTED = {
    "faster-whisper someone/whisper: model.bin",
    "faster-whisper someone/whisper: tokenizer.json",
    "faster-whisper someone/whisper: config.json",
    "faster-whisper someone/whisper: vocabulary.txt",
    "kokoro someone/kokoro: config.json",
    "kokoro someone/kokoro: kokoro-v1_0.pth",
    "kokoro someone/kokoro: voices/af_heart.pt",
}


@pytest.fixture
def ollama() -> Iterator[OllamaServer]:
    with OllamaServer({}, registry={"small": Pullable(size=1000)}) as server:
        yield server


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ollama: OllamaServer) -> None:
    """A configuration file in a folder of our own."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith("VOICEPOOL_"):
            monkeypatch.delenv(name)
    Path("voicepool.toml").write_text(
        f"""
        [speech]
        profile = "cpu"
        [stt]
        model = "someone/whisper"
        [tts]
        model = "someone/kokoro"
        [llm]
        host = "{ollama.url}"
        model = "small"
        """
    )


def environment(hub: Hub, cache: Path) -> dict[str, str]:
    return {**os.environ, **hub.environment(cache)}


def prefetch(
    hub: Hub, cache: Path, *arguments: str, **more: str
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*COMMAND, *arguments],
        env={**environment(hub, cache), **more},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert "Traceback" not in done.stderr
    return done


def test_everything_is_fetched_a_line_a_file(tmp_path: Path, ollama: OllamaServer) -> None:
    with Hub(REPOS) as hub:
        done = prefetch(hub, tmp_path / "cache")
        assert done.returncode == ExitCode.OK, done.stderr
        first, *files, last = done.stdout.splitlines()
        assert first == ("profile cpu (configured): stt faster_whisper, llm ollama, tts kokoro")
        assert {line.rpartition("  ")[0] for line in files} >= WANTED
        assert "faster-whisper someone/whisper: model.bin  192 KiB" in files
        assert len(files) == len(set(files)) == len(WANTED) + 1, "and a layer of Ollama's"
        assert last == "all 8 files are here, 385 KiB"
        assert "small:latest" in ollama.models
        assert not any("README" in path for _, path, _ in hub.requests)

        hub.requests.clear()
        again = prefetch(hub, tmp_path / "cache")
        assert again.returncode == ExitCode.OK
        assert again.stdout.splitlines()[-1] == last
        assert not any("/stored/" in path for _, path, _ in hub.requests), "it was here"


def test_bars_on_a_terminal(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    with Hub(REPOS) as hub:
        process = subprocess.Popen(
            COMMAND,
            env={**environment(hub, tmp_path / "cache"), "TERM": "xterm", "COLUMNS": "120"},
            stdout=theirs,
            stderr=subprocess.PIPE,
        )
        os.close(theirs)
        shown = b"".join(iter(lambda: _read(ours), b""))
        os.close(ours)
        _, complaint = process.communicate(timeout=DEADLINE)
    assert process.returncode == ExitCode.OK, complaint
    assert b"\x1b[" in shown
    assert "━" in shown.decode()
    assert b"kokoro-v1_0.pth" in shown
    assert b"all 8 files are here, 385 KiB" in shown


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # the other side has been closed
        return b""


def test_a_failure_keeps_nothing_else_away(tmp_path: Path, ollama: OllamaServer) -> None:
    repos = {name: files for name, files in REPOS.items() if "kokoro" not in name}
    ollama.registry.clear()
    with Hub(repos) as hub:
        done = prefetch(hub, tmp_path / "cache")
    assert done.returncode == ExitCode.UNREACHABLE
    assert "faster-whisper someone/whisper: model.bin  192 KiB" in done.stdout
    assert "voicepool: llm: ollama pull small: " in done.stderr
    assert "voicepool: tts: kokoro someone/kokoro: the Hub has no repository" in done.stderr
    assert "HF_TOKEN" in done.stderr


def test_a_download_that_breaks_off_in_the_middle(tmp_path: Path) -> None:
    with Hub(REPOS, breaks="model.bin") as hub:
        done = prefetch(hub, tmp_path / "cache")
    assert done.returncode == ExitCode.OK, done.stderr


def test_without_a_network(tmp_path: Path, ollama: OllamaServer) -> None:
    with Hub(REPOS) as hub:
        hub.close()
        ollama.stop()
        done = prefetch(hub, tmp_path / "cache")
    assert done.returncode == ExitCode.UNREACHABLE
    assert done.stderr.count("check the network, or copy the Hub's cache folder") == 2
    assert "does not answer; start it with: ollama serve" in done.stderr


def test_downloads_that_are_turned_off(tmp_path: Path) -> None:
    with Hub(REPOS) as hub:
        done = prefetch(hub, tmp_path / "cache", HF_HUB_OFFLINE="1")
    assert done.returncode == ExitCode.UNREACHABLE
    assert "downloads are turned off by HF_HUB_OFFLINE" in done.stderr


def test_engines_that_bring_all_with_them(tmp_path: Path) -> None:
    Path("voicepool.toml").unlink()
    with Hub({}) as hub:
        done = prefetch(hub, tmp_path / "cache", "--profile", "embedded")
        assert not hub.requests
    assert done.returncode == ExitCode.OK
    assert "profile embedded (configured): its engines come with their packages" in done.stdout
    assert "voicepool prefetch --profile cuda|cpu" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--app", "a:b"), "an --app of your own"),
        (("--profile", "cudda"), "does not exist"),
        (("--workers", "2"), "unknown argument --workers"),
    ],
)
def test_a_wrong_command_line(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    with Hub({}) as hub:
        done = prefetch(hub, tmp_path / "cache", *arguments)
    assert done.returncode == ExitCode.USAGE
    assert words in done.stderr


# --- an interrupt ----------------------------------------------------------------------------


class StallingHub(Hub):
    """Stops in the middle of a file until it is told to go on."""

    def __init__(self, repos: Mapping[str, Mapping[str, bytes]], stalls: str) -> None:
        super().__init__(repos)
        self.stalls = stalls
        self.stalled = threading.Event()
        self.go_on = threading.Event()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        stalling = self

        class Handler(_Handler):
            hub = self

            def _send_content(self, name: str, content: bytes, headers: Mapping[str, str]) -> None:
                if (
                    name == stalling.stalls
                    and self.command == "GET"
                    and not stalling.go_on.is_set()
                ):
                    self._send_head(200, {**headers, "Content-Length": str(len(content))})
                    self.wfile.write(content[: len(content) // 2])
                    stalling.stalled.set()
                    stalling.go_on.wait(DEADLINE)
                else:
                    super()._send_content(name, content, headers)

        return Handler


def test_control_c_keeps_what_is_complete(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    hub = StallingHub(REPOS, stalls="kokoro-v1_0.pth")
    with hub:
        process = subprocess.Popen(
            COMMAND,
            env=environment(hub, cache),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert hub.stalled.wait(DEADLINE)
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=DEADLINE)
        hub.go_on.set()
        assert process.returncode == ExitCode.INTERRUPTED
        assert complaint == (
            "voicepool: interrupted; what is complete is kept: the same command fetches the rest\n"
        )
        hub.requests.clear()
        done = prefetch(hub, cache)
        assert done.returncode == ExitCode.OK, done.stderr
        fetched = [
            path for method, path, _ in hub.requests if method == "GET" and "/stored/" in path
        ]
        assert len(fetched) == 1, "the model of the recogniser was complete"


# --- the count -------------------------------------------------------------------------------


def test_files_are_counted_once() -> None:
    tally = Tally()
    assert not tally
    assert [tally.add(Download("a", done, 2048)) for done in (0, 1024, 2048, 2048)] == [
        False,
        False,
        True,
        False,
    ]
    assert tally
    assert tally.summary() == "1 file is here, 2 KiB"
    assert not tally.add(Download("b", 1024, None)), "nobody knows how long it is"
    assert tally.summary() == "1 of 2 files are here, 3 KiB in all"
    assert tally.add(Download("b", 2048, 2048))
    assert tally.summary() == "all 2 files are here, 4 KiB"
