"""A supervisor that was stopped kills nobody for its own silence."""

from __future__ import annotations

import asyncio
import random
import selectors
import socket
from collections.abc import Awaitable, Callable, Iterator

import pytest

from tests.pool_world import MB, PLENTY, settings
from voicepool.pool import Command, Heartbeat, Kill, Pool, Reason, WorkerHello, WorkerReady
from voicepool.pooldriver import CATCH_UP, HELD_UP, PoolDriver

SILENCE = 20.0


class Poll(selectors.DefaultSelector):
    """One that a signal may interrupt: then it has seen nothing, whatever there is to see."""

    interrupted = False

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self.interrupted:
            self.interrupted = False
            return []
        return super().select(timeout)


class Loop(asyncio.SelectorEventLoop):
    """One whose process can be stopped for any time without taking any."""

    stopped = 0.0

    def __init__(self) -> None:
        self.poll = Poll()
        super().__init__(self.poll)

    def time(self) -> float:
        return super().time() + self.stopped


class Stage:
    """A driven pool with one idle worker that has just been heard."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.commands: list[Command] = []
        self.moves: asyncio.Queue[None] = asyncio.Queue()
        machine = Pool(
            settings(workers=1, heartbeat_timeout=SILENCE, settle=3600.0), random.Random(1)
        )
        self.driver = PoolDriver(machine, self.commands.append, lambda: self.moves.put_nowait(None))
        for event in (PLENTY, WorkerHello(1), WorkerReady(1, MB), Heartbeat(1, MB)):
            self.driver.tell(event)
            self.moves.get_nowait()
        self.commands.clear()

    def beat(self) -> None:
        self.driver.tell(Heartbeat(1, MB))


@pytest.fixture
def run() -> Iterator[Callable[[Callable[[Stage], Awaitable[None]]], None]]:
    """Runs a play on a stage."""
    with asyncio.Runner(loop_factory=Loop) as runner:

        async def play(scene: Callable[[Stage], Awaitable[None]]) -> None:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, Loop)
            stage = Stage(loop)
            async with asyncio.timeout(3600):
                await scene(stage)
            stage.driver.close()

        yield lambda scene: runner.run(play(scene))


Run = Callable[[Callable[[Stage], Awaitable[None]]], None]


def test_heartbeat_that_waits_to_be_read_counts(run: Run) -> None:
    async def scene(stage: Stage) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.send(b"beat")

            def read() -> None:
                ours.recv(16)
                stage.beat()

            stage.loop.add_reader(ours, read)
            stage.loop.stopped += SILENCE + HELD_UP / 2
            stage.loop.poll.interrupted = True
            for _ in ("the heartbeat", "the tick"):
                await stage.moves.get()
            stage.loop.remove_reader(ours)
        assert stage.commands == []

    run(scene)


def test_workers_that_were_stopped_too_have_time_to_be_heard(run: Run) -> None:
    async def scene(stage: Stage) -> None:
        stage.loop.stopped += 10 * SILENCE
        for _ in range(10):
            await asyncio.sleep(0)
        stage.driver.tick()  # the watchdog's
        assert stage.driver.catching_up
        stage.beat()
        stage.loop.stopped += CATCH_UP
        for _ in ("the heartbeat", "the tick"):
            await stage.moves.get()
        assert stage.commands == []
        assert not stage.driver.catching_up

    run(scene)


def test_worker_that_stays_silent_is_killed_after_that(run: Run) -> None:
    async def scene(stage: Stage) -> None:
        stage.loop.stopped += 10 * SILENCE
        await asyncio.sleep(0)
        stage.driver.tick()
        stage.loop.stopped += 10 * SILENCE  # and held up once more
        await stage.moves.get()
        assert stage.commands == [Kill(1, Reason.HEARTBEAT_TIMEOUT)]

    run(scene)
