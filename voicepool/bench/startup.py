"""`voicepool bench startup`: what a caller waits for without a pool, and with one.

The comparison that voicepool began with. Three servers host the same pipeline (see `server.py`);
users connect one after another and stay on the line. "Ready" is the session's first event: from
then on the caller can speak.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import msgspec
import psutil
from rich import box
from rich.table import Table
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from voicepool.errors import CallError, ExitCode
from voicepool.forker import child_environment
from voicepool.quantities import format_size
from voicepool.settings import Settings

KINDS = {
    "cold": "a pipeline built per connection",
    "prewarmed": "models warm, a pipeline built per connection",
    "pool": "voicepool",
}
"""Kind of server -> what it stands for, in the order of the tables."""
PATH = "/v1/realtime"
GOODBYE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Startup:
    """What one server took. Times are seconds, sizes bytes."""

    kind: str
    start: float
    """From launching it until it takes callers; the pool: until a warm worker waits for each."""
    users: tuple[float, ...]
    """Per user, from `connect()` to the session's first event."""
    host: int
    """PSS of all its processes with all users on the line."""
    device: int | None
    """VRAM that it took meanwhile, on all GPUs; None where there is none."""

    @property
    def total(self) -> float:
        """From nothing until everyone is served, one after another."""
        return self.start + sum(self.users)


def measure(
    settings: Settings,
    users: int,
    vram_used: Callable[[], int | None],
    tell: Callable[[str], None],
    kinds: Sequence[str] = tuple(KINDS),
) -> Iterator[Startup]:
    """Start each server in turn and connect to it. `vram_used`: bytes in use on all GPUs.

    Raises CallError where a server cannot be started or does not answer.
    """
    fitting = for_measuring(settings, users)
    for kind in kinds:
        tell(f"{kind}: starting")
        before = vram_used()
        with _Server(kind, fitting) as server:
            started = server.seconds
            with contextlib.ExitStack() as calls:
                took = []
                for number in range(1, users + 1):
                    tell(f"{kind}: up after {started:.2f} s, user {number} connects")
                    took.append(server.call(calls))
                host, after = server.memory(), vram_used()
        device = None if before is None or after is None else max(0, after - before)
        yield Startup(kind, started, tuple(took), host, device)


def for_measuring(settings: Settings, users: int) -> Settings:
    """The same pipeline for so many users, on a server that whoever measures it can reach and see:
    what the operator's own keeps others from is not measured."""
    return replace(
        settings,
        host="127.0.0.1",
        port=0,
        agent_port=0,
        api_keys=(),
        admin_keys=(),
        keys_file="",
        proxy_protocol=False,
        tls_cert="",
        tls_key="",
        address_calls=0,
        address_rate=0,
        total_rate=0,
        inspectable=True,  # what its processes take is read in /proc
        workers=users,
        max_connections=users,
        app="",
        log_level="error",
    )


class _Server:
    """One of the servers, in a process group of its own; serving when made."""

    def __init__(self, kind: str, settings: Settings) -> None:
        self._patience = settings.warm_up_timeout
        began = time.perf_counter()
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "voicepool.bench.server",
                kind,
                msgspec.json.encode(settings).decode(),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
            env=child_environment(),
        )
        try:
            self.url = self._until_serving(self._patience * settings.workers)
        except BaseException:
            self.close()
            raise
        self.seconds = time.perf_counter() - began

    def _until_serving(self, patience: float) -> str:
        assert self._process.stdout is not None
        deadline = time.monotonic() + patience
        while select.select([self._process.stdout], [], [], deadline - time.monotonic())[0]:
            line = self._process.stdout.readline()
            if not line:
                raise _failed("the server ended before it served; see the lines above")
            step: dict[str, Any] = json.loads(line)
            if step["stage"] == "serving":
                if step["detail"]:
                    raise _failed(step["detail"])
                return str(step["url"])
            raise _failed(step["detail"])
        raise _failed(f"the server was not up after {patience:.0f} s")

    def call(self, calls: contextlib.ExitStack) -> float:
        """Connect a user, who stays until `calls` are closed; seconds until ready."""
        began = time.perf_counter()
        try:
            # Built per connection, the handshake itself may wait for the models.
            dialling = connect(
                self.url + PATH, proxy=None, compression=None, open_timeout=self._patience
            )
            client = calls.enter_context(dialling)
            client.recv(timeout=self._patience)
        except (OSError, WebSocketException) as error:
            raise _failed(f"a user was not served: {error or type(error).__name__}") from error
        return time.perf_counter() - began

    def memory(self) -> int:
        """PSS of all its processes, so that what they share counts once."""
        own = psutil.Process(self._process.pid)
        total = 0
        for process in (own, *own.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_full_info().pss
        return total

    def close(self) -> None:
        """End it with all its processes."""
        for _ in range(2):  # the pool's second TERM ends the calls
            self._process.terminate()
        try:
            self._process.wait(GOODBYE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        finally:
            # Whoever it has started belongs to its group; the pool leaves nobody.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            if self._process.stdout is not None:
                self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _failed(message: str) -> CallError:
    return CallError(message, ExitCode.UNREACHABLE)


# --- showing it --------------------------------------------------------------------------------


def table(results: Sequence[Startup], *, markdown: bool = False) -> Table:
    """The comparison for people."""
    shown = Table(box=box.MARKDOWN if markdown else None, pad_edge=markdown)
    users = range(1, len(results[0].users) + 1)
    shown.add_column("server")
    for name in ("start", *(f"user {n} ready" for n in users), "total", "memory per user"):
        shown.add_column(name, justify="right")
    vram = any(result.device is not None for result in results)
    if vram:
        shown.add_column("VRAM per user", justify="right")
    for result in results:
        each = len(result.users)
        cells = [KINDS[result.kind], _seconds(result.start), *map(_seconds, result.users)]
        cells += [_seconds(result.total), format_size(_rounded(result.host // each))]
        if vram:
            cells.append(format_size(_rounded((result.device or 0) // each)))
        shown.add_row(*cells)
    return shown


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 0.1 else f"{seconds:.2f} s"


def _rounded(size: int) -> int:
    """To whole MiB: less is noise."""
    return round(size / (1 << 20)) << 20


def document(results: Sequence[Startup], profile: str) -> dict[str, Any]:
    """The comparison as JSON-ready types."""
    return {
        "profile": profile,
        "servers": [
            {
                "kind": result.kind,
                "start": round(result.start, 4),
                "users": [round(seconds, 5) for seconds in result.users],
                "total": round(result.total, 4),
                "host_bytes": result.host,
                "device_bytes": result.device,
            }
            for result in results
        ],
    }
