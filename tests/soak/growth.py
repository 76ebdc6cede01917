"""What the server's processes hold in quiet moments, and whether it grows. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

MIB: Final = 1 << 20
MEMORY_BOUND: Final = {
    "supervisor": 6 * MIB,
    "zygote": 12 * MIB,
    "worker": 8 * MIB,
    "relay": 6 * MIB,
}
"""The most that a role may grow, by the fitted slope over the whole run and from the first quiet
moment to the last. A leak of 1 KiB a call is above the first after some 6000 calls."""


@dataclass(frozen=True, slots=True)
class Holding:
    """What one process holds, or the mean of several."""

    fds: int
    threads: int
    pss: int
    """Bytes, shared memory in parts."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """A server in a quiet moment: nobody calls, and the pool is at its target."""

    at: float
    """Seconds since the soak began."""
    calls: int
    """Started until then."""
    processes: int
    files: int
    """In the runtime directory."""
    holdings: Mapping[str, Holding]
    """By role: supervisor, zygote, worker, and under TLS relay."""

    @property
    def counts(self) -> dict[str, int]:
        """What must be the same in every quiet moment."""
        fds = {f"{role}'s descriptors": held.fds for role, held in self.holdings.items()}
        return {"processes": self.processes, "files": self.files, **fds}


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Of the line with the least squares through the points; 0 where there is none."""
    n = len(points)
    mean_x, mean_y = sum(x for x, _ in points) / n, sum(y for _, y in points) / n
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


@dataclass(frozen=True, slots=True)
class Growth:
    """A role's memory over the run, in bytes."""

    role: str
    first: int
    last: int
    fitted: float
    """By the slope, over the run."""
    bound: int

    @property
    def ok(self) -> bool:
        return self.fitted <= self.bound and self.last - self.first <= self.bound


def memory(prints: Sequence[Footprint]) -> list[Growth]:
    span = prints[-1].at - prints[0].at
    return [
        Growth(
            role,
            prints[0].holdings[role].pss,
            prints[-1].holdings[role].pss,
            span * slope([(p.at, float(p.holdings[role].pss)) for p in prints]),
            bound,
        )
        for role, bound in MEMORY_BOUND.items()
        if role in prints[0].holdings
    ]


def judge(prints: Sequence[Footprint]) -> list[str]:
    """What has grown."""
    return [*_counts(prints), *_memory(prints)]


def _counts(prints: Sequence[Footprint]) -> Iterator[str]:
    for name, before in prints[0].counts.items():
        for later in prints[1:]:
            if later.counts[name] != before:
                yield f"{name}: {before} at first, {later.counts[name]} after {later.at:.0f} s"
                break


def _memory(prints: Sequence[Footprint]) -> Iterator[str]:
    for growth in memory(prints):
        if not growth.ok:
            yield (
                f"{growth.role}: {growth.first / MIB:.1f} MiB at first, {growth.last / MIB:.1f} at "
                f"last, a fitted growth of {growth.fitted / MIB:.1f}; the bound is "
                f"{growth.bound / MIB:.0f}"
            )
