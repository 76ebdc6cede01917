"""When the next partial transcript is worth its cost."""

from __future__ import annotations

from typing import Final

_WEIGHT: Final = 0.25
"""Of the latest cost in the smoothed one."""


class Pace:
    """Keeps partial transcripts to a share of one core. One for all streams of an engine.

    They share its thread, and a final transcript waits for a partial one that has begun. With
    costs of c and an interval of i between two beginnings, a final that is wanted at any moment
    finds one at work with probability c / i, half done on average: it waits c * c / 2i, which
    with the interval of c / share is c * share / 2, and c at worst.
    """

    def __init__(self, share: float, shortest: float) -> None:
        """`share`: of the time, in [0, 1], 0 for never. `shortest`: seconds of an interval."""
        self._share = share
        self._shortest = shortest
        self._cost = 0.0
        self._latest = 0.0
        self._began = float("-inf")

    @property
    def interval(self) -> float:
        """Seconds between the beginnings of two transcripts, for a share above 0.

        By the latest cost where that is above the smoothed one: a machine that has just become
        busy is relieved at once.
        """
        return max(self._shortest, max(self._cost, self._latest) / self._share)

    def due(self, now: float) -> bool:
        """Whether a partial transcript may begin."""
        return self._share > 0 and now - self._began >= self.interval

    def spent(self, began: float, ended: float) -> None:
        """A transcript was made, partial or final: neither shall crowd the thread."""
        self._latest = ended - began
        self._cost += _WEIGHT * (self._latest - self._cost) if self._cost else self._latest
        self._began = began
