"""A text that was made from another one, and what in that one each character stands for."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Aligned:
    """A text, and for each of its characters how far the source is covered with it."""

    text: str
    ends: Sequence[int]
    """Never falling: index in the source after what the character stands for. All characters of
    a replacement stand for all that they replace."""

    @classmethod
    def identity(cls, source: str) -> Aligned:
        return cls(source, range(1, len(source) + 1))

    def covered(self, count: int) -> int:
        """How many characters of the source `text[:count]` stands for."""
        count = min(count, len(self.text))
        return self.ends[count - 1] if count > 0 else 0


class Draft:
    """Makes an Aligned text from another, front to back: parts are kept, replaced or left out."""

    def __init__(self, source: Aligned) -> None:
        self._source = source
        self._pieces: list[str] = []
        self._ends: list[int] = []

    def keep(self, start: int, end: int) -> None:
        self._pieces.append(self._source.text[start:end])
        self._ends += self._source.ends[start:end]

    def say(self, words: str, end: int) -> None:
        """`words` for what lies between the part before and `end` > 0."""
        self._pieces.append(words)
        self._ends += [self._source.ends[end - 1]] * len(words)

    def finish(self) -> Aligned:
        return Aligned("".join(self._pieces), self._ends)


def rewrite(
    source: Aligned, pattern: re.Pattern[str], replace: Callable[[re.Match[str]], str | None]
) -> Aligned:
    """`source` with every match (never empty) replaced; None leaves it as it is."""
    draft: Draft | None = None
    kept = 0
    for match in pattern.finditer(source.text):
        words = replace(match)
        if words is None or words == match.group():
            continue
        draft = draft or Draft(source)
        draft.keep(kept, match.start())
        draft.say(words, match.end())
        kept = match.end()
    if draft is None:
        return source
    draft.keep(kept, len(source.text))
    return draft.finish()
