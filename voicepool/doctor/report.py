"""The doctor's report, for people and for programs. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any, Final

import voicepool
from voicepool.doctor.findings import SERVICE, Finding, Mark, Report
from voicepool.errors import ExitCode
from voicepool.logs import escape

_COLORS: Final = {Mark.OK: "32", Mark.NOTE: "33", Mark.PROBLEM: "1;31"}
_BOLD, _DIM = "1", "2"
_WIDEST: Final = max(len(mark.value) for mark in Mark)
_LONGEST: Final = 2000
"""Characters of a line: an error of a library may be endless."""


def exit_code(report: Report) -> ExitCode:
    return ExitCode.CANNOT_WARM if report.problems else ExitCode.OK


def as_text(report: Report, *, color: bool, width: int) -> str:
    """Sections of marked lines, at most `width` wide but for remedies, which are to be copied."""
    lines: list[str] = []
    for section in report.sections:
        lines.append(_painted(escape(section.title), _BOLD, color=color))
        for finding in section.findings:
            lines += _lines(finding, color=color, width=width)
        lines.append("")
    return "\n".join([*lines, _verdict(report)])


def _lines(finding: Finding, *, color: bool, width: int) -> Iterator[str]:
    mark = _painted(f"{finding.mark.value:{_WIDEST}}", _COLORS[finding.mark], color=color)
    margin = " " * (_WIDEST + 4)
    text = escape(finding.text, _LONGEST)
    wrapped = textwrap.wrap(text, max(40, width - len(margin)), break_on_hyphens=False)
    yield f"  {mark}  {wrapped[0] if wrapped else ''}"
    yield from (margin + line for line in wrapped[1:])
    if finding.remedy:
        yield margin + _painted(f"-> {escape(finding.remedy, _LONGEST)}", _DIM, color=color)


def _painted(text: str, code: str, *, color: bool) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if color else text


def _verdict(report: Report) -> str:
    if report.problems == 0:
        return "Ready: voicepool start" + _named(report)
    found = "1 problem keeps" if report.problems == 1 else f"{report.problems} problems keep"
    troubled = [section.title for section in report.sections if section.problems]
    what = f"the {SERVICE}" if troubled == [SERVICE] else report.profile or "the app"
    return f"{found} {what} from running as asked."


def _named(report: Report) -> str:
    return f" --profile {report.profile}" if report.profile and report.why == "configured" else ""


def as_document(report: Report) -> dict[str, Any]:
    """The same for programs."""
    return {
        "version": voicepool.__version__,
        "profile": report.profile,
        "why": report.why,
        "problems": report.problems,
        "exit_code": int(exit_code(report)),
        "sections": [
            {
                "title": section.title,
                "findings": [
                    {"mark": found.mark.value, "text": found.text, "remedy": found.remedy}
                    for found in section.findings
                ],
            }
            for section in report.sections
        ],
        "bounds": [
            {"what": bound.what, "fits": bound.fits, "sums": bound.sums} for bound in report.bounds
        ],
    }
