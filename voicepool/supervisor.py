"""The supervisor: the shell around the pool.

It turns what happens (a caller, a worker's message, an exit, a signal, a timer) into events for
the pool and carries out the commands that come back. It decides nothing itself, imports no engine
and never touches a caller's audio.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from voicepool import ipc, linux, pool, tlsfiles
from voicepool.access import Admitted
from voicepool.agentcheck import AgentCheck, listen_for_agents
from voicepool.answers import refuse
from voicepool.callers import Candidate, WaitingRoom
from voicepool.config import Settings, check
from voicepool.errors import ExitCode, IllegalEvent
from voicepool.forker import Forker
from voicepool.frontdoor import FrontDoor, Visitor
from voicepool.handles import WorkerHandle
from voicepool.health import ailment
from voicepool.hostprobe import HostProbe
from voicepool.listener import Acceptor, listen, prepare
from voicepool.logs import FloodGuard
from voicepool.pages import Pages
from voicepool.pool import Pool, Reason
from voicepool.progress import Progress, never_fits, progress_of
from voicepool.reception import Reception
from voicepool.reloader import Reloader, Reread
from voicepool.rules import access_rules, pool_settings
from voicepool.rundir import RuntimeDir
from voicepool.servicelink import ServiceLink
from voicepool.statusreport import status_report
from voicepool.systemd import Inheritance
from voicepool.threshold import Threshold
from voicepool.tlsdoor import TlsDoor

log = logging.getLogger("voicepool.supervisor")

FAREWELL_SECONDS: Final = 1.0
"""How long the last refusals may take to be read when the server is going down."""

REFUSALS: Final = {
    Reason.FULL: "every worker is in a call and the waiting room is full",
    Reason.TIMEOUT: "no worker came free in time",
    Reason.UNAVAILABLE: "no worker can be started: see /status and the server's log",
    Reason.DRAINING: "the server is shutting down",
}


class Supervisor:
    """One server. Make it on the running event loop, then `await run()`."""

    def __init__(
        self,
        settings: Settings,
        listener: socket.socket,
        runtime: RuntimeDir,
        announce: Callable[[Progress], None],
        agents: socket.socket | None = None,
        *,
        inherited: Inheritance | None = None,
        reread: Reread | None = None,
        started: Settings | None = None,
    ) -> None:
        """Owns the sockets and `runtime`; `announce` must not block. `agents`: the agent port.

        `inherited`: what a service manager has given us; `reread`: where HUP finds new settings,
        and `started` what it found at first, where that is not `settings`.
        """
        self.settings = settings
        self.url = _url(listener, secure=bool(settings.tls_cert))
        self.started_at = time.time()
        self.exit_code = ExitCode.OK
        self._announce = announce
        self.runtime_dir = runtime.path
        self._runtime = runtime
        inherited = inherited or Inheritance()
        self._loop = asyncio.get_running_loop()
        self.pool = Pool(pool_settings(settings), random.Random())
        self._events: deque[pool.Event] = deque()
        self._telling = False
        self._timer: asyncio.TimerHandle | None = None
        self._handles: dict[int, WorkerHandle] = {}
        self._connections = 0
        self._warmed_up = False
        """A worker has been ready: until then nobody knows how long a caller would be held."""
        self._came_up = False
        self.draining = False
        self._notice: asyncio.TimerHandle | None = None
        """Balancers are told to send nobody any more; whoever comes all the same is served."""
        self._on_terminal = os.isatty(0)
        self._told: Progress | None = None
        self._flood = FloodGuard(log)
        self._done = asyncio.Event()
        self.door = FrontDoor(
            TlsDoor(listener, settings) if settings.tls_cert else Acceptor(listener),
            lambda visitor: self.reception.receive(visitor),
            head_timeout=settings.head_timeout,
            max_heads=settings.max_heads,
        )
        self._agents = (
            AgentCheck(agents, lambda: self._came_up and not self._going and self.pool.inviting)
            if agents
            else None
        )
        self._waiting = WaitingRoom(lambda number: self._tell(pool.ConnectionLost(number)))
        self._threshold = Threshold(
            self.door, self._waiting, queue_stays=inherited.listener is not None
        )
        self.forker = Forker(settings, runtime.path, self)
        self.probe = HostProbe(settings, self._tell, self.pool.snapshot, self._pid)
        self.reception = Reception(
            access_rules(settings),
            self.door.farewells,
            Pages(settings.static),
            ready=lambda: self._warmed_up and not self._going and self.pool.ready,
            status=lambda: status_report(self),
            preset=lambda *question: self.forker.preset(*question),
            on_call=self._on_call,
            body_timeout=settings.head_timeout,
            max_bodies=settings.max_heads,
        )
        self.link = ServiceLink(
            inherited, lambda: self._progress(self.pool.snapshot()), lambda: ailment(self)
        )
        self.reloader = Reloader(self, reread, started or settings)
        self._reloading: asyncio.Task[None] | None = None
        self.prober: asyncio.Task[None] | None = None

    # -- life

    async def run(self) -> ExitCode:
        """Serve until drained; the exit code. Leaves no process and no file behind.

        Raises ConfigError where the host cannot hold a single worker, or lacks a GPU.
        """
        for signum in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(signum, self._on_term)
        self._loop.add_signal_handler(signal.SIGUSR1, self._dump)
        self._loop.add_signal_handler(signal.SIGCHLD, self._reap)
        self._loop.add_signal_handler(signal.SIGHUP, self._on_hup)
        self.link.start()
        try:
            await self.probe.prepare()
            self._threshold.start()
            if self._agents is not None:
                self._agents.open()
            self.prober = self._loop.create_task(self.probe.run())
            self.forker.start()
            self._reloading = self._loop.create_task(self.reloader.run())
            self._report()
            await self._done.wait()
        finally:
            tasks = [task for task in (self.prober, self._reloading) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._close()
        self._announce(Progress("stopped"))
        return self.exit_code

    def _on_term(self) -> None:
        """TERM or INT: drains, once balancers have had the time to notice; a second ends it all."""
        if self._notice is None and self.settings.drain_notice and not self.draining:
            self.link.stopping()
            log.info("callers shall go elsewhere", extra={"notice": self.settings.drain_notice})
            self._notice = self._loop.call_later(self.settings.drain_notice, self._notice_is_over)
            return
        if self._notice is not None and not self.draining:
            self._drain()  # and again, for this is the second signal
        self._drain()

    def _notice_is_over(self) -> None:
        if not self.draining:
            self._drain()

    def _drain(self) -> None:
        """TERM or INT: the first one drains, the second ends the calls too."""
        self.link.stopping()
        let_in = self.settings.head_timeout + self.settings.queue_timeout
        if self._threshold.leave(let_in, self._begin_drain):
            return
        if self.draining:
            self._end_calls()
        else:
            self._begin_drain()
            if self._threshold.left:
                self._end_calls()  # this is the second signal

    @property
    def _going(self) -> bool:
        """Whether callers had better come elsewhere; the pool knows only of a drain."""
        return self._notice is not None or self._threshold.left

    def _end_calls(self) -> None:
        log.info("ending the calls", extra={"callers": self.pool.snapshot().callers})
        self._tell(pool.DrainRequested())
        self._finish_if_drained()

    def _begin_drain(self) -> None:
        if self.draining:
            return
        self.draining = True
        if self._reloading is not None:
            self._reloading.cancel()
        log.info("draining", extra={"callers": self.pool.snapshot().callers})
        self._tell(pool.DrainRequested())
        self._report()
        self._finish_if_drained()

    def _on_hup(self) -> None:
        """HUP: a reload, unless it is our terminal that hangs up, which is the user's going."""
        if self._on_terminal and not os.isatty(0):
            self._drain()
        elif self._going or self.draining:
            log.info("no reload while draining")
        else:
            self.reloader.request()

    def renew(
        self, settings: Settings, pages: Pages, forker: Forker, paths: list[str], private: int
    ) -> Forker:
        """A reload takes hold; the forker that is of no more use. `paths`, `private`: as the new
        zygote has told them."""
        old, self.forker = self.forker, forker
        forker.events = self
        old.hand_over(forker)
        self.settings = settings
        self.reception.renew(access_rules(settings), pages, paths)
        self._tell(pool.ReloadRequested(pool_settings(settings)))
        self.probe.open(private)
        return old

    def _dump(self) -> None:
        """USR1: the state of everything, in the log."""
        report = status_report(self)
        states = report["pool"].pop("states")
        log.info("state", extra={**report["pool"], **states})
        for device in report["memory"]["devices"]:
            log.info("state of a device", extra=device)
        for worker in report["workers"]:
            log.info("state of a worker", extra=worker)

    def fail(self, code: ExitCode, error: str) -> None:
        """Give up: nothing that waiting could mend."""
        self.exit_code = code
        self._announce(Progress("trouble", detail=error))
        self._drain()

    def _finish_if_drained(self) -> None:
        if self.draining and not self._handles:
            self._done.set()

    async def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        # Whoever stands in the accept queue gets an answer too: the pool refuses them all.
        await self.door.shut(FAREWELL_SECONDS)
        self.reception.close()
        await self.probe.close()
        for forker in list(self.reloader.forkers):
            await forker.retire()
        await self.forker.close()
        await self.door.close(FAREWELL_SECONDS)
        if self._agents is not None:
            await self._agents.close()
        self._waiting.close()
        self._reap()
        self.link.close()
        self._runtime.close()

    def _reap(self) -> None:
        """Reap what has become our child: orphans of dead zygotes and of dead workers.

        Those that somebody waits for are left to him, and come first: he calls again.
        """
        awaited = {handle.pid for handle in self._handles.values()}
        awaited |= {self.forker.pid, self.probe.pid, self.door.doorway.pid}
        awaited |= {forker.pid for forker in self.reloader.forkers}
        while linux.reap(spare=awaited) is not None:
            pass

    # -- the pool

    def _tell(self, event: pool.Event) -> None:
        """Hand the pool an event and do as it says; what that causes comes after it."""
        self._events.append(event)
        if self._telling:
            return  # called by one of the commands below
        self._telling = True
        try:
            while self._events:
                for command in self.pool.handle(self._events.popleft(), self._loop.time()):
                    self._carry_out(command)
                self._log_transitions()
        finally:
            self._telling = False
            self._set_timer()
        self._report()
        self._threshold.look(lambda: self._progress(self.pool.snapshot())[0])
        self.link.changed()

    def _carry_out(self, command: pool.Command) -> None:
        match command:
            case pool.Spawn():
                self._spawn(command)
            case pool.Assign():
                self._handles[command.worker].assign(self._waiting.take(command.connection))
            case pool.Refuse():
                self._refuse(command)
            case pool.Stop() | pool.Kill():
                self._dismiss(command)

    def _dismiss(self, command: pool.Stop | pool.Kill) -> None:
        handle = self._handles[command.worker]
        private, vram = self.pool.footprint(command.worker)
        fields = {
            "worker": command.worker,
            "reason": command.reason.value,
            "private": private,
            "vram": vram,
        }
        if self.forker.forget(handle):
            del self._handles[command.worker]
            handle.abandon()
            # No zygote has been asked for it, so there is no process to wait for.
            self._tell(pool.ProcessExited(command.worker, "there was no zygote to fork it"))
            self._finish_if_drained()
        elif isinstance(command, pool.Stop):
            log.info("worker told to stop", extra=fields)
            handle.stop(command.reason)
        else:
            log.warning("worker killed", extra=fields)
            handle.kill(command.reason)

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

    def tick(self) -> None:
        """Let the pool take a step, for the time that has passed."""
        self._tell(pool.Tick())

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

    def _report(self) -> None:
        """Tell whoever started the server how far it is, until it serves, when that has changed.

        And that it drains, whenever that begins.
        """
        if self._came_up and not self.draining:
            return
        snapshot = self.pool.snapshot()
        if snapshot.halted and not self._came_up and not self.draining:
            # Nothing has ever worked, and nothing will before somebody changes something.
            self.fail(ExitCode.USAGE, snapshot.last_error)
            return
        if snapshot.shortfall and not self._came_up and not self.draining:
            self.fail(ExitCode.USAGE, never_fits(snapshot.shortfall))
            return
        progress, _ = self._progress(snapshot)
        if progress == self._told:
            return
        self._told = progress
        self._came_up = progress.stage in ("serving", "draining")
        self._announce(progress)
        short = self.reception.paths is not None and snapshot.target < self.settings.workers
        if self.settings.strict and not self.draining and (progress.stage == "trouble" or short):
            self.exit_code = ExitCode.CANNOT_WARM
            self._drain()

    def _progress(self, snapshot: pool.Snapshot) -> tuple[Progress, pool.Snapshot]:
        preloaded = self.reception.paths is not None
        return progress_of(snapshot, self.settings.workers, preloaded=preloaded), snapshot

    # -- callers

    def _on_call(self, visitor: Visitor, address: str, admitted: Admitted) -> None:
        self._connections += 1
        number = self._connections
        self._waiting.add(Candidate(number, visitor, address, admitted))
        self._tell(pool.ConnectionArrived(number))
        if number in self._waiting:
            self._waiting.watch(number)

    def _refuse(self, command: pool.Refuse) -> None:
        candidate = self._waiting.take(command.connection)
        self._flood.info(
            "caller refused", connection=command.connection, reason=command.reason.value
        )
        message = f"{REFUSALS[command.reason]}; try again in {command.retry_after} s"
        headers = {"Retry-After": str(command.retry_after)}
        response = refuse(503, message, command.reason.value, headers)
        self.door.farewells.answer(candidate.visitor, response)

    # -- workers

    def _spawn(self, command: pool.Spawn) -> None:
        tmpdir = self._runtime.path / f"worker-{command.worker}"
        try:
            handle = WorkerHandle(
                command.worker,
                self.probe.gpu(command.device),
                tmpdir,
                self._on_message,
                self._on_exit,
            )
        except OSError as error:
            reason = f"no worker can be started: {error.strerror}"
            self._tell(pool.SpawnFailed(command.worker, reason))
            return
        self._handles[command.worker] = handle
        self.forker.fork(handle)

    def _on_message(self, handle: WorkerHandle, message: ipc.FromWorker) -> None:
        try:
            self._tell_of(handle, message)
        except IllegalEvent:
            log.exception("worker out of turn", extra={"worker": handle.number})
            handle.kill(Reason.HARD_LIMIT)

    def _tell_of(self, handle: WorkerHandle, message: ipc.FromWorker) -> None:
        number = handle.number
        match message:
            case ipc.Hello():
                self._tell(pool.WorkerHello(number))
            case ipc.Ready():
                log.info("worker ready", extra={"worker": number, "pid": handle.pid})
                self._warmed_up = True
                self._tell(pool.WorkerReady(number, message.private))
                self.probe.moved()
            case ipc.Accepted():
                handle.accepted()
                self._tell(pool.SessionAccepted(number))
            case ipc.Ended():
                self._tell(pool.SessionEnded(number, message.private))
            case ipc.Beat():
                self._tell(pool.Heartbeat(number, message.private))
            case ipc.Failed():
                log.warning(
                    "worker failed to warm up", extra={"worker": number, "error": message.error}
                )

    def _on_exit(self, handle: WorkerHandle) -> None:
        """The process has ended and its last words have been heard."""
        del self._handles[handle.number]
        candidate = handle.take_back()
        if candidate is not None:
            # It died without taking its caller. Nobody has read from that socket if the same
            # head is still there; then the next worker can have it and the caller never knows.
            if candidate.visitor.still_there():
                self._waiting.add(candidate)
            else:
                candidate.visitor.sock.close()
                self._tell(pool.ConnectionLost(candidate.connection))
        self._tell(pool.ProcessExited(handle.number, handle.error, permanent=handle.permanent))
        if candidate is not None and candidate.connection in self._waiting:
            self._waiting.watch(candidate.connection)
        self.probe.moved()
        self._loop.call_soon(self._reap)
        self._finish_if_drained()

    # -- the zygote (ForkerEvents)

    def zygote_ready(self, paths: list[str], private: int) -> None:
        self.reception.paths = frozenset(paths)
        self.probe.open(private)

    def zygote_failed(self, error: str, *, permanent: bool) -> None:
        log.error("zygote failed", extra={"error": error, "permanent": permanent})
        self._threshold.open()
        if permanent and self.reception.paths is None:
            self.fail(ExitCode.USAGE, error)
        else:
            self._announce(Progress("trouble", target=self.settings.workers, detail=error))

    def fork_failed(self, handle: WorkerHandle, error: str, *, permanent: bool) -> None:
        del self._handles[handle.number]
        self._tell(pool.SpawnFailed(handle.number, error, permanent=permanent))
        self._finish_if_drained()

    def reaped(self, worker: int, pid: int, status: int) -> None:
        log.info("worker exited", extra={"worker": worker, "pid": pid, "status": status})

    def _pid(self, worker: int) -> int | None:
        handle = self._handles.get(worker)
        return handle.pid if handle else None

    @property
    def workers(self) -> dict[int, WorkerHandle]:
        """Live workers by number."""
        return self._handles


def _url(listener: socket.socket, *, secure: bool) -> str:
    host, port = listener.getsockname()[:2]
    scheme = "wss" if secure else "ws"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _bound(settings: Settings, listener: socket.socket) -> Settings:
    """The settings with the address of the inherited listener, which is nobody's to choose here.

    Raises ConfigError, as the start does, where that address is public and anyone might call.
    """
    host, port = listener.getsockname()[:2]
    if (settings.host, settings.port) != (host, port):
        log.info("the service manager has chosen the address", extra={"host": host, "port": port})
    settings = replace(settings, host=host, port=port)
    check(settings)
    prepare(listener)
    return settings


async def supervise(
    settings: Settings,
    announce: Callable[[Supervisor, Progress], None],
    *,
    inherited: Inheritance | None = None,
    reread: Reread | None = None,
) -> ExitCode:
    """Run a server to its end; the exit code. `inherited`, `reread`: as Supervisor takes them.

    Raises OSError when the address cannot be bound or the runtime directory cannot be made, and
    ConfigError.
    """
    inherited = inherited or Inheritance()
    if settings.tls_cert:
        # For the relay to read again: what is wrong with them is better said before anything runs.
        context = tlsfiles.context_from(settings.tls_cert, settings.tls_key)
        for line in tlsfiles.advice(context, settings.tls_cert, settings.tls_key):
            log.warning("advice", extra={"advice": line})
    linux.raise_fd_limit()
    linux.become_subreaper()
    os.umask(0o077)
    with contextlib.ExitStack() as undo:
        listener = inherited.listener or listen(settings.host, settings.port)
        undo.callback(listener.close)
        started = settings
        if inherited.listener:
            settings = _bound(settings, listener)
        agents = (
            listen_for_agents(settings.host, settings.agent_port) if settings.agent_port else None
        )
        if agents is not None:
            undo.callback(agents.close)
        runtime = RuntimeDir(settings.runtime_dir)
        undo.callback(runtime.close)
        supervisor = Supervisor(
            settings,
            listener,
            runtime,
            lambda step: announce(supervisor, step),
            agents,
            inherited=inherited,
            reread=reread,
            started=started,
        )
        undo.pop_all()
    return await supervisor.run()
