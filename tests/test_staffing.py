"""Stories of spawning and letting go: the target, reload, failures and the budget."""

from __future__ import annotations

import pytest

from tests.pool_world import MB, SMALL, Driver, host, settings, spawns
from voicepool.budget import HOST, BudgetSettings, Cost, Limits
from voicepool.pool import (
    Assign,
    BudgetChanged,
    ConnectionArrived,
    ConnectionLost,
    Heartbeat,
    Kill,
    ProcessExited,
    Reason,
    ReloadRequested,
    SessionAccepted,
    SessionEnded,
    Spawn,
    Stop,
    Tick,
    Warn,
    WorkerHello,
    WorkerState,
)

W = WorkerState

GPU_WORKER = Cost(SMALL.host, 1_000 * MB)
ON_GPU = BudgetSettings(GPU_WORKER)


# --- warming up and refilling -------------------------------------------------------------------


def test_the_pilot_warms_up_alone_and_then_as_many_as_may() -> None:
    driver = Driver(settings(4, warmups=2))
    assert driver.of(W.STARTING) == [1]
    assert spawns(driver.send(WorkerHello(1))) == []
    assert spawns(driver.ready(1)) == [2, 3]
    assert spawns(driver.ready(2)) == [4]
    assert driver.warm() == [1, 2, 3, 4]


def test_without_spare_the_successor_is_spawned_when_the_worker_has_exited() -> None:
    driver = Driver(settings(2))
    driver.warm()
    worker = driver.offer(1)
    driver.send(SessionAccepted(worker))
    assert driver.pool.snapshot().target == 1
    assert driver.send(SessionEnded(worker, SMALL.host)) == []
    assert driver.pool.snapshot().target == 1, "one that is leaving still takes a place"
    assert driver.send(ProcessExited(worker)) == [Spawn(3, HOST)]


def test_with_spare_the_successor_is_spawned_at_acquisition() -> None:
    driver = Driver(settings(2, spare=1))
    driver.warm()
    assert driver.send(ConnectionArrived(1)) == [Assign(1, 1), Spawn(3, HOST)]
    assert driver.send(ConnectionArrived(2)) == [Assign(2, 2)]


def test_callers_are_never_more_than_max_connections() -> None:
    driver = Driver(settings(2, spare=2))
    driver.warm()
    driver.call(1)
    driver.call(2)
    driver.warm()
    assert driver.send(ConnectionArrived(3)) == []
    commands = driver.send(SessionEnded(1, SMALL.host))
    assert Assign(3, 3) in commands


def test_idle_workers_and_waiting_callers_are_first_come_first_served() -> None:
    driver = Driver(settings(3))
    for connection in (5, 6):
        driver.send(ConnectionArrived(connection))
    assert Assign(1, 5) in driver.ready(1)
    assert Assign(2, 6) in driver.ready(2)
    for worker in (1, 2):
        driver.send(SessionAccepted(worker))
        driver.send(SessionEnded(worker, SMALL.host))
        driver.send(ProcessExited(worker))
    assert driver.warm() == [3, 4, 5]
    assert [driver.offer(connection) for connection in (7, 8, 9)] == [3, 4, 5]


# --- reload -------------------------------------------------------------------------------------


def roll(driver: Driver) -> list[int]:
    """Let a reload run its course; returns how many were warm after each step."""
    warm = []
    for _ in range(40):
        leaving = driver.of(W.RETIRING)
        coming = driver.of(W.STARTING)
        if not leaving and not coming:
            break
        for worker in leaving:
            driver.send(ProcessExited(worker))
            warm.append(len(driver.of(W.IDLE)))
        for worker in coming:
            driver.ready(worker)
            warm.append(len(driver.of(W.IDLE)))
    assert not any(view.stale for view in driver.pool.snapshot().workers)
    return warm


def test_with_room_a_reload_spawns_first_and_never_has_fewer_warm() -> None:
    driver = Driver(settings(2, max_connections=4))
    driver.warm()
    assert driver.send(ReloadRequested()) == [Spawn(3, HOST)]
    warm = roll(driver)
    assert min(warm) == 2
    assert len(driver.of(W.IDLE)) == 2


def test_without_room_a_reload_retires_one_at_a_time() -> None:
    driver = Driver(settings(3))
    driver.warm()
    assert driver.send(ReloadRequested()) == [Stop(1, Reason.RELOAD)]
    warm = roll(driver)
    assert min(warm) == 2
    assert driver.of(W.IDLE) == [4, 5, 6]


def test_where_memory_is_short_a_reload_retires_one_at_a_time() -> None:
    driver = Driver(settings(2, max_connections=8), probed=False)
    driver.send(host(250))
    driver.warm()
    assert driver.send(ReloadRequested()) == [Stop(1, Reason.RELOAD)]
    assert min(roll(driver)) == 1


def test_a_reload_whose_workers_can_never_fit_keeps_the_old_ones() -> None:
    driver = Driver(settings(2), probed=False)
    driver.send(host(1_000))
    driver.warm()
    huge = BudgetSettings(estimate=Cost(2_000 * MB))
    assert driver.send(ReloadRequested(settings(2, budget=huge))) == []
    assert len(driver.of(W.IDLE)) == 2
    assert driver.offer(1) == 1, "the old ones serve"


def test_bigger_workers_after_a_reload_may_need_the_room_of_several_old_ones() -> None:
    driver = Driver(settings(3), probed=False)
    driver.send(host(350))
    driver.warm()
    big = BudgetSettings(estimate=Cost(250 * MB))
    assert driver.send(ReloadRequested(settings(3, budget=big))) == [Stop(1, Reason.RELOAD)]
    assert driver.send(ProcessExited(1)) == [Stop(2, Reason.RELOAD)]
    assert driver.send(ProcessExited(2)) == [Spawn(4, HOST)]


def test_a_caller_is_served_by_a_stale_worker_rather_than_refused() -> None:
    driver = Driver(settings(2))
    driver.warm()
    driver.send(ReloadRequested())
    assert driver.offer(1) == 2


def test_a_fresh_worker_is_handed_out_before_a_stale_one() -> None:
    driver = Driver(settings(2, max_connections=4))
    driver.warm()
    driver.send(ReloadRequested())
    driver.ready(3)
    assert driver.of(W.IDLE) == [2, 3]
    assert [driver.offer(connection) for connection in (1, 2)] == [3, 2]


def test_a_reload_stops_those_that_are_coming_and_leaves_calls_alone() -> None:
    driver = Driver(settings(2))
    driver.ready(1)
    driver.call(1)
    assert driver.of(W.STARTING) == [2]
    assert driver.send(ReloadRequested()) == [Stop(2, Reason.RELOAD)]
    assert driver.state(1) is W.SERVING
    assert driver.send(ProcessExited(2)) == [Spawn(3, HOST)]
    assert driver.pool.snapshot().failures == 0


@pytest.mark.parametrize("held", [False, True])
def test_the_last_idle_worker_goes_first_in_a_reload_only_if_a_caller_would_be_held(
    held: bool,
) -> None:
    driver = Driver(settings(2, queue_timeout=60.0 if held else 8.0))
    for worker in (1, 2):
        driver.send(WorkerHello(worker), after=10.0)
        driver.ready(worker)
    driver.call(1)
    assert driver.send(ReloadRequested()) == ([Stop(2, Reason.RELOAD)] if held else [])
    if not held:
        assert driver.send(ProcessExited(1)) == [Spawn(3, HOST)]
        assert driver.ready(3) == [Stop(2, Reason.RELOAD)]


def test_a_reload_leaves_those_alone_who_warm_up_for_callers_that_wait() -> None:
    driver = Driver(settings(3, warmups=3))
    driver.warm()
    for connection in (1, 2, 3):
        driver.send(ProcessExited(driver.call(connection)))
    assert driver.of(W.STARTING) == [4, 5, 6]
    for connection in (4, 5):
        driver.send(ConnectionArrived(connection))
    for worker in (5, 6):
        driver.send(WorkerHello(worker))
    assert driver.send(ReloadRequested()) == [Stop(4, Reason.RELOAD)]
    assert driver.ready(5) == [Assign(5, 4)]
    assert driver.send(ReloadRequested()) == []
    driver.send(ConnectionLost(5))
    assert driver.send(ReloadRequested()) == [Stop(6, Reason.RELOAD)]


@pytest.mark.parametrize("callers", [0, 1])
def test_a_reload_stops_those_whose_callers_have_gone_and_those_that_hang(callers: int) -> None:
    driver = Driver(settings(1))
    driver.send(WorkerHello(1), after=1.0)
    driver.ready(1)
    driver.send(ProcessExited(driver.call(1)))
    driver.send(WorkerHello(2))
    for connection in range(2, 2 + callers):
        driver.send(ConnectionArrived(connection), after=100.0)
    assert driver.send(ReloadRequested()) == [Stop(2, Reason.RELOAD)]


@pytest.mark.parametrize(("before", "after"), [(100.0, 6.0), (6.0, 100.0)])
def test_who_was_forked_before_a_reload_may_be_silent_as_long_as_before_or_longer(
    before: float, after: float
) -> None:
    driver = Driver(settings(1, heartbeat_timeout=before, settle=1_000.0))
    driver.warm()
    driver.call(1)
    driver.send(ReloadRequested(settings(1, heartbeat_timeout=after, settle=1_000.0)))
    driver.send(Heartbeat(1, SMALL.host))
    assert driver.pool.next_deadline == driver.now + 100.0
    driver.send(ProcessExited(1))
    driver.warm()
    assert driver.pool.next_deadline == driver.now + after


def test_fewer_workers_after_a_reload_means_fewer_idle() -> None:
    driver = Driver(settings(4))
    driver.warm()
    commands = driver.send(ReloadRequested(settings(1, max_connections=2)))
    assert commands == [Stop(worker, Reason.RELOAD) for worker in (1, 2, 3)]


def test_fewer_connections_after_a_reload_leave_no_room_for_idle_workers_beside_the_calls() -> None:
    driver = Driver(settings(2, max_connections=4))
    driver.warm()
    driver.call(1)
    driver.call(2)
    driver.warm()
    commands = driver.send(ReloadRequested(settings(2, max_connections=2)))
    assert commands == [Stop(3, Reason.RELOAD), Stop(4, Reason.RELOAD)]


def test_the_death_of_a_stale_worker_does_not_hold_up_its_successors() -> None:
    driver = Driver(settings(2))
    driver.warm()
    driver.send(ReloadRequested())
    assert driver.send(ProcessExited(2, "the old code was broken")) == [Spawn(3, HOST)]
    assert driver.pool.snapshot().failures == 0


def test_a_stale_worker_proves_nothing_about_new_code() -> None:
    driver = Driver(settings(2))
    driver.warm()
    driver.send(ReloadRequested())
    driver.send(ProcessExited(1))
    driver.send(ProcessExited(3, "the new code is broken"))
    driver.call(1)
    seen = driver.pool.snapshot()
    assert (seen.failures, seen.last_error) == (1, "the new code is broken")


# --- failures -----------------------------------------------------------------------------------


def test_failures_back_off_exponentially_with_jitter() -> None:
    driver = Driver(settings(1, backoff_base=0.5, backoff_cap=8.0))
    waits = []
    for worker in range(1, 9):
        driver.send(ProcessExited(worker, "boom"))
        failed = driver.now
        assert spawns(driver.tick()) == [worker + 1]
        waits.append(driver.now - failed)
    for k, wait in enumerate(waits):
        full = min(8.0, 0.5 * 2**k)
        assert full / 2 <= wait <= full
    assert len({wait / min(8.0, 0.5 * 2**k) for k, wait in enumerate(waits)}) == len(waits)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("proven", [False, True])
@pytest.mark.parametrize("warmups", [1, 2])
def test_a_warm_up_that_always_fails_is_tried_at_most_ten_times_in_fifteen_seconds(
    seed: int, proven: bool, warmups: int
) -> None:
    driver = Driver(settings(2, warmups=warmups), seed)
    if proven:
        for worker in driver.warm():
            driver.send(ProcessExited(worker, "lost"))
    attempts = _attempts_within(driver, 15.0, lifetime=0.05)
    assert 3 <= attempts <= 10
    assert driver.pool.snapshot().last_error == "no voice"


def _attempts_within(driver: Driver, seconds: float, lifetime: float) -> int:
    """Let every worker fail `lifetime` after its birth; returns how many there were."""
    end = driver.now + seconds
    attempts = 0
    while True:
        coming = [view for view in driver.pool.snapshot().workers if view.state is W.STARTING]
        dies = min((view.born + lifetime for view in coming), default=float("inf"))
        deadline = driver.pool.next_deadline
        driver.now = max(driver.now, min(dies, deadline or end))
        if driver.now >= end:
            return attempts
        if dies <= driver.now:
            attempts += 1
            driver.send(ProcessExited(coming[0].number, "no voice"))
        else:
            driver.send(Tick())


def test_what_fails_together_is_one_round_of_failures() -> None:
    driver = Driver(settings(8, warmups=8))
    for worker in driver.warm():
        driver.send(ProcessExited(worker, "out of memory"))
    seen = driver.pool.snapshot()
    assert (seen.failures, seen.totals.failures) == (1, 8)
    assert seen.backoff_until is not None
    assert seen.backoff_until <= driver.now + 0.5


def test_a_failure_does_not_shorten_the_back_off_of_another() -> None:
    driver = Driver(settings(2, warmups=2))
    driver.warm()
    driver.send(ProcessExited(1, "a"))
    before = driver.pool.snapshot().backoff_until
    driver.send(ProcessExited(2, "b"), after=0.01)
    assert driver.pool.snapshot().backoff_until == before


def test_while_failing_one_worker_is_tried_at_a_time() -> None:
    driver = Driver(settings(4, warmups=4))
    for worker in driver.warm():
        driver.send(ProcessExited(worker, "lost"))
    assert len(spawns(driver.tick())) == 1
    worker = driver.of(W.STARTING)[0]
    driver.ready(worker)
    driver.call(1)
    assert len(driver.of(W.STARTING)) == 3, "it took a caller, so spawning works"


def test_a_worker_that_stays_idle_for_a_while_ends_the_run_of_failures() -> None:
    driver = Driver(settings(1, settle=5.0))
    driver.send(ProcessExited(1, "boom"))
    driver.tick()
    driver.ready(2)
    assert driver.pool.snapshot().failures == 1
    ready = driver.now
    driver.tick()
    assert driver.now == ready + 5.0
    seen = driver.pool.snapshot()
    assert (seen.failures, seen.last_error) == (0, "")


def test_a_worker_that_is_killed_for_never_getting_ready_has_failed() -> None:
    driver = Driver(settings(1))
    driver.send(WorkerHello(1))
    driver.tick()
    driver.send(ProcessExited(1))
    seen = driver.pool.snapshot()
    assert seen.failures == 1
    assert seen.last_error == "worker 1 was ended: warm_up_timeout"


def test_workers_too_big_from_birth_are_not_spawned_over_and_over() -> None:
    driver = Driver(settings(1, budget=BudgetSettings(SMALL, soft_limit=Limits(host=300 * MB))))
    driver.ready(1, Cost(400 * MB))
    assert driver.state(1) is W.RETIRING
    assert driver.send(ProcessExited(1)) == []
    assert driver.pool.snapshot().last_error == (
        "worker 1 was above ram_soft_limit before it had a caller: raise that limit, or choose "
        "smaller models"
    )


def test_what_the_pool_stops_on_purpose_is_no_failure() -> None:
    driver = Driver(settings(2), probed=False)
    driver.send(host(1_000))
    driver.warm()
    driver.send(host(1_000, used=1_150))
    driver.send(ProcessExited(2))
    driver.send(ProcessExited(1))
    seen = driver.pool.snapshot()
    assert (seen.failures, seen.totals.exits) == (0, {"budget": 2})


# --- the budget ---------------------------------------------------------------------------------


def test_what_fits_is_spawned_and_the_snapshot_says_what_binds() -> None:
    driver = Driver(settings(4), probed=False)
    driver.send(host(300))
    driver.warm(Cost(140 * MB))
    seen = driver.pool.snapshot()
    assert (seen.states[W.IDLE], seen.target, seen.bound_by) == (2, 2, "budget:host")
    assert seen.estimate == Cost(140 * MB)


def test_the_snapshot_says_whether_workers_or_connections_bind() -> None:
    driver = Driver(settings(2))
    driver.warm()
    assert driver.pool.snapshot().bound_by == "workers"
    driver.call(1)
    assert driver.pool.snapshot().bound_by == "max_connections"


def test_the_pilot_measure_replaces_a_bigger_estimate() -> None:
    driver = Driver(settings(4, budget=BudgetSettings(Cost(1_000 * MB))), probed=False)
    driver.send(host(1_000))
    assert len(driver.warm(Cost(250 * MB))) == 4


def test_an_overshoot_from_outside_retires_idle_workers_newest_first_until_it_fits() -> None:
    driver = Driver(settings(4, warmups=1), probed=False)
    driver.send(host(1_000))
    driver.warm()
    driver.call(1)
    # ours take 400, so others have come to use 750: there is room for 2 of our 4
    assert driver.send(host(1_000, used=1_150)) == [
        Stop(4, Reason.BUDGET),
        Stop(3, Reason.BUDGET),
    ]
    assert driver.send(host(1_000, used=1_150)) == [], "those two are on their way"
    assert driver.send(host(1_000, used=2_000)) == [Stop(2, Reason.BUDGET)], "never the call"
    for worker in (2, 3, 4):
        assert driver.send(ProcessExited(worker)) == []
    assert spawns(driver.send(host(1_000, used=100))) == [5]


def test_an_overshoot_stops_coming_workers_when_no_idle_one_is_left() -> None:
    driver = Driver(settings(2), probed=False)
    driver.send(host(1_000))
    driver.ready(1)
    assert driver.of(W.STARTING) == [2]
    assert driver.send(host(1_000, used=1_100)) == [Stop(1, Reason.BUDGET)], "2 may use 100"
    assert driver.send(host(1_000, used=1_200)) == [Stop(2, Reason.BUDGET)]


def test_a_lower_cap_after_a_reload_is_an_overshoot() -> None:
    driver = Driver(settings(3))
    driver.warm()
    capped = BudgetSettings(SMALL, caps=Limits(host=250 * MB))
    commands = driver.send(ReloadRequested(settings(3, budget=capped)))
    assert commands[0] == Stop(1, Reason.BUDGET)


def test_workers_go_to_the_gpu_with_most_room() -> None:
    driver = Driver(settings(3, budget=ON_GPU), probed=False)
    assert driver.gpus(2_500, 3_000) == [Spawn(1, "cuda:1")]
    # one warm-up a device: the second goes to the other although it has less room
    assert driver.ready(1, GPU_WORKER) == [Spawn(2, "cuda:0"), Spawn(3, "cuda:1")]


def test_the_pilot_is_weighed_before_the_next_worker_is_spawned() -> None:
    driver = Driver(settings(8, warmups=8, budget=ON_GPU), probed=False)
    driver.gpus(8_000)
    assert driver.ready(1) == []
    assert driver.pool.snapshot().unweighed
    assert driver.offer(1) == 1, "it serves meanwhile"
    assert len(spawns(driver.weigh({1: 1_500 * MB}))) == 4, "8000 / 1500, less the pilot"
    assert driver.pool.snapshot().estimate == Cost(SMALL.host, 1_500 * MB)


def test_where_nobody_can_tell_vram_one_worker_is_tried_at_a_time() -> None:
    driver = Driver(settings(8, warmups=8, budget=ON_GPU), probed=False)
    driver.gpus(8_000)
    driver.ready(1)
    assert spawns(driver.weigh({1: None})) == [2]
    assert driver.ready(2) == []
    assert spawns(driver.weigh({1: None, 2: None})) == [3]


def test_a_guess_may_fall_and_a_measure_may_not() -> None:
    driver = Driver(settings(3, budget=ON_GPU), probed=False)
    driver.gpus(16_000)
    driver.ready(1)
    driver.weigh({1: 3_000 * MB}, guessed=True)
    driver.weigh({1: 1_200 * MB}, guessed=True)
    assert driver.pool.snapshot().estimate.device == 1_200 * MB
    driver.weigh({1: 1_100 * MB})
    driver.weigh({1: 900 * MB})
    assert driver.pool.snapshot().estimate.device == 1_100 * MB
    (gpu,) = (view for view in driver.pool.snapshot().devices if view.device == "cuda:0")
    assert gpu.reserved == 4_100 * MB, "the successor was placed by the first guess"


def test_an_llm_that_grows_takes_idle_workers_and_never_a_call() -> None:
    driver = Driver(settings(8, budget=ON_GPU), probed=False)
    driver.gpus(12_000)
    assert len(driver.warm(GPU_WORKER)) == 8
    for connection in (1, 2):
        driver.call(connection)
    stops = driver.weigh({}, used=7_000)
    assert stops == [Stop(worker, Reason.BUDGET) for worker in (8, 7, 6)]
    for worker in (8, 7, 6):
        assert driver.send(ProcessExited(worker)) == []
    seen = driver.pool.snapshot()
    assert (seen.target, seen.bound_by, seen.callers) == (3, "budget:cuda:0", 2)
    assert driver.weigh({}, used=11_000) == [Stop(n, Reason.BUDGET) for n in (5, 4, 3)]
    assert driver.pool.snapshot().callers == 2


def test_workers_on_a_gpu_that_vanishes_live_on_and_nobody_joins_them() -> None:
    driver = Driver(settings(2, budget=ON_GPU), probed=False)
    driver.gpus(8_000)
    driver.warm(GPU_WORKER)
    driver.call(1)
    present = driver.readings
    assert driver.send(BudgetChanged({**present, "cuda:0": None})) == []
    driver.send(SessionEnded(1, SMALL.host))
    assert driver.send(ProcessExited(1)) == [], "nor is anybody placed on the host"
    seen = driver.pool.snapshot()
    assert (seen.target, seen.bound_by) == (1, "budget:cuda:0")
    assert [view.missing for view in seen.devices] == [False, True]
    assert driver.offer(2) == 2
    driver.readings = present
    assert driver.weigh({2: GPU_WORKER.device}) == [Spawn(3, "cuda:0")]


def test_a_worker_above_its_vram_limits_retires_when_idle_and_is_killed_in_a_call() -> None:
    budget = BudgetSettings(
        GPU_WORKER,
        soft_limit=Limits(device=1_500 * MB),
        hard_limit=Limits(device=2_000 * MB),
    )
    driver = Driver(settings(2, budget=budget), probed=False)
    driver.gpus(16_000)
    driver.warm(GPU_WORKER)
    driver.call(1)
    assert driver.weigh({1: 1_600 * MB, 2: 1_600 * MB}) == [
        Warn(1, Reason.VRAM_SOFT_LIMIT),
        Stop(2, Reason.VRAM_SOFT_LIMIT),
    ]
    assert driver.weigh({1: 2_001 * MB}, guessed=True) == [], "nobody is killed on a guess"
    assert driver.weigh({1: 2_001 * MB}) == [Kill(1, Reason.VRAM_HARD_LIMIT)]
    assert driver.pool.snapshot().estimate.device == 1_600 * MB, "a leak tells of no other worker"
    limits = driver.pool.snapshot().totals.limits
    assert (limits["vram_soft_limit"], limits["vram_hard_limit"]) == (2, 1)
