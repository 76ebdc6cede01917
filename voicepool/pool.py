"""The pool: one pure state machine that decides everything about workers and callers.

`Pool.handle(event, now)` returns the commands that the shell (`supervisor.py`) carries out. It
never awaits, logs, sleeps or reads a clock.

    poolspec.py    the words: states, settings, events, commands
    pooltables.py  which of them makes what of which state
    poolstate.py   the state, and the setters that apply the tables
    staffing.py    decisions about workers: the target, the budget, back-off, reload
    footprints.py  what workers take, and which are too big
    pool.py        decisions about callers; takes the events and puts it all in order
    poolview.py    what is shown
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from voicepool.budgetspec import HOST
from voicepool.footprints import Footprints
from voicepool.poolspec import (
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
    Warn,
    WorkerHello,
    WorkerReady,
    WorkerState,
)
from voicepool.poolstate import Connection, PoolState, Timer
from voicepool.pooltables import DEADLINES
from voicepool.poolview import Snapshot, Totals, Transition, WorkerView
from voicepool.roster import COMING, Worker
from voicepool.staffing import Staffing

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
    "Warn",
    "WorkerHello",
    "WorkerReady",
    "WorkerState",
    "WorkerView",
]

LONGEST_RETRY = 60
"""The largest Retry-After, in seconds."""

_MEASURING = (BudgetChanged, ReloadRequested, WorkerReady, SessionEnded, Heartbeat)
"""Events that can bring an overshoot to light: new readings, limits and footprints."""


class Pool:
    """See the module's docstring. Not thread-safe; a step takes microseconds."""

    def __init__(self, settings: PoolSettings, rng: random.Random) -> None:
        self._state = PoolState(settings)
        self._roster = self._state.roster
        self._staffing = Staffing(self._state, rng)
        self._footprints = Footprints(self._state)
        self._hanging_up = False
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
        self._state.check(event)
        self._state.begin(now)
        self._handlers[type(event)](event)
        self._serve()
        if isinstance(event, _MEASURING):
            self._staffing.shed_overshoot()
        self._staffing.shed_surplus()
        self._staffing.refill()
        self._staffing.roll()
        self._give_up()
        return self._state.commands

    @property
    def next_deadline(self) -> float | None:
        """When to send a Tick, unless this changes before then. The only timer."""
        return self._state.deadlines.next

    @property
    def transitions(self) -> list[Transition]:
        """What the last `handle` changed, in order."""
        return self._state.transitions

    @property
    def ready(self) -> bool:
        """Whether a caller who came now would be served or held."""
        return self.refusal is None

    @property
    def refusal(self) -> Reason | None:
        """What a caller who came now would be refused for; None where they would not be."""
        if self._state.draining:
            return Reason.DRAINING
        if self._staffing.hopeless:
            return Reason.UNAVAILABLE
        room = len(self._state.waiting) < self._state.settings.max_waiting
        return None if room or (self._roster.idle > 0 and self._may_assign) else Reason.FULL

    @property
    def inviting(self) -> bool:
        """Whether a balancer should send callers here.

        A full house is no reason not to, as it is for `ready`: a caller leaves, and a worker comes.
        Failing workers are, where nobody else is idle: here callers would only wait in vain.
        """
        if self._state.draining or self._staffing.hopeless:
            return False
        return self._roster.idle > 0 or not self._staffing.backoff.failures

    def footprint(self, worker: int) -> tuple[int | None, int | None]:
        """A live worker's latest private host bytes and VRAM; None for what was not measured."""
        return self._state.ledger.measured(worker)

    def snapshot(self) -> Snapshot:
        """The state of everything. The one method that takes time by the number of workers."""
        state, staffing = self._state, self._staffing
        target, bound_by = staffing.target()
        backoff = staffing.backoff
        most = state.settings.max_connections + state.settings.spare
        return Snapshot(
            workers=tuple(self._view(worker) for worker in self._roster),
            states={name: self._roster.count(name) for name in DEADLINES},
            callers=self._roster.callers,
            max_connections=state.settings.max_connections,
            waiting=len(state.waiting),
            max_waiting=state.settings.max_waiting,
            target=target,
            bound_by=bound_by,
            ready=self.ready,
            draining=state.draining,
            halted=staffing.halted,
            last_error=staffing.last_error,
            failures=backoff.failures,
            backoff_until=backoff.until if backoff.waits(state.now) else None,
            estimate=state.ledger.estimate,
            proven=state.ledger.proven,
            unweighed=state.ledger.unweighed,
            devices=state.ledger.views(most),
            room=state.ledger.room(most),
            binding=state.ledger.binding(most),
            shortfall=state.ledger.shortfall(),
            refill_time=staffing.refill_time,
            totals=Totals(
                refused=dict(state.refused),
                exits=dict(self._exits),
                limits=dict(state.limits),
                **state.counts,
            ),
        )

    def _view(self, worker: Worker) -> WorkerView:
        deadline = self._state.deadlines.get((Timer.STATE, worker.number))
        assert deadline is not None
        private, vram = self._state.ledger.measured(worker.number)
        return WorkerView(
            number=worker.number,
            state=worker.state,
            device=worker.device,
            born=worker.born,
            since=worker.since,
            deadline=deadline,
            private=private,
            vram=vram,
            connection=worker.connection,
            stale=worker.stale,
        )

    # -- events about connections

    def _on_arrived(self, event: ConnectionArrived) -> None:
        refusal = self.refusal  # of before: on arrival he takes a place in the waiting room
        connection = self._state.arrive(event)
        self._serve()
        if connection.state is not ConnectionState.WAITING:
            return
        if refusal is not None:
            self._refuse(connection, refusal)
        else:
            self._state.hold(connection)

    def _on_lost(self, event: ConnectionLost) -> None:
        connection = self._state.connections.get(event.connection)
        if connection is None or connection.state is ConnectionState.ACCEPTED:
            return
        self._state.counts["gone"] += 1
        self._state.move_connection(connection, event)

    # -- events about workers

    def _on_hello(self, event: WorkerHello) -> None:
        worker = self._roster.get(event.worker)
        if worker is not None:
            self._state.move_worker(worker, event)

    def _on_ready(self, event: WorkerReady) -> None:
        worker = self._roster.get(event.worker)
        if worker is None:
            return
        worker.loaded = True
        self._state.move_worker(worker, event)
        if worker.state is WorkerState.IDLE:
            self._state.counts["ready"] += 1
            self._staffing.warmed(worker)
        self._footprints.measure(worker, event.private)
        self._serve()
        self._footprints.retire_if_big(worker, HOST, event.private)

    def _on_accepted(self, event: SessionAccepted) -> None:
        worker, connection = self._call(event)
        worker.accepted = True
        self._state.counts["accepted"] += 1
        self._staffing.proved(worker)
        self._state.move_worker(worker, event)
        self._state.move_connection(connection, event)
        if self._hanging_up and worker.state is WorkerState.SERVING:
            self._state.stop(worker, Reason.DRAINING)

    def _on_ended(self, event: SessionEnded) -> None:
        if self._roster.get(event.worker) is None:
            return
        worker, connection = self._call(event)
        self._state.counts["completed"] += 1
        if event.limit is not None and worker.reason is None:  # else something else was first
            self._state.count_limit(event.limit)
        self._state.move_worker(worker, event)
        self._state.move_connection(connection, event)
        self._footprints.measure(worker, event.private)

    def _call(self, event: SessionAccepted | SessionEnded) -> tuple[Worker, Connection]:
        """The worker and its connection; that they exist has been checked."""
        worker = self._roster.get(event.worker)
        assert worker is not None
        assert worker.connection is not None
        return worker, self._state.connections[worker.connection]

    def _on_heartbeat(self, event: Heartbeat) -> None:
        worker = self._roster.get(event.worker)
        if worker is None:
            return
        if worker.state in (WorkerState.IDLE, WorkerState.SERVING):
            self._state.arm(worker)
        self._footprints.measure(worker, event.private)
        self._footprints.retire_if_big(worker, HOST, event.private)

    def _on_exited(self, event: ProcessExited | SpawnFailed) -> None:
        worker = self._roster.get(event.worker)
        if worker is None:
            return
        self._exits[_cause_of_death(worker, event)] += 1
        if not (worker.accepted or worker.dismissed or worker.stale):
            self._staffing.failed(worker, event)
        self._state.move_worker(worker, event)
        if worker.connection in self._state.connections:
            self._bereave(self._state.connections[worker.connection], event)

    def _bereave(self, connection: Connection, event: ProcessExited | SpawnFailed) -> None:
        """The connection's worker is dead: offer it again if nobody has ever taken it."""
        self._state.move_connection(connection, event)
        if connection.state is not ConnectionState.WAITING:
            self._state.counts["lost"] += 1
            return
        self._state.counts["retried"] += 1
        if self._state.draining:
            self._refuse(connection, Reason.DRAINING)
        elif connection.deadline <= self._state.now:
            self._refuse(connection, Reason.TIMEOUT)
        else:
            self._state.hold(connection)

    # -- events about everything

    def _on_budget(self, event: BudgetChanged) -> None:
        for number, vram in event.vram.items():
            worker = self._roster.get(number)
            if worker is not None:
                self._footprints.weigh(worker, vram, guessed=event.guessed)
        self._state.ledger.update(event.readings, event.zygote)

    def _on_reload(self, event: ReloadRequested) -> None:
        self._staffing.reload(event.settings or self._state.settings)

    def _on_drain(self, event: DrainRequested) -> None:
        state = self._state
        if state.draining:
            self._hang_up()
            return
        state.draining = True
        state.deadlines.set((Timer.DRAIN, 0), state.now + state.settings.drain_timeout)
        for connection in list(state.waiting.values()):
            self._refuse(connection, Reason.DRAINING)
        for worker in list(self._roster):
            if worker.state in (*COMING, WorkerState.IDLE):
                state.stop(worker, Reason.DRAINING)

    def _hang_up(self) -> None:
        """End the calls. One that is still ASSIGNED ends when it is acknowledged."""
        self._hanging_up = True
        self._state.deadlines.clear((Timer.DRAIN, 0))
        for worker in list(self._roster):
            if worker.state is WorkerState.SERVING:
                self._state.stop(worker, Reason.DRAINING)

    def _on_tick(self, event: Tick) -> None:
        for timer, number in self._state.deadlines.pop_due(self._state.now):
            if timer is Timer.DRAIN:
                self._hang_up()
            elif timer is Timer.CALLER:
                self._refuse(self._state.connections[number], Reason.TIMEOUT)
            elif timer is not Timer.BACKOFF:  # that one only brings us here, to refill
                worker = self._roster.get(number)
                assert worker is not None
                self._on_worker_timer(worker, timer)

    def _on_worker_timer(self, worker: Worker, timer: Timer) -> None:
        if timer is Timer.SETTLE:
            self._staffing.proved(worker)
        elif timer is Timer.AGE:
            self._roster.make_old(worker)
        elif timer is Timer.CALL:
            self._state.stop(worker, Reason.CALL_LIMIT)
        else:
            self._state.kill(worker, DEADLINES[worker.state][1])

    # -- decisions about callers

    @property
    def _may_assign(self) -> bool:
        state = self._state
        return not state.draining and self._roster.callers < state.settings.max_connections

    def _serve(self) -> None:
        """Bring the callers who have waited longest and idle workers together."""
        waiting = self._state.waiting
        while waiting and self._may_assign and (worker := self._roster.next_idle):
            self._state.assign(worker, next(iter(waiting.values())))

    def _give_up(self) -> None:
        if self._staffing.hopeless:
            for connection in list(self._state.waiting.values()):
                self._refuse(connection, Reason.UNAVAILABLE)

    def _refuse(self, connection: Connection, reason: Reason) -> None:
        self._state.refuse(connection, reason, self._retry_after())

    def _retry_after(self) -> int:
        """Whole seconds until there could be a worker for one caller more than wait now."""
        if self._staffing.hopeless:
            return LONGEST_RETRY
        state = self._state
        until = self._staffing.backoff.until or state.now
        lanes = state.settings.warmups * max(1, len(state.ledger.places))
        refill = self._staffing.refill_time * math.ceil((len(state.waiting) + 1) / lanes)
        return max(1, min(LONGEST_RETRY, math.ceil(max(0.0, until - state.now) + refill)))


def _cause_of_death(worker: Worker, event: ProcessExited | SpawnFailed) -> str:
    if isinstance(event, SpawnFailed):
        return "spawn_failed"
    if worker.reason is not None:
        return worker.reason.value
    return "ended" if worker.state is WorkerState.RETIRING else "crashed"
