"""Stories of callers and workers: one for each promise that a reader of the design would look for.

Those about how many workers there are, are in test_staffing.py.
"""

from __future__ import annotations

import pytest

from tests.pool_world import MB, PLENTY, SMALL, Driver, settings, situation, spawns
from voicepool.budget import BudgetSettings, Cost, Limits
from voicepool.pool import (
    Assign,
    ConnectionArrived,
    ConnectionLost,
    ConnectionState,
    DrainRequested,
    Heartbeat,
    Kill,
    ProcessExited,
    Reason,
    Refuse,
    ReloadRequested,
    SessionAccepted,
    SessionEnded,
    Stop,
    Tick,
    Warn,
    WorkerHello,
    WorkerState,
)
from voicepool.poolspec import LIMITS, LIMITS_OF_A_CALL

W = WorkerState


# --- the hand-off -------------------------------------------------------------------------------


def test_no_acknowledgement_in_time_kills_and_the_caller_goes_to_another_worker() -> None:
    driver = Driver(settings(2, max_connections=3))
    driver.warm()
    worker = driver.offer(1)
    commands = driver.tick()
    assert commands == [Kill(worker, Reason.ACK_TIMEOUT)]
    assert driver.pool.snapshot().waiting == 0, "still offered: it may have been taken"
    assert Assign(2, 1) in driver.send(ProcessExited(worker))
    assert driver.pool.snapshot().totals.retried == 1


def test_a_connection_that_comes_back_is_first_in_the_queue() -> None:
    driver = Driver(settings(1, max_connections=1))
    driver.warm()
    worker = driver.offer(1)
    driver.send(ConnectionArrived(2), after=1.0)
    driver.send(ProcessExited(worker))
    driver.tick()  # the back-off after a death before the acknowledgement
    assert Assign(2, 1) in driver.ready(2)


def test_a_connection_that_comes_back_keeps_its_deadline() -> None:
    driver = Driver(settings(1, queue_timeout=2.0, ack_timeout=1.0))
    driver.warm()
    arrived = driver.now
    worker = driver.offer(1)
    driver.tick()
    driver.send(ProcessExited(worker))
    while driver.pool.snapshot().waiting:
        driver.tick()
    assert driver.now == arrived + 2.0
    assert driver.pool.snapshot().totals.refused == {Reason.TIMEOUT: 1}


def test_a_connection_that_comes_back_too_late_is_refused_at_once() -> None:
    driver = Driver(settings(1, queue_timeout=2.0, ack_timeout=3.0))
    driver.warm()
    worker = driver.offer(1)
    driver.tick()
    commands = driver.send(ProcessExited(worker))
    assert [type(command) for command in commands] == [Refuse]
    assert driver.pool.snapshot().totals.refused == {Reason.TIMEOUT: 1}


def test_an_acknowledgement_found_after_the_kill_is_never_retried() -> None:
    driver = Driver(settings(2))
    driver.warm()
    worker = driver.offer(1)
    driver.tick()
    driver.send(SessionAccepted(worker))
    assert driver.state(worker) is W.KILLING
    commands = driver.send(ProcessExited(worker))
    assert spawns(commands) == [3]
    assert not any(isinstance(command, Assign) for command in commands)
    totals = driver.pool.snapshot().totals
    assert (totals.accepted, totals.lost, totals.retried) == (1, 1, 0)


def test_a_connection_that_is_not_fit_to_be_offered_again_is_gone() -> None:
    driver = Driver(settings(2))
    driver.warm()
    worker = driver.offer(1)
    driver.tick()
    driver.send(ConnectionLost(1))
    commands = driver.send(ProcessExited(worker))
    assert not any(isinstance(command, Assign) for command in commands)
    assert driver.pool.snapshot().totals.gone == 1


def test_a_worker_that_dies_in_a_call_costs_its_own_caller_only() -> None:
    driver = Driver(settings(2))
    driver.warm()
    driver.call(1)
    driver.call(2)
    assert spawns(driver.send(ProcessExited(1))) == [3], "at once: no back-off"
    seen = driver.pool.snapshot()
    assert (seen.totals.lost, seen.failures, seen.callers) == (1, 0, 1)


def test_connection_number_zero_is_as_good_as_any() -> None:
    driver = Driver(settings(1))
    driver.warm()
    worker = driver.offer(0)
    driver.send(ProcessExited(worker))
    assert driver.pool.snapshot().waiting == 1


# --- refusals -----------------------------------------------------------------------------------


def test_beyond_the_waiting_room_callers_are_refused_at_once() -> None:
    driver = Driver(settings(1, max_waiting=1, refill_guess=4.0))
    assert driver.pool.snapshot().ready
    assert driver.send(ConnectionArrived(1)) == []
    assert not driver.pool.snapshot().ready
    assert driver.send(ConnectionArrived(2)) == [Refuse(2, Reason.FULL, 12)]


def test_without_a_waiting_room_a_warm_worker_is_readiness() -> None:
    driver = Driver(settings(1, max_waiting=0))
    assert not driver.pool.snapshot().ready
    driver.warm()
    assert driver.pool.snapshot().ready
    driver.call(1)
    assert not driver.pool.snapshot().ready


def test_the_queue_timeout_refuses_in_order() -> None:
    driver = Driver(settings(1, queue_timeout=2.0))
    driver.send(ConnectionArrived(1))
    driver.send(ConnectionArrived(2), after=0.5)
    first, second = driver.tick(), driver.tick()
    assert [(command.connection, command.reason) for command in [*first, *second]] == [  # type: ignore[union-attr]
        (1, Reason.TIMEOUT),
        (2, Reason.TIMEOUT),
    ]


def test_retry_after_follows_the_measured_refill_time() -> None:
    driver = Driver(settings(1, max_waiting=0, refill_guess=50.0))
    assert driver.send(ConnectionArrived(1)) == [Refuse(1, Reason.FULL, 60)], "guessed, clamped"
    driver.now += 3.0
    driver.warm()
    driver.call(2)
    # the refused one stands first in line, so it is told the time of one refill
    assert driver.send(ConnectionArrived(3)) == [Refuse(3, Reason.FULL, 6)]


def test_a_permanent_error_halts_and_callers_are_told_at_once_until_a_reload() -> None:
    driver = Driver(settings(2))
    driver.send(ConnectionArrived(1))
    commands = driver.send(ProcessExited(1, "no such model: tiny", permanent=True))
    assert commands == [Refuse(1, Reason.UNAVAILABLE, 60)]
    seen = driver.pool.snapshot()
    assert (seen.halted, seen.last_error, seen.ready) == (True, "no such model: tiny", False)
    assert driver.send(ConnectionArrived(2)) == [Refuse(2, Reason.UNAVAILABLE, 60)]
    assert driver.send(Tick(), after=1_000.0) == []
    assert spawns(driver.send(ReloadRequested())) == [2]
    assert driver.pool.snapshot().last_error == ""


def test_a_halted_pool_still_serves_with_those_it_has() -> None:
    driver = Driver(settings(2))
    driver.ready(1)
    driver.send(ProcessExited(2, "the disk is gone", permanent=True))
    assert driver.pool.snapshot().ready
    assert driver.offer(1) == 1
    assert driver.pool.snapshot().last_error == "the disk is gone"


# --- limits -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "reason"),
    [(0, Reason.HELLO_TIMEOUT), (1, Reason.WARM_UP_TIMEOUT), (2, Reason.HEARTBEAT_TIMEOUT)],
)
def test_a_worker_that_does_not_come_up_is_killed(steps: int, reason: Reason) -> None:
    driver = Driver(settings(1, settle=100.0))
    if steps > 0:
        driver.send(WorkerHello(1))
    if steps > 1:
        driver.ready(1)
    assert driver.tick() == [Kill(1, reason)]


def test_a_heartbeat_renews_the_deadline_of_idle_and_serving_workers() -> None:
    driver = Driver(settings(1, heartbeat_timeout=6.0, settle=100.0))
    driver.warm()
    for _ in range(3):
        driver.send(Heartbeat(1, SMALL.host), after=5.0)
    driver.call(1)
    for _ in range(3):
        driver.send(Heartbeat(1, SMALL.host), after=5.0)
    assert driver.pool.next_deadline == driver.now + 6.0
    assert driver.tick() == [Kill(1, Reason.HEARTBEAT_TIMEOUT)]


@pytest.mark.parametrize("state", [W.WARMING, W.ASSIGNED, W.RETIRING, W.KILLING])
def test_a_heartbeat_renews_no_other_deadline(state: WorkerState) -> None:
    connection = {W.ASSIGNED: ConnectionState.OFFERED, W.RETIRING: ConnectionState.DONE}
    driver = situation(state, connection.get(state))
    deadline = driver.pool.next_deadline
    driver.send(Heartbeat(1, SMALL.host), after=0.5)
    assert driver.pool.next_deadline == deadline


def test_what_was_read_before_the_tick_counts_however_late_it_was_read() -> None:
    driver = Driver(settings(2, heartbeat_timeout=6.0))
    driver.warm()
    driver.now += 60.0  # the shell was suspended; then it reads what has come in
    assert driver.send(Heartbeat(1, SMALL.host)) == []
    assert driver.send(Heartbeat(2, SMALL.host)) == []
    assert driver.send(Tick()) == []


def test_a_worker_that_does_not_stop_is_killed_and_killed_again() -> None:
    driver = Driver(settings(1, stop_timeout=2.0, kill_timeout=1.0))
    driver.warm()
    driver.call(1)
    driver.send(SessionEnded(1, SMALL.host))
    assert driver.tick() == [Kill(1, Reason.STOP_TIMEOUT)]
    assert driver.tick() == [Kill(1, Reason.KILL_TIMEOUT)]
    assert driver.tick() == [Kill(1, Reason.KILL_TIMEOUT)]
    driver.send(ProcessExited(1))
    assert driver.pool.snapshot().totals.exits == {"stop_timeout": 1}


def test_the_call_limit_stops_the_call() -> None:
    driver = Driver(settings(1, call_limit=10.0, heartbeat_timeout=60.0))
    driver.warm()
    driver.call(1)
    assert driver.tick() == [Stop(1, Reason.CALL_LIMIT)]
    driver.send(SessionEnded(1, SMALL.host))
    totals = driver.pool.snapshot().totals
    assert totals.completed == 1
    assert totals.limits["call_limit"] == 1


@pytest.mark.parametrize("limit", LIMITS_OF_A_CALL)
def test_a_limit_that_the_worker_tells_of_is_counted(limit: Reason) -> None:
    driver = Driver(settings(1))
    driver.warm()
    assert driver.pool.snapshot().totals.limits == dict.fromkeys(LIMITS, 0), "all are there"
    driver.call(1)
    driver.send(SessionEnded(1, SMALL.host, limit))
    totals = driver.pool.snapshot().totals
    assert totals.limits == {**dict.fromkeys(LIMITS, 0), limit: 1}
    assert totals.completed == 1


def test_a_call_that_reaches_two_limits_at_once_has_ended_for_the_first() -> None:
    driver = Driver(settings(1, call_limit=10.0, heartbeat_timeout=60.0))
    driver.warm()
    driver.call(1)
    driver.tick()
    driver.send(SessionEnded(1, SMALL.host, Reason.IDLE_LIMIT))
    limits = driver.pool.snapshot().totals.limits
    assert (limits["call_limit"], limits["idle_limit"]) == (1, 0)


def test_what_is_no_limit_is_not_counted_as_one() -> None:
    driver = Driver(settings(2))
    driver.warm()
    driver.call(1)
    driver.send(DrainRequested())
    driver.send(DrainRequested())
    assert set(driver.pool.snapshot().totals.limits.values()) == {0}


def test_the_soft_limit_retires_when_idle_and_leaves_a_call_alone() -> None:
    driver = Driver(settings(2, budget=BudgetSettings(SMALL, soft_limit=Limits(host=300 * MB))))
    driver.warm()
    driver.call(1)
    assert driver.send(Heartbeat(1, 400 * MB)) == [Warn(1, Reason.SOFT_LIMIT)]
    assert driver.send(Heartbeat(1, 400 * MB)) == [], "once is enough"
    assert driver.send(Heartbeat(2, 400 * MB)) == [Stop(2, Reason.SOFT_LIMIT)]
    driver.send(SessionEnded(1, 400 * MB))
    driver.send(ProcessExited(1))
    totals = driver.pool.snapshot().totals
    assert totals.limits["soft_limit"] == 2
    assert totals.exits == {"ended": 1}, "it has left as all do"


def test_a_worker_over_its_soft_limit_still_serves_whoever_waits() -> None:
    driver = Driver(settings(1, budget=BudgetSettings(SMALL, soft_limit=Limits(host=300 * MB))))
    driver.send(ConnectionArrived(1))
    assert driver.ready(1, Cost(400 * MB)) == [Assign(1, 1), Warn(1, Reason.SOFT_LIMIT)]


@pytest.mark.parametrize("state", [W.WARMING, W.IDLE, W.ASSIGNED, W.SERVING, W.RETIRING])
def test_the_hard_limit_kills_in_every_state(state: WorkerState) -> None:
    driver = Driver(settings(1, budget=BudgetSettings(SMALL, hard_limit=Limits(host=300 * MB))))
    driver.send(WorkerHello(1))
    if state is not W.WARMING:
        driver.ready(1)
    if state in (W.ASSIGNED, W.SERVING, W.RETIRING):
        driver.offer(1)
    if state in (W.SERVING, W.RETIRING):
        driver.send(SessionAccepted(1))
    if state is W.RETIRING:
        driver.send(SessionEnded(1, SMALL.host))
    assert driver.state(1) is state
    assert driver.send(Heartbeat(1, 301 * MB)) == [Kill(1, Reason.HARD_LIMIT)]
    assert driver.pool.snapshot().estimate.host == SMALL.host, "a freak is no measure"
    assert driver.send(Heartbeat(1, 301 * MB)) == []
    assert driver.pool.snapshot().totals.limits["hard_limit"] == 1


# --- draining -----------------------------------------------------------------------------------


def test_draining_refuses_the_waiting_stops_the_idle_and_lets_calls_end() -> None:
    driver = Driver(settings(2, max_connections=3, drain_timeout=30.0))
    driver.warm()
    driver.call(1)
    driver.call(2)
    assert driver.send(DrainRequested()) == [Stop(3, Reason.DRAINING)]
    assert not driver.pool.snapshot().ready
    commands = driver.send(ConnectionArrived(3))
    assert [(type(c), c.reason) for c in commands if isinstance(c, Refuse)] == [
        (Refuse, Reason.DRAINING)
    ]
    driver.send(SessionEnded(1, SMALL.host))
    assert driver.send(ProcessExited(1)) == []
    driver.send(ProcessExited(3))
    driver.now += 25.0
    driver.beat()
    deadline = driver.now + 5.0
    assert driver.tick() == [Stop(2, Reason.DRAINING)]
    assert driver.now == deadline
    driver.send(ProcessExited(2))
    assert driver.pool.next_deadline is None


def test_those_who_wait_are_refused_when_draining_begins() -> None:
    driver = Driver(settings(1))
    driver.send(ConnectionArrived(1))
    driver.send(ConnectionArrived(2))
    commands = driver.send(DrainRequested())
    assert [c.connection for c in commands if isinstance(c, Refuse)] == [1, 2]
    assert Stop(1, Reason.DRAINING) in commands


def test_a_second_drain_request_ends_the_calls_at_once() -> None:
    driver = Driver(settings(2))
    driver.warm()
    driver.call(1)
    driver.offer(2)
    driver.send(DrainRequested())
    assert driver.send(DrainRequested()) == [Stop(1, Reason.DRAINING)]
    assert driver.send(SessionAccepted(2)) == [Stop(2, Reason.DRAINING)], "as soon as it can be"


def test_an_acknowledgement_found_after_the_kill_needs_no_order_to_stop() -> None:
    driver = Driver(settings(1))
    driver.warm()
    driver.offer(1)
    driver.send(DrainRequested())
    driver.send(DrainRequested())
    assert driver.tick() == [Kill(1, Reason.ACK_TIMEOUT)]
    assert driver.send(SessionAccepted(1)) == []


def test_a_caller_whose_worker_dies_while_draining_is_refused() -> None:
    driver = Driver(settings(1))
    driver.warm()
    driver.offer(1)
    driver.send(DrainRequested())
    commands = driver.send(ProcessExited(1))
    assert [c.reason for c in commands if isinstance(c, Refuse)] == [Reason.DRAINING]
    assert len(commands) == 1


# --- a long life --------------------------------------------------------------------------------


def test_months_of_calls_leave_nothing_behind() -> None:
    driver = Driver(settings(2))
    driver.warm()
    for connection in range(3_000):
        worker = driver.call(connection)
        driver.send(SessionEnded(worker, SMALL.host), after=0.1)
        driver.send(ProcessExited(worker))
        driver.warm()
    state = driver.pool._state
    assert len(state.roster) == 2
    assert not state.connections
    assert not state.waiting
    assert len(state.deadlines) == 4
    assert len(state.deadlines._heap) <= 2 * 4 + 64
    assert len(state.ledger._holdings) == 2
    assert driver.pool.snapshot().totals.completed == 3_000


def test_transitions_say_what_changed_and_why() -> None:
    driver = Driver(settings(1))
    driver.ready(1)
    driver.send(ConnectionArrived(9))
    assert [(t.number, t.before, t.after.value, t.cause) for t in driver.pool.transitions] == [
        (9, None, "waiting", "ConnectionArrived"),
        (1, W.IDLE, "assigned", "Assign"),
        (9, driver.pool.transitions[0].after, "offered", "Assign"),
    ]
    driver.tick()
    assert [(t.number, t.after.value, t.cause) for t in driver.pool.transitions] == [
        (1, "killing", "ack_timeout")
    ]


def test_a_ready_event_right_after_the_first_reading_is_enough() -> None:
    driver = Driver(probed=False)
    assert driver.pool.next_deadline is None
    driver.send(PLENTY)
    assert driver.pool.next_deadline is not None
