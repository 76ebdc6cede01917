"""What the doctor finds: a line each, with a mark and the remedy where one is due. Pure."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

SERVICE: Final = "service"
"""The title of the section about it."""


class Mark(enum.Enum):
    OK = "ok"
    NOTE = "note"
    """Worth knowing, but it keeps nothing from running."""
    PROBLEM = "problem"
    """What would run cannot run, or would not hold."""


@dataclass(frozen=True, slots=True)
class Finding:
    mark: Mark
    text: str
    remedy: str = ""
    """What to type or to do; never "" for a problem."""


@dataclass(frozen=True, slots=True)
class Section:
    title: str
    findings: Sequence[Finding]

    @property
    def problems(self) -> int:
        return sum(finding.mark is Mark.PROBLEM for finding in self.findings)


@dataclass(frozen=True, slots=True)
class Bound:
    """One thing that there is only so much of."""

    what: str
    """ "RAM", "VRAM", "open files", "processes"."""
    fits: int
    """How many workers it is enough for."""
    sums: str
    """What that is made of."""


@dataclass(frozen=True, slots=True)
class Report:
    profile: str
    """The one that `voicepool start` would take, "" with an app of the user's own."""
    why: str
    sections: Sequence[Section]
    bounds: Sequence[Bound] = field(default=())
    """The tightest first."""

    @property
    def problems(self) -> int:
        return sum(section.problems for section in self.sections)


def ok(text: str) -> Finding:
    return Finding(Mark.OK, text)


def note(text: str, remedy: str = "") -> Finding:
    return Finding(Mark.NOTE, text, remedy)


def problem(text: str, remedy: str) -> Finding:
    return Finding(Mark.PROBLEM, text, remedy)


def wrong(text: str, remedy: str, *, serious: bool) -> Finding:
    """A problem where what would run needs it, else a note."""
    return problem(text, remedy) if serious else note(text, remedy)
