"""Who has hung up, although nobody reads what it has sent."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable


class HangupWatch:
    """Watches sockets for hang-up alone, whatever bytes lie unread in them.

    asyncio cannot leave input out of what it polls for, so this is an epoll of its own, which is
    itself polled by the event loop.
    """

    def __init__(self, on_hangup: Callable[[int], None]) -> None:
        """`on_hangup(fd)` is called once; the fd is no longer watched by then."""
        self._epoll = select.epoll()
        self._watched: set[int] = set()
        self._on_hangup = on_hangup
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._epoll.fileno(), self._poll)

    def watch(self, fd: int) -> None:
        """HUP and ERR are always reported; RDHUP is the peer's half-close."""
        self._epoll.register(fd, select.EPOLLRDHUP)
        self._watched.add(fd)

    def forget(self, fd: int) -> None:
        """Stop watching; a descriptor that is not watched is fine."""
        if fd in self._watched:
            self._watched.remove(fd)
            self._epoll.unregister(fd)

    def close(self) -> None:
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def _poll(self) -> None:
        for fd, _ in self._epoll.poll(0):
            # What one hang-up causes may have closed another socket of this batch.
            if fd in self._watched:
                self.forget(fd)
                self._on_hangup(fd)
