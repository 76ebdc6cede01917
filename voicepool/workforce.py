"""The workers as the supervisor has them: spawned, listened to, dismissed and buried.

What becomes of each is the pool's to decide; a `handles.py` holds each one's sockets.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from voicepool import ipc, pool
from voicepool.callers import WaitingRoom
from voicepool.chronicle import Chronicle
from voicepool.errors import IllegalEvent
from voicepool.figures import Figures
from voicepool.forker import Forker
from voicepool.handles import WorkerHandle
from voicepool.hostprobe import HostProbe
from voicepool.metrics import Metrics
from voicepool.pool import Reason
from voicepool.pooldriver import PoolDriver
from voicepool.poolspec import LIMITS_OF_A_CALL

log = logging.getLogger("voicepool.supervisor")


class Workforce:
    """Carries out the commands that concern workers, and tells the pool what these say and do."""

    def __init__(
        self,
        driver: PoolDriver,
        probe: HostProbe,
        waiting: WaitingRoom,
        forker: Callable[[], Forker],
        runtime_dir: Path,
        on_gone: Callable[[], None],
        metrics: Metrics,
    ) -> None:
        """`forker`: the one in use, which a reload replaces. `on_gone` is called when a worker is
        no more, and the pool knows."""
        self._driver = driver
        self._probe = probe
        self._waiting = waiting
        self._forker = forker
        self._runtime_dir = runtime_dir
        self._on_gone = on_gone
        self._metrics = metrics
        self._clock = asyncio.get_running_loop().time
        self._chronicle = Chronicle(metrics, self._clock)
        self.handles: dict[int, WorkerHandle] = {}
        """Live workers by number."""
        self.warmed_up = False
        """A worker has been ready: until then nobody knows how long a caller would be held."""
        self._refills = 0
        """Workers who have taken a caller, and for whom no other has become ready yet."""

    def pid(self, worker: int) -> int | None:
        """A worker's process id, None while it has none."""
        handle = self.handles.get(worker)
        return handle.pid if handle else None

    @property
    def offered(self) -> bool:
        """Whether a worker has been given a caller whom it has not taken yet."""
        return any(handle.candidate for handle in self.handles.values())

    # -- what the pool wants

    def spawn(self, command: pool.Spawn) -> None:
        tmpdir = self._runtime_dir / f"worker-{command.worker}"
        try:
            handle = WorkerHandle(
                command.worker,
                self._probe.gpu(command.device),
                tmpdir,
                self._on_message,
                self._on_exit,
            )
        except OSError as error:
            reason = f"no worker can be started: {error.strerror}"
            self._driver.tell(pool.SpawnFailed(command.worker, reason))
            return
        self.handles[command.worker] = handle
        self._chronicle.spawned(command.worker)
        self._forker().fork(handle)

    def assign(self, command: pool.Assign) -> None:
        candidate = self._waiting.take(command.connection)
        self._chronicle.assigned(command.worker, candidate.arrived)
        self.handles[command.worker].assign(candidate)

    def dismiss(self, command: pool.Stop | pool.Kill) -> None:
        handle = self.handles[command.worker]
        fields = self._figures(command)
        if self._forker().forget(handle):
            self._forget(handle)
            handle.abandon()
            # No zygote has been asked for it, so there is no process to wait for.
            self._driver.tell(pool.ProcessExited(command.worker, "there was no zygote to fork it"))
            self._on_gone()
        elif isinstance(command, pool.Stop):
            log.info("worker told to stop", extra=fields)
            handle.stop(command.reason)
        else:
            log.warning("worker killed", extra=fields)
            handle.kill(command.reason)

    def warn(self, command: pool.Warn) -> None:
        log.warning("worker above a soft limit in its call", extra=self._figures(command))

    def _figures(self, command: pool.Stop | pool.Kill | pool.Warn) -> dict[str, object]:
        private, vram = self._driver.pool.footprint(command.worker)
        return {
            "worker": command.worker,
            "reason": command.reason.value,
            "private": private,
            "vram": vram,
            "age": round(self.handles[command.worker].age, 3),
        }

    def _forget(self, handle: WorkerHandle) -> None:
        del self.handles[handle.number]
        self._chronicle.gone(handle.number)

    # -- what the workers do

    def fork_failed(self, handle: WorkerHandle, error: str, *, permanent: bool) -> None:
        """There is no process; the handle is released."""
        self._forget(handle)
        self._driver.tell(pool.SpawnFailed(handle.number, error, permanent=permanent))
        self._on_gone()

    def _on_message(self, handle: WorkerHandle, message: ipc.FromWorker) -> None:
        try:
            self._tell_of(handle, message)
        except IllegalEvent:
            log.exception("worker out of turn", extra={"worker": handle.number})
            handle.kill(Reason.KILL_TIMEOUT)

    def _tell_of(self, handle: WorkerHandle, message: ipc.FromWorker) -> None:
        number, tell, now = handle.number, self._driver.tell, self._clock()
        match message:
            case ipc.Hello():
                tell(pool.WorkerHello(number))
            case ipc.Ready():
                self._note_ready(handle)
                self.warmed_up = True
                handle.pss = handle.credible(message.pss)
                tell(pool.WorkerReady(number, handle.credible(message.private)))
                self._chronicle.ready(number)
                self._probe.moved()
            case ipc.Accepted():
                handle.accepted()
                self._refills += 1
                tell(pool.SessionAccepted(number))
                self._chronicle.accepted(number, now)
            case ipc.Ended():
                handle.pss = handle.credible(message.pss)
                limit = next((one for one in LIMITS_OF_A_CALL if one == message.limit), None)
                tell(pool.SessionEnded(number, handle.credible(message.private), limit))
                self._chronicle.ended(number, message.outcome)
                self._take(message.figures)
            case ipc.Beat():
                handle.pss = handle.credible(message.pss)
                tell(pool.Heartbeat(number, handle.credible(message.private)))
                self._take(message.figures)
            case ipc.Failed():
                log.warning(
                    "worker failed to warm up", extra={"worker": number, "error": message.error}
                )

    def _note_ready(self, handle: WorkerHandle) -> None:
        """At the start and after a reload there is something to learn from it; that a used worker
        has been replaced goes without saying, or a storm of callers writes a line more for each."""
        level = logging.DEBUG if self._refills else logging.INFO
        self._refills = max(0, self._refills - 1)
        log.log(level, "worker ready", extra={"worker": handle.number, "pid": handle.pid})

    def _take(self, figures: Figures | None) -> None:
        if figures is not None:
            self._metrics.take(figures)

    def _on_exit(self, handle: WorkerHandle) -> None:
        """The process has ended and its last words have been heard."""
        tell = self._driver.tell
        self._forget(handle)
        candidate = handle.take_back()
        if candidate is not None:
            # It died without taking its caller. Nobody has read from that socket if the same
            # head is still there; then the next worker can have it and the caller never knows.
            if candidate.visitor.still_there():
                self._waiting.add(candidate)
            else:
                candidate.visitor.sock.close()
                tell(pool.ConnectionLost(candidate.connection))
        tell(pool.ProcessExited(handle.number, handle.error, permanent=handle.permanent))
        if candidate is not None and candidate.connection in self._waiting:
            self._waiting.watch(candidate.connection)
        self._probe.moved()
        self._on_gone()
