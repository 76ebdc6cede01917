"""Partial transcripts that never take back a word: LocalAgreement-2.

A recogniser that hears an utterance again and again as it grows guesses the last words differently
each time. A word is published once two guesses in a row agree on it and on all before it, and
stays (Macháček, Dabre and Bojar, "Turning Whisper into Real-Time Transcription System", 2023,
https://arxiv.org/abs/2307.14743, section 2.1). Words agree when they differ in case or punctuation
only: a sentence that goes on loses its full stop, and that is no other word.
"""

from __future__ import annotations

import re
from typing import Final

_UNSPACED: Final = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao; Myanmar; Khmer
    "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # kana; Han
)
"""Scripts without spaces between words: there a character counts as a word."""

_WORD: Final = re.compile(rf"\s*(?:[{_UNSPACED}]|[^\s{_UNSPACED}]+)")
_PUNCTUATION: Final = ".,;:!?…-–—\"'“”‘’«»()[]¿¡。、，！？：；「」『』।؟،"  # noqa: RUF001


class Agreement:
    """What the guesses about one utterance have agreed on."""

    def __init__(self) -> None:
        self._before: list[str] = []
        """The words of the last guess, each with the space before it."""
        self._agreed: list[str] = []

    @property
    def text(self) -> str:
        """The words that stay. Of two values the later one begins with the earlier one."""
        return "".join(self._agreed).lstrip()

    def hear(self, guess: str) -> str:
        """Another guess about the whole utterance so far; returns `text`.

        As long as guesses disagree with what is published, nothing is added to it.
        """
        words = _WORD.findall(guess)
        common = _common(self._before, words)
        self._before = words
        known = len(self._agreed)
        if common > known and _common(self._agreed, words) == known:
            self._agreed += words[known:common]
            if common == len(words):
                self._leave_open()
        return self.text

    def _leave_open(self) -> None:
        """The guess ends here, and whether the sentence does is not known."""
        last = self._agreed.pop().rstrip(_PUNCTUATION)
        if last.strip():
            self._agreed.append(last)


def _common(some: list[str], others: list[str]) -> int:
    """How many words at the beginning agree."""
    count = 0
    for one, other in zip(some, others, strict=False):
        if _bare(one) != _bare(other):
            break
        count += 1
    return count


def _bare(word: str) -> str:
    return word.strip().strip(_PUNCTUATION).casefold()
