"""What is said of a server that has less room than it was asked for."""

from __future__ import annotations

import random

from voicepool.budget import HOST, BudgetSettings, Cost, Limits, Reading
from voicepool.pool import (
    BudgetChanged,
    Pool,
    PoolSettings,
    ProcessExited,
    WorkerHello,
    WorkerReady,
)
from voicepool.progress import progress_of

GB = 1 << 30


def short_of_room(budget: BudgetSettings, *, measured: bool) -> str:
    """What is said where 1 of 4 workers fits."""
    pool = Pool(PoolSettings(workers=4, max_connections=4, budget=budget), random.Random(1))
    total = 4 * GB + budget.reserve.host
    pool.handle(BudgetChanged({HOST: Reading(total, 2 * GB)}, 0), 0.0)
    if measured:
        pool.handle(WorkerHello(1), 1.0)
        pool.handle(WorkerReady(1, 2 * GB), 2.0)
    detail = progress_of(pool.snapshot(), 4, preloaded=True).detail
    return detail.rpartition("): ")[2]


def test_only_what_would_help_is_advised() -> None:
    assert short_of_room(BudgetSettings(Cost(2 * GB)), measured=True) == (
        "free memory there, or start with fewer --workers"
    )
    limits = BudgetSettings(Cost(2 * GB), reserve=Cost(GB), caps=Limits(2 * GB))
    assert short_of_room(limits, measured=True) == (
        "free memory there, raise ram_budget, lower ram_reserve, or start with fewer --workers"
    )


def test_an_estimate_may_be_too_high() -> None:
    nobody_fits = BudgetSettings(Cost(3 * GB))
    assert short_of_room(nobody_fits, measured=False) == (
        "free memory there, lower ram_per_worker if that is more than a worker takes, or start "
        "with fewer --workers"
    )


def test_trouble_is_told_of_when_it_is_known() -> None:
    """Not while a worker that was killed still has the only place."""
    budget = BudgetSettings(Cost(2 * GB), hard_limit=Limits(GB))
    pool = Pool(PoolSettings(workers=1, max_connections=1, budget=budget), random.Random(1))
    pool.handle(BudgetChanged({HOST: Reading(8 * GB, GB)}, 0), 0.0)
    pool.handle(WorkerHello(1), 1.0)
    pool.handle(WorkerReady(1, 2 * GB), 2.0)
    assert progress_of(pool.snapshot(), 1, preloaded=True).stage == "warming"
    pool.handle(ProcessExited(1), 3.0)
    told = progress_of(pool.snapshot(), 1, preloaded=True)
    assert told.stage == "trouble"
    assert "was above ram_hard_limit" in told.detail
