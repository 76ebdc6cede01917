"""The snippets of docs/clients.md for the packages that every test run has.

scripts/try-clients runs those for the others.
"""

from __future__ import annotations

import os
import subprocess
import sys
import wave
from pathlib import Path

import pytest

from tests.clients import javascript, sayings
from tests.clients.javascript import node, secure_server
from tests.clients.snippets import aimed, snippets
from tests.clients.trial.caller import RATE
from tests.pools import PoolServer
from tests.servers import speech_server

__all__ = ["node", "secure_server", "speech_server"]

DEADLINE = 60.0

Secure = tuple[PoolServer, Path]


def run_python(code: str, server: PoolServer, folder: Path) -> str:
    """What it prints."""
    return run([sys.executable, "-c", aimed(code, server.url)], folder)


def run_node(code: str, server: PoolServer, folder: Path, **environ: str) -> str:
    """What it prints. `folder` becomes a project that has the packages."""
    script = folder / "snippet.mjs"
    script.write_text(aimed(code, server.url))
    (folder / "node_modules").symlink_to(javascript.FOLDER / "node_modules")
    return run(["node", str(script)], folder, **environ)


def run(command: list[str], folder: Path, **environ: str) -> str:
    process = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert (process.returncode, process.stderr) == (0, "")
    return process.stdout


def test_python_speaks(speech_server: PoolServer, tmp_path: Path) -> None:
    code, _ = snippets("OpenAI for Python", "python")
    sayings.write(tmp_path, {"question": "what is your favorite color"})
    told = run_python(code, speech_server, tmp_path)
    assert "you:   what is your favorite color\n" in told
    assert "voice: " in told
    with wave.open(str(tmp_path / "answer.wav")) as answer:
        assert answer.getframerate() == RATE
        assert answer.getnframes() > RATE


def test_python_writes(speech_server: PoolServer, tmp_path: Path) -> None:
    _, code = snippets("OpenAI for Python", "python")
    told = run_python(code, speech_server, tmp_path)
    assert told == "The square of 7 is 49.\n"


def test_npm_over_tls(secure_server: Secure, tmp_path: Path) -> None:
    server, ca = secure_server
    code, _ = snippets("OpenAI for JavaScript", "js")
    told = run_node(code, server, tmp_path, NODE_EXTRA_CA_CERTS=str(ca))
    assert told == "The square of 7 is 49.\n"


@pytest.mark.usefixtures("node")
def test_npm_without_tls(speech_server: PoolServer, tmp_path: Path) -> None:
    _, code = snippets("OpenAI for JavaScript", "js")
    assert run_node(code, speech_server, tmp_path) == "voicepool\n"


@pytest.mark.usefixtures("node")
def test_agents_for_javascript(speech_server: PoolServer, tmp_path: Path) -> None:
    (code,) = snippets("OpenAI Agents for JavaScript", "js")
    told = run_node(code, speech_server, tmp_path)
    assert told.splitlines() == [
        'count_waiting_callers {"waiting":3}',
        "The answer is: waiting: 3.",
    ]


def test_page_with_a_client_secret(secure_server: Secure, tmp_path: Path) -> None:
    server, ca = secure_server
    (mint,), (call,) = snippets("In browsers", "python"), snippets("In browsers", "js")
    mint = mint.replace("http://", "https://")
    secret = run(
        [sys.executable, "-c", aimed(mint, server.url)], tmp_path, SSL_CERT_FILE=str(ca)
    ).strip()
    assert secret.startswith("ek_")
    page = (
        # What surrounds it in a browser.
        f"import WebSocket from 'ws';\nconst secret = '{secret}';\n"
        + call.replace("wss://HOST", server.url)
        + "socket.onmessage = ({ data }) => {\n"
        "  console.log(socket.protocol, JSON.parse(data).session.instructions);\n"
        "  socket.close();\n};\n"
    )
    told = run_node(page, server, tmp_path, NODE_EXTRA_CA_CERTS=str(ca))
    assert told == "realtime Be brief.\n"
