"""How long to wait before trying again: exponential, with jitter. Pure."""

from __future__ import annotations

import random


class Backoff:
    """Exponential back-off over a run of failures, with "equal jitter".

    Before attempt k + 1 of a run wait `min(cap, base * 2**(k - 1))` seconds, times a random factor
    between a half and one, so that what failed together does not try again together
    (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).

    Attempts that were under way together fail together (one full disk fails them all): a failure
    whose attempt had begun when the last one came belongs to the same round. It neither lengthens
    nor shortens the wait.
    """

    def __init__(self, base: float, cap: float, rng: random.Random) -> None:
        self._base = base
        self._cap = cap
        self._rng = rng
        self._failed_at = 0.0
        self.failures = 0
        """Rounds that failed in a row."""
        self.until: float | None = None
        """No attempt before then. A success does not shorten it."""

    def failed(self, began: float, now: float) -> None:
        """Note that the attempt begun at `began` has failed."""
        if self.failures and began <= self._failed_at:
            return
        self.failures += 1
        self._failed_at = now
        # The exponent is bounded because 2.0**1024 overflows; the cap binds long before that.
        delay = min(self._cap, self._base * 2.0 ** min(self.failures - 1, 62))
        self.until = now + delay * self._rng.uniform(0.5, 1.0)

    def succeeded(self) -> None:
        """End the run of failures."""
        self.failures = 0

    def waits(self, now: float) -> bool:
        """Whether it is too early for another attempt."""
        return self.until is not None and now < self.until
