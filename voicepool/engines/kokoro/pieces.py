"""Cuts what is to be spoken into pieces, so that the first sound comes early and the rest in time.

The model speaks a piece as a whole before any of it can be heard. A piece sounds the better the
more of a sentence it holds; so it is as long as what can be spoken while nobody waits. Pure: the
clock is an argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from voicepool.engines.kokoro.g2p import Word
from voicepool.engines.kokoro.text import PAUSES

LONGEST = 500
"""Phonemes. The model takes 510, and gets hasty and faint with very long pieces."""
SHORTEST = 24
"""Phonemes, about two seconds: Kokoro speaks shorter pieces oddly."""
FIRST_SECONDS = 0.8
"""How long somebody who hears nothing yet may have to wait, where SHORTEST allows it."""
CONTINUED_SECONDS = 0.25
"""A text that comes so soon after the one before is spoken right after it."""
_MEMORY = 0.7
"""How much of what was measured before counts beside the latest measurement."""


def cut(words: Sequence[Word], most: int) -> int:
    """How many of `words` make the next piece of at most about `most` phonemes; at least one.

    The cut is at a pause in the later half of the piece, if there is one, else between two words.
    What is left over is not worth a piece of its own if it is shorter than SHORTEST.
    """
    most = min(max(most, SHORTEST), LONGEST)
    lengths = [len(word.phonemes) for word in words]
    whole = sum(lengths)
    if whole <= most or (whole < most + SHORTEST and whole <= LONGEST):
        return len(words)
    taken, fitting, pause = 0, 1, 0
    for count, (word, length) in enumerate(zip(words, lengths, strict=True), 1):
        taken += length
        if taken > most:
            break
        fitting = count
        if taken >= most / 2 and word.phonemes.rstrip()[-1:] in PAUSES:
            pause = count
    return pause or fitting


@dataclass(slots=True)
class Pace:
    """How fast the device speaks, by what it has spoken lately."""

    _phonemes: float = 0.0
    _seconds: float = 0.0

    def observe(self, phonemes: int, seconds: float) -> None:
        self._phonemes = self._phonemes * _MEMORY + phonemes
        self._seconds = self._seconds * _MEMORY + seconds

    def affordable(self, seconds: float) -> int:
        """Phonemes that are spoken in so many seconds; LONGEST as long as nothing is measured."""
        if self._seconds <= 0.0:
            return LONGEST
        return int(min(seconds * self._phonemes / self._seconds, LONGEST))


@dataclass(slots=True)
class Lead:
    """How far what was handed out is ahead of whoever listens to it.

    As if it were played at once and without a break; in truth it is heard later, so there is never
    less time than this says. Texts are not told apart by reply: one that follows closely on
    another is taken for its continuation, since after an interruption the caller speaks first.
    """

    _until: float = 0.0
    """When all that was handed out has been heard."""
    _ended: float = float("-inf")

    def begin(self, now: float) -> None:
        """A text is to be spoken."""
        if now - self._ended > CONTINUED_SECONDS:
            self._until = now

    def add(self, seconds: float, now: float) -> None:
        """Sound was made."""
        self._until = max(self._until, now) + seconds

    def end(self, now: float) -> None:
        """All of the text was spoken. Not called for a text that was broken off."""
        self._ended = now

    def budget(self, now: float) -> float:
        """Seconds that making the next piece may take."""
        return max(FIRST_SECONDS, self._until - now)
