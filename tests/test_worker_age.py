"""Idle workers that have grown old are replaced, and no caller ever notices."""

from __future__ import annotations

from typing import Any

import pytest

from tests.pool_world import MB, Driver, host, settings
from voicepool.budget import HOST, Cost
from voicepool.pool import (
    Assign,
    Command,
    ConnectionArrived,
    DrainRequested,
    PoolSettings,
    ProcessExited,
    Reason,
    ReloadRequested,
    SessionAccepted,
    Spawn,
    Stop,
    WorkerHello,
    WorkerState,
)
from voicepool.staffing import AGE_JITTER

W = WorkerState
AGE = 1_000.0


def aging(workers: int, max_connections: int | None = None, **others: Any) -> PoolSettings:
    """Nobody is taken for dead meanwhile, and trust comes before age."""
    return settings(workers, max_connections, worker_age=AGE, heartbeat_timeout=100 * AGE, **others)


def grow_old(driver: Driver) -> list[Command]:
    """Time passes until the pool has something to be done."""
    for _ in range(20):
        if commands := driver.tick():
            return commands
    raise AssertionError("nobody grows old")


def test_with_room_the_new_one_is_warm_before_the_old_one_goes() -> None:
    driver = Driver(aging(1, 2))
    driver.warm()
    assert grow_old(driver) == [Spawn(2, HOST)]
    assert driver.state(1) is W.IDLE
    assert driver.ready(2) == [Stop(1, Reason.WORKER_AGE)]
    driver.send(ProcessExited(1))
    totals = driver.pool.snapshot().totals
    assert totals.limits["worker_age"] == 1
    assert totals.exits == {"worker_age": 1}
    assert totals.failures == 0


def test_without_room_they_go_one_at_a_time_and_each_is_replaced_first() -> None:
    driver = Driver(aging(3))
    driver.warm()
    driver.now += 2 * AGE  # the shell was held up: all are old at once
    (first,) = driver.tick()
    assert first == Stop(1, Reason.WORKER_AGE)
    assert driver.send(ProcessExited(1)) == [Spawn(4, HOST)]
    (second,) = driver.ready(4)
    assert isinstance(second, Stop)
    assert len(driver.of(W.IDLE)) == 2


def test_where_memory_is_short_they_go_one_at_a_time() -> None:
    driver = Driver(aging(2, 8), probed=False)
    driver.send(host(250))
    driver.warm()
    assert grow_old(driver) in ([Stop(1, Reason.WORKER_AGE)], [Stop(2, Reason.WORKER_AGE)])


def test_the_last_idle_worker_does_not_go_before_its_successor_is_there() -> None:
    driver = Driver(aging(1))
    driver.warm()
    driver.now += 2 * AGE
    assert driver.tick() == []
    assert driver.pool.next_deadline is not None
    assert driver.offer(1) == 1, "it still serves"


def test_a_call_is_never_ended_for_the_age_of_its_worker() -> None:
    driver = Driver(aging(2, call_limit=None))
    driver.warm()
    driver.call(1)
    driver.now += 10 * AGE
    driver.tick()
    assert driver.state(1) is W.SERVING


def test_a_caller_gets_a_younger_worker_where_there_is_one_and_else_an_old_one() -> None:
    driver = Driver(aging(2, 4))
    driver.ready(1)
    driver.now += AGE / 2
    driver.ready(2)
    assert grow_old(driver) == [Spawn(3, HOST)]
    assert [driver.offer(connection) for connection in (1, 2)] == [2, 1]


def test_a_failing_successor_costs_nobody() -> None:
    driver = Driver(aging(2, 4))
    driver.warm()
    (spawned,) = grow_old(driver)
    assert isinstance(spawned, Spawn)
    driver.send(WorkerHello(spawned.worker))
    driver.send(ProcessExited(spawned.worker, "no model", permanent=True))
    driver.now += 2 * AGE
    driver.beat()
    assert driver.tick() == []
    assert len(driver.of(W.IDLE)) == 2


def test_those_who_were_started_together_are_not_replaced_together() -> None:
    driver = Driver(aging(4, 8))
    driver.warm()
    born = driver.now
    moments = []
    for _ in range(4):
        (spawned,) = grow_old(driver)
        assert isinstance(spawned, Spawn)
        moments.append(driver.now - born)
        driver.ready(spawned.worker)
        for leaving in driver.of(W.RETIRING):
            driver.send(ProcessExited(leaving))
    assert len(set(moments)) == 4
    assert min(moments) >= AGE * (1 - AGE_JITTER)
    assert max(moments) <= AGE * (1 + AGE_JITTER)


def test_a_worker_that_serves_does_not_grow_old() -> None:
    driver = Driver(aging(1, 2, call_limit=None))
    driver.warm()
    driver.send(ConnectionArrived(1))
    driver.send(SessionAccepted(1))
    driver.warm()
    driver.now += 2 * AGE
    driver.tick()
    assert driver.state(1) is W.SERVING
    assert driver.pool.snapshot().totals.limits["worker_age"] == 0


def test_after_a_reload_they_go_for_that() -> None:
    driver = Driver(aging(2, 4))
    driver.warm()
    grow_old(driver)
    commands = driver.send(ReloadRequested())
    assert Stop(3, Reason.RELOAD) in commands
    driver.send(ProcessExited(3))
    driver.warm()
    assert driver.pool.snapshot().totals.limits["worker_age"] == 0


def test_a_draining_pool_replaces_nobody() -> None:
    driver = Driver(aging(2))
    driver.warm()
    driver.send(DrainRequested())
    for worker in (1, 2):
        driver.send(ProcessExited(worker))
    assert driver.pool.next_deadline == driver.now + driver.settings.drain_timeout
    assert driver.tick() == []


@pytest.mark.parametrize("age", [None, AGE])
def test_nobody_grows_old_unless_that_is_wanted(age: float | None) -> None:
    driver = Driver(settings(2, 4, worker_age=age, heartbeat_timeout=100 * AGE))
    driver.warm()
    driver.now += 50 * AGE
    assert (driver.tick() == []) == (age is None)


def test_while_old_workers_are_replaced_callers_are_handed_over() -> None:
    driver = Driver(aging(3))
    driver.warm()
    driver.now += 2 * AGE
    driver.tick()
    assert Assign in map(type, driver.send(ConnectionArrived(9)))


def test_nobody_goes_whose_successor_would_not_fit_in_his_place() -> None:
    driver = Driver(aging(2), probed=False)
    driver.send(host(280))
    driver.ready(1)
    driver.ready(2, Cost(150 * MB))  # from now on the next one is expected to take as much
    driver.now += 2 * AGE
    assert driver.tick() == []
    driver.send(host(300))
    assert driver.of(W.RETIRING) == [1]
