"""What the pool shows: the transitions of one step, for the log, and a snapshot, for `/status`.

Times are on the clock that the shell gives to `Pool.handle`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from voicepool.budgetspec import Cost, DeviceView, Shortfall
from voicepool.poolspec import ConnectionState, Reason, WorkerState


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of state, for the log. `before` is None for what is new."""

    number: int
    before: WorkerState | ConnectionState | None
    after: WorkerState | ConnectionState
    cause: str
    """A Reason where one was given, else the name of the event or command."""


@dataclass(frozen=True, slots=True)
class WorkerView:
    """One live worker."""

    number: int
    state: WorkerState
    device: str
    born: float
    since: float
    """When it entered its state."""
    deadline: float
    """When the pool will lose patience with that state."""
    private: int | None
    """Host bytes that its death would give back, None before it was measured."""
    vram: int | None
    """What it uses on its GPU; None without one, and where nobody knows."""
    connection: int | None
    """The connection that it has or had."""
    stale: bool
    """Forked before the last reload."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts since start."""

    arrived: int = 0
    accepted: int = 0
    completed: int = 0
    """Calls that ended with SessionEnded."""
    lost: int = 0
    """Calls whose worker exited without a word."""
    gone: int = 0
    """Callers who hung up before anybody served them."""
    retried: int = 0
    """Connections that went back to the queue because their worker died before it took them."""
    refused: Mapping[Reason, int] = field(default_factory=dict)
    spawned: int = 0
    ready: int = 0
    failures: int = 0
    """Workers lost before they took a caller, by no decision of the pool."""
    exits: Mapping[str, int] = field(default_factory=dict)
    """By cause: a Reason, "ended" (its call was over), "crashed" or "spawn_failed"."""
    limits: Mapping[str, int] = field(default_factory=dict)
    """How often each of `poolspec.LIMITS` was reached, by the Reason's value."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that `/status` and the metrics tell about the pool."""

    workers: tuple[WorkerView, ...]
    states: Mapping[WorkerState, int]
    callers: int
    """ASSIGNED and SERVING workers."""
    max_connections: int
    waiting: int
    max_waiting: int
    target: int
    """How many idle workers there should be now."""
    bound_by: str
    """What keeps the target from being higher: "workers", "max_connections" or "budget:DEVICE"."""
    ready: bool
    draining: bool
    halted: bool
    """A permanent error: nothing is spawned until a reload."""
    last_error: str
    """Why the last worker failed, "" while all is well."""
    failures: int
    """Rounds of spawning that failed in a row."""
    backoff_until: float | None
    """Nothing is spawned before then."""
    estimate: Cost
    """What the next worker is expected to take."""
    proven: bool
    """Whether that was measured, all of it."""
    unweighed: bool
    """A warm worker's VRAM is about to be looked at for the first time."""
    devices: tuple[DeviceView, ...]
    room: int
    """How many more workers fit, counted up to all that may live at once."""
    binding: str
    """The device that fills up first."""
    shortfall: Shortfall | None
    """Why no worker will ever fit."""
    refill_time: float
    """Seconds from Spawn to ready: a moving average."""
    totals: Totals
