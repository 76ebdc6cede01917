"""Samples, what they come to, and how that is shown. Pure."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from rich import box
from rich.table import Table

from voicepool.bench.samples import percentile

SCHEMA: Final = 1
"""Version of the JSON that `document` makes."""
ROUNDS: Final = 5
"""Parts that a run is cut into, in order of time, to show how steady its ratios are."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Samples in a few numbers."""

    n: int
    p50: float
    p99: float
    mean: float


@dataclass(frozen=True, slots=True)
class Target:
    """A figure's upper bounds: one statistic of `ours`, or of `ratio` where there is a reference.

    `stretch` is what would be good, `must` what is promised.
    """

    statistic: str
    must: float
    stretch: float | None = None


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table."""

    row: str
    case: str
    unit: str
    ours: Summary
    reference: Summary | None = None
    against: str = ""
    """What the reference is."""
    ratio: Mapping[str, float] = field(default_factory=dict)
    """ours / reference, by statistic."""
    spread: tuple[float, float] | None = None
    """The smallest and largest ratio of medians among the ROUNDS parts of the run."""
    targets: tuple[Target, ...] = ()

    def value(self, target: Target) -> float:
        """What `target` bounds."""
        if self.reference is not None:
            return self.ratio[target.statistic]
        return float(getattr(self.ours, target.statistic))

    @property
    def met(self) -> bool | None:
        """Whether every must is met; None where nothing is promised."""
        if not self.targets:
            return None
        return all(self.value(target) <= target.must for target in self.targets)


def summarize(samples: Sequence[float]) -> Summary:
    """Raises ValueError when there are no samples."""
    return Summary(
        n=len(samples),
        p50=percentile(samples, 0.5),
        p99=percentile(samples, 0.99),
        mean=statistics.fmean(samples),
    )


def absolute(row: str, case: str, unit: str, samples: Sequence[float], *targets: Target) -> Figure:
    """A figure that stands for itself."""
    return Figure(row, case, unit, summarize(samples), targets=targets)


def compare(
    row: str,
    case: str,
    unit: str,
    ours: Sequence[float],
    reference: Sequence[float],
    against: str,
    *targets: Target,
) -> Figure:
    """A figure beside its reference; both in the order in which they were sampled, alternately."""
    mine, other = summarize(ours), summarize(reference)
    return Figure(
        row,
        case,
        unit,
        mine,
        other,
        against,
        ratio={name: getattr(mine, name) / getattr(other, name) for name in ("p50", "p99", "mean")},
        spread=_spread(ours, reference),
        targets=targets,
    )


def _spread(ours: Sequence[float], reference: Sequence[float]) -> tuple[float, float] | None:
    if min(len(ours), len(reference)) < 2 * ROUNDS:
        return None
    pairs = zip(_parts(ours), _parts(reference), strict=True)
    ratios = [percentile(mine, 0.5) / percentile(other, 0.5) for mine, other in pairs]
    return min(ratios), max(ratios)


def _parts(samples: Sequence[float]) -> list[Sequence[float]]:
    edges = [len(samples) * i // ROUNDS for i in range(ROUNDS + 1)]
    return [samples[a:b] for a, b in itertools.pairwise(edges)]


def document(figures: Sequence[Figure], conditions: Mapping[str, Any]) -> dict[str, Any]:
    """The run as JSON-ready types; tests/test_benchmarks.py states its form."""
    lines = [{**asdict(figure), "met": figure.met} for figure in figures]
    return {"schema": SCHEMA, "conditions": dict(conditions), "figures": lines}


def table(figures: Sequence[Figure], *, markdown: bool = False) -> Table:
    """The run for people."""
    shown = Table(box=box.MARKDOWN if markdown else None, pad_edge=markdown)
    shown.add_column("row")
    shown.add_column("case")
    for name in ("p50", "p99", "against", "ref p50", "ref p99", "ratio p50", "ratio p99", "spread"):
        shown.add_column(name, justify="left" if name == "against" else "right")
    shown.add_column("must")
    for figure in figures:
        shown.add_row(*_cells(figure))
    return shown


def _cells(figure: Figure) -> list[str]:
    def amount(value: float) -> str:
        return f"{value:.3g} {figure.unit}"

    reference, ratio = figure.reference, figure.ratio
    cells = [figure.row, figure.case, amount(figure.ours.p50), amount(figure.ours.p99)]
    if reference is None:
        cells += [""] * 6
    else:
        cells += [figure.against, amount(reference.p50), amount(reference.p99)]
        cells += [f"{ratio['p50']:.2f}", f"{ratio['p99']:.2f}"]
        cells.append(f"{figure.spread[0]:.2f}-{figure.spread[1]:.2f}" if figure.spread else "")
    return [*cells, _verdict(figure)]


def _verdict(figure: Figure) -> str:
    if figure.met is None:
        return ""
    bounds = ", ".join(f"{target.statistic} <= {target.must:g}" for target in figure.targets)
    return f"{bounds}: {'met' if figure.met else 'MISSED'}"
