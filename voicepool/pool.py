"""The pool: one pure state machine that decides everything about workers and callers.

`Pool.handle(event, now)` returns the commands that the shell (`supervisor.py`) carries out. It
never awaits, logs, sleeps or reads a clock. The rules and tables are in `poolspec.py`.
"""

from __future__ import annotations

import enum
import math
import random
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from voicepool.backoff import Backoff
from voicepool.budget import Cost, Ledger
from voicepool.deadlines import Deadlines
from voicepool.errors import IllegalEvent
from voicepool.poolspec import (
    CONNECTION_TABLE,
    DEADLINES,
    WORKER_TABLE,
    Assign,
    BudgetChanged,
    Command,
    ConnectionArrived,
    ConnectionLost,
    ConnectionState,
    DrainRequested,
    Event,
    Heartbeat,
    Kill,
    PoolSettings,
    ProcessExited,
    Reason,
    Refuse,
    ReloadRequested,
    SessionAccepted,
    SessionEnded,
    Spawn,
    SpawnFailed,
    Stop,
    Tick,
    WorkerHello,
    WorkerReady,
    WorkerState,
)
from voicepool.poolview import Snapshot, Totals, Transition, WorkerView
from voicepool.roster import COMING, LEAVING, Roster, Worker

__all__ = [
    "Assign",
    "BudgetChanged",
    "Command",
    "ConnectionArrived",
    "ConnectionLost",
    "ConnectionState",
    "DrainRequested",
    "Event",
    "Heartbeat",
    "Kill",
    "Pool",
    "PoolSettings",
    "ProcessExited",
    "Reason",
    "Refuse",
    "ReloadRequested",
    "SessionAccepted",
    "SessionEnded",
    "Snapshot",
    "Spawn",
    "SpawnFailed",
    "Stop",
    "Tick",
    "Totals",
    "Transition",
    "WorkerHello",
    "WorkerReady",
    "WorkerState",
    "WorkerView",
]

LONGEST_RETRY = 60
"""The largest Retry-After, in seconds."""
REFILL_WEIGHT = 0.2
"""The weight of the newest Spawn-to-ready time in the moving average."""

_BLAMELESS = frozenset({Reason.DRAINING, Reason.RELOAD, Reason.BUDGET, Reason.SURPLUS})
"""Reasons to stop a worker that say nothing against it."""
_MEASURING = (BudgetChanged, WorkerReady, SessionEnded, Heartbeat)
"""Events that can bring an overshoot to light."""


class _Timer(enum.Enum):
    STATE = enum.auto()
    """A worker's state has lasted too long."""
    CALL = enum.auto()
    """A call has lasted too long."""
    SETTLE = enum.auto()
    """A worker has been idle for long enough to be trusted."""
    CALLER = enum.auto()
    """A caller has waited too long."""
    DRAIN = enum.auto()
    BACKOFF = enum.auto()


@dataclass(slots=True, eq=False)
class _Connection:
    number: int
    deadline: float
    state: ConnectionState = ConnectionState.WAITING


class Pool:
    """See the module's docstring. Not thread-safe; nothing here takes longer than microseconds."""

    def __init__(self, settings: PoolSettings, rng: random.Random) -> None:
        self._settings = settings
        self._rng = rng
        self._now = -math.inf
        self._commands: list[Command] = []
        self._transitions: list[Transition] = []
        self._deadlines: Deadlines[tuple[_Timer, int]] = Deadlines()
        self._ledger = Ledger(settings.budget)
        self._roster = Roster()
        self._issued = 0
        self._connections: dict[int, _Connection] = {}
        self._waiting: OrderedDict[int, _Connection] = OrderedDict()
        self._highest = -1
        self._backoff = Backoff(settings.backoff_base, settings.backoff_cap, rng)
        self._refill_time = settings.refill_guess
        self._halted = False
        self._draining = False
        self._hanging_up = False
        self._last_error = ""
        self._totals: Counter[str] = Counter()
        self._refused: Counter[Reason] = Counter()
        self._exits: Counter[str] = Counter()
        self._handlers: dict[type[Event], Callable[[Any], None]] = {
            ConnectionArrived: self._on_arrived,
            ConnectionLost: self._on_lost,
            WorkerHello: self._on_hello,
            WorkerReady: self._on_ready,
            SessionAccepted: self._on_accepted,
            SessionEnded: self._on_ended,
            Heartbeat: self._on_heartbeat,
            ProcessExited: self._on_exited,
            SpawnFailed: self._on_exited,
            BudgetChanged: self._on_budget,
            ReloadRequested: self._on_reload,
            DrainRequested: self._on_drain,
            Tick: self._on_tick,
        }

    # -- what the shell uses

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take one event; return what is to be done about it, in this order.

        `now` is in seconds on any clock that never goes back. Only a Tick makes deadlines fall
        due, so that a shell that was held up can first report what has come in meanwhile.

        Raises IllegalEvent where the tables have no row; then nothing has changed.
        """
        self._check(event)
        self._now = now
        self._commands = []
        self._transitions = []
        self._handlers[type(event)](event)
        self._serve()
        if isinstance(event, _MEASURING):
            self._shed_overshoot()
        self._shed_surplus()
        self._refill()
        self._roll()
        self._give_up()
        return self._commands

    @property
    def next_deadline(self) -> float | None:
        """When to send a Tick, unless this changes before then. The only timer."""
        return self._deadlines.next

    @property
    def transitions(self) -> list[Transition]:
        """What the last `handle` changed, in order."""
        return self._transitions

    @property
    def ready(self) -> bool:
        """Whether a caller who came now would be served or held."""
        if self._draining or self._hopeless:
            return False
        return len(self._waiting) < self._settings.max_waiting or (
            self._roster.idle > 0 and self._may_assign
        )

    def snapshot(self) -> Snapshot:
        """The state of everything. The one method that takes time by the number of workers."""
        target, bound_by = self._target()
        return Snapshot(
            workers=tuple(self._view(worker) for worker in self._roster),
            states={state: self._roster.count(state) for state in DEADLINES},
            callers=self._roster.callers,
            max_connections=self._settings.max_connections,
            waiting=len(self._waiting),
            max_waiting=self._settings.max_waiting,
            target=target,
            bound_by=bound_by,
            ready=self.ready,
            draining=self._draining,
            halted=self._halted,
            last_error=self._last_error,
            failures=self._backoff.failures,
            backoff_until=self._backoff.until if self._backoff.waits(self._now) else None,
            estimate=self._ledger.estimate,
            refill_time=self._refill_time,
            totals=Totals(refused=dict(self._refused), exits=dict(self._exits), **self._totals),
        )

    # -- legality

    def _check(self, event: Event) -> None:
        match event:
            case ConnectionArrived():
                if event.connection in self._connections:
                    raise IllegalEvent(f"{event}: the number is in use")
            case ConnectionLost():
                if event.connection > self._highest:
                    raise IllegalEvent(f"{event}: no such connection has arrived")
                state = self._state_of(event.connection)
                if (state, ConnectionLost) not in CONNECTION_TABLE:
                    raise IllegalEvent(f"{event}: the connection is {state.value}")
            case BudgetChanged() | ReloadRequested() | DrainRequested() | Tick():
                pass
            case _:
                self._check_worker(event)

    def _check_worker(
        self,
        event: WorkerHello
        | WorkerReady
        | SessionAccepted
        | SessionEnded
        | Heartbeat
        | ProcessExited
        | SpawnFailed,
    ) -> None:
        if not 1 <= event.worker <= self._issued:
            raise IllegalEvent(f"{event}: no such worker was ever spawned")
        worker = self._roster.get(event.worker)
        state = WorkerState.EXITED if worker is None else worker.state
        if (state, type(event)) not in WORKER_TABLE:
            raise IllegalEvent(f"{event}: the worker is {state.value}")
        if worker is None or not isinstance(event, SessionAccepted | SessionEnded):
            return
        if worker.connection is None:
            raise IllegalEvent(f"{event}: the worker was given no connection")
        held = self._state_of(worker.connection)
        if (held, type(event)) not in CONNECTION_TABLE:
            raise IllegalEvent(f"{event}: its connection is {held.value}")

    def _state_of(self, connection: int) -> ConnectionState:
        held = self._connections.get(connection)
        return ConnectionState.DONE if held is None else held.state

    # -- events about connections

    def _on_arrived(self, event: ConnectionArrived) -> None:
        connection = _Connection(event.connection, self._now + self._settings.queue_timeout)
        self._highest = max(self._highest, connection.number)
        self._connections[connection.number] = connection
        self._totals["arrived"] += 1
        self._note(connection.number, None, connection.state, event)
        self._waiting[connection.number] = connection
        if self._draining:
            self._refuse(connection, Reason.DRAINING)
            return
        self._serve()
        if connection.state is ConnectionState.WAITING:
            self._hold(connection)

    def _hold(self, connection: _Connection) -> None:
        if self._hopeless:
            self._refuse(connection, Reason.UNAVAILABLE)
        elif len(self._waiting) > self._settings.max_waiting:
            self._refuse(connection, Reason.FULL)
        else:
            self._deadlines.set((_Timer.CALLER, connection.number), connection.deadline)

    def _on_lost(self, event: ConnectionLost) -> None:
        connection = self._connections.get(event.connection)
        if connection is None or connection.state is ConnectionState.ACCEPTED:
            return
        self._totals["gone"] += 1
        self._move_connection(connection, event)

    # -- events about workers

    def _on_hello(self, event: WorkerHello) -> None:
        worker = self._roster.get(event.worker)
        if worker is not None:
            self._move_worker(worker, event)

    def _on_ready(self, event: WorkerReady) -> None:
        worker = self._roster.get(event.worker)
        if worker is None:
            return
        worker.loaded = True
        self._move_worker(worker, event)
        if worker.state is WorkerState.IDLE:
            self._totals["ready"] += 1
            self._refill_time += REFILL_WEIGHT * (self._now - worker.born - self._refill_time)
        self._measure(worker, event.footprint)
        self._serve()
        self._retire_if_big(worker, event.footprint)

    def _on_accepted(self, event: SessionAccepted) -> None:
        worker = self._roster.get(event.worker)
        assert worker is not None
        assert worker.connection is not None
        worker.accepted = True
        self._totals["accepted"] += 1
        self._trust(worker)
        self._move_worker(worker, event)
        self._move_connection(self._connections[worker.connection], event)
        if self._hanging_up and worker.state is WorkerState.SERVING:
            self._stop(worker, Reason.DRAINING)

    def _on_ended(self, event: SessionEnded) -> None:
        worker = self._roster.get(event.worker)
        if worker is None:
            return
        assert worker.connection is not None
        self._totals["completed"] += 1
        self._move_worker(worker, event)
        self._move_connection(self._connections[worker.connection], event)
        self._measure(worker, event.footprint)

    def _on_heartbeat(self, event: Heartbeat) -> None:
        worker = self._roster.get(event.worker)
        if worker is None:
            return
        if worker.state in (WorkerState.IDLE, WorkerState.SERVING):
            self._arm(worker)
        self._measure(worker, event.footprint)
        self._retire_if_big(worker, event.footprint)

    def _on_exited(self, event: ProcessExited | SpawnFailed) -> None:
        worker = self._roster.get(event.worker)
        if worker is None:
            return
        self._exits[_cause_of_death(worker, event)] += 1
        if not (worker.accepted or worker.dismissed or worker.stale):
            self._fail(worker, event)
        self._move_worker(worker, event)
        if worker.connection is not None:
            self._bereave(worker.connection, event)

    def _bereave(self, number: int, event: ProcessExited | SpawnFailed) -> None:
        """The connection's worker is dead: offer it again if nobody has ever taken it."""
        connection = self._connections.get(number)
        if connection is None:
            return
        self._move_connection(connection, event)
        if connection.state is not ConnectionState.WAITING:
            self._totals["lost"] += 1
            return
        self._totals["retried"] += 1
        self._waiting[number] = connection
        self._waiting.move_to_end(number, last=False)
        if self._draining:
            self._refuse(connection, Reason.DRAINING)
        elif connection.deadline <= self._now:
            self._refuse(connection, Reason.TIMEOUT)
        else:
            self._deadlines.set((_Timer.CALLER, number), connection.deadline)

    def _fail(self, worker: Worker, event: ProcessExited | SpawnFailed) -> None:
        """A worker is lost that never took a caller, and not because the pool wanted it so.

        A worker that dies while ASSIGNED counts too: if taking a socket is what kills workers,
        they must not be forked as fast as they die.
        """
        self._totals["failures"] += 1
        self._last_error = event.error or _describe(worker)
        self._halted = self._halted or event.permanent
        self._backoff.failed(worker.born, self._now)
        if self._backoff.until is not None:
            self._deadlines.set((_Timer.BACKOFF, 0), self._backoff.until)

    def _trust(self, worker: Worker) -> None:
        """The worker has proved that spawning works; an old one proves nothing about new code."""
        if not worker.stale:
            self._backoff.succeeded()
            if not self._halted:
                self._last_error = ""

    # -- footprints and limits

    def _measure(self, worker: Worker, footprint: Cost) -> None:
        hard = self._settings.budget.hard_limit
        too_big = hard is not None and footprint.host > hard
        # One that is killed for its size is no measure of what the next will take.
        warm = worker.loaded and not worker.stale and not too_big
        self._ledger.measure(worker.number, footprint, warm=warm)
        if too_big and worker.state is not WorkerState.KILLING:
            self._kill(worker, Reason.HARD_LIMIT)

    def _retire_if_big(self, worker: Worker, footprint: Cost) -> None:
        soft = self._settings.budget.soft_limit
        if worker.state is WorkerState.IDLE and soft is not None and footprint.host > soft:
            self._stop(worker, Reason.SOFT_LIMIT)

    # -- events about everything

    def _on_budget(self, event: BudgetChanged) -> None:
        self._ledger.update(event.readings, event.zygote)

    def _on_reload(self, event: ReloadRequested) -> None:
        self._settings = event.settings or self._settings
        self._ledger.configure(self._settings.budget)
        self._backoff = Backoff(self._settings.backoff_base, self._settings.backoff_cap, self._rng)
        self._deadlines.clear((_Timer.BACKOFF, 0))
        self._halted = False
        self._last_error = ""
        for worker in self._roster.make_stale():
            if worker.state in COMING:
                self._stop(worker, Reason.RELOAD)

    def _on_drain(self, event: DrainRequested) -> None:
        if self._draining:
            self._hang_up()
            return
        self._draining = True
        self._deadlines.set((_Timer.DRAIN, 0), self._now + self._settings.drain_timeout)
        for connection in list(self._waiting.values()):
            self._refuse(connection, Reason.DRAINING)
        for worker in list(self._roster):
            if worker.state in (*COMING, WorkerState.IDLE):
                self._stop(worker, Reason.DRAINING)

    def _hang_up(self) -> None:
        """End the calls. One that is ASSIGNED ends when it is acknowledged."""
        self._hanging_up = True
        self._deadlines.clear((_Timer.DRAIN, 0))
        for worker in list(self._roster):
            if worker.state is WorkerState.SERVING:
                self._stop(worker, Reason.DRAINING)

    def _on_tick(self, event: Tick) -> None:
        for timer, number in self._deadlines.pop_due(self._now):
            if timer is _Timer.DRAIN:
                self._hang_up()
            elif timer is _Timer.CALLER:
                self._refuse(self._connections[number], Reason.TIMEOUT)
            elif timer is not _Timer.BACKOFF:
                worker = self._roster.get(number)
                assert worker is not None
                self._on_worker_timer(worker, timer)

    def _on_worker_timer(self, worker: Worker, timer: _Timer) -> None:
        if timer is _Timer.SETTLE:
            self._trust(worker)
        elif timer is _Timer.CALL:
            self._stop(worker, Reason.CALL_LIMIT)
        else:
            self._kill(worker, DEADLINES[worker.state][1])

    # -- decisions, in the order in which `handle` takes them

    @property
    def _may_assign(self) -> bool:
        return not self._draining and self._roster.callers < self._settings.max_connections

    def _serve(self) -> None:
        """Bring the callers who have waited longest and idle workers together."""
        while self._waiting and self._may_assign and (worker := self._roster.next_idle):
            connection = next(iter(self._waiting.values()))
            command = Assign(worker.number, connection.number)
            worker.connection = connection.number
            self._commands.append(command)
            self._move_worker(worker, command)
            self._move_connection(connection, command)

    def _shed_overshoot(self) -> None:
        """Do without idle workers, then without coming ones, until the rest fits the budget."""
        for device in self._ledger.overshot():
            candidates = [*self._roster.dispensable()]
            candidates += reversed([worker for worker in self._roster if worker.state in COMING])
            for worker in candidates:
                if not self._ledger.overshoots(device):
                    break
                if self._ledger.relieves(worker.number, device):
                    self._stop(worker, Reason.BUDGET)

    def _shed_surplus(self) -> None:
        """Do without idle workers beyond the target: one replaced after a reload, or a lower N."""
        callers = self._roster.callers
        keep = min(self._settings.workers, self._most_live - callers)
        while self._roster.idle > max(0, keep) and (worker := self._roster.most_dispensable):
            self._stop(worker, Reason.RELOAD if worker.stale else Reason.SURPLUS)

    @property
    def _most_live(self) -> int:
        return self._settings.max_connections + self._settings.spare

    @property
    def _wanted(self) -> int:
        """The idle target where memory is no object."""
        busy = len(self._roster) - self._roster.idle - self._roster.coming
        return max(0, min(self._settings.workers, self._most_live - busy))

    @property
    def _may_spawn(self) -> bool:
        return not (self._draining or self._halted or self._backoff.waits(self._now))

    def _refill(self) -> None:
        """Spawn up to the target, and one beyond it while idle workers are to be replaced."""
        if not self._may_spawn:
            return
        while len(self._roster) < self._most_live:
            lacking = self._wanted - self._roster.idle - self._roster.coming
            if lacking + bool(self._roster.stale_idle) <= 0:
                return
            device = self._place()
            if device is None:
                return
            self._spawn(device)

    def _place(self) -> str | None:
        """Where a worker may be spawned now.

        While nobody knows whether or at what cost a worker comes up (no footprint measured yet, or
        the last attempt failed), one is tried at a time.
        """
        roster = self._roster
        if roster.coming and (self._backoff.failures or not self._ledger.proven):
            return None
        warmups = self._settings.warmups
        busy = [name for name in self._ledger.places if roster.coming_on(name) >= warmups]
        return self._ledger.place(shun=busy)

    def _spawn(self, device: str) -> None:
        self._issued += 1
        self._totals["spawned"] += 1
        command = Spawn(self._issued, device)
        worker = Worker(self._issued, device, born=self._now, since=self._now)
        self._commands.append(command)
        self._ledger.reserve(worker.number, device)
        self._roster.add(worker)
        self._note(worker.number, None, worker.state, command)
        self._arm(worker)

    def _roll(self) -> None:
        """After a reload, retire an idle worker first where there is no room to spawn first.

        One at a time: the next goes when nobody is leaving or coming any more, so that its
        successor is ready. None goes if its successor would not fit even then.
        """
        stale = self._roster.stale_idle
        if not stale or self._roster.coming or self._roster.leaving or not self._may_spawn:
            return
        if self._ledger.place(without=stale) is not None:
            self._stop(next(iter(stale.values())), Reason.RELOAD)

    @property
    def _hopeless(self) -> bool:
        """Nobody can serve a caller, and nobody will come."""
        return self._halted and not self._roster.idle and not self._roster.coming

    def _give_up(self) -> None:
        if self._hopeless:
            for connection in list(self._waiting.values()):
                self._refuse(connection, Reason.UNAVAILABLE)

    # -- commands that are given in more than one place

    def _stop(self, worker: Worker, reason: Reason) -> None:
        worker.reason = reason
        worker.dismissed = worker.dismissed or reason in _BLAMELESS
        command = Stop(worker.number, reason)
        self._commands.append(command)
        self._move_worker(worker, command)

    def _kill(self, worker: Worker, reason: Reason) -> None:
        if reason is not Reason.KILL_TIMEOUT:
            worker.reason = reason
        command = Kill(worker.number, reason)
        self._commands.append(command)
        self._move_worker(worker, command)
        self._arm(worker)

    def _refuse(self, connection: _Connection, reason: Reason) -> None:
        command = Refuse(connection.number, reason, self._retry_after())
        self._refused[reason] += 1
        self._commands.append(command)
        self._move_connection(connection, command)

    def _retry_after(self) -> int:
        """Whole seconds until a worker could be ready for one more caller than wait now."""
        if self._hopeless:
            return LONGEST_RETRY
        until = self._backoff.until or self._now
        lanes = self._settings.warmups * len(self._ledger.places)
        refill = self._refill_time * math.ceil((len(self._waiting) + 1) / lanes)
        return max(1, min(LONGEST_RETRY, math.ceil(max(0.0, until - self._now) + refill)))

    # -- the setters: nothing else changes a state

    def _move_worker(self, worker: Worker, cause: Event | Command) -> None:
        before, after = worker.state, WORKER_TABLE[worker.state, type(cause)]
        if after is before:
            return
        self._roster.move(worker, after)
        worker.since = self._now
        self._note(worker.number, before, after, cause)
        if before is WorkerState.IDLE:
            self._deadlines.clear((_Timer.SETTLE, worker.number))
        if before is WorkerState.SERVING:
            self._deadlines.clear((_Timer.CALL, worker.number))
        if after is WorkerState.EXITED:
            self._deadlines.clear((_Timer.STATE, worker.number))
            self._ledger.release(worker.number)
            return
        if before not in LEAVING and after in LEAVING:
            self._ledger.leave(worker.number)
        self._arm(worker)
        if after is WorkerState.IDLE:
            self._deadlines.set((_Timer.SETTLE, worker.number), self._now + self._settings.settle)
        if after is WorkerState.SERVING and self._settings.call_limit is not None:
            limit = self._now + self._settings.call_limit
            self._deadlines.set((_Timer.CALL, worker.number), limit)

    def _arm(self, worker: Worker) -> None:
        """Give the worker's state its deadline, from now."""
        timeout: float = getattr(self._settings, DEADLINES[worker.state][0])
        self._deadlines.set((_Timer.STATE, worker.number), self._now + timeout)

    def _move_connection(self, connection: _Connection, cause: Event | Command) -> None:
        before, after = connection.state, CONNECTION_TABLE[connection.state, type(cause)]
        connection.state = after
        self._note(connection.number, before, after, cause)
        if before is ConnectionState.WAITING:
            del self._waiting[connection.number]
            self._deadlines.clear((_Timer.CALLER, connection.number))
        if after in _ENDED:
            del self._connections[connection.number]

    def _note(
        self,
        number: int,
        before: WorkerState | ConnectionState | None,
        after: WorkerState | ConnectionState,
        cause: Event | Command,
    ) -> None:
        reason = getattr(cause, "reason", None)
        name = type(cause).__name__ if reason is None else str(reason)
        self._transitions.append(Transition(number, before, after, name))

    # -- what is shown

    def _target(self) -> tuple[int, str]:
        roster, settings = self._roster, self._settings
        wanted = self._wanted
        fits = roster.idle + roster.coming + self._ledger.room(settings.workers)
        if fits < wanted:
            return fits, f"budget:{self._ledger.bottleneck()}"
        return wanted, "workers" if wanted == settings.workers else "max_connections"

    def _view(self, worker: Worker) -> WorkerView:
        deadline = self._deadlines.get((_Timer.STATE, worker.number))
        assert deadline is not None
        return WorkerView(
            number=worker.number,
            state=worker.state,
            device=worker.device,
            born=worker.born,
            since=worker.since,
            deadline=deadline,
            footprint=self._ledger.measured(worker.number),
            connection=worker.connection,
            stale=worker.stale,
        )


_ENDED = frozenset({ConnectionState.DONE, ConnectionState.REFUSED, ConnectionState.GONE})


def _cause_of_death(worker: Worker, event: ProcessExited | SpawnFailed) -> str:
    if isinstance(event, SpawnFailed):
        return "spawn_failed"
    if worker.reason is not None:
        return worker.reason.value
    return "ended" if worker.state is WorkerState.RETIRING else "crashed"


def _describe(worker: Worker) -> str:
    if worker.reason is not None:
        return f"worker {worker.number} was ended: {worker.reason}"
    return f"worker {worker.number} died while {worker.state.value}"
