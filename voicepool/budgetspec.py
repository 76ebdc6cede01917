"""What the budget knows: amounts, limits, readings, and what is said of a device. Bytes."""

from __future__ import annotations

from dataclasses import dataclass

HOST = "host"


@dataclass(frozen=True, slots=True)
class Cost:
    """What one worker takes, in bytes. As a reserve: what is kept free of the host and each GPU."""

    host: int = 0
    device: int = 0
    """On the worker's GPU; 0 where its place is "host"."""

    def on(self, device: str) -> int:
        return self.host if device == HOST else self.device


@dataclass(frozen=True, slots=True)
class Limits:
    """A most for the host and for each GPU, in bytes; None: no limit."""

    host: int | None = None
    device: int | None = None

    def on(self, device: str) -> int | None:
        return self.host if device == HOST else self.device


@dataclass(frozen=True, slots=True)
class Reading:
    """What a probe saw on one device, in bytes. `used` counts everyone, our workers included."""

    total: int
    used: int


@dataclass(frozen=True, slots=True)
class BudgetSettings:
    """How much of each device voicepool may take."""

    estimate: Cost = Cost(host=256 << 20)
    """A worker's cost until the pilot has been measured."""
    reserve: Cost = Cost()
    """Never given out."""
    caps: Limits = Limits()
    """The most that all workers, on the host with the zygote, may take together."""
    soft_limit: Limits = Limits()
    """Above it a worker retires when idle or at its session's end."""
    hard_limit: Limits = Limits()
    """Above it a worker is killed."""


@dataclass(frozen=True, slots=True)
class DeviceView:
    """One device's account, for people. Bytes."""

    device: str
    total: int
    others: int
    """Used by others, as of the last reading."""
    zygote: int
    reserved: int
    """By our workers: what they were measured to use, or are expected to."""
    reserve: int
    """Kept free."""
    cap: int | None
    per_worker: int
    """What the next worker is expected to take here."""
    workers: int
    """Those who hold a reservation here."""
    fits: int
    """How many more workers this device alone would take."""
    missing: bool
    """It cannot be read any more, so nobody is placed on it."""


@dataclass(frozen=True, slots=True)
class Shortfall:
    """No worker will ever fit on this device, whoever else goes. Bytes."""

    device: str
    needs: int
    """What a worker takes there."""
    most: int
    """What there could be for it."""
    total: int
    measured: bool
    """Whether `needs` was measured; else it is what was configured."""
    cap: int | None
    reserve: int
