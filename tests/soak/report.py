"""The report of a soak, as Markdown. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.soak import growth
from tests.soak.account import Ended, Outcome
from tests.soak.growth import MIB, Footprint
from tests.soak.logbook import Logbook
from tests.soak.plan import Disturbance, Part
from tests.soak.site import Samples
from voicepool.bench.samples import percentile


@dataclass(slots=True)
class Result:
    """All that a soak has found."""

    seed: int
    seconds: float = 0.0
    started: int = 0
    ended: list[Ended] = field(default_factory=list)
    status: Mapping[str, Any] = field(default_factory=dict)
    """The server's last."""
    shot_in_call: int = 0
    disturbances: Counter[Disturbance] = field(default_factory=Counter)
    interrupted: Counter[str] = field(default_factory=Counter)
    connects: Samples = field(default_factory=Samples)
    waits: Samples = field(default_factory=Samples)
    prints: list[Footprint] = field(default_factory=list)
    log: Logbook = field(default_factory=Logbook)
    disk: str = ""
    conditions: Mapping[str, object] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.faults


def markdown(result: Result) -> str:
    """The whole report."""
    return "\n".join(
        [
            *_head(result),
            "",
            *_calls(result),
            "",
            *_books(result),
            "",
            *_disturbances(result),
            "",
            *_latency(result),
            "",
            *_growth(result.prints),
            "",
            *_log(result),
            "",
        ]
    )


def _head(result: Result) -> Iterator[str]:
    verdict = "PASS" if result.passed else "FAIL"
    conditions = ", ".join(f"{name} {value}" for name, value in result.conditions.items())
    yield (
        f"**{verdict}**: {result.seconds / 60:.1f} min, seed {result.seed}, "
        f"{result.started} calls, {result.disturbances.total()} disturbances. "
        f"When it began: {conditions}."
    )
    if result.faults:
        yield ""
        yield from (f"- {fault}" for fault in result.faults)


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|---" + "|---:" * (len(head) - 1) + "|"
    for row in rows:
        yield "| " + " | ".join(str(cell) for cell in row) + " |"


def _calls(result: Result) -> Iterator[str]:
    counted = Counter((call.part, call.outcome) for call in result.ended)
    shown = [kind for kind in Outcome if any(counted[part, kind] for part in Part)]
    rows: list[list[object]] = []
    for part in Part:
        by = [counted[part, kind] for kind in shown]
        rows.append([part, *(count or "" for count in by), sum(by)])
    rows.append(["all", *(sum(counted[part, kind] for part in Part) for kind in shown)])
    rows[-1].append(len(result.ended))
    yield from _table(["a caller who", *shown, "calls"], rows)


def _books(result: Result) -> Iterator[str]:
    totals = result.status.get("totals")
    if totals is None:
        return
    refused = ", ".join(f"{count} {reason}" for reason, count in totals["refused"].items())
    yield (
        f"The server: {totals['arrived']} arrived = {totals['accepted']} accepted + "
        f"{sum(totals['refused'].values())} refused ({refused}) + {totals['gone']} gone; "
        f"accepted = {totals['completed']} completed + {totals['lost']} lost + "
        f"{result.status['pool']['callers']} in progress as it drained. "
        f"{totals['retried']} callers went to another worker because "
        "theirs died before it took them. "
        f"{result.shot_in_call} workers were shot in a call; workers ended as follows: "
        + ", ".join(f"{count} {cause}" for cause, count in sorted(totals["exits"].items()))
        + "."
    )
    spoken = ", ".join(f"{count} {how}" for how, count in sorted(result.interrupted.items()))
    yield f"Replies into which somebody spoke: {spoken or 'none'}."


def _disturbances(result: Result) -> Iterator[str]:
    rows = [[kind, result.disturbances[kind]] for kind in Disturbance]
    yield from _table(["disturbance", "times"], rows)


def _latency(result: Result) -> Iterator[str]:
    rows = []
    for name, samples in (
        ("connect → first event", result.connects),
        ("voice to voice", result.waits),
    ):
        for when, values in (("undisturbed", samples.calm), ("disturbed", samples.disturbed)):
            figures = [f"{percentile(values, p):.3f}" if values else "" for p in (0.5, 0.99)]
            rows.append([f"{name}, {when}", len(values), *figures])
    yield from _table(["seconds", "n", "p50", "p99"], rows)


def _growth(prints: Sequence[Footprint]) -> Iterator[str]:
    if not prints:
        return
    rows: list[list[object]] = []
    for p in prints:
        held = p.holdings.values()
        cells = [f"{h.fds} / {h.threads} / {h.pss / MIB:.1f}" for h in held]
        rows.append([f"{p.at:.0f} s", p.calls, p.processes, p.files, *cells])
    yield from _table(["quiet at", "calls", "processes", "files", *prints[0].holdings], rows)
    yield ""
    yield "Cells of processes: descriptors / threads / PSS in MiB; of idle workers the mean."
    if len(prints) > 1:
        yield ""
        rows = [
            [
                grown.role,
                f"{grown.first / MIB:.1f}",
                f"{grown.last / MIB:.1f}",
                f"{grown.fitted / MIB:+.2f}",
                f"{grown.bound / MIB:.0f}",
            ]
            for grown in growth.memory(prints)
        ]
        yield from _table(["PSS, MiB", "first", "last", "fitted growth", "bound"], rows)


def _log(result: Result) -> Iterator[str]:
    book = result.log
    yield f"The log went to {result.disk}: {book.lines} lines, {book.dropped} counted as dropped."
    told = ", ".join(f"{count} times {event}" for event, count in sorted(book.events.items()))
    yield f"Warnings and errors: {told or 'none'}."
