from __future__ import annotations

import random

from voicepool.backoff import Backoff


def test_the_wait_doubles_up_to_the_cap_with_half_of_it_random() -> None:
    backoff = Backoff(base=0.5, cap=8.0, rng=random.Random(3))
    now = 0.0
    for k in range(200):
        backoff.failed(began=now, now=now + 0.1)
        assert backoff.until is not None
        wait = backoff.until - (now + 0.1)
        full = min(8.0, 0.5 * 2.0**k)
        assert full * 0.499 <= wait <= full * 1.001
        now = backoff.until


def test_it_never_overflows() -> None:
    backoff = Backoff(base=1.0, cap=60.0, rng=random.Random(1))
    for second in range(3_000):
        backoff.failed(began=second + 0.5, now=second + 1.0)
    assert backoff.failures == 3_000


def test_failures_under_way_together_count_once() -> None:
    backoff = Backoff(base=1.0, cap=60.0, rng=random.Random(1))
    backoff.failed(began=0.0, now=5.0)
    until = backoff.until
    backoff.failed(began=4.0, now=6.0)
    backoff.failed(began=5.0, now=7.0)
    assert (backoff.failures, backoff.until) == (1, until)
    backoff.failed(began=7.1, now=8.0)
    assert backoff.failures == 2


def test_success_ends_the_run_but_not_the_wait() -> None:
    backoff = Backoff(base=1.0, cap=60.0, rng=random.Random(1))
    assert not backoff.waits(0.0)
    backoff.failed(began=0.0, now=1.0)
    backoff.succeeded()
    assert backoff.failures == 0
    assert backoff.waits(1.2)
    assert not backoff.waits(2.0)
    backoff.failed(began=0.5, now=3.0)
    assert backoff.failures == 1, "a new run"
