"""`voicepool doctor` as its users meet it: a real process on this host, with drivers played."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.models import kokoro, whisper
from tests.nvml.driver import GB, NOT_LOADED, Card, Driver
from tests.ollama_server import OllamaServer
from voicepool.errors import ExitCode

DEADLINE = 100.0
COMMAND = [sys.executable, "-m", "voicepool", "doctor"]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting and no model of whoever runs the tests may reach them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    for name in (*os.environ, "CUDA_VISIBLE_DEVICES"):
        if name.startswith(("VOICEPOOL_", "CUDA_VISIBLE")) or name == "MAX_CONNECTIONS":
            monkeypatch.delenv(name, raising=False)


def doctor(*arguments: str) -> tuple[int, str]:
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=DEADLINE)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout or done.stderr


def examined(*arguments: str) -> dict[str, Any]:
    """The report for programs; what holds for all of them is checked."""
    code, output = doctor("--json", *arguments)
    document: dict[str, Any] = json.loads(output)
    findings = [found for section in document["sections"] for found in section["findings"]]
    assert all(found["remedy"] for found in findings if found["mark"] == "problem")
    assert document["problems"] == sum(found["mark"] == "problem" for found in findings)
    assert code == document["exit_code"] == (4 if document["problems"] else 0)
    return document


def section(document: dict[str, Any], title: str) -> list[tuple[str, str]]:
    (found,) = [s for s in document["sections"] if s["title"].partition(" (")[0] == title]
    return [(finding["mark"], finding["text"]) for finding in found["findings"]]


def test_a_host_that_can_run_the_embedded_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    key = "a-key-that-nobody-shall-see"
    monkeypatch.setenv("VOICEPOOL_API_KEYS", key)
    monkeypatch.setenv("VOICEPOOL_ADMIN_KEYS", f"{key}-too")
    code, text = doctor("--profile", "embedded", "--workers", "3")
    assert code == ExitCode.OK
    assert key not in text
    lines = text.splitlines()
    assert lines[0] == "host"
    assert "profile embedded (would run: configured)" in lines
    assert "  ok       stt pocketsphinx: ready" in lines
    assert "3 workers asked for" in text
    assert "-> download it with: voicepool prefetch --profile cpu" in text
    assert lines[-1] == "Ready: voicepool start --profile embedded"


def test_models_and_a_server_that_are_there(tmp_path: Path) -> None:
    with OllamaServer() as server:
        Path("voicepool.toml").write_text(
            f"""
            [pool]
            workers = 3
            [budget]
            ram_per_worker = "64 MiB"
            ram_reserve = 0
            [speech]
            profile = "cpu"
            [stt]
            model = "{whisper.make(tmp_path / "whisper")}"
            [tts]
            model = "{kokoro.make(tmp_path / "kokoro")}"
            [llm]
            host = "{server.url}"
            """
        )
        document = examined()
    assert (document["profile"], document["problems"]) == ("cpu", 0)
    stages = section(document, "profile cpu")
    assert [mark for mark, text in stages if "ready" in text] == ["ok"] * 4
    assert any("does not say how many callers" in text for mark, text in stages if mark == "note")
    assert any("kokoro pronounces" in text for mark, text in stages if mark == "note")
    assert section(document, "workers")[0][1].startswith("3 workers asked for, at most 3 at once")
    assert "64 MiB a worker" in next(b["sums"] for b in document["bounds"] if b["what"] == "RAM")


def test_what_is_missing_for_the_profile_that_would_run() -> None:
    Path("voicepool.toml").write_text('[llm]\nhost = "http://127.0.0.1:9"\n')
    document = examined("--profile", "cpu")
    lacks = {
        text.partition(":")[0]
        for mark, text in section(document, "profile cpu")
        if mark == "problem"
    }
    assert lacks == {"stt faster_whisper", "llm ollama", "tts kokoro"}
    assert all(mark != "problem" for mark, _ in section(document, "profile cuda"))


def test_a_budget_that_holds_no_worker() -> None:
    document = examined("--profile", "embedded", "--ram-budget", "1MiB")
    ((mark, text),) = section(document, "workers")
    assert mark == "problem"
    assert "a worker takes 256 MiB of RAM by ram_per_worker" in text


def test_an_app_of_ones_own() -> None:
    document = examined("--app", "tests.apps.echo:create", "--gpus", "none")
    assert (document["profile"], document["why"]) == ("", "app tests.apps.echo:create")
    assert section(document, "app")[0][0] == "ok"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--profile", "cudda"), "profile 'cudda' does not exist"),
        (("--wrokers", "3"), "did you mean --workers?"),
        (("--port", "3"), "unknown argument --port"),
        (("--config", "no.toml"), "no.toml: cannot be read"),
    ],
)
def test_a_wrong_command_line(arguments: tuple[str, ...], words: str) -> None:
    code, text = doctor(*arguments)
    assert code == ExitCode.USAGE
    assert words in text


# --- with a driver ---------------------------------------------------------------------------


def test_a_gpu_makes_auto_the_cuda_profile(install_driver: Callable[..., Driver]) -> None:
    install_driver(Card("GPU-a", 24 * GB, others=GB))
    document = examined("--workers", "8")
    assert document["profile"] == "cuda"
    assert "there is a GPU, NVIDIA A10G" in document["why"]
    found = section(document, "GPUs")
    assert ("ok", "cuda:0: NVIDIA A10G, 24 GiB, 1 GiB in use, driver 550.54.15") in found
    assert any("without CUDA MPS" in text for _, text in found)
    # This machine has no real one, which only the libraries can tell.
    assert any("torch" in text for mark, text in found if mark == "problem")
    assert any("ctranslate2" in text for mark, text in found if mark == "problem")
    vram = next(bound for bound in document["bounds"] if bound["what"] == "VRAM")
    assert vram["fits"] == 5
    assert vram["sums"].startswith("cuda:0: 24 GiB, 1 GiB used by others, 512 MiB kept free")


def test_two_unequal_gpus(install_driver: Callable[..., Driver]) -> None:
    install_driver(Card("GPU-a", 24 * GB), Card("GPU-b", 12 * GB, name="NVIDIA RTX 3060"))
    both = examined("--profile", "cuda", "--vram-per-worker", "5GiB", "--vram-reserve", "0")
    assert next(b["fits"] for b in both["bounds"] if b["what"] == "VRAM") == 4 + 2
    one = examined("--profile", "cuda", "--vram-per-worker", "5GiB", "--gpus", "1")
    assert next(b["fits"] for b in one["bounds"] if b["what"] == "VRAM") == 2
    assert any("left alone by gpus = 1" in text for _, text in section(one, "GPUs"))


def test_a_gpu_is_no_business_of_the_embedded_engines(
    install_driver: Callable[..., Driver],
) -> None:
    install_driver(Card("GPU-a", 24 * GB))
    document = examined("--profile", "embedded")
    assert document["problems"] == 0
    assert [bound["what"] for bound in document["bounds"] if bound["what"] == "VRAM"] == []


def test_a_driver_in_trouble(install_driver: Callable[..., Driver]) -> None:
    driver = install_driver(Card("GPU-a", 24 * GB))
    driver.fail = NOT_LOADED
    driver.say()
    document = examined("--profile", "cuda")
    assert ("problem", "the NVIDIA driver is not loaded") in section(document, "GPUs")
    assert any("needs a GPU" not in text for _, text in section(document, "profile cuda"))


# --- an interrupt ----------------------------------------------------------------------------


def test_control_c_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "pocketsphinx.py").write_text(
        f"import os, signal\nopen({str(pipe)!r}, 'w').write(str(os.getpid()))\nsignal.pause()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    process = subprocess.Popen(
        [*COMMAND, "--profile", "embedded"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    child = psutil.Process(int(pipe.read_text()))
    assert child.is_running()
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=DEADLINE)
    assert process.returncode == ExitCode.INTERRUPTED
    assert complaint == b""
    assert not child.is_running()
