"""What the pool knows and says: states, settings, events and commands. `pooltables.py` has
how they go together.

The rules, in the order in which they matter:

- A worker serves at most one connection in its life and then exits. It holds its reservation in
  the budget until it has EXITED, and only ProcessExited (or SpawnFailed, where there never was a
  process) says so.
- A worker's state changes in two ways: by an event about that worker, or by a command that the
  pool issues about it. WORKER_TABLE has both; a pair it lacks is illegal. The same holds for
  connections and CONNECTION_TABLE. Both tables are functions: state and cause give the next state.
- An event is checked against the tables before anything happens. An illegal one raises
  IllegalEvent and nothing has changed.
- What has ended is forgotten, or a server that runs for months would fill up. A worker's number
  that was issued once and is unknown now means EXITED, and a connection's number not above the
  highest that has arrived means that the connection has ended. So news that crosses with the end
  (a heartbeat, a hang-up) is legal and changes nothing; but an acknowledgement from the dead is
  not, because its connection may have been offered to somebody else meanwhile. The shell reads a
  dead worker's control socket to the end before it reports ProcessExited.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from voicepool.budgetspec import BudgetSettings, Reading
from voicepool.errors import ConfigError


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
    """Why a caller was refused or a worker stopped or killed. Shown to people and in metrics."""

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
    WORKER_AGE = "worker_age"
    CALL_LIMIT = "call_limit"
    IDLE_LIMIT = "idle_limit"
    MESSAGE_SIZE = "message_size"
    SOFT_LIMIT = "soft_limit"
    HARD_LIMIT = "hard_limit"
    VRAM_SOFT_LIMIT = "vram_soft_limit"
    VRAM_HARD_LIMIT = "vram_hard_limit"
    HELLO_TIMEOUT = "hello_timeout"
    WARM_UP_TIMEOUT = "warm_up_timeout"
    ACK_TIMEOUT = "ack_timeout"
    HEARTBEAT_TIMEOUT = "heartbeat_timeout"
    STOP_TIMEOUT = "stop_timeout"
    KILL_TIMEOUT = "kill_timeout"


LIMITS = (
    Reason.CALL_LIMIT,
    Reason.IDLE_LIMIT,
    Reason.MESSAGE_SIZE,
    Reason.WORKER_AGE,
    Reason.SOFT_LIMIT,
    Reason.HARD_LIMIT,
    Reason.VRAM_SOFT_LIMIT,
    Reason.VRAM_HARD_LIMIT,
)
"""What a call or a worker can have too much of. Each time is counted."""

LIMITS_OF_A_CALL = (Reason.IDLE_LIMIT, Reason.MESSAGE_SIZE)
"""Those of them that a worker finds out, and tells with SessionEnded."""


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
    worker_age: float | None = None
    """How long a worker may be idle, more or less: see `staffing.AGE_JITTER`."""
    backoff_base: float = 0.5
    backoff_cap: float = 60.0
    settle: float = 5.0
    """An idle worker this old, or one that took a caller, ends a run of failures."""
    refill_guess: float = 5.0
    """What Retry-After takes the time from Spawn to ready for, until it has been measured."""
    budget: BudgetSettings = field(default_factory=BudgetSettings)

    def __post_init__(self) -> None:
        if not 1 <= self.workers <= self.max_connections:
            raise ConfigError(
                f"workers must be from 1 to max_connections, but workers = {self.workers}"
                f" and max_connections = {self.max_connections}"
            )
        for name in ("spare", "max_waiting", "queue_timeout", "drain_timeout"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, but is {getattr(self, name)}")
        # A deadline must lie ahead, else the same Tick would meet it again and again.
        for name in _POSITIVE:
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be above 0, but is {getattr(self, name)}")
        for name in ("call_limit", "worker_age"):
            limit = getattr(self, name)
            if limit is not None and limit <= 0:
                raise ConfigError(f"{name} must be above 0, but is {limit}")


_POSITIVE = (
    "warmups",
    "hello_timeout",
    "warm_up_timeout",
    "ack_timeout",
    "heartbeat_timeout",
    "stop_timeout",
    "kill_timeout",
    "backoff_base",
    "backoff_cap",
    "settle",
    "refill_guess",
)


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
    """Loaded, warmed up by real inference and rehearsed.

    `private`: measured host bytes that its death would give back. Its VRAM, which others see
    better than itself, comes with BudgetChanged.
    """

    worker: int
    private: int


@dataclass(frozen=True, slots=True)
class SessionAccepted:
    """The acknowledgement: the worker owns the caller's socket and has read nothing yet. Also sent
    when it is found while draining a dead or KILLING worker's control socket."""

    worker: int


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """The worker's call is over and it is about to exit."""

    worker: int
    private: int
    limit: Reason | None = None
    """The one of LIMITS_OF_A_CALL that ended it, if any did."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    worker: int
    private: int


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
    """A probe's fresh readings (None: the device is there, or was, and cannot be read), and what
    the zygote itself takes of the host.

    `vram`: what workers on GPUs were seen to use at that moment; None where nobody can tell.
    `guessed`: it is inferred from the devices as a whole, which is good enough to place the next
    worker by and never enough to end one for its size.
    """

    readings: Mapping[str, Reading | None]
    zygote: int = 0
    vram: Mapping[int, int | None] = field(default_factory=dict)
    guessed: bool = False


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
    """SIGKILL by pidfd. Where `reason` is a missed deadline the stacks are dumped first; where it
    is memory a worker in a call is asked first, for a moment, to tell its caller."""

    worker: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class Warn:
    """Log that the worker, which has a caller, is above this soft limit. It goes when the call is
    over, as it would anyway."""

    worker: int
    reason: Reason


Command = Spawn | Assign | Refuse | Stop | Kill | Warn
