"""Finds the written words in what was pronounced as a whole. Pure.

A sentence is pronounced at once, because words sound different side by side ("the apple", "a"
against the letter A). So "in the" may come back as one spoken word and "56" as two, and which
belongs to which is found by comparing with the words pronounced one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

_STRESS = str.maketrans("", "", "ˈˌ")
"""The same word is stressed differently alone and in its sentence."""


def share_out(spoken: str, alone: Sequence[str]) -> list[str]:
    """Cut `spoken` into one piece per written word; joined, the pieces are `spoken` again.

    `alone`: how each written word is pronounced by itself, "" for one that is silent. Spoken words
    are parted by single blanks in both; a blank stays with the word before it. Pieces may be
    empty: of written words that are spoken as one, all but the cut itself is a guess.
    """
    words = spoken.split(" ")
    offsets = [0]
    for word in words:
        offsets.append(offsets[-1] + len(word) + 1)
    expected = [(written, word) for written, said in enumerate(alone) for word in said.split()]
    starts = _starts([word for _, word in expected], words, offsets)
    cuts = [len(spoken)] * (len(alone) + 1)
    for (written, _), start in reversed(list(zip(expected, starts, strict=True))):
        cuts[written] = start
    for written in reversed(range(len(alone))):  # a silent word begins where the next one does
        cuts[written] = min(cuts[written], cuts[written + 1])
    cuts[0] = 0
    return [spoken[cuts[i] : cuts[i + 1]] for i in range(len(alone))]


def _starts(expected: list[str], spoken: list[str], offsets: list[int]) -> list[int]:
    """Where each expected spoken word begins, never falling."""
    wanted = [word.translate(_STRESS) for word in expected]
    found = [word.translate(_STRESS) for word in spoken]
    matcher = SequenceMatcher(a=wanted, b=found, autojunk=False)
    starts: list[int] = []
    for _, first, last, at, end in matcher.get_opcodes():
        if last - first == end - at:
            starts += offsets[at:end]
        else:
            room = max(0, offsets[end] - 1 - offsets[at])
            lengths = [len(word) for word in wanted[first:last]]
            whole = max(1, sum(lengths))
            starts += [offsets[at] + room * sum(lengths[:k]) // whole for k in range(len(lengths))]
    limit = max(0, offsets[-1] - 1)
    return [min(start, limit) for start in starts]
