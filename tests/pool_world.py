"""What the pool tests share: a pool with a clock, led into any state by legal events."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from voicepool.budget import HOST, BudgetSettings, Cost, Limits, Reading
from voicepool.pool import (
    Assign,
    BudgetChanged,
    Command,
    ConnectionArrived,
    ConnectionLost,
    ConnectionState,
    Event,
    Heartbeat,
    Pool,
    PoolSettings,
    ProcessExited,
    SessionAccepted,
    SessionEnded,
    Spawn,
    Tick,
    WorkerHello,
    WorkerReady,
    WorkerState,
)

MB = 1 << 20
SMALL = Cost(host=100 * MB)
PLENTY = BudgetChanged({HOST: Reading(total=64_000 * MB, used=1_000 * MB)})


def settings(workers: int = 2, max_connections: int | None = None, **others: Any) -> PoolSettings:
    """Settings with a budget estimate of 100 MB a worker, unless `budget` says otherwise."""
    others.setdefault("budget", BudgetSettings(estimate=SMALL))
    return PoolSettings(workers, max_connections or workers, **others)


class Driver:
    """A pool and its clock. Every method sends what the shell would send."""

    def __init__(
        self, pool_settings: PoolSettings | None = None, seed: int = 1, *, probed: bool = True
    ) -> None:
        self.settings = pool_settings or settings()
        self.pool = Pool(self.settings, random.Random(seed))
        self.now = 100.0
        self.readings: Mapping[str, Reading | None] = {}
        if probed:
            self.send(PLENTY)

    def send(self, event: Event, after: float = 0.0) -> list[Command]:
        self.now += after
        return self.pool.handle(event, self.now)

    def tick(self) -> list[Command]:
        """Go to the next deadline."""
        deadline = self.pool.next_deadline
        assert deadline is not None
        self.now = max(self.now, deadline)
        return self.send(Tick())

    def of(self, state: WorkerState) -> list[int]:
        """The workers in a state, oldest first."""
        return [view.number for view in self.pool.snapshot().workers if view.state is state]

    def state(self, worker: int) -> WorkerState:
        views = {view.number: view.state for view in self.pool.snapshot().workers}
        return views.get(worker, WorkerState.EXITED)

    def warm(self, footprint: Cost = SMALL) -> list[int]:
        """Let all workers that are coming get ready; returns the idle ones."""
        while coming := self.of(WorkerState.STARTING) + self.of(WorkerState.WARMING):
            for worker in coming:
                self.ready(worker, footprint)
        return self.of(WorkerState.IDLE)

    def ready(self, worker: int, footprint: Cost = SMALL) -> list[Command]:
        if self.state(worker) is WorkerState.STARTING:
            self.send(WorkerHello(worker))
        commands = self.send(WorkerReady(worker, footprint.host))
        if footprint.device:
            commands += self.weigh({worker: footprint.device})
        return commands

    def weigh(
        self, vram: Mapping[int, int | None], *, used: int = 0, guessed: bool = False
    ) -> list[Command]:
        """A probe sees what workers use on the GPUs, everything else as it was; `used` in MB is
        what others have come to use of each GPU besides."""
        readings = dict(self.readings)
        views = {view.number: view for view in self.pool.snapshot().workers}
        for name, reading in self.readings.items():
            if name != HOST and reading is not None:
                ours = sum(
                    vram.get(number, view.vram) or 0
                    for number, view in views.items()
                    if view.device == name
                )
                readings[name] = Reading(reading.total, reading.used + ours + used * MB)
        return self.send(BudgetChanged(readings, vram=vram, guessed=guessed))

    def gpus(self, *total: int, used: int = 0) -> list[Command]:
        """GPUs of these sizes in MB, of which others use `used` each, and plenty of RAM."""
        host = {HOST: Reading(64_000 * MB, 0)}
        self.readings = {
            **host,
            **{f"cuda:{n}": Reading(size * MB, used * MB) for n, size in enumerate(total)},
        }
        return self.send(BudgetChanged(self.readings))

    def call(self, connection: int) -> int:
        """A caller who is served at once; returns the worker."""
        worker = self.offer(connection)
        self.send(SessionAccepted(worker))
        return worker

    def offer(self, connection: int) -> int:
        commands = self.send(ConnectionArrived(connection))
        return next(command.worker for command in commands if isinstance(command, Assign))

    def beat(self) -> None:
        """A heartbeat from everybody who owes one."""
        for worker in self.of(WorkerState.IDLE) + self.of(WorkerState.SERVING):
            self.send(Heartbeat(worker, SMALL.host))


def spawns(commands: list[Command]) -> list[int]:
    return [command.worker for command in commands if isinstance(command, Spawn)]


def host(total: int, used: int = 0) -> BudgetChanged:
    """A probe's reading of the host in MB; `used` includes our own workers."""
    return BudgetChanged({HOST: Reading(total * MB, used * MB)})


Situation = tuple[WorkerState, ConnectionState | None]

_W, _C = WorkerState, ConnectionState
SITUATIONS: list[Situation] = [
    (_W.STARTING, None),
    (_W.WARMING, None),
    (_W.IDLE, None),
    (_W.ASSIGNED, _C.OFFERED),
    (_W.ASSIGNED, _C.GONE),
    (_W.SERVING, _C.ACCEPTED),
    (_W.RETIRING, None),
    (_W.RETIRING, _C.ACCEPTED),
    (_W.RETIRING, _C.DONE),
    (_W.KILLING, None),
    (_W.KILLING, _C.OFFERED),
    (_W.KILLING, _C.GONE),
    (_W.KILLING, _C.ACCEPTED),
    (_W.KILLING, _C.DONE),
    (_W.EXITED, None),
    (_W.EXITED, _C.DONE),
]
"""Every state of a worker with every state that its connection can have then."""

CONNECTION = 7
_HUGE = 900 * MB


def situation(worker_state: WorkerState, connection_state: ConnectionState | None) -> Driver:
    """A pool whose worker 1 and connection CONNECTION are in these states."""
    limited = BudgetSettings(estimate=SMALL, hard_limit=Limits(host=500 * MB))
    driver = Driver(settings(1, budget=limited, call_limit=10.0, heartbeat_timeout=50.0))
    if worker_state is _W.STARTING:
        return driver
    driver.send(WorkerHello(1))
    if worker_state is _W.WARMING:
        return driver
    if connection_state is None:
        _without_connection(driver, worker_state)
    else:
        _with_connection(driver, worker_state, connection_state)
    return driver


def _without_connection(driver: Driver, worker_state: WorkerState) -> None:
    driver.ready(1)
    if worker_state is _W.RETIRING:
        driver.send(BudgetChanged({HOST: Reading(total=1_000 * MB, used=1_001 * MB)}))
    elif worker_state is _W.KILLING:
        driver.send(Heartbeat(1, _HUGE))
    elif worker_state is _W.EXITED:
        driver.send(ProcessExited(1))


def _with_connection(
    driver: Driver, worker_state: WorkerState, connection_state: ConnectionState
) -> None:
    driver.ready(1)
    driver.offer(CONNECTION)
    if connection_state is _C.GONE:
        driver.send(ConnectionLost(CONNECTION))
    elif connection_state is not _C.OFFERED:
        driver.send(SessionAccepted(1))
    if worker_state is _W.RETIRING and connection_state is _C.ACCEPTED:
        driver.tick()  # the call limit
    if connection_state is _C.DONE:
        driver.send(SessionEnded(1, SMALL.host))
    if worker_state is _W.KILLING:
        driver.send(Heartbeat(1, _HUGE))
    elif worker_state is _W.EXITED:
        driver.send(ProcessExited(1))
