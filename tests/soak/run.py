"""A soak from the start of the server to the last look at what it has left."""

from __future__ import annotations

import asyncio
import signal
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks.processes import conditions
from tests.soak import account, growth, logbook, plan
from tests.soak.account import Books, Ended, Outcome
from tests.soak.callers import QUESTION, play
from tests.soak.client import Client, calling
from tests.soak.disk import LogDisk
from tests.soak.disturber import Disturber
from tests.soak.growth import Footprint
from tests.soak.model import LONG, REPLY
from tests.soak.plan import Disturbance, Part
from tests.soak.report import Result
from tests.soak.server import ModelServer, Server, is_quiet
from tests.soak.site import KEY, PHRASES, STORY, Site
from voicepool.errors import CallError

MOST_AT_ONCE: Final = 48
"""Callers; the plan waits beyond that."""
QUIET_SECONDS: Final = 120.0
LOOK_SECONDS: Final = 0.25
DRAIN_SECONDS: Final = 90.0
LAST_CALLS: Final = 2
"""That the drain finds in progress."""
FAULTS_TOLD: Final = 20
SECRETS: Final = (KEY, REPLY, LONG[:40], QUESTION, STORY, *PHRASES)


@dataclass(frozen=True, slots=True)
class Options:
    seconds: float
    seed: int
    mean_gap: float
    tls: bool = False


class Crowd:
    """The callers: those of the plan, and those of bursts."""

    def __init__(self, site: Site, options: Options) -> None:
        self.started = 0
        self.ended: list[Ended] = []
        self._site = site
        self._plan = plan.calls(options.seed, options.mean_gap)
        self._calls: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(MOST_AT_ONCE)

    def call(self, part: Part, seed: int) -> None:
        """Start one caller."""
        self.started += 1
        task = asyncio.create_task(self._call(part, seed))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _call(self, part: Part, seed: int) -> None:
        async with self._room:
            self.ended.append(await play(self._site, part, seed))

    async def come(self) -> None:
        """Callers of the plan, until cancelled."""
        while True:
            call = next(self._plan)
            await asyncio.sleep(call.gap)
            await self._site.doors.wait()
            async with self._room:
                pass  # no further ahead of what the room takes
            self.call(call.part, call.seed)

    async def gone(self) -> None:
        """Wait until all calls are over; raises what a caller's own fault raised."""
        while self._calls:
            await asyncio.gather(*self._calls)


class Soak:
    """One run. Make it, and `await run()`."""

    def __init__(
        self, options: Options, folder: Path, disk: LogDisk, tell: Callable[[str], None]
    ) -> None:
        self._options = options
        self._disk = disk
        self._tell = tell
        self._model = ModelServer()
        self._model.start()
        self._server = Server(folder, disk, self._model, tls=options.tls)
        self._site = Site(("127.0.0.1", self._server.port), _trust(self._server))
        self._crowd = Crowd(self._site, options)
        self._disturber = Disturber(self._site, self._server, self._model, disk, self._crowd.call)
        self._disturbances = plan.disturbances(options.seed)
        self._site.doors.set()
        self._rounds = 0
        self._began = time.monotonic()
        self._result = Result(options.seed, disk=disk.kind, conditions=conditions())

    async def run(self) -> Result:
        """The whole of it. What is wrong is in the result's `faults`."""
        result = self._result
        try:
            await asyncio.to_thread(self._server.until_serving)
            self._tell("serving")
            await self._round(plan.Round(plan.warm_seconds(self._options.seconds), 0, 0))
            while part := self._next_round():
                await self._round(part)
            await self._drain()
        finally:
            self._server.close()
            self._model.kill()
            self._disk.settle()
        self._close()
        return result

    def _next_round(self) -> plan.Round | None:
        self._rounds += 1
        return plan.next_round(self._options.seconds, time.monotonic() - self._began, self._rounds)

    async def _round(self, part: plan.Round) -> None:
        """Calm callers, disturbed ones for as long as it says, and a quiet moment."""
        callers = asyncio.create_task(self._crowd.come())
        await asyncio.sleep(part.calm)
        if part.disturbances:
            await self._break(part.disturbed / part.disturbances, part.disturbances)
        callers.cancel()
        await asyncio.gather(callers, return_exceptions=True)
        await self._disturber.calm()
        await self._crowd.gone()
        await self._quiet()

    async def _break(self, pause: float, count: int) -> None:
        """So many disturbances, each `pause` seconds at least after the one before."""
        for _ in range(count):
            began = time.monotonic()
            await self._disturber.disturb(*next(self._disturbances))
            await asyncio.sleep(max(0.0, began + pause - time.monotonic()))

    async def _quiet(self) -> None:
        """Wait until all is as it was in the first quiet moment; note how it is."""
        first = self._result.prints[0].counts if self._result.prints else None
        end = time.monotonic() + QUIET_SECONDS
        footprint: Footprint | None = None
        before: dict[str, int] | None = None
        while time.monotonic() < end:
            footprint = await asyncio.to_thread(self._look) or footprint
            # The first quiet moment is one that lasts: what closes late has been closed.
            if footprint is not None and footprint.counts == (first or before):
                break
            before = footprint.counts if footprint is not None else None
            await asyncio.sleep(LOOK_SECONDS if first else 4 * LOOK_SECONDS)
        if footprint is None:
            status = await asyncio.to_thread(self._server.status)
            self._result.faults.append(f"it never was quiet: {status['pool']}")
        else:
            self._result.prints.append(footprint)
            self._tell(_line(footprint))

    def _look(self) -> Footprint | None:
        try:
            if not is_quiet(self._server.status()):
                return None
            return self._server.footprint(self._began, self._crowd.started)
        except (CallError, psutil.Error, OSError):
            return None

    # -- the end

    async def _drain(self) -> None:
        """TERM with calls in progress: they go on, who comes is refused, and nothing is left."""
        result = self._result
        async with asyncio.TaskGroup() as group:
            last = [group.create_task(self._last_call()) for _ in range(LAST_CALLS)]
            status = await self._until(lambda s: s["pool"]["callers"] == LAST_CALLS)
            self._server.process.send_signal(signal.SIGTERM)
            await self._until(lambda s: s["pool"]["draining"])
            await self._newcomer()
            status = await asyncio.to_thread(self._server.status)
            self._site.draining.set()
        result.status = status
        answered = [task.result() for task in last]
        result.faults += [f"a call that the drain found: {why}" for why in answered if why]
        self._judge_books(status, still_open=LAST_CALLS)
        ended = [Ended(Part.TYPED, Outcome.ANSWERED, True, True)] * LAST_CALLS
        self._crowd.ended += ended
        await self._end()

    async def _newcomer(self) -> None:
        self._crowd.call(Part.TYPED, 0)
        await self._crowd.gone()
        told = self._crowd.ended[-1]
        if told.detail != "draining":
            self._result.faults.append(f"who came to a draining server was {told}")

    async def _last_call(self) -> str:
        """Is answered, waits for the drain, is answered once more; what is wrong."""
        self._crowd.started += 1
        try:
            async with calling(self._site) as client:
                await _exchange(client)
                await self._site.draining.wait()
                await _exchange(client)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
            return repr(error)
        return ""

    async def _until(self, condition: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        async with asyncio.timeout(QUIET_SECONDS):
            while True:
                status = await asyncio.to_thread(self._server.status)
                if condition(status):
                    return status
                await asyncio.sleep(LOOK_SECONDS)

    async def _end(self) -> None:
        faults = self._result.faults
        try:
            code = await asyncio.to_thread(self._server.process.wait, DRAIN_SECONDS)
        except TimeoutError:
            faults.append("the server does not end")
            return
        if code:
            faults.append(f"the server ended with {code}")
        left = self._server.family()
        for _ in range(40):
            if not left:
                break
            await asyncio.sleep(LOOK_SECONDS)
            left = self._server.family()
        faults += [f"a process is left: {process}" for process in left]
        faults += [f"a file is left: {path}" for path in self._server.runtime.glob("*")]

    def _judge_books(self, status: dict[str, Any], still_open: int) -> None:
        pool, totals = status["pool"], status["totals"]
        books = Books(totals, pool["waiting"], pool["callers"], self._site.shot_in_call, still_open)
        self._result.faults += account.judge(self._crowd.started, self._crowd.ended, books)

    def _close(self) -> None:
        """Put the result together."""
        result, site = self._result, self._site
        result.seconds = time.monotonic() - self._began
        result.started, result.ended = self._crowd.started, self._crowd.ended
        result.shot_in_call = site.shot_in_call
        result.disturbances = self._disturber.done
        result.interrupted = site.interrupted
        result.connects, result.waits = site.connects, site.waits
        result.log = logbook.read(self._disk.path, SECRETS)
        result.faults += self._disturber.faults
        result.faults += growth.judge(result.prints) if result.prints else []
        result.faults += logbook.judge(result.log, result.disturbances[Disturbance.DISK_FULL])
        wanted = set(Disturbance)
        if not self._disk.fills:
            wanted.remove(Disturbance.DISK_FULL)
        never = wanted - result.disturbances.keys()
        result.faults += [f"never happened: {kind}" for kind in never]
        absent = set(Part) - {call.part for call in result.ended}
        result.faults += [f"no caller came who {part}" for part in absent]
        if len(result.faults) > FAULTS_TOLD:
            more = len(result.faults) - FAULTS_TOLD
            result.faults[FAULTS_TOLD:] = [f"and {more} more"]


def _trust(server: Server) -> ssl.SSLContext | None:
    return server.certificate.trust if server.certificate else None


async def _exchange(client: Client) -> None:
    since = len(client.events)
    await client.type_in(QUESTION)
    _, done = await client.until("response.done", since=since)
    assert done.response is not None
    assert done.response["status"] == "completed", done.response


def _line(footprint: Footprint) -> str:
    """For whoever watches."""
    held = footprint.holdings["supervisor"]
    return (
        f"quiet after {footprint.at:.0f} s and {footprint.calls} calls: {footprint.processes} "
        f"processes; the supervisor has {held.fds} descriptors and {held.pss >> 10} KiB"
    )
