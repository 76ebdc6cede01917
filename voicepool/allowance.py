"""How much somebody may still do, where it comes back with time. Pure: a token bucket."""

from __future__ import annotations


class Allowance:
    """`most` at once, and `rate` a second from then on."""

    def __init__(self, most: float, rate: float) -> None:
        self._most = most
        self._rate = rate
        self._left = most
        self._seen = 0.0

    def take(self, now: float) -> bool:
        """Use one up; False where none is left. `now`: seconds on a clock that never goes back."""
        self._left = min(self._most, self._left + max(0.0, now - self._seen) * self._rate)
        self._seen = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
