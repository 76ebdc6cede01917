"""What the server has logged: whether it is whole, and whether it holds what it must not."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

EXPECTED_TRACES: Final = frozenset({"warm-up failed"})
"""Events that may have a traceback: a worker that found no model server."""


@dataclass(slots=True)
class Logbook:
    """One log."""

    lines: int = 0
    broken: list[str] = field(default_factory=list)
    """Lines that are no JSON object."""
    dropped: int = 0
    """Lines that were dropped, by the server's own count."""
    events: Counter[str] = field(default_factory=Counter)
    """Warnings and errors."""
    faults: list[str] = field(default_factory=list)


def read(path: Path, secrets: Sequence[str]) -> Logbook:
    """The log at `path`; `secrets` must not be in it."""
    book = Logbook()
    with path.open(errors="replace") as log:
        for line in filter(str.strip, log):
            book.lines += 1
            book.faults += [f"the log holds {s!r}: {line[:200]}" for s in secrets if s in line]
            _read_line(book, line)
    return book


def _read_line(book: Logbook, line: str) -> None:
    try:
        entry = json.loads(line)
        event, level = str(entry["event"]), str(entry["level"])
    except (ValueError, KeyError, TypeError):
        book.broken.append(line[:300])
        return
    if event == "log lines dropped":
        book.dropped += int(entry["count"])
    if level in ("warning", "error", "critical"):
        book.events[f"{level}: {event}"] += 1
    if "traceback" in entry and event not in EXPECTED_TRACES:
        book.faults.append(f"{event}: {entry['traceback'][-1000:]}")


def judge(book: Logbook, full: int) -> list[str]:
    """What is wrong with it. A disk that gets full may cut one line short; it was `full` so often.

    Another process may go on in that line, which does not know of it; then the end that the first
    one makes of it is an empty line, which is none.
    """
    faults = list(book.faults)
    if len(book.broken) > full:
        faults.append(f"{len(book.broken)} lines of the log are no JSON object: {book.broken[0]!r}")
    return faults
