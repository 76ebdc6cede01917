"""Who is alive: the pool's workers, found by number, state and device without ever counting."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from voicepool.poolspec import Reason, WorkerState

COMING = (WorkerState.STARTING, WorkerState.WARMING)
CALLING = (WorkerState.ASSIGNED, WorkerState.SERVING)
LEAVING = (WorkerState.RETIRING, WorkerState.KILLING)


@dataclass(slots=True, eq=False)
class Worker:
    """One worker, from its Spawn until it has exited."""

    number: int
    device: str
    born: float
    since: float
    silence: float
    """The heartbeat_timeout that it was spawned with: it beats by the settings of that time."""
    state: WorkerState = WorkerState.STARTING
    connection: int | None = None
    """The connection that it has or had; never a second one."""
    loaded: bool = False
    """It has reported ready."""
    accepted: bool = False
    """It has taken a caller."""
    reason: Reason | None = None
    """Of the last Stop or Kill."""
    dismissed: bool = False
    """Stopped by a decision that says nothing against it."""
    stale: bool = False
    """Forked before the last reload."""
    aged: bool = False
    """Idle for longer than worker_age."""
    warned: set[Reason] = field(default_factory=set)
    """The soft limits that it was seen above in its call."""

    @property
    def superseded(self) -> Reason | None:
        """Why it is to be replaced, once it is idle and somebody can take its place."""
        if self.stale:
            return Reason.RELOAD
        return Reason.WORKER_AGE if self.aged else None


class Roster:
    """All live workers. Every question is answered in constant time."""

    def __init__(self) -> None:
        self._workers: dict[int, Worker] = {}
        self._states = dict.fromkeys(WorkerState, 0)
        self._fresh: OrderedDict[int, Worker] = OrderedDict()
        self._superseded: OrderedDict[int, Worker] = OrderedDict()
        self._coming: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._workers)

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._workers.values())

    def get(self, number: int) -> Worker | None:
        return self._workers.get(number)

    def add(self, worker: Worker) -> None:
        self._workers[worker.number] = worker
        self._enter(worker)

    def move(self, worker: Worker, state: WorkerState) -> None:
        """Set the worker's state; one that has exited is forgotten."""
        self._leave(worker)
        worker.state = state
        if state is WorkerState.EXITED:
            del self._workers[worker.number]
        else:
            self._enter(worker)

    def make_stale(self) -> None:
        """Mark everybody as forked before a reload."""
        for worker in self:
            worker.stale = True
        self._superseded.update(self._fresh)
        self._fresh.clear()

    def make_old(self, worker: Worker) -> None:
        """Mark an idle worker as too old."""
        worker.aged = True
        if worker.number in self._fresh:
            self._superseded[worker.number] = self._fresh.pop(worker.number)

    # -- counts

    def count(self, state: WorkerState) -> int:
        return self._states[state]

    @property
    def idle(self) -> int:
        return len(self._fresh) + len(self._superseded)

    @property
    def coming(self) -> int:
        return self._sum(COMING)

    @property
    def callers(self) -> int:
        return self._sum(CALLING)

    @property
    def leaving(self) -> int:
        return self._sum(LEAVING)

    def coming_on(self, device: str) -> int:
        return self._coming[device]

    # -- idle workers

    @property
    def next_idle(self) -> Worker | None:
        """The one to hand out: the longest idle, a superseded one only where there is no other."""
        return _first(self._fresh) or _first(self._superseded)

    @property
    def superseded(self) -> OrderedDict[int, Worker]:
        """The idle workers that are to be replaced: those that a reload has left, the longest idle
        first, then those that are too old."""
        return self._superseded

    def dispensable(self) -> Iterator[Worker]:
        """Idle workers, those to do without first. Stop none of them while iterating."""
        yield from self._superseded.values()
        yield from reversed(self._fresh.values())

    # -- indexes

    def _enter(self, worker: Worker) -> None:
        self._states[worker.state] += 1
        if worker.state is WorkerState.IDLE:
            (self._superseded if worker.superseded else self._fresh)[worker.number] = worker
        elif worker.state in COMING:
            self._coming[worker.device] += 1

    def _leave(self, worker: Worker) -> None:
        self._states[worker.state] -= 1
        if worker.state is WorkerState.IDLE:
            del (self._superseded if worker.superseded else self._fresh)[worker.number]
        elif worker.state in COMING:
            self._coming[worker.device] -= 1

    def _sum(self, states: tuple[WorkerState, ...]) -> int:
        return sum(self._states[state] for state in states)


def _first(queue: OrderedDict[int, Worker]) -> Worker | None:
    return next(iter(queue.values()), None)
