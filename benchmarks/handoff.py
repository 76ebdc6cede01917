"""Connect to first message, against a bare `websockets` server; one by one, and in bursts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from benchmarks.figures import Figure, Target, compare
from benchmarks.servers import Bare, Pool
from benchmarks.wire import Call, burst

SIZES = (2, 8, 32, 128)
_BARE = "bare websockets server"


def handoff(samples: int, sizes: tuple[int, ...] = SIZES, spare: int = 0) -> Iterator[Figure]:
    """One caller at a time. Every sample waits until the worker of the one before is reaped and
    its replacement is warm, so that no refill runs beside it, unless `spare` lets the refill start
    at the acquisition itself."""
    case = "{} workers" + (", refill at once" if spare else "")
    for size in sizes:
        with Bare() as bare, _pool(size, spare) as pool:
            ours, reference = _alternate(pool, bare, samples)
        # A refill at once has no promise of its own: design counts the warm, quiet pool.
        targets = () if spare else (Target("p50", 1.35, 1.15), Target("p99", 1.5, 1.3))
        yield compare("hand-off", case.format(size), "ms", ours, reference, _BARE, *targets)


def in_a_row(samples: int, sizes: tuple[int, ...] = SIZES) -> Iterator[Figure]:
    """Callers one right after another, as many as there are workers, who all stay: the pool has no
    room for a refill meanwhile. Then all hang up, and the next round waits for the replacements."""
    targets = (Target("p50", 1.35, 1.15), Target("p99", 1.5, 1.3))
    for size in sizes:
        ours: list[float] = []
        reference: list[float] = []
        with Bare() as bare, _pool(size) as pool:
            _fill(bare, size)
            for i in range(max(2, samples // size)):
                for server in (pool, bare) if i % 2 else (bare, pool):
                    (ours if server is pool else reference).extend(_fill(server, size))
        case = f"{size} workers, in a row"
        yield compare("hand-off", case, "ms", ours, reference, _BARE, *targets)


def _fill(server: Pool | Bare, size: int) -> list[float]:
    """Milliseconds to each caller's first message."""
    if isinstance(server, Pool):
        server.expect()
    with contextlib.ExitStack() as calls:
        taken = [calls.enter_context(Call(server.address)).seconds * 1000 for _ in range(size)]
    if isinstance(server, Pool):
        server.settle(size)
    return taken


def _alternate(pool: Pool, bare: Bare, samples: int) -> tuple[list[float], list[float]]:
    ours: list[float] = []
    reference: list[float] = []
    _one(pool)
    _one(bare)
    for i in range(samples):
        for server in (pool, bare) if i % 2 else (bare, pool):
            (ours if server is pool else reference).append(_one(server))
    return ours, reference


def _one(server: Pool | Bare) -> float:
    """Milliseconds to the first message."""
    if not isinstance(server, Pool):
        with Call(server.address) as call:
            return call.seconds * 1000
    server.expect()
    with Call(server.address) as call:
        seconds = call.seconds
    server.settle(1)
    return seconds * 1000


def bursts(repeats: int, sizes: tuple[int, ...] = SIZES) -> Iterator[Figure]:
    """As many callers as workers at the same moment, until the last one has its first message."""
    for size in sizes:
        ours: list[float] = []
        reference: list[float] = []
        with Bare() as bare, _pool(size) as pool:
            burst(bare.address, size)
            for i in range(repeats):
                for server in (pool, bare) if i % 2 else (bare, pool):
                    if isinstance(server, Pool):
                        ours.append(_burst(server, size))
                    else:
                        reference.append(1000 * max(burst(server.address, size)))
        yield compare(
            "burst", f"{size} on {size}", "ms", ours, reference, _BARE, Target("p50", 1.6, 1.1)
        )


def _burst(pool: Pool, size: int) -> float:
    pool.expect()
    last = 1000 * max(burst(pool.address, size))
    pool.settle(size)
    return last


def _pool(size: int, spare: int = 0) -> Pool:
    return Pool("benchmarks.apps:tiny", workers=size, max_connections=size, spare=spare)
