"""The pool: one pure state machine that decides everything about workers and callers.

`Pool.handle(event, now)` returns the commands that the shell (`supervisor.py`) carries out. It
never awaits, logs, sleeps or reads a clock.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from voicepool.budget import BudgetSettings, Cost, Reading


class WorkerState(enum.Enum):
    STARTING = "starting"
    WARMING = "warming"
    IDLE = "idle"
    ASSIGNED = "assigned"
    SERVING = "serving"
    RETIRING = "retiring"
    KILLING = "killing"
    EXITED = "exited"


class ConnectionState(enum.Enum):
    WAITING = "waiting"
    OFFERED = "offered"
    ACCEPTED = "accepted"
    DONE = "done"
    REFUSED = "refused"
    GONE = "gone"


class Reason(enum.StrEnum):
    """Why a caller was refused or a worker was stopped or killed. Shown to people and in metrics."""

    # a caller is refused
    FULL = "full"
    """The waiting room is full."""
    TIMEOUT = "timeout"
    """No worker came free within queue_timeout."""
    UNAVAILABLE = "unavailable"
    """No worker is alive and none will start until the configuration is mended."""
    DRAINING = "draining"
    """(also: a worker stops because the server is going down)"""
    # a worker is stopped or killed
    RELOAD = "reload"
    BUDGET = "budget"
    SURPLUS = "surplus"
    CALL_LIMIT = "call_limit"
    SOFT_LIMIT = "soft_limit"
    HARD_LIMIT = "hard_limit"
    HELLO_TIMEOUT = "hello_timeout"
    WARM_UP_TIMEOUT = "warm_up_timeout"
    ACK_TIMEOUT = "ack_timeout"
    HEARTBEAT_TIMEOUT = "heartbeat_timeout"
    STOP_TIMEOUT = "stop_timeout"
    KILL_TIMEOUT = "kill_timeout"


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """All times are seconds."""

    workers: int
    """Warm target N: idle workers to keep while nobody calls."""
    max_connections: int
    """M: callers at once. N <= M."""
    spare: int = 0
    """S: processes beyond M, so that refill can start at acquisition even when N = M."""
    max_waiting: int = 64
    queue_timeout: float = 8.0
    warmups: int = 1
    """Workers that may be STARTING or WARMING at once, per device."""
    hello_timeout: float = 30.0
    warm_up_timeout: float = 300.0
    ack_timeout: float = 3.0
    heartbeat_timeout: float = 20.0
    stop_timeout: float = 5.0
    kill_timeout: float = 5.0
    drain_timeout: float = 30.0
    call_limit: float | None = 3600.0
    backoff_base: float = 0.5
    backoff_cap: float = 60.0
    settle: float = 5.0
    """An idle worker this old, or one that took a caller, ends a run of failures."""
    budget: BudgetSettings = BudgetSettings()


# --- events: what the shell tells the pool ---------------------------------------------------


@dataclass(frozen=True, slots=True)
class ConnectionArrived:
    """A routed, authenticated WebSocket request wants a worker. `connection` is new."""

    connection: int


@dataclass(frozen=True, slots=True)
class ConnectionLost:
    """The caller hung up while WAITING; or, while OFFERED to a worker that will not take it, the
    re-peek found the connection unfit to offer again (sent before that worker's ProcessExited)."""

    connection: int


@dataclass(frozen=True, slots=True)
class WorkerHello:
    """The forked worker's first message."""

    worker: int


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """Loaded, warmed up by real inference and rehearsed; `footprint` is measured."""

    worker: int
    footprint: Cost


@dataclass(frozen=True, slots=True)
class SessionAccepted:
    """The acknowledgement: the worker owns the caller's socket and has read nothing yet. Also sent
    when it is found while draining a dead or KILLING worker's control socket."""

    worker: int


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """The worker's call is over and it is about to exit."""

    worker: int
    footprint: Cost


@dataclass(frozen=True, slots=True)
class Heartbeat:
    worker: int
    footprint: Cost


@dataclass(frozen=True, slots=True)
class ProcessExited:
    """The worker's pidfd is readable and its control socket has been read to EOF.

    Legal from every state: processes die when they like. `error` says why it never got ready,
    where it could say so; `permanent` means that only a new configuration can help.
    """

    worker: int
    error: str = ""
    permanent: bool = False


@dataclass(frozen=True, slots=True)
class SpawnFailed:
    """The fork did not happen: there is no process."""

    worker: int
    error: str
    permanent: bool = False


@dataclass(frozen=True, slots=True)
class BudgetChanged:
    """A probe's fresh readings, and what the zygote itself takes."""

    readings: Mapping[str, Reading]
    zygote: Cost = Cost()


@dataclass(frozen=True, slots=True)
class ReloadRequested:
    """New settings (None: unchanged) and new code: every worker forked before is stale."""

    settings: PoolSettings | None = None


@dataclass(frozen=True, slots=True)
class DrainRequested:
    """Serve nobody new; a second one ends the calls in progress too."""


@dataclass(frozen=True, slots=True)
class Tick:
    """`next_deadline` has come."""


Event = (
    ConnectionArrived
    | ConnectionLost
    | WorkerHello
    | WorkerReady
    | SessionAccepted
    | SessionEnded
    | Heartbeat
    | ProcessExited
    | SpawnFailed
    | BudgetChanged
    | ReloadRequested
    | DrainRequested
    | Tick
)


# --- commands: what the pool tells the shell -------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spawn:
    """Fork a worker with this new number on `device`; its budget is reserved."""

    worker: int
    device: str


@dataclass(frozen=True, slots=True)
class Assign:
    """Pass the connection's socket to the worker; keep a copy until SessionAccepted."""

    worker: int
    connection: int


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer 503 with Retry-After and forget the connection."""

    connection: int
    reason: Reason
    retry_after: int
    """Whole seconds, at least 1."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Ask the worker to end its call, if it has one, and exit."""

    worker: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL by pidfd, stacks dumped first where `reason` is a missed deadline."""

    worker: int
    reason: Reason


Command = Spawn | Assign | Refuse | Stop | Kill
