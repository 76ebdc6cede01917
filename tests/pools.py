"""Real voicepool servers for tests, and the proof that they leave nothing behind.

`start_pool(...)` is a fixture (see conftest.py). Each server runs in a process of its own with an
environment marker that every descendant inherits, so that no survivor can hide.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import queue
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

DEADLINE = 60.0
"""Generous: reached only by what is broken."""

FAST: dict[str, Any] = {
    "port": 0,
    "app": "tests.apps.echo:create",
    "heartbeat_interval": 0.2,
    "heartbeat_timeout": 10.0,
    "stop_timeout": 3.0,
    "drain_timeout": 5.0,
    "log_level": "debug",
    # A GPU of the machine that runs the tests shall change none of them.
    "gpus": "none",
    # Tests look into processes; root may do that anyhow, and tries what is shipped.
    "inspectable": os.geteuid() != 0,
}


class PoolServer:
    """One running server; `close` ends it and checks what it left."""

    def __init__(self, runtime: Path, *, own_session: bool = False, **settings: Any) -> None:
        """`own_session` as a terminal would start it, so that its group can be signalled."""
        self.settings = {**FAST, "runtime_dir": str(runtime), **settings}
        self.settings.setdefault("workers", 2)
        self.settings.setdefault("max_connections", self.settings["workers"])
        self.runtime = runtime
        self.file = runtime.parent / f"{runtime.name}.json"
        self._write_settings()
        self.marker = f"VOICEPOOL_TEST={uuid.uuid4()}"
        name, _, value = self.marker.partition("=")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.launch", f"@{self.file}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, name: value},
            text=True,
            start_new_session=own_session,
        )
        self.url = ""
        self.trust: ssl.SSLContext | None = None
        """How to call one that speaks TLS."""
        self.may_log_tracebacks = False
        self.progress: list[dict[str, Any]] = []
        self.logs: list[dict[str, Any]] = []
        self.stderr: list[str] = []
        self._news: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._readers = [
            threading.Thread(target=self._read_progress, daemon=True),
            threading.Thread(target=self._read_logs, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    # -- what it says

    def _read_progress(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            step = json.loads(line)
            self.url = step["url"]
            self.progress.append(step)
            self._news.put(None)
        self._news.put(None)

    def _read_logs(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.stderr.append(line)
            with contextlib.suppress(json.JSONDecodeError):
                self.logs.append(json.loads(line))
            self._news.put(None)
        self._news.put(None)

    def until(self, condition: Callable[[], Any], what: str, deadline: float = DEADLINE) -> Any:
        """Wait until `condition()` is true, looking again whenever the server says something, and
        ten times a second; its value."""
        end = time.monotonic() + deadline
        while not (value := condition()):
            if time.monotonic() > end:
                last = [line[:300] for line in self.stderr[-6:]]
                raise AssertionError(f"never {what}; last words: {last}")
            with contextlib.suppress(queue.Empty):
                self._news.get(timeout=0.1)
        return value

    def stage(self, name: str) -> dict[str, Any]:
        """Wait until the server has announced this stage."""
        return self.until(  # type: ignore[no-any-return]
            lambda: next((step for step in self.progress if step["stage"] == name), None),
            f"announced {name}",
        )

    def logged(self, event: str, **fields: Any) -> dict[str, Any]:
        """Wait for a log line."""
        return self.until(  # type: ignore[no-any-return]
            lambda: next((line for line in self.logs if _matches(line, event, fields)), None),
            f"logged {event} {fields}",
        )

    # -- asking it

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.partition("://")[2].rpartition(":")
        return host.strip("[]"), int(port)

    def get(self, path: str, method: str = "GET", **headers: str) -> tuple[int, Any]:
        """An HTTP request; status and JSON body."""
        connection = (
            http.client.HTTPSConnection(*self.address, timeout=DEADLINE, context=self.trust)
            if self.trust
            else http.client.HTTPConnection(*self.address, timeout=DEADLINE)
        )
        try:
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            text = response.read()
            return response.status, json.loads(text) if text else None
        finally:
            connection.close()

    def status(self) -> dict[str, Any]:
        code, body = self.get("/status")
        assert code == 200
        return body  # type: ignore[no-any-return]

    def workers(self, *states: str) -> list[dict[str, Any]]:
        """Workers in these states (all, if none is named)."""
        return [w for w in self.status()["workers"] if not states or w["state"] in states]

    def until_status(
        self, condition: Callable[[dict[str, Any]], Any], what: str, deadline: float = DEADLINE
    ) -> dict[str, Any]:
        """Wait until `/status` looks so."""
        seen: dict[str, Any] = {}

        def look() -> bool:
            seen.clear()
            seen.update(self.status())
            return bool(condition(seen))

        self.until(look, what, deadline)
        return seen

    def until_idle(self, count: int | None = None) -> dict[str, Any]:
        """Wait until that many workers are idle, by default the warm target, and none is live
        besides."""
        target = self.settings["workers"] if count is None else count
        return self.until_status(
            lambda s: s["pool"]["states"]["idle"] == target and len(s["workers"]) == target,
            f"had exactly {target} idle workers",
        )

    def call(self, path: str = "/echo", **options: Any) -> ClientConnection:
        """A WebSocket client."""
        options.setdefault("open_timeout", DEADLINE)
        client: ClientConnection = connect(self.url + path, proxy=None, ssl=self.trust, **options)
        return client

    def socket(self) -> socket.socket:
        """A raw TCP connection."""
        return socket.create_connection(self.address, timeout=DEADLINE)

    # -- processes

    @property
    def pid(self) -> int:
        return self.process.pid

    def family(self) -> dict[int, str]:
        """Every living process that descends from this server: pid → state letter."""
        return dict(_marked(self.marker))

    def fds(self, pid: int | None = None) -> int:
        return len(os.listdir(f"/proc/{pid or self.pid}/fd"))  # noqa: PTH208

    def cpu(self, pid: int | None = None) -> float:
        """CPU seconds used so far."""
        fields = Path(f"/proc/{pid or self.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def signal(self, signum: int) -> None:
        self.process.send_signal(signum)

    def _write_settings(self) -> None:
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(self.settings))
        new.rename(self.file)  # at no moment is it half written

    def reload(self, **settings: Any) -> None:
        """Change these settings and have them read again. Does not wait."""
        self.settings |= settings
        self._write_settings()
        self.signal(signal.SIGHUP)

    def wait(self) -> int:
        """The exit status, once the server and its output have ended."""
        status = self.process.wait(DEADLINE)
        for reader in self._readers:
            reader.join(DEADLINE)
        return status

    def until_nobody(self) -> None:
        """Wait until no process of this server is left, not even a zombie."""
        self.until(lambda: not self.family(), "was alone", 10.0)

    def close(self) -> None:
        """End it, if it runs still, and check that nothing is left of it."""
        try:
            if self.process.poll() is None:
                self.signal(signal.SIGTERM)
                self.signal(signal.SIGTERM)
            self.wait()
            self.until_nobody()
            left = list(self.runtime.glob("*"))
            assert not left, f"temporary folders are left: {left}"
            text = "".join(self.stderr)
            trace = text.find("Traceback")
            assert trace < 0 or self.may_log_tracebacks, text[trace : trace + 4000]
        finally:
            self.process.kill()
            for pid in self.family():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for stream in (self.process.stdout, self.process.stderr):
                if stream is not None:
                    stream.close()


def hello(client: ClientConnection) -> dict[str, Any]:
    """The echo app's first message."""
    return json.loads(client.recv(timeout=DEADLINE))  # type: ignore[no-any-return]


def _matches(line: dict[str, Any], event: str, fields: dict[str, Any]) -> bool:
    return line.get("event") == event and all(line.get(k) == v for k, v in fields.items())


def _marked(marker: str) -> Iterator[tuple[int, str]]:
    """Processes whose environment has the marker. A zombie has none left; it is found by its
    parent, which has it, or has died and given it to the supervisor or to init."""
    alive: dict[int, str] = {}
    zombies: list[tuple[int, int]] = []
    for entry in Path("/proc").glob("[0-9]*"):
        pid = int(entry.name)
        try:
            state, parent = (entry / "stat").read_text().rpartition(") ")[2].split()[:2]
            if state in "ZX":
                zombies.append((pid, int(parent)))
            elif marker.encode() in (entry / "environ").read_bytes().split(b"\0"):
                alive[pid] = state
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    yield from alive.items()
    yield from ((pid, "Z") for pid, parent in zombies if parent in alive)
