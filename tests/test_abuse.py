"""Hostile clients beside a caller: the caller is answered, and no worker grows beyond bounds.

The hostile clients are those that the benchmarks measure.
"""

from __future__ import annotations

import threading

import pytest

from benchmarks.abuse import MOST
from benchmarks.abusers import ABUSES
from benchmarks.processes import anonymous_bytes
from tests.pools import DEADLINE, PoolServer
from tests.servers import speech_server
from tests.test_bad_speech import answered, undisturbed

__all__ = ["speech_server"]

TURNS = 3


class Peak:
    """The largest anonymous memory of any worker, looked at between a caller's turns."""

    def __init__(self, server: PoolServer) -> None:
        self._server = server
        self.bytes = 0

    def look(self) -> int:
        workers = self._server.workers()
        found = max((anonymous_bytes(worker["pid"]) for worker in workers), default=0)
        self.bytes = max(self.bytes, found)
        return found


class Abuser:
    """One of ABUSES in a thread of its own."""

    def __init__(self, name: str, server: PoolServer) -> None:
        self._abuse = ABUSES[name](server.address)
        self._stop = threading.Event()
        self.under_way = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        for count in self._abuse:
            if count:
                self.under_way.set()
            if self._stop.is_set():
                self._abuse.close()
                return

    def __enter__(self) -> Abuser:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()


@pytest.mark.parametrize("name", ABUSES)
def test_abuse_beside_a_call(speech_server: PoolServer, name: str) -> None:
    with undisturbed(speech_server) as caller:
        peak = Peak(speech_server)
        warm = peak.look()
        with Abuser(name, speech_server) as abuser:
            assert abuser.under_way.wait(DEADLINE)
            for _ in range(TURNS):
                answered(caller)
                peak.look()
        assert peak.bytes - warm < MOST * (1 << 20)
