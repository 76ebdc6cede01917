"""What the service manager is told of a server, and how often.

READY at the first warm worker. STATUS when what it says has changed, once a second at most. While
models load, while a reload does and while calls end, more time, a little at a time: should this
process hang meanwhile, it is not waited for. And the watchdog's food, as long as the server is
well.

What "well" means is in `health.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from voicepool.poolspec import WorkerState
from voicepool.poolview import Snapshot
from voicepool.progress import Progress
from voicepool.systemd import Inheritance, Notifier

log = logging.getLogger("voicepool.supervisor")

BEAT_SECONDS: Final = 5.0
"""Between two signs of life, at most."""
BEATS_PER_WATCHDOG: Final = 3
EXTENSION: Final = 30.0
"""How much time is asked for at each beat where something takes long."""
STATUS_SECONDS: Final = 1.0
"""Between two lines of STATUS, at least."""

View = Callable[[], tuple[Progress, Snapshot]]


class ServiceLink:
    """Does nothing where no service manager listens. Make it on the running event loop."""

    def __init__(self, inherited: Inheritance, view: View, ailment: Callable[[], str]) -> None:
        """Owns the notifier. `view`: how far the server is; `ailment`: what is wrong with its
        machinery, "" while it is well."""
        self._notifier: Notifier | None = inherited.notifier
        self._watchdog = inherited.watchdog
        self._view = view
        self._ailment = ailment
        self._loop = asyncio.get_running_loop()
        self._beat_timer: asyncio.TimerHandle | None = None
        self._status_timer: asyncio.TimerHandle | None = None
        self._ready = False
        self._reloading = False
        self._stopping = False
        self._ill = ""
        self._status = ""
        self._note = ""

    # -- what happens to the server

    def start(self) -> None:
        """Begin to give signs of life."""
        if self._notifier is not None:
            self._beat()

    def changed(self) -> None:
        """The pool has moved."""
        if self._notifier is None or self._status_timer is not None:
            return
        if self._ready:
            self._status_timer = self._loop.call_later(STATUS_SECONDS, self._tell)
        else:
            self._tell()

    def reloading(self) -> None:
        if self._notifier is not None:
            self._reloading = True
            self._notifier.reloading()
            self._notifier.extend(EXTENSION)

    def reloaded(self, error: str = "") -> None:
        """The reload is over; `error`: why nothing has changed."""
        if self._notifier is None:
            return
        self._reloading = False
        self._note = f"; reload refused: {error}" if error else ""
        if self._ready:
            self._notifier.ready()
        self._tell()

    def stopping(self) -> None:
        if self._notifier is not None and not self._stopping:
            self._stopping = True
            self._notifier.stopping()
            self._notifier.extend(EXTENSION)
            self._tell()

    def close(self) -> None:
        for timer in (self._beat_timer, self._status_timer):
            if timer is not None:
                timer.cancel()
        if self._notifier is not None:
            self._notifier.close()
            self._notifier = None

    # -- what is said of it

    def _tell(self) -> None:
        """READY, where that is news, and STATUS."""
        assert self._notifier is not None
        if self._status_timer is not None:
            self._status_timer.cancel()
            self._status_timer = None
        progress, snapshot = self._view()
        if not self._ready and not self._stopping and _warm(snapshot):
            self._ready = True
            self._notifier.ready()
        status = status_line(progress, snapshot) + self._note
        if status != self._status:
            self._status = status
            self._notifier.status(status)

    def _beat(self) -> None:
        assert self._notifier is not None
        interval = BEAT_SECONDS
        if self._watchdog is not None:
            interval = min(interval, self._watchdog / BEATS_PER_WATCHDOG)
        self._beat_timer = self._loop.call_later(interval, self._beat)
        if self._takes_time():
            self._notifier.extend(EXTENSION)
        ailment = self._ailment()
        if ailment != self._ill:
            self._ill = ailment
            log.log(
                logging.ERROR if ailment else logging.INFO, "health", extra={"ailment": ailment}
            )
        if self._watchdog is not None and not ailment:
            self._notifier.alive()

    def _takes_time(self) -> bool:
        """Whether the manager should be patient. With a start that is in trouble it need not be:
        whoever waits for `systemctl start` is to hear of it."""
        if self._reloading or self._stopping:
            return True
        return not self._ready and self._view()[0].stage in ("preloading", "warming")


def _warm(snapshot: Snapshot) -> int:
    return snapshot.states[WorkerState.IDLE] + snapshot.callers


def status_line(progress: Progress, snapshot: Snapshot) -> str:
    """What `systemctl status` shows of a server."""
    calls = "1 call" if snapshot.callers == 1 else f"{snapshot.callers} calls"
    match progress.stage:
        case "draining" | "stopped":
            return f"draining: {calls} to finish"
        case "preloading":
            return "loading what all workers share"
        case "warming" if not _warm(snapshot):
            return f"warming up: 0 of {progress.target} workers ready"
        case "trouble" if not snapshot.callers:
            return f"trouble: {progress.detail}"
    idle = snapshot.states[WorkerState.IDLE]
    counts = (
        f"{calls} of at most {snapshot.max_connections}, {idle} idle, {snapshot.waiting} waiting"
    )
    stale = sum(worker.stale for worker in snapshot.workers)
    old = f", {stale} from before the reload" if stale else ""
    detail = f"; {progress.detail}" if progress.detail else ""
    return counts + old + detail
