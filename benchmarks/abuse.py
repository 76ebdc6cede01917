"""What hostile callers do to somebody else's call, and to the memory of the worker they have."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence

from benchmarks.abusers import ABUSES
from benchmarks.figures import Figure, Target, absolute, compare
from benchmarks.gaps import listen, passed
from benchmarks.processes import anonymous_bytes
from benchmarks.refill import EMBEDDED
from benchmarks.servers import Pool
from benchmarks.wire import DEADLINE, Call

AGAINST = "the same call, undisturbed"
WATCH_SECONDS = 0.1


def abuse(segments: int, seconds: float, names: Sequence[str] = tuple(ABUSES)) -> Iterator[Figure]:
    """Gaps between the frames of a call that plays sound at the pace of speech, in turn alone and
    while another caller abuses the server; and the most memory that any worker took meanwhile."""
    for name in names:
        alone: list[float] = []
        beside: list[float] = []
        with (
            Pool(
                "benchmarks.apps:beside_speech", speech=EMBEDDED, workers=2, max_connections=2
            ) as pool,
            Call(pool.address) as call,
        ):
            pool.until("worker ready", 2)
            memory = _Memory(pool)
            listen(call, passed(1.0))  # the sound that came meanwhile
            for _ in range(segments):
                alone += listen(call, passed(seconds))
                with memory.watched(), _abused(pool, name):
                    listen(call, passed(1.0))  # the sound that came while the abuser started
                    beside += listen(call, passed(seconds))
        yield compare("abuse", name, "ms", beside, alone, AGAINST)
        growth = [(peak - memory.warm) / (1 << 20) for peak in memory.peaks]
        yield absolute("abuse", f"{name}: worker beyond warm", "MiB", growth, Target("p99", MOST))


MOST = 256.0
"""MiB: what one caller may make a worker take, whatever it does."""


@contextlib.contextmanager
def _abused(pool: Pool, name: str) -> Iterator[None]:
    host, port = pool.address
    abuser = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.abusers", name, host, str(port)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert abuser.stdout is not None
    try:
        if not abuser.stdout.readline():
            raise RuntimeError(f"{name}: the abuser is gone")
        yield
    finally:
        abuser.send_signal(signal.SIGTERM)
        abuser.wait(DEADLINE)
        abuser.stdout.close()


class _Memory:
    """The largest anonymous memory of any worker, looked at from a thread."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.warm = max(anonymous_bytes(worker) for worker in pool.workers)
        self.peaks: list[int] = []

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Adds one peak."""
        done = threading.Event()
        peak = 0

        def watch() -> None:
            nonlocal peak
            while not done.wait(WATCH_SECONDS):
                for worker in self._pool.workers:
                    peak = max(peak, anonymous_bytes(worker))

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            self.peaks.append(peak)
