"""Many patterns, each with what to say instead, tried in order in one pass over a text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from voicepool.spoken.aligned import Aligned, rewrite
from voicepool.spoken.numerals import Unsayable

Rule = tuple[str, Callable[[re.Match[str]], str | None]]
"""A verbose regular expression, never matching nothing, and what is said of a match: None, or an
Unsayable raised, leaves it as it is. Names of groups are unique among all rules of a pass. For a
search in linear time, patterns bound what they repeat, or begin where no other of them can."""

DASH = r"\-\u2212\u2013\u2014"
"""For a class of characters, at any place in it."""
NUMBER_STARTS = rf"(?<!\w)(?<!\d[.,/:{DASH}])"
"""Where a digit begins a number: not the rest of one, of a date or of a code."""
NUMBER_ENDS = rf"(?!\w)(?![.,/:{DASH}]\d)"


class Pass:
    """Rules as one regular expression: the first that matches at a place has it."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._say: dict[str, Callable[[re.Match[str]], str | None]] = {}
        patterns = []
        for number, (pattern, say) in enumerate(rules):
            self._say[f"rule{number}"] = say
            patterns.append(f"(?P<rule{number}>{pattern})")
        self._pattern = re.compile("|".join(patterns), re.VERBOSE)

    def __call__(self, text: Aligned) -> Aligned:
        return rewrite(text, self._pattern, self._replace)

    def _replace(self, match: re.Match[str]) -> str | None:
        assert match.lastgroup is not None
        try:
            return self._say[match.lastgroup](match)
        except Unsayable:
            return None
