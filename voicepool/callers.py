"""Callers on their way to a worker: who waits, who was offered, and who hangs up meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from voicepool import ipc
from voicepool.access import Admitted
from voicepool.frontdoor import Visitor
from voicepool.hangups import HangupWatch


@dataclass(frozen=True, slots=True)
class Candidate:
    """A caller whom nobody serves yet."""

    connection: int
    visitor: Visitor
    address: str
    admitted: Admitted
    arrived: float
    """When its request head was complete, by the event loop's clock."""

    @property
    def assign(self) -> ipc.Assign:
        """What the worker is told."""
        port = self.visitor.address[1]
        who = self.admitted
        return ipc.Assign(self.connection, self.address, port, who.identity, who.session)


class WaitingRoom:
    """Owns the sockets of waiting callers; `take` passes one on, `lost` closes it."""

    def __init__(self, on_lost: Callable[[int], None]) -> None:
        """`on_lost(connection)` is called when a waiting caller has hung up and is closed."""
        self._on_lost = on_lost
        self._by_connection: dict[int, Candidate] = {}
        self._by_fd: dict[int, Candidate] = {}
        self._watch = HangupWatch(self._hung_up)

    def __len__(self) -> int:
        return len(self._by_connection)

    def __contains__(self, connection: int) -> bool:
        return connection in self._by_connection

    def add(self, candidate: Candidate) -> None:
        """Let the caller wait, without being watched yet."""
        self._by_connection[candidate.connection] = candidate

    def watch(self, connection: int) -> None:
        """Notice when the caller hangs up. Apart from `add`: most callers are served at once, and
        their hand-off is spared the system calls."""
        candidate = self._by_connection[connection]
        self._by_fd[candidate.visitor.fileno()] = candidate
        self._watch.watch(candidate.visitor.fileno())

    def take(self, connection: int) -> Candidate:
        """The caller goes to a worker, or is refused."""
        candidate = self._by_connection.pop(connection)
        fd = candidate.visitor.fileno()
        if self._by_fd.pop(fd, None) is not None:
            self._watch.forget(fd)
        return candidate

    def close(self) -> None:
        for candidate in self._by_connection.values():
            candidate.visitor.sock.close()
        self._watch.close()

    def _hung_up(self, fd: int) -> None:
        candidate = self._by_fd.pop(fd)
        del self._by_connection[candidate.connection]
        candidate.visitor.sock.close()
        self._on_lost(candidate.connection)
