"""The memory ledger: what every device has, who uses it, and where the next worker fits.

Pure: no probes, no clock. Amounts are bytes. A device is "host" (RAM, the smaller of the machine's
and the cgroup's) or a GPU such as "cuda:0". A worker's cost is a vector: private host bytes, and
VRAM on the one GPU that it was placed on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

HOST = "host"


@dataclass(frozen=True, slots=True)
class Cost:
    """What one worker takes, in bytes."""

    host: int = 0
    device: int = 0
    """On the worker's GPU; 0 where its place is "host"."""


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
    reserve: Mapping[str, int] = field(default_factory=dict)
    """Bytes per device that are never given out."""
    caps: Mapping[str, int] = field(default_factory=dict)
    """Most bytes per device that all workers and the zygote together may take."""
    soft_limit: int | None = None
    """Private host bytes above which a worker retires when idle or at its session's end."""
    hard_limit: int | None = None
    """Private host bytes above which a worker is killed."""
