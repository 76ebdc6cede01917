"""How a server goes: what TERM sets off, step by step, and when it is over.

Balancers are given notice first (`drain_notice`). An accept queue that outlives the server is left
to the next one (`threshold.py`), and who is past it is served. Then the pool drains; another
signal at any time ends the calls.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from voicepool import pool
from voicepool.config import Settings
from voicepool.pooldriver import PoolDriver
from voicepool.servicelink import ServiceLink
from voicepool.threshold import Threshold

log = logging.getLogger("voicepool.supervisor")


class Departure:
    """One server's. Make it on the running event loop."""

    def __init__(
        self,
        settings: Callable[[], Settings],
        driver: PoolDriver,
        threshold: Threshold,
        link: ServiceLink,
        *,
        is_empty: Callable[[], bool],
        on_drain: Callable[[], None],
    ) -> None:
        """`settings`: those in force. `is_empty`: whether there is no worker any more. `on_drain`
        is called once, when the pool has been told to drain."""
        self._settings = settings
        self._driver = driver
        self._threshold = threshold
        self._link = link
        self._is_empty = is_empty
        self._on_drain = on_drain
        self._loop = asyncio.get_running_loop()
        self._notice: asyncio.TimerHandle | None = None
        """Balancers are told to send nobody any more; whoever comes all the same is served."""
        self.draining = False
        self.over = asyncio.Event()
        """The server has drained: no worker is left."""

    @property
    def going(self) -> bool:
        """Whether callers had better come elsewhere; the pool knows only of a drain."""
        return self._notice is not None or self._threshold.left

    @property
    def begun(self) -> bool:
        """Whether it is under way, and not only announced to balancers."""
        return self.draining or self._threshold.left

    def terminate(self) -> None:
        """TERM or INT: drains, once balancers have had the time to notice; a second ends it all."""
        settings = self._settings()
        if self._notice is None and settings.drain_notice and not self.draining:
            self._link.stopping()
            log.info("callers shall go elsewhere", extra={"notice": settings.drain_notice})
            self._notice = self._loop.call_later(settings.drain_notice, self.give_up)
            return
        if self._notice is not None and not self.draining:
            self.drain()  # and again, for this is the second signal
        self.drain()

    def give_up(self) -> None:
        """Drain, if that has not begun: however often the server finds that it must, calls have
        their time to end."""
        if not self.begun:
            self.drain()

    def drain(self) -> None:
        """Without notice: the first time drains, the second ends the calls too."""
        self._link.stopping()
        settings = self._settings()
        let_in = settings.head_timeout + settings.queue_timeout
        if self._threshold.leave(let_in, self._begin):
            return
        if self.draining:
            self._end_calls()
        else:
            self._begin()
            if self._threshold.left:
                self._end_calls()  # this is the second signal

    def look(self) -> None:
        """Whether it is over: to be called when a worker is gone."""
        if self.draining and self._is_empty():
            self.over.set()

    def _begin(self) -> None:
        if self.draining:
            return
        self.draining = True
        log.info("draining", extra={"callers": self._driver.pool.snapshot().callers})
        self._driver.tell(pool.DrainRequested())
        self._on_drain()
        self.look()

    def _end_calls(self) -> None:
        log.info("ending the calls", extra={"callers": self._driver.pool.snapshot().callers})
        self._driver.tell(pool.DrainRequested())
        self.look()
