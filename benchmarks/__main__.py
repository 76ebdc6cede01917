"""`python -m benchmarks [ROW...] [--json FILE] [--markdown] [--quick]`: take and show figures."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console

from benchmarks.abuse import abuse
from benchmarks.figures import Figure, document, table
from benchmarks.gaps import gaps_embedded, gaps_models, supervisor
from benchmarks.handoff import bursts, handoff, in_a_row
from benchmarks.memory import memory_embedded, memory_models
from benchmarks.processes import conditions
from benchmarks.refill import refill_embedded, refill_models, refill_tiny
from benchmarks.refusal import refusal
from benchmarks.tls import tls
from benchmarks.turns import turns
from benchmarks.voices import voices_model, voices_phrasebook

Row = Callable[[bool], Iterator[Figure]]
"""Takes the figures of one row; True: quickly, just to see that it works."""

_FEW = (2,)


def _handoff(quick: bool) -> Iterator[Figure]:
    yield from handoff(3, _FEW) if quick else handoff(300)


def _handoff_in_a_row(quick: bool) -> Iterator[Figure]:
    yield from in_a_row(4, _FEW) if quick else in_a_row(400)


def _handoff_refill(quick: bool) -> Iterator[Figure]:
    yield from handoff(3, _FEW, spare=2) if quick else handoff(300, (2, 8), spare=8)


def _burst(quick: bool) -> Iterator[Figure]:
    yield from bursts(2, _FEW) if quick else bursts(15)


def _refusal(quick: bool) -> Iterator[Figure]:
    yield from refusal(5 if quick else 1000)


def _refill(quick: bool) -> Iterator[Figure]:
    yield from refill_tiny(2 if quick else 50)


def _refill_embedded(quick: bool) -> Iterator[Figure]:
    yield from refill_embedded(1 if quick else 15)


def _refill_models(quick: bool) -> Iterator[Figure]:
    yield from refill_models(1 if quick else 10)


def _memory(quick: bool) -> Iterator[Figure]:
    yield from memory_embedded((1,)) if quick else memory_embedded()


def _memory_models(quick: bool) -> Iterator[Figure]:
    yield from memory_models((1,)) if quick else memory_models((1, 4, 8))


def _gaps(quick: bool) -> Iterator[Figure]:
    yield from gaps_embedded(1, 0.3) if quick else gaps_embedded(6, 5.0)


def _gaps_models(quick: bool) -> Iterator[Figure]:
    yield from gaps_models(1, 0.3) if quick else gaps_models(6, 10.0)


def _supervisor(quick: bool) -> Iterator[Figure]:
    yield from supervisor(1, 0.2) if quick else supervisor(10, 4.0)


def _tls(quick: bool) -> Iterator[Figure]:
    yield from tls(3, 1, 0.2) if quick else tls(300, 10, 4.0)


def _turn(quick: bool) -> Iterator[Figure]:
    yield from turns(1 if quick else 15)


def _abuse(quick: bool) -> Iterator[Figure]:
    yield from abuse(1, 0.3, ("flood of pings",)) if quick else abuse(3, 3.0)


def _voice(quick: bool) -> Iterator[Figure]:
    yield from voices_phrasebook(1 if quick else 12)


def _voice_model(quick: bool) -> Iterator[Figure]:
    yield from voices_model(1 if quick else 12)


ROWS: dict[str, Row] = {
    "hand-off": _handoff,
    "hand-off-row": _handoff_in_a_row,
    "hand-off-refill": _handoff_refill,
    "burst": _burst,
    "refusal": _refusal,
    "refill": _refill,
    "refill-embedded": _refill_embedded,
    "refill-models": _refill_models,
    "memory": _memory,
    "memory-models": _memory_models,
    "gaps": _gaps,
    "gaps-models": _gaps_models,
    "supervisor": _supervisor,
    "tls": _tls,
    "turn": _turn,
    "voice": _voice,
    "voice-model": _voice_model,
    "abuse": _abuse,
}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"all, or any of {', '.join(ROWS)}")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("--quick", action="store_true", help="few samples: proves that it runs")
    options = parser.parse_args(arguments)
    wanted = list(ROWS) if options.rows in ([], ["all"]) else options.rows
    if unknown := set(wanted) - set(ROWS):
        parser.error(f"no such row: {', '.join(sorted(unknown))}; choose from {', '.join(ROWS)}")
    before = conditions()
    figures: list[Figure] = []
    for name in wanted:
        print(f"measuring {name}", file=sys.stderr, flush=True)
        figures += ROWS[name](options.quick)
        if options.json:  # after every row: a run takes long, and what is there is there
            options.json.write_text(json.dumps(document(figures, before), indent=1) + "\n")
    wide = options.markdown or not sys.stdout.isatty()
    Console(width=250 if wide else None).print(table(figures, markdown=options.markdown))


if __name__ == "__main__":
    main(sys.argv[1:])
