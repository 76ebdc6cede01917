"""When the front door opens, and how it is left.

A listener of our own is open as long as the server lives, so that everybody is told how things
are. One that a service manager keeps open for us is not: whoever comes while there is no server
waits in its queue, and shall notice a restart by that alone. So it opens once there is a worker
for the first of them, or trouble to tell of; and when the server goes, those in the queue are left
to the next one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from voicepool.callers import WaitingRoom
from voicepool.frontdoor import FrontDoor
from voicepool.progress import Progress

log = logging.getLogger("voicepool.supervisor")

LOOK_SECONDS: Final = 0.05
"""How often it is looked whether all who are in have been served."""


class Threshold:
    """Make it on the running event loop."""

    def __init__(
        self,
        door: FrontDoor,
        waiting: WaitingRoom,
        offered: Callable[[], bool],
        *,
        queue_stays: bool,
    ) -> None:
        """`offered`: whether a worker has been given a caller whom it has not taken yet.
        `queue_stays`: the accept queue outlives this server."""
        self._door = door
        self._waiting = waiting
        self._offered = offered
        self._queue_stays = queue_stays
        self._loop = asyncio.get_running_loop()
        self._opened = False
        self.left = False
        """Nobody is let in any more; those who are in may still be served."""

    def start(self) -> None:
        """The server begins. Raises OSError."""
        if not self._queue_stays:
            self._door.open()
            self._opened = True

    def look(self, see: Callable[[], Progress]) -> None:
        """Open if the time has come."""
        if not self._opened:
            progress = see()
            if progress.warm or progress.stage == "trouble":
                self.open()

    def open(self) -> None:
        """Let callers in, if that has not been done."""
        if self._opened or self.left:
            return
        try:
            self._door.open()
            self._opened = True
        except OSError as error:
            # Of processes or descriptors, for TLS. The next look is soon; callers can wait.
            log.error("the door does not open", extra={"error": error.strerror})  # noqa: TRY400

    def leave(self, patience: float, then: Callable[[], None]) -> bool:
        """Leave the queue to the next server; False where there is none to leave, or no more.

        Who is past it shall not be refused for having come too early: they are served, or have
        their time to wait, for `patience` seconds at most. `then` is called after that.
        """
        if not self._queue_stays or self.left:
            return False
        self.left = True
        self._door.leave()
        log.info("no more callers are let in", extra={"waiting": len(self._waiting)})
        self._see_in(self._loop.time() + patience, then)
        return True

    def _see_in(self, deadline: float, then: Callable[[], None]) -> None:
        # Whoever is offered to a worker that does not take him has to wait again.
        on_the_way = bool(self._waiting) or self._offered() or not self._door.deserted
        if on_the_way and self._loop.time() < deadline:
            self._loop.call_later(LOOK_SECONDS, self._see_in, deadline, then)
        else:
            then()
