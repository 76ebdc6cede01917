"""The supervisor: the shell around the pool.

It turns what happens (a caller, a worker's message, an exit, a signal, a timer) into events for
the pool and carries out the commands that come back. It decides nothing itself, imports no engine
and never touches a caller's audio.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import socket
import time
from collections.abc import Callable
from typing import Final

from voicepool import linux, pool
from voicepool.addresses import with_port
from voicepool.admission import Admission
from voicepool.agentcheck import AgentCheck
from voicepool.callers import WaitingRoom
from voicepool.config import Settings
from voicepool.departure import Departure
from voicepool.errors import ExitCode
from voicepool.forker import Forker
from voicepool.frontdoor import FrontDoor
from voicepool.handles import WorkerHandle, note_exit
from voicepool.health import ailment
from voicepool.hostprobe import HostProbe
from voicepool.listener import Acceptor
from voicepool.metrics import Metrics
from voicepool.metricstate import metric_state
from voicepool.pages import Pages
from voicepool.pool import Pool
from voicepool.pooldriver import PoolDriver
from voicepool.poolspec import Reason
from voicepool.progress import Progress, never_fits, progress_of
from voicepool.ratelimits import Limits
from voicepool.reception import STARTING, Reception
from voicepool.reloader import Reloader, Reread
from voicepool.rules import access_rules, door_rules, pool_settings, rate_rules
from voicepool.rundir import RuntimeDir
from voicepool.servicelink import ServiceLink
from voicepool.statusreport import pool_counts, status_report
from voicepool.systemd import Inheritance
from voicepool.threshold import Threshold
from voicepool.tlsdoor import TlsDoor
from voicepool.turnstile import Turnstile
from voicepool.workforce import Workforce

log = logging.getLogger("voicepool.supervisor")

FAREWELL_SECONDS: Final = 1.0
"""How long the last refusals may take to be read when the server is going down."""


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
        self._limits = Limits(rate_rules(settings))
        self._driver = PoolDriver(
            self.pool, self._carry_out, self._on_moved, self._limits.call_ends
        )
        self._came_up = False
        self._zygote_error = ""
        """Why the last zygote could not preload; "" until that happens."""
        self._on_terminal = os.isatty(0)
        self._told: Progress | None = None
        self._zygotes_before = 0
        """Restarts of zygotes that a reload has replaced."""
        self.metrics = Metrics(lambda: metric_state(self))
        self.door = FrontDoor(
            TlsDoor(listener, settings, self.metrics.refused)
            if settings.tls_cert
            else Acceptor(listener),
            lambda visitor: self.reception.receive(visitor),
            head_timeout=settings.head_timeout,
            max_heads=settings.max_heads,
            rules=door_rules(settings),
            proxy_protocol=settings.proxy_protocol and not settings.tls_cert,  # else the relay's
            on_refused=self.metrics.refused,
        )
        self._agents = AgentCheck(agents, self._is_inviting) if agents else None
        self._waiting = WaitingRoom(lambda number: self._driver.tell(pool.ConnectionLost(number)))
        self._admission = Admission(self._driver, self._waiting, self.door.farewells, self._limits)
        self._threshold = Threshold(
            self.door,
            self._waiting,
            lambda: self._workforce.offered,
            queue_stays=inherited.listener is not None,
        )
        self.forker = Forker(settings, runtime.path, self)
        self.probe = HostProbe(
            settings,
            self._driver.tell,
            self.pool.snapshot,
            lambda worker: self._workforce.pid(worker),
        )
        self._workforce = Workforce(
            self._driver,
            self.probe,
            self._waiting,
            lambda: self.forker,
            runtime.path,
            self._on_gone,
            self.metrics,
        )
        self.reception = Reception(
            Turnstile(access_rules(settings), self._limits, self._loop.time),
            self.door.farewells,
            Pages(settings.static),
            refusal=self._refusal,
            status=lambda: status_report(self),
            counts=lambda: pool_counts(self),
            metrics=self.metrics.expose,
            preset=lambda *question: self.forker.preset(*question),
            on_call=self._admission.arrive,
            body_timeout=settings.head_timeout,
            max_bodies=settings.max_heads,
        )
        self.link = ServiceLink(
            inherited, lambda: self._progress(self.pool.snapshot()), lambda: ailment(self)
        )
        self._departure = Departure(
            lambda: self.settings,
            self._driver,
            self._threshold,
            self.link,
            is_empty=lambda: not self._workforce.handles,
            on_drain=self._on_drain,
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
            self._loop.add_signal_handler(signum, self._departure.terminate)
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
            await self._departure.over.wait()
        finally:
            tasks = [task for task in (self.prober, self._reloading) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._close()
        self._announce(Progress("stopped"))
        return self.exit_code

    def _on_hup(self) -> None:
        """HUP: a reload, unless it is our terminal that hangs up, which is the user's going."""
        if self._on_terminal and not os.isatty(0):
            self._departure.drain()
        elif self._departure.going or self.draining:
            log.info("no reload while draining")
        else:
            self.reloader.request()

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
        self._departure.give_up()

    async def _close(self) -> None:
        self._driver.close()
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

    def _on_drain(self) -> None:
        if self._reloading is not None:
            self._reloading.cancel()
        self._report()

    def _on_gone(self) -> None:
        """A worker is no more, or will be when its handle has been closed."""
        self._loop.call_soon(self._reap)
        self._departure.look()

    def _reap(self) -> None:
        """Reap what has become our child: orphans of dead zygotes and of dead workers.

        Those that somebody waits for are left to him, and come first: he calls again.
        """
        awaited = {handle.pid for handle in self._workforce.handles.values()}
        awaited |= {self.forker.pid, self.probe.pid, self.door.doorway.pid}
        awaited |= {forker.pid for forker in self.reloader.forkers}
        while linux.reap(spare=awaited) is not None:
            pass

    # -- the pool

    def _carry_out(self, command: pool.Command) -> None:
        match command:
            case pool.Spawn():
                self._workforce.spawn(command)
            case pool.Assign():
                self._workforce.assign(command)
            case pool.Refuse():
                self._admission.refuse(command)
            case pool.Stop() | pool.Kill():
                self._workforce.dismiss(command)
            case pool.Warn():
                self._workforce.warn(command)

    def _on_moved(self) -> None:
        """The pool has taken a step."""
        self._report()
        self._threshold.look(lambda: self._progress(self.pool.snapshot())[0])
        self.link.changed()

    def tick(self) -> None:
        """Let the pool take a step, for the time that has passed."""
        self._driver.tick()

    @property
    def catching_up(self) -> bool:
        """Whether this process was held up, and deadlines do not fall due yet."""
        return self._driver.catching_up

    # -- how it is

    @property
    def draining(self) -> bool:
        return self._departure.draining

    @property
    def workers(self) -> dict[int, WorkerHandle]:
        """Live workers by number."""
        return self._workforce.handles

    @property
    def zygote_restarts(self) -> int:
        """How often a zygote had to be started again."""
        return self._zygotes_before + max(0, self.forker.restarts)

    def _refusal(self) -> str | None:
        if self._departure.going:
            return Reason.DRAINING
        return self.pool.refusal if self._workforce.warmed_up else STARTING

    def _is_inviting(self) -> bool:
        return self._came_up and not self._departure.going and self.pool.inviting

    def _report(self) -> None:
        """Tell whoever started the server how far it is, until it serves, when that has changed.

        And that it drains, whenever that begins.
        """
        if (self._came_up or self._departure.begun) and not self.draining:
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
            self._departure.give_up()

    def _progress(self, snapshot: pool.Snapshot) -> tuple[Progress, pool.Snapshot]:
        preloaded = self.reception.paths is not None
        progress = progress_of(
            snapshot,
            self.settings.workers,
            preloaded=preloaded,
            zygote_error=self._zygote_error,
        )
        return progress, snapshot

    # -- zygotes: a reload's, and what the forker tells (ForkerEvents)

    def renew(
        self, settings: Settings, pages: Pages, forker: Forker, paths: list[str], private: int
    ) -> Forker:
        """A reload takes hold; the forker that is of no more use. `paths`, `private`: as the new
        zygote has told them."""
        old, self.forker = self.forker, forker
        self._zygotes_before += max(0, old.restarts)
        forker.events = self
        old.hand_over(forker)
        self.settings = settings
        self.door.renew(door_rules(settings))
        self._limits.renew(rate_rules(settings))
        self.reception.renew(access_rules(settings), pages, paths)
        self._driver.tell(pool.ReloadRequested(pool_settings(settings)))
        self.probe.open(private)
        return old

    def zygote_ready(self, paths: list[str], private: int) -> None:
        self.reception.paths = frozenset(paths)
        self.probe.open(private)

    def zygote_failed(self, error: str, *, permanent: bool) -> None:
        log.error("zygote failed", extra={"error": error, "permanent": permanent})
        self._zygote_error = error
        self._threshold.open()
        if permanent and self.reception.paths is None:
            self.fail(ExitCode.USAGE, error)
        elif self.reception.paths is None:
            self._on_moved()
        else:
            self._announce(Progress("trouble", target=self.settings.workers, detail=error))

    def fork_failed(self, handle: WorkerHandle, error: str, *, permanent: bool) -> None:
        self._workforce.fork_failed(handle, error, permanent=permanent)

    def reaped(self, worker: int, pid: int, status: int) -> None:
        note_exit(worker, pid, status)


def _url(listener: socket.socket, *, secure: bool) -> str:
    host, port, *rest = listener.getsockname()
    if any(rest[1:]):
        # A link-local address is none without its link; the kernel tells that by number.
        host = f"{host}%{socket.if_indextoname(rest[1])}"
    scheme = "wss" if secure else "ws"
    return f"{scheme}://{with_port(host, port)}"
