"""Cuts a text that arrives in pieces into clauses that can be spoken one by one.

Every cut depends on the text alone, never on how it was split on its way here. Clauses are slices:
`text[clause.start:][:len(clause.text)] == clause.text` for the whole text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

LONGEST = 240
"""Characters after which a sentence without a pause is cut too, at a space where there is one."""
SHORTEST_OPENING = 12
"""Characters that the first clause of a reply needs to be cut at a comma: two or three words."""

# A sentence's end: the mark, what closes after it (emphasis too), and white space that shows that
# it is over. Chinese and Japanese marks need no space.
_EMPHASIS = "*_~`"
_CLOSING = r"[\"'\u201d\u2019)\]*_~`]*"
_SENTENCE = re.compile(
    rf"(?:[.!?\u2026]+{_CLOSING}(?=\s)|[\u3002\uff01\uff1f]+[\u300d\u300f\uff09]*|\n)"
)
_CLAUSE = re.compile(rf"(?:[,;:\u2013\u2014]+{_CLOSING}(?=\s)|[\uff0c\uff1b\uff1a\u3001])")
# Missing a cut costs a little time, a wrong one is heard: so what is mostly an abbreviation counts
# as one ("5 a.m. Then"), but not what is mostly a word ("No.").
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\"'\u201c\u2018*_`])(?:"
    r"mr|mrs|ms|dr|prof|st|sr|jr|vs|etc|approx|dept|est|fig|gen|gov|inc|ltd|co|corp|vol|rev|hon"
    r"|jan|feb|apr|jun|jul|aug|sep|sept|oct|nov|dec"
    r"|(?!i\.$)(?:[a-z]\.)*[a-z]"  # initials, and e.g, i.e, a.m, U.S
    r")\.$",
    re.IGNORECASE,
)
_LIST_NUMBER = re.compile(r"[\s#>*_-]*\d+\.")
_FENCE = re.compile("```|~~~")


@dataclass(frozen=True, slots=True)
class Clause:
    """A sentence, or a part of one that can be spoken by itself."""

    text: str
    """No white space at either end, and something to say in it, or the mark of a code block."""
    start: int
    """Index of its first character in the whole text."""
    opens_line: bool
    """Whether a line begins with it: there, some characters are marks."""


class Clauses:
    """The clauses of one reply; the first is cut early, so that it can be heard early."""

    def __init__(self) -> None:
        self._text = ""
        """What is not yet given out."""
        self._start = 0
        """Where it begins in the whole text."""
        self._scan = 0
        """Up to here in `_text` there is nothing to cut at."""
        self._opening = True
        self._fresh = True
        """Whether there is nothing but white space before it in its line."""

    def push(self, delta: str) -> list[Clause]:
        """The clauses that are complete now."""
        self._text += delta
        clauses = []
        while (end := self._next_cut()) is not None:
            clauses += self._cut(end)
        return clauses

    def flush(self) -> list[Clause]:
        """The rest, which may be no whole sentence."""
        return self._cut(len(self._text))

    def _next_cut(self) -> int | None:
        # The last character is left alone: whether it ends something depends on what follows it.
        while match := self._search():
            if match.end() > LONGEST:
                break
            if match.end() >= len(self._text) and match.group() != "\n":
                return None
            self._scan = match.end()
            if self._divides(match):
                return match.end()
        if len(self._text) > LONGEST:
            space = self._text.rfind(" ", 1, LONGEST)
            return space if space > 0 else LONGEST
        return None

    def _search(self) -> re.Match[str] | None:
        # No farther than a cut may be, and the character after it: a model may send a book at once.
        sentence = _SENTENCE.search(self._text, self._scan, LONGEST + 1)
        if not self._opening:
            return sentence
        clause = _CLAUSE.search(self._text, self._scan, LONGEST + 1)
        if sentence and clause:
            return min(sentence, clause, key=re.Match.start)
        return sentence or clause

    def _divides(self, match: re.Match[str]) -> bool:
        before = self._text[: match.end()]
        if not _speakable(before):
            return False
        if match.re is _CLAUSE:
            return len(before.strip()) >= SHORTEST_OPENING
        if match.group().rstrip(_EMPHASIS) != ".":
            return True
        before = before.rstrip(_EMPHASIS)
        return not (_LIST_NUMBER.fullmatch(before) or _ABBREVIATION.search(before))

    def _cut(self, end: int) -> list[Clause]:
        piece, self._text = self._text[:end], self._text[end:]
        start, self._start = self._start, self._start + end
        self._scan = 0
        text = piece.strip()
        before = piece[: len(piece) - len(piece.lstrip())]
        opens_line = self._fresh or "\n" in before
        last_line = piece.rpartition("\n")[2]
        self._fresh = not last_line.strip() and (self._fresh or "\n" in piece)
        if not _speakable(text):
            return []
        self._opening = False
        return [Clause(text, start + len(before), opens_line)]


def _speakable(text: str) -> bool:
    """Whether there is anything to pronounce: a lone dash or smiley is not.

    The mark of a code block must not be lost either: it decides about all that comes after it.
    """
    return any(map(str.isalnum, text)) or _FENCE.search(text) is not None
