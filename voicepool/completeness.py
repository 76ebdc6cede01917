"""How finished what has been said so far sounds, from its words and punctuation. Pure.

What ends in a conjunction, an article or a filler goes on; what ends in a full stop, and is not
such a thing, is over. Closed classes of words tell most of it: they are few, they are the same in
all speech, and a sentence hardly ever ends in them (for English: Quirk, Greenbaum, Leech and
Svartvik, "A Comprehensive Grammar of the English Language", 1985, section 2.39 ff.; fillers: Clark
and Fox Tree, "Using uh and um in spontaneous speaking", Cognition 84, 2002). Recognisers that write
no punctuation are judged by the words alone; in a language without a table, punctuation alone.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Final

from voicepool.closedwords import FILLERS, LANGUAGES, ClosedWords

FINISHED: Final = 1.0
LIKELY_FINISHED: Final = 0.8
UNKNOWN: Final = 0.5
UNMARKED: Final = 0.4
"""No full stop from a recogniser that writes them."""
LIKELY_UNFINISHED: Final = 0.25
UNFINISHED: Final = 0.0

_TERMINALS: Final = frozenset(".!?\u061f\u06d4\u0964\u0965\u1362\u1367\u3002\uff01\uff0e\uff1f")
"""The property Sentence_Terminal (Unicode Standard Annex #44) of scripts that recognisers write."""
_CERTAIN: Final = _TERMINALS - set(".\uff0e\u3002")
"""No recogniser writes these where it merely had nothing more to write."""
_OPEN: Final = frozenset(",:-\u2013\u2014\u060c\u3001\uff0c\uff1a\u2026")
"""Commas, colons, dashes and the ellipsis: the writer expected more."""
_WRAPPERS: Final = "\"'()[]{}\u00ab\u00bb\u2018\u2019\u201c\u201d\u201e\u300c\u300d* \t\n"
_WORD: Final = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
_SENTENCE_END: Final = re.compile(f"[{re.escape(''.join(sorted(_TERMINALS)))}]+(?=\\s|$)")
_DICTATED: Final = re.compile(r"(?:\d[\s.-]*){3,}$")
"""Numbers of telephones and cards come in groups, with pauses between them."""
_LONGEST_GROUP: Final = 40
"""Characters; the search takes as long as their square."""
_LONGEST_PHRASE: Final = 3
"""Words of the longest of the tables' phrases."""
_SHORTEST_REQUEST: Final = 3
"""Words that make a question or a command whole: "what is" and "tell me" are not."""


def completeness(text: str, language: str = "") -> float | None:
    """In [0, 1]: 0 breaks off, 1 is a whole sentence; None where there is no word.

    `language` is ISO 639, with or without a region; "" is told from the words, where that works.
    """
    said = unicodedata.normalize("NFC", text).replace("...", "\u2026").strip(_WRAPPERS)
    if not any(map(str.isalnum, said)):
        return None
    mark = said[-1] if said[-1] in _TERMINALS | _OPEN else ""
    if mark in _OPEN:
        return UNFINISHED
    body = said[: -len(mark)] if mark else said
    last = _SENTENCE_END.split(body)[-1]
    words = _words(last)
    by_words = _by_words(words, _table(_words(body), language))
    if mark in _CERTAIN:
        return FINISHED
    if _DICTATED.search(last[-_LONGEST_GROUP:]):
        return UNKNOWN
    if mark:
        return _with_full_stop(by_words)
    return min(by_words, UNMARKED) if by_words == UNKNOWN and _punctuated(body) else by_words


def _with_full_stop(by_words: float) -> float:
    """A recogniser closes what it is given: a full stop after "and the" is its own."""
    if by_words == UNFINISHED:
        return LIKELY_UNFINISHED
    return LIKELY_FINISHED if by_words == LIKELY_UNFINISHED else FINISHED


def _punctuated(text: str) -> bool:
    """Whether its recogniser writes as people do, so that a missing full stop says something."""
    return text[:1].isupper() or any(mark in text for mark in ".,?!")


def _words(text: str) -> list[str]:
    return [word.replace("\u2019", "'") for word in _WORD.findall(text.lower())]


def _by_words(words: Sequence[str], table: ClosedWords | None) -> float:
    if not words:
        return UNKNOWN
    if words[-1] in FILLERS:
        return UNFINISHED
    if table is None:
        return UNKNOWN
    if " ".join(words) in table.whole:
        return FINISHED
    endings = [" ".join(words[-count:]) for count in range(1, _LONGEST_PHRASE + 1)]
    if any(ending in table.unfinished for ending in endings):
        return UNFINISHED
    asks = words[0] in table.questions and len(words) >= _SHORTEST_REQUEST
    if any(ending in table.unsure for ending in endings):
        return UNKNOWN if asks else LIKELY_UNFINISHED  # "what are you looking at"
    orders = words[0] in table.commands and len(words) >= _SHORTEST_REQUEST
    return LIKELY_FINISHED if asks or orders else UNKNOWN


def _table(words: Sequence[str], language: str) -> ClosedWords | None:
    """The table of `language`; where that is "", of the one whose words are the most of these, as
    such words identify a language well (Grefenstette, "Comparing two language identification
    schemes", JADT 1995). None where there is none, or more than one."""
    if language:
        return LANGUAGES.get(language.replace("_", "-").partition("-")[0].lower())
    counts = {name: sum(map(table.known.__contains__, words)) for name, table in LANGUAGES.items()}
    most = max(counts.values())
    best = [name for name, count in counts.items() if count == most]
    return LANGUAGES[best[0]] if most and len(best) == 1 else None
