"""Things that must be done with in time: all with the same patience, so one timer serves them."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Countdown(Generic[T]):
    """Items in the order in which they were added, which is that of their deadlines."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, on_late: Callable[[T], None]
    ) -> None:
        """`on_late` gets each item whose time is up; it is no longer in here by then."""
        self._loop = loop
        self._seconds = seconds
        self._on_late = on_late
        self._deadlines: OrderedDict[T, float] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._deadlines)

    def __contains__(self, item: T) -> bool:
        return item in self._deadlines

    @property
    def oldest(self) -> T:
        """The one that has been in here longest. Raises StopIteration where there is none."""
        return next(iter(self._deadlines))

    def add(self, item: T) -> None:
        """Give it its time, from now on."""
        self._deadlines[item] = self._loop.time() + self._seconds
        if self._timer is None:
            self._schedule()

    def discard(self, item: T) -> None:
        """It is done, if it was in here."""
        self._deadlines.pop(item, None)

    def clear(self) -> list[T]:
        """Take out everything."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        items = list(self._deadlines)
        self._deadlines.clear()
        return items

    def _schedule(self) -> None:
        soonest = next(iter(self._deadlines.values()), None)
        self._timer = None if soonest is None else self._loop.call_at(soonest, self._expire)

    def _expire(self) -> None:
        now = self._loop.time()
        while self._deadlines:
            item, deadline = next(iter(self._deadlines.items()))
            if deadline > now:
                break
            del self._deadlines[item]
            self._on_late(item)
        self._schedule()
