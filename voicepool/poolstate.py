"""The pool's state, and the only code that changes the state of a worker or a connection.

`PoolState` applies the tables of `pooltables.py` and keeps whatever follows from a state in step
with it: indexes, reservations, deadlines, the log of transitions. It decides nothing; `pool.py`
and `staffing.py` do, by giving commands.
"""

from __future__ import annotations

import enum
import math
from collections import Counter, OrderedDict
from dataclasses import dataclass

from voicepool.budget import Ledger
from voicepool.deadlines import Deadlines
from voicepool.errors import IllegalEvent
from voicepool.poolspec import (
    LIMITS,
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
from voicepool.pooltables import CONNECTION_TABLE, DEADLINES, WORKER_TABLE
from voicepool.poolview import Transition
from voicepool.roster import LEAVING, Roster, Worker

WorkerEvent = (
    WorkerHello
    | WorkerReady
    | SessionAccepted
    | SessionEnded
    | Heartbeat
    | ProcessExited
    | SpawnFailed
)

_BLAMELESS = frozenset(
    {Reason.DRAINING, Reason.RELOAD, Reason.BUDGET, Reason.SURPLUS, Reason.WORKER_AGE}
)
"""Reasons to stop a worker that say nothing against it."""

_ENDED = frozenset({ConnectionState.DONE, ConnectionState.REFUSED, ConnectionState.GONE})


class Timer(enum.Enum):
    """What a deadline is about; the number beside it is a worker's, a connection's or 0."""

    STATE = enum.auto()
    """A worker's state has lasted too long."""
    CALL = enum.auto()
    """A worker's call has lasted too long."""
    SETTLE = enum.auto()
    """A worker has been idle for long enough to be trusted."""
    AGE = enum.auto()
    """A worker has been idle for so long that it is to be replaced."""
    CALLER = enum.auto()
    """A caller has waited too long."""
    DRAIN = enum.auto()
    """The calls in progress have had their time to end."""
    BACKOFF = enum.auto()
    """Spawning may be tried again."""


@dataclass(slots=True, eq=False)
class Connection:
    """One caller, from arrival to the one outcome."""

    number: int
    deadline: float
    """Until when it may wait; being offered and coming back does not change it."""
    state: ConnectionState = ConnectionState.WAITING


class PoolState:
    """What is the case now, and what the current step has changed."""

    def __init__(self, settings: PoolSettings) -> None:
        self.settings = settings
        self.now = -math.inf
        self.ledger = Ledger(settings.budget)
        self.roster = Roster()
        self.deadlines: Deadlines[tuple[Timer, int]] = Deadlines()
        self.connections: dict[int, Connection] = {}
        """Those that have not ended; WAITING, OFFERED or ACCEPTED."""
        self.waiting: OrderedDict[int, Connection] = OrderedDict()
        """The WAITING ones, in the order in which they are to be served."""
        self.draining = False
        self.counts: Counter[str] = Counter()
        """The plain numbers of poolview.Totals."""
        self.refused: Counter[Reason] = Counter()
        self.limits: Counter[str] = Counter({limit.value: 0 for limit in LIMITS})
        self.commands: list[Command] = []
        self.transitions: list[Transition] = []
        self._issued = 0
        self._highest = -1

    def begin(self, now: float) -> None:
        """Start a step."""
        self.now = now
        self.commands = []
        self.transitions = []

    # -- legality

    def check(self, event: Event) -> None:
        """Raise IllegalEvent if the tables have no row for the event. Changes nothing."""
        match event:
            case ConnectionArrived():
                if event.connection in self.connections:
                    raise IllegalEvent(f"{event}: the number is in use")
            case ConnectionLost():
                if not 0 <= event.connection <= self._highest:
                    raise IllegalEvent(f"{event}: no such connection has arrived")
                self._check_connection(event, event.connection)
            case BudgetChanged() | ReloadRequested() | DrainRequested() | Tick():
                pass
            case _:
                self._check_worker(event)

    def _check_worker(self, event: WorkerEvent) -> None:
        if not 1 <= event.worker <= self._issued:
            raise IllegalEvent(f"{event}: no such worker was ever spawned")
        worker = self.roster.get(event.worker)
        state = WorkerState.EXITED if worker is None else worker.state
        if (state, type(event)) not in WORKER_TABLE:
            raise IllegalEvent(f"{event}: the worker is {state.value}")
        if worker is None:
            return
        if isinstance(event, SpawnFailed) and worker.connection is not None:
            raise IllegalEvent(f"{event}: the worker was given a connection")
        if isinstance(event, SessionAccepted | SessionEnded):
            if worker.connection is None:
                raise IllegalEvent(f"{event}: the worker was given no connection")
            self._check_connection(event, worker.connection)

    def _check_connection(
        self, event: ConnectionLost | SessionAccepted | SessionEnded, number: int
    ) -> None:
        connection = self.connections.get(number)
        # Which end it was is forgotten; the tables make no difference between the three.
        state = ConnectionState.DONE if connection is None else connection.state
        if (state, type(event)) not in CONNECTION_TABLE:
            raise IllegalEvent(f"{event}: the connection is {state.value}")

    # -- commands

    def spawn(self, device: str) -> None:
        self._issued += 1
        command = Spawn(self._issued, device)
        silence = self.settings.heartbeat_timeout
        worker = Worker(self._issued, device, born=self.now, since=self.now, silence=silence)
        self.counts["spawned"] += 1
        self.commands.append(command)
        self.ledger.reserve(worker.number, device)
        self.roster.add(worker)
        self._note(worker.number, None, worker.state, command)
        self.arm(worker)

    def assign(self, worker: Worker, connection: Connection) -> None:
        command = Assign(worker.number, connection.number)
        worker.connection = connection.number
        self.commands.append(command)
        self.move_worker(worker, command)
        self.move_connection(connection, command)

    def stop(self, worker: Worker, reason: Reason) -> None:
        worker.reason = reason
        worker.dismissed = worker.dismissed or reason in _BLAMELESS
        command = Stop(worker.number, reason)
        self.count_limit(reason)
        self.commands.append(command)
        self.move_worker(worker, command)

    def kill(self, worker: Worker, reason: Reason) -> None:
        """Kill the worker, or kill it again, and give it a new deadline."""
        if reason is not Reason.KILL_TIMEOUT:
            worker.reason = reason
        command = Kill(worker.number, reason)
        self.count_limit(reason)
        self.commands.append(command)
        self.move_worker(worker, command)
        self.arm(worker)

    def warn(self, worker: Worker, reason: Reason) -> None:
        """Have it logged, once, that a worker in a call is above a soft limit."""
        if reason not in worker.warned:
            worker.warned.add(reason)
            self.count_limit(reason)
            self.commands.append(Warn(worker.number, reason))

    def count_limit(self, reason: Reason) -> None:
        """Count the limit that `reason` is, if it is one."""
        if reason in LIMITS:
            self.limits[reason.value] += 1

    def refuse(self, connection: Connection, reason: Reason, retry_after: int) -> None:
        command = Refuse(connection.number, reason, retry_after)
        self.refused[reason] += 1
        self.commands.append(command)
        self.move_connection(connection, command)

    # -- states

    def arrive(self, event: ConnectionArrived) -> Connection:
        """Take in a new caller, last in the queue and without a deadline as yet."""
        connection = Connection(event.connection, self.now + self.settings.queue_timeout)
        self._highest = max(self._highest, connection.number)
        self.counts["arrived"] += 1
        self.connections[connection.number] = connection
        self.waiting[connection.number] = connection
        self._note(connection.number, None, connection.state, event)
        return connection

    def hold(self, connection: Connection) -> None:
        """Let a WAITING connection wait until its deadline."""
        self.deadlines.set((Timer.CALLER, connection.number), connection.deadline)

    def arm(self, worker: Worker) -> None:
        """Give the worker's state its full time, from now."""
        name = DEADLINES[worker.state][0]
        timeout: float = getattr(self.settings, name)
        if name == "heartbeat_timeout":
            # A reload may have shortened it, and the interval, of which this one knows nothing.
            timeout = max(timeout, worker.silence)
        self.deadlines.set((Timer.STATE, worker.number), self.now + timeout)

    def move_worker(self, worker: Worker, cause: Event | Command) -> None:
        """Take the worker where the table says, with all that follows from it."""
        before, after = worker.state, WORKER_TABLE[worker.state, type(cause)]
        if after is before:
            return
        self.roster.move(worker, after)
        worker.since = self.now
        self._note(worker.number, before, after, cause)
        self._retime(worker, before)
        if after is WorkerState.EXITED:
            self.ledger.release(worker.number)
        elif after in LEAVING and before not in LEAVING:
            self.ledger.leave(worker.number)

    def _retime(self, worker: Worker, before: WorkerState) -> None:
        """Replace the deadlines of the state `before` by those of the present one."""
        if before is WorkerState.IDLE:
            self.deadlines.clear((Timer.SETTLE, worker.number))
            self.deadlines.clear((Timer.AGE, worker.number))
        elif before is WorkerState.SERVING:
            self.deadlines.clear((Timer.CALL, worker.number))
        if worker.state is WorkerState.EXITED:
            self.deadlines.clear((Timer.STATE, worker.number))
            return
        self.arm(worker)
        if worker.state is WorkerState.IDLE:
            self.deadlines.set((Timer.SETTLE, worker.number), self.now + self.settings.settle)
        elif worker.state is WorkerState.SERVING and self.settings.call_limit is not None:
            limit = self.now + self.settings.call_limit
            self.deadlines.set((Timer.CALL, worker.number), limit)

    def move_connection(self, connection: Connection, cause: Event | Command) -> None:
        """Take the connection where the table says. One that comes back is first in the queue."""
        before, after = connection.state, CONNECTION_TABLE[connection.state, type(cause)]
        connection.state = after
        self._note(connection.number, before, after, cause)
        if before is ConnectionState.WAITING:
            del self.waiting[connection.number]
            self.deadlines.clear((Timer.CALLER, connection.number))
        if after is ConnectionState.WAITING:
            self.waiting[connection.number] = connection
            self.waiting.move_to_end(connection.number, last=False)
        elif after in _ENDED:
            del self.connections[connection.number]

    def _note(
        self,
        number: int,
        before: WorkerState | ConnectionState | None,
        after: WorkerState | ConnectionState,
        cause: Event | Command,
    ) -> None:
        given = cause.reason.value if isinstance(cause, Stop | Kill | Refuse) else None
        name = given or type(cause).__name__
        self.transitions.append(Transition(number, before, after, name))
