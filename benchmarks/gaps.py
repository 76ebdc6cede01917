"""Calls in progress: what a refill does to their sound, and what they cost the supervisor."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from benchmarks.apps import FRAME, FRAME_SECONDS
from benchmarks.figures import Figure, Target, absolute, compare
from benchmarks.models import cpu_profile
from benchmarks.processes import cpu_seconds
from benchmarks.refill import EMBEDDED
from benchmarks.servers import Pool
from benchmarks.wire import Call


def gaps_embedded(segments: int, seconds: float) -> Iterator[Figure]:
    """While workers with the embedded engines warm up."""
    yield from _gaps("during refills", EMBEDDED, segments, seconds)


def gaps_models(segments: int, seconds: float) -> Iterator[Figure]:
    """While workers with full-size faster-whisper and Kokoro warm up."""
    with cpu_profile() as settings:
        yield from _gaps("during refills, full-size", settings, segments, seconds)


def _gaps(case: str, speech: dict[str, Any], segments: int, seconds: float) -> Iterator[Figure]:
    """Gaps between the frames of a call whose worker plays silence at the pace of speech, in turn
    alone and while other callers come and go, so that one worker after another warms up."""
    busy: list[float] = []
    alone: list[float] = []
    with (
        Pool("benchmarks.apps:paced", speech=speech, workers=1, max_connections=2) as pool,
        Call(pool.address) as call,
    ):
        pool.until("worker ready", 1)
        listen(call, passed(1.0))  # the sound that came meanwhile
        for _ in range(segments):
            alone += listen(call, passed(seconds))
            stop = threading.Event()
            others = threading.Thread(target=_come_and_go, args=(pool, stop))
            others.start()
            busy += listen(call, passed(seconds))
            stop.set()
            # Listen on while the last refill ends, or what nobody heard would be counted next.
            listen(call, partial(_ended, others))
            others.join()
    against = "the same call, no refill"
    yield compare("gaps", case, "ms", busy, alone, against, Target("p99", 1.2))


def listen(call: Call, over: Callable[[], bool]) -> list[float]:
    """Milliseconds between frames until it is over."""
    found: list[float] = []
    last = time.perf_counter()
    while not over():
        call.receive()
        now = time.perf_counter()
        found.append(1000 * (now - last))
        last = now
    return found


def _ended(thread: threading.Thread) -> bool:
    return not thread.is_alive()


def passed(seconds: float) -> Callable[[], bool]:
    """Whether so much time has passed since this call."""
    end = time.perf_counter() + seconds
    return lambda: time.perf_counter() > end


def _come_and_go(pool: Pool, stop: threading.Event) -> None:
    while not stop.is_set():
        pool.expect()
        with Call(pool.address):
            pass
        pool.settle(1)


def supervisor(segments: int, seconds: float) -> Iterator[Figure]:
    """The supervisor's CPU time per second of call audio, beyond what it takes when idle."""
    cost: list[float] = []
    with Pool("benchmarks.apps:tiny", workers=2, max_connections=2) as pool:
        for _ in range(segments):
            idle = _cpu_while(pool, None, seconds)
            with Call(pool.address) as call:
                cost.append(_cpu_while(pool, call, seconds) - idle)
                pool.expect()
            pool.settle(1)
    # Not exactly 0: heartbeats do not come as often in every segment.
    yield absolute("supervisor", "CPU per s of audio", "ms", cost, Target("p50", 0.2))


def _cpu_while(pool: Pool, call: Call | None, seconds: float) -> float:
    """Milliseconds of CPU time per second, of which `call` is full of audio in both directions."""
    before, began = cpu_seconds(pool.pid), time.perf_counter()
    for frame in range(round(seconds / FRAME_SECONDS)):
        time.sleep(max(0.0, began + frame * FRAME_SECONDS - time.perf_counter()))
        if call is not None:
            call.send(FRAME)
            call.receive()
    return 1000 * (cpu_seconds(pool.pid) - before) / (time.perf_counter() - began)
