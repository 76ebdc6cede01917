"""`voicepool status` against a real server, on a terminal and elsewhere, and against strangers."""

from __future__ import annotations

import copy
import http.server
import io
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from rich.console import Console

from tests.pools import PoolServer
from voicepool.errors import CallError, ExitCode
from voicepool.status import fetch, fetch_pool, render

Start = Callable[..., PoolServer]


def text(report: dict[str, Any]) -> str:
    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        console.print(render(report))
    return capture.get()


@contextmanager
def stranger(status: int, body: bytes) -> Iterator[str]:
    """An HTTP server that is not voicepool."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: the tests' output is not its log."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"ws://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_table_of_a_real_server(start_pool: Start) -> None:
    server = start_pool(workers=2, max_connections=3)
    with server.call("/echo"):
        server.until_status(
            lambda report: report["pool"]["states"].get("serving") == 1, "serving one caller"
        )
        report = fetch(server.url, "")
        shown = text(report)
    assert "callers  1 of 3, 0 of 64 waiting, 0 refused" in shown
    serving = next(worker for worker in report["workers"] if worker["state"] == "serving")
    row = next(line for line in shown.splitlines() if line.split()[:1] == [str(serving["worker"])])
    assert row.split()[1:3] == [str(serving["pid"]), "serving"]


def test_on_a_terminal_it_stays_until_control_c(start_pool: Start) -> None:
    server = start_pool(workers=1)
    terminal, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "voicepool", "status", "--url", server.url],
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.PIPE,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(theirs)
    seen = b""
    while seen.count(b"1 of 64 waiting") + seen.count(b"0 of 64 waiting") < 2:  # it refreshes
        seen += os.read(terminal, 4096)
    process.send_signal(signal.SIGINT)
    reader = threading.Thread(target=_drain, args=(terminal,))
    reader.start()
    _, err = process.communicate(timeout=30)
    reader.join()
    os.close(terminal)
    assert (process.returncode, err) == (ExitCode.OK, b"")


def _drain(terminal: int) -> None:
    try:
        while os.read(terminal, 4096):
            pass
    except OSError:  # EIO: the other end is closed
        return


def test_a_server_that_wants_a_key(start_pool: Start) -> None:
    key, callers_key = "a-long-enough-secret-key", "another-secret-key"
    server = start_pool(workers=1, admin_keys=[key], api_keys=[callers_key])
    assert fetch(server.url, key)["pool"]["workers"] == 1
    with pytest.raises(CallError, match="VOICEPOOL_API_KEY") as caught:
        fetch(server.url, "")
    assert caught.value.code == ExitCode.UNREACHABLE
    with pytest.raises(CallError, match=r"of scope call.*admin_keys.*key new NAME --scope admin"):
        fetch(server.url, callers_key)
    assert fetch_pool(server.url, callers_key)["pool"]["max_connections"] == 1


def test_no_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(CallError, match="start one with: voicepool start") as caught:
        fetch(f"ws://127.0.0.1:{port}", "")
    assert caught.value.code == ExitCode.UNREACHABLE


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (200, b"<html>", "is not voicepool"),
        (200, b"[]", "is not voicepool"),
        (200, b"[" * 100_000, "is not voicepool"),
        (200, b'{"server": {}}', "is not voicepool"),
        (404, b"", "is not voicepool"),
        (502, b"", "answered 502"),
    ],
)
def test_something_that_is_not_voicepool(status: int, body: bytes, words: str) -> None:
    with stranger(status, body) as url, pytest.raises(CallError, match=words):
        fetch(url, "")


@pytest.mark.parametrize(
    "sent",
    [b"", b"220 mail.example ESMTP\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"],
)
def test_a_server_that_breaks_off(sent: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def half() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(sent)

        thread = threading.Thread(target=half)
        thread.start()
        with pytest.raises(CallError) as caught:
            fetch(f"127.0.0.1:{listener.getsockname()[1]}", "")
        thread.join()
    assert caught.value.code == ExitCode.UNREACHABLE


REPORT: dict[str, Any] = {
    "server": {"version": "1", "url": "ws://h:1", "uptime": 7300, "profile": "embedded"},
    "pool": {
        "ready": True,
        "draining": False,
        "halted": False,
        "retry_in": None,
        "target": 2,
        "states": {"idle": 1, "killing": 1},
        "callers": 0,
        "max_connections": 8,
        "spare": 0,
        "waiting": 3,
        "max_waiting": 64,
        "last_error": "",
    },
    "totals": {"completed": 5, "lost": 1, "gone": 2, "refused": {"full": 4, "timeout": 0}},
    "memory": {
        "measured": True,
        "fits": 5,
        "binds": "cuda:0",
        "driver": "550.54",
        "devices": [
            {
                "device": "host",
                "model": "RAM",
                "uuid": None,
                "total": 8 << 30,
                "others": 1 << 30,
                "zygote": 32 << 20,
                "reserved": 64 << 20,
                "reserve": 512 << 20,
                "cap": None,
                "per_worker": 64 << 20,
                "workers": 1,
                "fits": 9,
                "missing": False,
            },
            {
                "device": "cuda:0",
                "model": "NVIDIA\x1b[2J A10G",
                "uuid": "GPU-5a",
                "total": 24 << 30,
                "others": 0,
                "zygote": 0,
                "reserved": 3 << 30,
                "reserve": 512 << 20,
                "cap": 20 << 30,
                "per_worker": 3 << 30,
                "workers": 1,
                "fits": 0,
                "missing": True,
            },
        ],
    },
    "latency": {
        **{
            name: {"p50": None, "p95": None, "count": 0}
            for name in ("queue", "warm_up", "stt", "llm")
        },
        "handoff": {"p50": 0.00042, "p95": 0.0123, "count": 512},
        "voice_to_voice": {"p50": 0.61, "p95": 1.5249, "count": 40},
        "tts": {"p50": 0.04, "p95": 0.25, "count": 41},
    },
    "workers": [
        {
            "worker": 7,
            "pid": None,
            "state": "killing",
            "in_state": 150.0,
            "device": "cuda:0",
            "private": 50 << 20,
            "vram": 3 << 30,
            "connection": None,
        }
    ],
}


@pytest.mark.parametrize(
    ("pool", "words"),
    [
        ({}, "pool     ready"),
        ({"ready": False}, "pool     not ready"),
        ({"draining": True}, "draining: no new calls"),
        ({"halted": True}, "halted: the configuration must be mended"),
        ({"retry_in": 4.2}, "workers fail to come up; next try in 4 s"),
        ({"last_error": "no\x1b[2J model"}, "error    no\\x1b[2J model"),
    ],
)
def test_the_condition_of_a_pool(pool: dict[str, Any], words: str) -> None:
    report = copy.deepcopy(REPORT)
    report["pool"].update(pool)
    assert words in text(report)


def test_figures_for_people() -> None:
    shown = text(REPORT)
    for words in (
        "up 2 h",
        "4 refused (4 full)",
        "1 idle of 2 wanted, 1 killing",
        "5 more would fit, then cuda:0 is full; NVIDIA driver 550.54",
    ):
        assert words in shown
    rows = [" ".join(line.split()) for line in shown.splitlines()]
    assert "host 8 GiB 1 GiB 32 MiB 64 MiB 512 MiB 64 MiB 1 +9 RAM" in rows
    assert "cuda:0 24 GiB 3 GiB 512 MiB 20 GiB 3 GiB 1 cannot be read NVIDIA\\x1b[2J A10G" in rows
    assert rows[-1] == "7 killing 2 min cuda:0 50 MiB 3 GiB"
    at = rows.index("latency hand-off voice to voice tts")
    assert rows[at + 1 : at + 4] == [
        "p50 0.4 ms 610 ms 40 ms",
        "p95 12 ms 1.52 s 250 ms",
        "count 512 40 41",
    ]


@pytest.mark.parametrize(
    ("fits", "max_connections", "spare", "words"),
    [
        (0, 3, 0, "memory   no more would fit, then cuda:0 is full"),
        (1, 3, 1, "memory   1 more would fit, then cuda:0 is full"),
        (1, 2, 1, "memory   all that may run at once fit"),
        (2, 2, 0, "memory   all that may run at once fit"),
    ],
)
def test_what_fits_beside_two_workers(
    fits: int, max_connections: int, spare: int, words: str
) -> None:
    """It is counted up to what may run, and says which device is full only where one is."""
    report = copy.deepcopy(REPORT)
    report["pool"].update(max_connections=max_connections, spare=spare)
    report["memory"]["fits"] = fits
    assert words in text(report)


def test_latencies_that_nobody_has_met_are_not_shown() -> None:
    report = copy.deepcopy(REPORT)
    for latency in report["latency"].values():
        latency["count"] = 0
    assert "latency" not in text(report)


def test_without_a_gpu_the_table_of_memory_fits_a_terminal() -> None:
    report = json.loads(json.dumps(REPORT))
    report["memory"]["devices"] = [d for d in report["memory"]["devices"] if d["device"] == "host"]
    out = io.StringIO()
    Console(file=out, width=80).print(render(report))
    (row,) = [line for line in out.getvalue().splitlines() if line.startswith("host")]
    assert " ".join(row.split()) == "host 8 GiB 1 GiB 32 MiB 64 MiB 512 MiB 64 MiB 1 +9"


def test_a_status_of_another_version_is_said_to_be_one() -> None:
    report = json.loads(json.dumps(REPORT))
    del report["totals"]["refused"]
    with pytest.raises(CallError, match="of another version"):
        render(report)
