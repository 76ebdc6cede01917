"""How long a silence ends a turn, by how finished the turn sounds. Pure.

A fixed silence is either rude to those who think in mid-sentence or slow for all others; pauses
within turns are often longer than those between them (Heldner and Edlund, "Pauses, gaps and
overlaps in conversations", Journal of Phonetics 38, 2010). A threshold that follows what has been
said shortens the wait without more false ends (Raux and Eskenazi, "Optimizing Endpointing
Thresholds using Dialogue Features in a Spoken Dialogue System", SIGdial 2008).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Eagerness = Literal["low", "medium", "high", "auto"]


@dataclass(frozen=True, slots=True)
class Patience:
    """The silences in ms after which a turn is over. Raises ValueError where they do not grow."""

    finished_ms: int
    """After what is a whole sentence."""
    unknown_ms: int
    """After what may or may not be one, and while nothing has been understood."""
    longest_ms: int
    """After what cannot be the end; the turn is over then, whatever was said."""

    def __post_init__(self) -> None:
        if not 0 < self.finished_ms <= self.unknown_ms <= self.longest_ms:
            raise ValueError("a turn must wait longer, the less finished it is")

    def silence_ms(self, completeness: float | None) -> int:
        """The silence to wait for. `completeness` in [0, 1]: 1 is a whole sentence, 0 one that
        breaks off; None: nothing has been understood (yet).

        Falls with it, and by ratios: the step from 300 to 600 ms is felt as much as that from
        2 to 4 s.
        """
        if completeness is None:
            return self.unknown_ms
        if completeness >= 0.5:
            return _between(self.unknown_ms, self.finished_ms, 2 * completeness - 1)
        return _between(self.longest_ms, self.unknown_ms, 2 * completeness)


def _between(low: float, high: float, share: float) -> int:
    ratio: float = (high / low) ** min(max(share, 0.0), 1.0)
    return round(low * ratio)


_MEDIUM: Final = Patience(300, 700, 4000)
EAGERNESS: Final[Mapping[Eagerness, Patience]] = {
    "high": Patience(250, 500, 2000),
    "medium": _MEDIUM,
    "low": Patience(400, 1200, 8000),
    "auto": _MEDIUM,
}
"""semantic_vad's; the longest waits are the documented ones."""

_FAST: Final = Patience(300, 700, 2000)
_SLOW: Final = Patience(900, 1900, 5000)


def paced(slowness: float) -> Patience:
    """Something between the fastest (0) and the slowest (1) way to take turns, evenly."""
    share = min(max(slowness, 0.0), 1.0)
    pairs = (
        (_FAST.finished_ms, _SLOW.finished_ms),
        (_FAST.unknown_ms, _SLOW.unknown_ms),
        (_FAST.longest_ms, _SLOW.longest_ms),
    )
    return Patience(*(round(fast + (slow - fast) * share) for fast, slow in pairs))
