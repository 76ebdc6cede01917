"""What breaks while callers call."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import psutil

from tests.soak.disk import LogDisk
from tests.soak.plan import BURST_SIZE, Disturbance, Part
from tests.soak.server import ModelServer, Server
from tests.soak.site import Site

TARGET_SECONDS: Final = 20.0
"""How long a disturbance waits for a worker in the state that it is about."""
TAKES_HOLD_SECONDS: Final = 90.0
LOOK_SECONDS: Final = 0.1
MOST_LOOKS: Final = 10_000
OUTAGE: Final = (2.0, 6.0)
"""Seconds, shortest and longest."""
DISK_OUTAGE: Final = (6.0, 14.0)
"""The same; longer, for on a full disk the log's last page has room for some lines yet."""
CHANGED: Final = (4.0, 5.0)
"""Values of queue_timeout that reloads with changed settings bring in turn."""


class NoTarget(Exception):
    """There was nothing to disturb."""


async def _until_stopped(process: psutil.Process) -> None:
    for _ in range(MOST_LOOKS):
        if process.status() == psutil.STATUS_STOPPED:
            return
        await asyncio.sleep(0)


class Disturber:
    """Does one disturbance after the other; outages go on beside the next ones."""

    def __init__(
        self,
        site: Site,
        server: Server,
        model: ModelServer,
        disk: LogDisk,
        call: Callable[[Part, int], None],
    ) -> None:
        """`call` starts a caller with a seed."""
        self.done: Counter[Disturbance] = Counter()
        self.missed: Counter[Disturbance] = Counter()
        """Those that found no target."""
        self.faults: list[str] = []
        self._site, self._server, self._model, self._disk = site, server, model, disk
        self._call = call
        self._outages: set[asyncio.Task[None]] = set()
        self._model_free = asyncio.Lock()
        self._disk_free = asyncio.Lock()
        self._changed = 0
        self._shot: set[int] = set()
        """Workers, by number."""
        self._acts: Mapping[Disturbance, Callable[[random.Random], Awaitable[None]]] = {
            Disturbance.KILL_IDLE: lambda rng: self._shoot(rng, "idle", signal.SIGKILL),
            Disturbance.KILL_SERVING: lambda rng: self._shoot(rng, "serving", signal.SIGKILL),
            Disturbance.STOP_IDLE: lambda rng: self._shoot(rng, "idle", signal.SIGSTOP),
            Disturbance.STOP_SERVING: lambda rng: self._shoot(rng, "serving", signal.SIGSTOP),
            Disturbance.KILL_ZYGOTE: self._kill_zygote,
            Disturbance.RELOAD: self._reload,
            Disturbance.RELOAD_CHANGED: self._reload_changed,
            Disturbance.RELOAD_BAD: self._reload_bad,
            Disturbance.MODEL_KILLED: lambda rng: self._in_background(self._model_killed(rng)),
            Disturbance.MODEL_HANGS: lambda rng: self._in_background(self._model_hangs(rng)),
            Disturbance.DISK_FULL: lambda rng: self._in_background(self._disk_full(rng)),
            Disturbance.BURST: self._burst,
        }

    async def disturb(self, kind: Disturbance, seed: int) -> None:
        """One disturbance; returns once it has happened, or an outage has begun."""
        with self._site.disturbed.open():
            try:
                if kind is Disturbance.DISK_FULL and not self._disk.fills:
                    return
                await self._acts[kind](random.Random(seed))
                self.done[kind] += 1
            except NoTarget:
                self.missed[kind] += 1

    async def calm(self) -> None:
        """Wait for the ends of all outages."""
        while self._outages:
            await asyncio.gather(*self._outages)

    async def _in_background(self, outage: Awaitable[None]) -> None:
        async def lasting() -> None:
            with self._site.disturbed.open():
                await outage

        task = asyncio.create_task(lasting())
        self._outages.add(task)
        task.add_done_callback(self._outages.discard)

    # -- processes

    async def _shoot(self, rng: random.Random, state: str, signum: int) -> None:
        """Stop a worker in that state, note whose call it has, and kill it where that is wanted;
        one that stays stopped is the server's to find."""
        end = time.monotonic() + TARGET_SECONDS
        if state == "idle":
            self._site.doors.clear()  # where all are busy, none would ever be
        try:
            await self._hit(rng, state, signum, end)
        finally:
            self._site.doors.set()

    async def _hit(self, rng: random.Random, state: str, signum: int, end: float) -> None:
        while True:
            status = await asyncio.to_thread(self._server.status)
            found = [
                w
                for w in status["workers"]
                # One that stays stopped keeps its state until the server loses patience with it.
                if w["state"] == state and w["pid"] and w["worker"] not in self._shot
            ]
            if found and await self._stop((target := rng.choice(found))["pid"]):
                self._shot.add(target["worker"])
                with contextlib.suppress(ProcessLookupError):
                    os.kill(target["pid"], signum)
                return
            if time.monotonic() > end:
                raise NoTarget
            await asyncio.sleep(LOOK_SECONDS)

    async def _stop(self, pid: int) -> bool:
        """Stop the worker and note the port of its caller; False: it has just ended."""
        try:
            process = psutil.Process(pid)
            process.suspend()
            # The signal takes effect when the kernel next looks; until then it could still accept.
            await _until_stopped(process)
            connections = process.net_connections("tcp")
            if self._site.trust is not None:
                self._site.shot_in_call += await self._has_caller(pid)
        except psutil.Error:
            return False
        ports = {c.raddr.port for c in connections if c.raddr and c.laddr.port == self._server.port}
        self._site.shot |= ports
        self._site.shot_in_call += bool(ports)
        return True

    async def _has_caller(self, pid: int) -> bool:
        """Whether a stopped worker has taken a caller, by the supervisor's word."""
        status = await asyncio.to_thread(self._server.status)
        return any(w["pid"] == pid and w["state"] == "serving" for w in status["workers"])

    async def _kill_zygote(self, rng: random.Random) -> None:
        before = await asyncio.to_thread(self._server.status)
        pid = before["server"]["zygote"]["pid"]
        if pid is None:
            raise NoTarget
        os.kill(pid, signal.SIGKILL)
        await self._until(
            lambda s: s["server"]["zygote"]["pid"] not in (None, pid), "a new zygote came"
        )

    # -- reloads

    async def _reload(self, rng: random.Random) -> None:
        before = (await asyncio.to_thread(self._server.status))["server"]["reloads"]["count"]
        self._server.process.send_signal(signal.SIGHUP)
        await self._until(
            lambda s: s["server"]["reloads"]["count"] > before, "the reload took hold"
        )

    async def _reload_changed(self, rng: random.Random) -> None:
        self._changed += 1
        self._server.configure(queue_timeout=CHANGED[self._changed % len(CHANGED)])
        await self._reload(rng)

    async def _reload_bad(self, rng: random.Random) -> None:
        before = (await asyncio.to_thread(self._server.status))["server"]["reloads"]["count"]
        self._server.spoil_configuration()
        self._server.process.send_signal(signal.SIGHUP)
        after = await self._until(
            lambda s: s["server"]["reloads"]["last_error"], "the bad file was noticed"
        )
        self._server.configure(queue_timeout=CHANGED[self._changed % len(CHANGED)])
        if after and after["server"]["reloads"]["count"] != before:
            self.faults.append("a reload took hold that had a bad file")

    async def _until(
        self, condition: Callable[[dict[str, Any]], Any], what: str
    ) -> dict[str, Any] | None:
        end = time.monotonic() + TAKES_HOLD_SECONDS
        while time.monotonic() < end:
            status = await asyncio.to_thread(self._server.status)
            if condition(status):
                return status
            await asyncio.sleep(LOOK_SECONDS)
        self.faults.append(f"it never came that {what}")
        return None

    # -- outages

    async def _model_killed(self, rng: random.Random) -> None:
        async with self._model_free:
            with self._site.model_away.open():
                await asyncio.to_thread(self._model.kill)
                await asyncio.sleep(rng.uniform(*OUTAGE))
                await asyncio.to_thread(self._model.start)

    async def _model_hangs(self, rng: random.Random) -> None:
        async with self._model_free:
            with self._site.model_away.open():
                self._model.hang()
                await asyncio.sleep(rng.uniform(*OUTAGE))
                self._model.go_on()

    async def _disk_full(self, rng: random.Random) -> None:
        async with self._disk_free:
            await asyncio.to_thread(self._disk.fill)
            await asyncio.sleep(rng.uniform(*DISK_OUTAGE))
            await asyncio.to_thread(self._disk.free)

    # -- callers

    async def _burst(self, rng: random.Random) -> None:
        for _ in range(rng.randint(*BURST_SIZE)):
            self._call(Part.TYPED, rng.getrandbits(32))
