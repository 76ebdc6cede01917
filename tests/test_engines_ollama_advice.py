"""What the Ollama engine tells and does for an operator."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.chatting import (
    ollama_model,
)
from tests.llm_server import Script
from tests.ollama_server import Model, OllamaServer, Pullable
from tests.openai_server import OpenAIServer
from tests.ports import free_port
from voicepool.engines import ollama as engine
from voicepool.engines.base import (
    Advising,
    Checking,
    Download,
    Fetching,
)
from voicepool.engines.chat import retrying
from voicepool.engines.ollama.host import port_of
from voicepool.errors import EngineError, EngineUnavailable


@pytest.fixture
def server() -> Iterator[OllamaServer]:
    with OllamaServer() as server:
        yield server


# --- what an operator asks


@pytest.mark.parametrize("slots", [1, 2])
def test_whether_replies_are_made_at_once_is_measured(slots: int) -> None:
    # The pace of a model: with all tokens there at once, their order at the client is chance.
    paced = Script(reply="word " * 20, first_token_seconds=0.2, token_seconds=0.01)
    with OllamaServer({"llama3.2": Model(paced)}, slots=slots) as server:
        assert ollama_model(server).measure_parallelism(2) == (slots == 2)


def test_a_server_that_cannot_be_measured_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "WARM_UP_PATIENCE", 0.1)
    with pytest.raises(EngineError, match="ollama serve"):
        ollama_model(f"127.0.0.1:{free_port()}").measure_parallelism(2)


def test_it_advises_checks_and_fetches(server: OllamaServer) -> None:
    model = ollama_model(server)
    assert isinstance(model, Advising)
    assert isinstance(model, Checking)
    assert isinstance(model, Fetching)


def test_a_check_does_not_forgive_a_server_that_is_away(server: OllamaServer) -> None:
    ollama_model(server).check()
    assert server.paths() == ["/api/show"]
    server.stop()
    with pytest.raises(EngineError, match="ollama serve") as raised:
        ollama_model(server).check()
    assert not isinstance(raised.value, EngineUnavailable)


def test_a_model_is_pulled_with_progress() -> None:
    with OllamaServer({}, registry={"llama3.2": Pullable(1000)}) as server:
        told: list[Download] = []
        ollama_model(server).fetch(told.append)
        name = "ollama llama3.2: aeda25e63ebd"[:16] + told[0].name[16:]
        assert told == [Download(name, done, 1000) for done in (0, 500, 1000)]
        engine.create({"host": server.url}).preload()


@pytest.mark.parametrize(
    ("registry", "says"),
    [({}, "file does not exist"), ({"llama3.2": Pullable(1000, breaks_at=600)}, "unexpected EOF")],
)
def test_a_failed_pull_says_why(registry: dict[str, Pullable], says: str) -> None:
    with OllamaServer({}, registry=registry) as server, pytest.raises(EngineUnavailable) as raised:
        ollama_model(server).fetch(lambda download: None)
    assert str(raised.value).startswith("ollama pull llama3.2: ")
    assert says in str(raised.value)


def test_a_pull_without_a_server_says_how_to_start_it() -> None:
    with pytest.raises(EngineUnavailable, match="ollama serve"):
        ollama_model(f"127.0.0.1:{free_port()}").fetch(lambda download: None)


# --- advice


def advice(server: OllamaServer | str, callers: int, **options: Any) -> str:
    return "\n".join(ollama_model(server, **options).advise(callers))


def test_one_caller_needs_no_advice(server: OllamaServer) -> None:
    assert advice(server, 1) == ""


def test_what_cannot_be_seen_is_said_with_its_command(server: OllamaServer) -> None:
    said = advice(server, 8)
    assert said.startswith(f"Ollama at {server.url} does not say how many callers it serves")
    assert "OLLAMA_NUM_PARALLEL=8 ollama serve" in said
    assert "systemctl edit ollama" in said


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"OLLAMA_NUM_PARALLEL": "2"}, "Ollama serves 2 of 8 callers at once"),
        ({}, "Ollama serves 1 of 8 callers at once"),
        ({"OLLAMA_NUM_PARALLEL": "0"}, "Ollama serves 1 of 8 callers at once"),
        ({"OLLAMA_NUM_PARALLEL": "8"}, ""),
        ({"OLLAMA_NUM_PARALLEL": "many"}, "does not say"),
    ],
)
def test_a_server_on_this_machine_is_looked_at(
    tmp_path: Path, environ: dict[str, str], says: str
) -> None:
    with ollama_serve(tmp_path, environ) as host:
        said = advice(host, 8)
    assert says in said
    assert bool(said) == bool(says)


@contextmanager
def ollama_serve(folder: Path, environ: dict[str, str]) -> Iterator[str]:
    """The stand-in as a process that looks like `ollama serve`; its address."""
    program, script = folder / "ollama", folder / "serve"
    program.symlink_to(sys.executable)
    script.write_text(
        "import sys; from tests.ollama_server import main\n"
        "sys.argv[1:] = ['--port', sys.argv[1].rpartition(':')[2]]; main()\n"
    )
    host = f"127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        [program, script.name, host],
        cwd=folder,
        env={"PYTHONPATH": ":".join(sys.path), "OLLAMA_HOST": host, **environ},
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == f"http://{host}"
            yield host
        finally:
            process.terminate()


def test_a_model_partly_on_the_cpu_is_noticed(server: OllamaServer) -> None:
    server.models["llama3.2:latest"].vram = 1_200_000_000
    ollama_model(server).warm_up()
    assert "llama3.2:latest is only 60% in GPU memory" in advice(server, 1)


def test_a_context_that_eats_memory_is_noticed(server: OllamaServer) -> None:
    options = {"num_ctx": 131_072}
    ollama_model(server, options=options).warm_up()
    assert "a context of 131072 tokens for each" in advice(server, 2, options=options)
    assert "131072" not in advice(server, 1, options=options)


def test_a_server_that_is_away_is_a_line_too() -> None:
    host = f"127.0.0.1:{free_port()}"
    assert advice(host, 8) == f"Ollama at {host} does not answer; start it with: ollama serve"


@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("127.0.0.1", 11434),
        ("", 11434),
        (":8080", 8080),
        ("http://there", 80),
        ("https://there", 443),
        ("https://there:8443/path", 8443),
        ("[::1]:99", 99),
    ],
)
def test_addresses_are_as_ollama_host_has_them(host: str, port: int) -> None:
    assert port_of(host) == port


# --- in the zygote

ZYGOTE = r"""
import asyncio, os, sys
from tests.chatting import closing, say
from tests.ports import free_port
from voicepool import linux
from voicepool.engines import ollama, openai_chat

def sockets():
    return [fd for fd in os.listdir("/proc/self/fd") if is_socket(fd)]

def is_socket(fd):
    try:
        return os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
    except OSError:
        return False

away = f"127.0.0.1:{free_port()}"
models = [
    ollama.create({"host": sys.argv[1]}), openai_chat.create({"base_url": sys.argv[2]}),
]
for model in [
    *models, ollama.create({"host": away}), openai_chat.create({"base_url": f"http://{away}/v1"})
]:
    model.preload()
    assert linux.thread_count() == 1, model.name
    assert not sockets(), model.name

async def call():
    for model in models:
        async with closing(model):
            print(model.name, await say(model, "Hello?"))

for _ in range(2):
    pid = os.fork()
    if pid == 0:
        for model in models:
            model.load("host")
            model.warm_up()
        asyncio.run(call())
        sys.stdout.flush()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""


def test_the_zygote_stays_fit_to_be_forked(server: OllamaServer) -> None:
    with OpenAIServer() as other:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", ZYGOTE, server.url, other.base_url],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={"PYTHONPATH": ":".join(sys.path), "OPENBLAS_NUM_THREADS": "1"},
        )
    assert done.returncode == 0, done.stderr
    reply = Script().reply
    assert done.stdout.splitlines() == [f"ollama {reply}", f"openai {reply}"] * 2
