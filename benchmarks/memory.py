"""Memory of warm workers, against as many processes that share nothing by design."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from benchmarks.figures import Figure, Target, compare
from benchmarks.fresh import Cold
from benchmarks.models import cpu_profile
from benchmarks.processes import memfd_bytes, pss_bytes
from benchmarks.refill import EMBEDDED
from benchmarks.servers import Pool

SIZES = (1, 2, 4, 8)
_MIB = 1 << 20


def memory_embedded(sizes: tuple[int, ...] = SIZES) -> Iterator[Figure]:
    """The embedded engines, which have little to share."""
    yield from _memory("embedded", EMBEDDED, sizes)


def memory_models(sizes: tuple[int, ...] = SIZES) -> Iterator[Figure]:
    """Full-size faster-whisper and Kokoro."""
    with cpu_profile() as settings:
        yield from _memory("full-size", settings, sizes)


def _memory(kind: str, speech: dict[str, Any], sizes: tuple[int, ...]) -> Iterator[Figure]:
    """Sum of PSS: the zygote and the warm workers (with what the zygote keeps for them in memory
    that nobody maps) on one side, the separate processes, warmed by
    the same inferences, on the other. The supervisor is a line of its own."""
    for size in sizes:
        with Pool(**speech, workers=size, max_connections=size) as pool:
            shared = memfd_bytes(pool.zygote)
            ours = (pss_bytes([pool.zygote, *pool.workers]) + shared) / _MIB
            supervisor = pss_bytes([pool.pid]) / _MIB
        with contextlib.ExitStack() as stack:
            fresh = [stack.enter_context(Cold(speech)).process.pid for _ in range(size)]
            theirs = pss_bytes(fresh) / _MIB
        # The promise is for eight.
        targets = (Target("p50", 0.4, 0.25),) if size == 8 else ()
        case = f"{size} {kind} workers"
        yield compare("memory", case, "MiB", [ours], [theirs], "separate processes", *targets)
    yield compare(
        "memory", f"supervisor, {kind}", "MiB", [supervisor], [theirs], f"{size} separate"
    )
