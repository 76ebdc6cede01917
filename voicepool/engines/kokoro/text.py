"""What of a text is spoken, and where it may be cut. Pure; positions in the text never move."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

LONGEST_PORTION = 400
"""Characters that are pronounced at once: what a text of any length takes in memory."""

_CLOSING = r"[\"'\u201d\u2019)\]]*(?=\s)"
_SENTENCE_END = re.compile(rf"[.!?\u2026]+{_CLOSING}")
_PAUSE = re.compile(rf"[,;:\u2013\u2014]+{_CLOSING}")
_TOKEN = re.compile(r"\S+")

PAUSES = frozenset(".!?…,;:—")
"""Phonemes of the model that make a pause."""

_ROW = re.compile(r"([.!?\u2026,;:\u2014\"()\u201c\u201d])\1+")
_MARKS = (
    {mark: mark for mark in ';:,.!?—…"()“”'}
    | {"\u2013": "—", "«": "“", "»": "”", "„": "“", "[": "(", "{": "(", "]": ")", "}": ")"}
    | dict.fromkeys("¿¡'\u2018\u2019`*_~|#", "")
)
"""Marks at a word's edge -> what the model has for them; "" where it has nothing."""


@dataclass(frozen=True, slots=True)
class Portion:
    """A piece of a text that is pronounced at once."""

    text: str
    """As long as what it stands for; what cannot be spoken is blanks."""
    start: int
    """Index of its first character in the whole text."""


@dataclass(frozen=True, slots=True)
class Token:
    """What stands between two blanks: a word with the marks around it, or marks alone."""

    start: int
    end: int
    before: str
    """Marks, as the model's phonemes."""
    core: str
    """What is to be pronounced; "" for marks alone."""
    after: str


def portions(text: str, scripts: frozenset[str]) -> Iterator[Portion]:
    """Cut a text of any length, where possible at the end of a sentence, else at a pause or blank.

    Letters of other `scripts` (first words of Unicode names, such as "LATIN"), pictures and control
    characters become blanks. Portions with nothing to pronounce are left out.
    """
    start = 0
    while start < len(text):
        end = _portion_end(text, start)
        cleaned = "".join(_spoken(character, scripts) for character in text[start:end])
        if any(map(str.isalnum, cleaned)):
            yield Portion(cleaned, start)
        start = end


def _portion_end(text: str, start: int) -> int:
    last = start + LONGEST_PORTION
    if len(text) <= last:
        return len(text)
    for boundary in (_SENTENCE_END, _PAUSE):
        ends = [match.end() for match in boundary.finditer(text, start, last)]
        if ends:
            return ends[-1]
    blank = max(text.rfind(blank, start + 1, last) for blank in " \n\t")
    return blank if blank > 0 else last


def _spoken(character: str, scripts: frozenset[str]) -> str:
    """The character itself, or a blank where no voice could say it."""
    if character.isascii():
        return character if character.isprintable() else " "
    category = unicodedata.category(character)
    if category[0] in "CZ" or (category in ("So", "Sk", "Me") and character > "\xff"):
        # Joiners belong to the spelling of Indic words, and to pictures elsewhere.
        joins = character in "\u200c\u200d" and "DEVANAGARI" in scripts
        return character if joins else " "
    if category[0] in "LM":
        script = unicodedata.name(character, "").split(" ")[0]
        return character if script == "COMBINING" or script in scripts else " "
    return character


def tokens(text: str) -> list[Token]:
    """The words of a portion, each parted from the marks around it."""
    return [_token(match) for match in _TOKEN.finditer(text)]


def _token(match: re.Match[str]) -> Token:
    written = match.group()
    left, right = 0, len(written)
    while left < right and written[left] in _MARKS:
        left += 1
    while right > left and written[right - 1] in _MARKS:
        right -= 1
    core = written[left:right]
    if not core.strip("-"):
        # A lone hyphen is a dash; in "- one" it opens an item of a list, which is a pause too.
        core, before, after = "", "—" if core else _marks(written), ""
    else:
        before, after = _marks(written[:left]), _marks(written[right:])
    return Token(match.start(), match.end(), before, core, after)


def _marks(written: str) -> str:
    """Marks as phonemes."""
    return once("".join(_MARKS[mark] for mark in written.replace("...", "…")))


def once(phonemes: str) -> str:
    """Each mark takes its time in the sound, so a row of one is said once."""
    return _ROW.sub(r"\1", phonemes)
