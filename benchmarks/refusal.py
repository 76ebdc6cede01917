"""What a refusal costs when every worker is taken and nobody may wait."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.apps import PATH
from benchmarks.figures import Figure, Target, absolute
from benchmarks.processes import cpu_seconds
from benchmarks.servers import Pool
from benchmarks.wire import DEADLINE, Call, request

_QUIET_SECONDS = 0.0005
"""Short, so that few refusals share their time with what the supervisor does every two seconds."""
_NO_HEARTBEATS: dict[str, Any] = {"heartbeat_interval": 600.0, "heartbeat_timeout": 1200.0}
"""A heartbeat's CPU time would be charged to the refusal that it falls into."""


def refusal(samples: int) -> Iterator[Figure]:
    """CPU time of the supervisor per refusal, from the accept to the end of the lingering close,
    and what the caller sees: connect to the last byte of the 503."""
    cpu: list[float] = []
    seen: list[float] = []
    with (
        Pool(
            "benchmarks.apps:tiny", workers=1, max_connections=1, max_waiting=0, **_NO_HEARTBEATS
        ) as pool,
        Call(pool.address),
    ):
        _refused(pool)
        for _ in range(samples):
            before = _settled(pool.pid)
            seen.append(_refused(pool))
            cpu.append(1000 * (_settled(pool.pid) - before))
    yield absolute("refusal", "supervisor's CPU time", "ms", cpu, Target("p99", 0.5))
    yield absolute("refusal", "connect to 503", "ms", seen)


def _refused(pool: Pool) -> float:
    """Milliseconds from connect to the end of the answer. Raises RuntimeError unless it is 503."""
    began = time.perf_counter()
    with socket.create_connection(pool.address, DEADLINE) as sock:
        sock.sendall(request(pool.address, PATH))
        answer = b""
        while data := sock.recv(65536):
            answer += data
        seconds = time.perf_counter() - began
    if not answer.startswith(b"HTTP/1.1 503"):
        raise RuntimeError(f"no refusal: {answer[:80]!r}")
    return seconds * 1000


def _settled(pid: int) -> float:
    """CPU seconds of a process that has gone to sleep."""
    before = -1.0
    while (now := cpu_seconds(pid)) != before:
        before = now
        time.sleep(_QUIET_SECONDS)
    return now
