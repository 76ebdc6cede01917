"""From the moment a worker is taken until its replacement is warm."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from benchmarks.apps import PATH
from benchmarks.figures import Figure, Target, absolute, compare
from benchmarks.fresh import PEER_PYTHON, Cold, Peer
from benchmarks.models import cpu_profile
from benchmarks.servers import Pool
from benchmarks.wire import Call

SPEECH_PATH = "/v1/realtime"
EMBEDDED: dict[str, Any] = {"profile": "embedded"}
_TINY: dict[str, Any] = {"app": "benchmarks.apps:tiny"}
_ROOM: dict[str, Any] = {"workers": 1, "max_connections": 2}
"""Room for one process more, so that the refill starts when the worker is taken."""


def refill_tiny(samples: int) -> Iterator[Figure]:
    """Beside the peer's pool, where scripts/install-livekit-bench has been run."""
    ours: list[float] = []
    if not PEER_PYTHON.exists():
        with Pool(**_TINY, **_ROOM) as pool:
            ours = [_refill(pool, PATH) for _ in range(samples)]
        yield absolute("refill", "tiny app", "ms", ours)
        return
    theirs: list[float] = []
    with Pool(**_TINY, **_ROOM) as pool, Peer() as peer:
        peer.refill()
        for _ in range(samples):
            ours.append(_refill(pool, PATH))
            theirs.append(1000 * peer.refill())
    target = Target("p50", 0.25, 0.15)
    yield compare("refill", "tiny app", "ms", ours, theirs, "LiveKit Agents pool", target)


def refill_embedded(samples: int) -> Iterator[Figure]:
    """The embedded engines, which load in no time."""
    yield from _refill_speech("embedded engines", EMBEDDED, samples)


def refill_models(samples: int) -> Iterator[Figure]:
    """Full-size faster-whisper and Kokoro."""
    with cpu_profile() as settings:
        yield from _refill_speech(
            "full-size models",
            settings,
            samples,
            Target("p50", 0.2, 0.1),
            Target("p50", 300.0),
        )


def _refill_speech(
    case: str,
    speech: dict[str, Any],
    samples: int,
    ratio: Target | None = None,
    rest: Target | None = None,
) -> Iterator[Figure]:
    """Against a cold start of the same pipeline in a fresh process; and how much of the refill is
    not the warm-up inferences, which every new process must make."""
    ours: list[float] = []
    cold: list[float] = []
    beyond: list[float] = []
    with Pool(**speech, **_ROOM) as pool:
        for _ in range(samples):
            ours.append(_refill(pool, SPEECH_PATH))
            with Cold(speech) as process:
                cold.append(1000 * process.seconds)
                beyond.append(ours[-1] - 1000 * process.inferences)
    targets = (ratio,) if ratio else ()
    yield compare("refill", case, "ms", ours, cold, "cold start", *targets)
    targets = (rest,) if rest else ()
    yield absolute("refill", f"{case}, beyond the inferences", "ms", beyond, *targets)


def _refill(pool: Pool, path: str) -> float:
    """Milliseconds from just before the call to the supervisor's word that a replacement is ready;
    the hand-off is in it."""
    pool.expect()
    began = time.perf_counter()
    with Call(pool.address, path):
        pool.until("worker ready", 1)
        seconds = time.perf_counter() - began
    pool.settle(1)
    return seconds * 1000
