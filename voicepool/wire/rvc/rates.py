"""At what rate a page records and plays, told from the times of its blocks.

A block leaves the page when its last sample has been recorded, or later: delays only add. So among
blocks that lie close together the least delayed one tells the time best. The sound is cut into
parts; at the right rate the least delays of all parts are equal, at a wrong one they drift: common
rates are at least 8 % apart, 80 ms in a second. A gap in the sound, a clock that is set or a long
hold-up shows as parts that agree on no rate, and the meter waits for better ones.
"""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

COMMON_RATES = (
    *(8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000),
    *(44_100, 48_000, 88_200, 96_000, 176_400, 192_000),
)
ASSUMED_RATE = 48_000
"""Until something else is known: what nearly all sound cards run at."""

SHORTEST_MS = 1500
"""Of sound that tells a rate."""
LONGEST_MS = 8000
"""After which the meter starts afresh. Pages in the background may send once a second."""
MOST_BLOCKS = 1024
PARTS = 4
TOLERANCE = 0.015
"""By how much the least delays may differ, as a share of the time that was looked at. A rate that
is one off differs by 6 % over four parts."""
JUMP_MS = 2000
"""The page slept, or its clock was set: what came before tells nothing any more."""

_CLOCK = 1 << 32
_PERIODS = 1000 / np.array(COMMON_RATES)[:, np.newaxis]
"""Of a sample in ms, a row for each rate."""


class RateMeter:
    """The rate of one page. `hear` every block."""

    def __init__(self) -> None:
        self.rate = ASSUMED_RATE
        """The best guess, in samples per second."""
        self.known = False
        """Whether it is more than a guess."""
        self._rival: int | None = None
        """What the last blocks tell, where that is not `rate`."""
        self._last = 0
        self._times: list[int] = []
        """When the blocks were sent, since the first one."""
        self._ends: list[int] = []
        """Samples up to their ends."""

    def hear(self, milliseconds: int, samples: int) -> None:
        """A block of `samples`, sent at that time of the page's clock, modulo 2**32."""
        passed = (milliseconds - self._last + _CLOCK // 2) % _CLOCK - _CLOCK // 2
        self._last = milliseconds
        if not self._times or abs(passed) > JUMP_MS:
            self._restart()
            self._times.append(0)
            self._ends.append(0)  # what it holds was recorded before the first time that is known
            return
        self._times.append(self._times[-1] + passed)
        self._ends.append(self._ends[-1] + samples)
        found = self._find() if self._times[-1] >= SHORTEST_MS else None
        if found is not None:
            self._learn(found)
        if found is not None or self._times[-1] > LONGEST_MS or len(self._times) > MOST_BLOCKS:
            self._restart()

    def _restart(self) -> None:
        self._times.clear()
        self._ends.clear()

    def _find(self) -> int | None:
        """What all blocks tell, or the latest, where there was a gap before them."""
        recent = bisect_right(self._times, self._times[-1] - SHORTEST_MS) - 1
        times, ends = np.array(self._times), np.array(self._ends)
        return _only_rate(times, ends) or _only_rate(times[recent:], ends[recent:])

    def _learn(self, found: int) -> None:
        """The first finding counts; it takes two in a row to revise it."""
        if not self.known or found == self._rival:
            self.rate, self.known = found, True
        self._rival = found if found != self.rate else None


def _only_rate(times: NDArray[np.int64], ends: NDArray[np.int64]) -> int | None:
    """The rate at which blocks sent at `times` (ms) that end with sample `ends` make sense."""
    if len(times) < 2 * PARTS:
        return None
    delays = times - ends * _PERIODS
    least = np.minimum.reduceat(delays, np.arange(PARTS) * len(times) // PARTS, axis=1)
    spreads = np.ptp(least, axis=1)
    best = int(np.argmin(spreads))
    return COMMON_RATES[best] if spreads[best] <= TOLERANCE * (times[-1] - times[0]) else None
