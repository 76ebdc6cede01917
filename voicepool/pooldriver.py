"""What makes the pool go: its events one after another, its commands, its deadlines.

The pool itself (`pool.py`) is pure; here are its clock and its timer.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Final

from voicepool import pool

log = logging.getLogger("voicepool.pool")

ENDS: Final = frozenset(
    {pool.ConnectionState.DONE, pool.ConnectionState.REFUSED, pool.ConnectionState.GONE}
)
"""The states in which a connection has come to its end."""
HELD_UP: Final = 0.5
"""A deadline that is seen so many seconds late was missed by this process, which was stopped (a
Ctrl-Z, a container that is paused), and perhaps its workers with it."""
CATCH_UP: Final = 1.0
"""How long those get then to be heard, in seconds, before deadlines fall due."""


class PoolDriver:
    """Drives one pool. Make it on the running event loop."""

    def __init__(
        self,
        machine: pool.Pool,
        carry_out: Callable[[pool.Command], None],
        on_moved: Callable[[], None],
        on_ended: Callable[[int], None] = lambda _: None,
    ) -> None:
        """`carry_out` may `tell` of what it causes. `on_moved` follows every event told.
        `on_ended(connection)` is called once for each that has come to its end, whichever."""
        self.pool = machine
        self._carry_out = carry_out
        self._on_moved = on_moved
        self._on_ended = on_ended
        self._loop = asyncio.get_running_loop()
        self._events: deque[pool.Event] = deque()
        self._telling = False
        self._timer: asyncio.TimerHandle | None = None
        self._hearing: asyncio.TimerHandle | None = None
        """A deadline has come; what is on its way is heard first."""
        self._heard: float | None = None
        """The last deadline for which that was done; no second time, or none would ever be met."""

    @property
    def catching_up(self) -> bool:
        """Whether deadlines have come that do not fall due yet."""
        return self._hearing is not None

    def tell(self, event: pool.Event) -> None:
        """Hand the pool an event and do as it says; what that causes comes after it."""
        self._events.append(event)
        if self._telling:
            return  # called by one of the commands below
        self._telling = True
        try:
            while self._events:
                commands = self.pool.handle(self._events.popleft(), self._loop.time())
                for change in self.pool.transitions:
                    if change.after in ENDS:
                        self._on_ended(change.number)
                for command in commands:
                    self._carry_out(command)
                self._log_transitions()
        finally:
            self._telling = False
            self._set_timer()
        self._on_moved()

    def tick(self) -> None:
        """Let the pool take a step, for the time that has passed; if a deadline has come, once
        what has come in before it is heard.

        Not at once, for a process that was stopped wakes up from its poll with nothing in its hand
        but the time (EINTR, epoll_wait(2)): it would kill workers whose heartbeats it has yet to
        read.
        """
        if self._hearing is not None:
            return
        deadline, now = self.pool.next_deadline, self._loop.time()
        if deadline is None or now < deadline or deadline == self._heard:
            self.tell(pool.Tick())
            return
        self._heard = deadline
        # However short: timers that are due run after what the same poll has found readable.
        patience = CATCH_UP if now - deadline > HELD_UP else 0.0
        self._hearing = self._loop.call_later(patience, self._heard_out)

    def close(self) -> None:
        """Wake up for no deadline, until something is told again."""
        for timer in (self._timer, self._hearing):
            if timer is not None:
                timer.cancel()
        self._hearing = None

    def _heard_out(self) -> None:
        self._hearing = None
        self.tell(pool.Tick())

    def _set_timer(self) -> None:
        deadline = self.pool.next_deadline
        if self._timer is not None:
            if self._timer.when() == deadline:
                return
            self._timer.cancel()
        self._timer = None if deadline is None else self._loop.call_at(deadline, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.tick()

    def _log_transitions(self) -> None:
        if not log.isEnabledFor(logging.DEBUG):
            return
        for change in self.pool.transitions:
            kind = "worker" if isinstance(change.after, pool.WorkerState) else "connection"
            before = change.before.value if change.before else None
            log.debug(
                "transition",
                extra={
                    kind: change.number,
                    "before": before,
                    "after": change.after.value,
                    "cause": change.cause,
                },
            )
