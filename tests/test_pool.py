"""The pool against its own tables: every state of worker and connection times every event."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import pytest

from tests.pool_world import CONNECTION, PLENTY, SITUATIONS, SMALL, Driver, Situation, situation
from voicepool.errors import ConfigError, IllegalEvent
from voicepool.pool import (
    BudgetChanged,
    ConnectionArrived,
    ConnectionLost,
    ConnectionState,
    DrainRequested,
    Event,
    Heartbeat,
    PoolSettings,
    ProcessExited,
    ReloadRequested,
    SessionAccepted,
    SessionEnded,
    Snapshot,
    SpawnFailed,
    Tick,
    WorkerHello,
    WorkerReady,
    WorkerState,
)
from voicepool.pooltables import CONNECTION_TABLE, DEADLINES, WORKER_TABLE

WORKER_EVENTS: dict[type[Event], Callable[[int], Event]] = {
    WorkerHello: WorkerHello,
    WorkerReady: lambda worker: WorkerReady(worker, SMALL.host),
    SessionAccepted: SessionAccepted,
    SessionEnded: lambda worker: SessionEnded(worker, SMALL.host),
    Heartbeat: lambda worker: Heartbeat(worker, SMALL.host),
    ProcessExited: ProcessExited,
    SpawnFailed: lambda worker: SpawnFailed(worker, "no memory"),
}
CONNECTION_EVENTS: dict[type[Event], Callable[[int], Event]] = {
    ConnectionArrived: ConnectionArrived,
    ConnectionLost: ConnectionLost,
}
GENERAL_EVENTS: list[Event] = [PLENTY, ReloadRequested(), DrainRequested(), Tick()]


def everything(driver: Driver) -> tuple[Snapshot, float | None, list[int], object]:
    """All that could have changed, the queue's order and the transitions of the last step too."""
    state = driver.pool._state
    return (
        driver.pool.snapshot(),
        driver.pool.next_deadline,
        list(state.waiting),
        (list(state.transitions), list(state.connections), list(state.commands), state.now),
    )


def name(value: object) -> str:
    if isinstance(value, tuple):
        return "-".join(name(part) for part in value if part is not None)
    return str(getattr(value, "name", None) or getattr(value, "__name__", value))


def legal(now: Situation, event: type[Event]) -> bool:
    worker, connection = now
    if (worker, event) not in WORKER_TABLE:
        return False
    if worker is WorkerState.EXITED:
        return True
    if event is SpawnFailed:
        return connection is None
    if event not in (SessionAccepted, SessionEnded):
        return True
    return connection is not None and (connection, event) in CONNECTION_TABLE


def test_every_event_is_in_one_of_the_lists_of_this_test() -> None:
    listed = {*WORKER_EVENTS, *CONNECTION_EVENTS, *(type(event) for event in GENERAL_EVENTS)}
    assert listed == set(get_args(Event))


def test_the_situations_cover_every_worker_state() -> None:
    assert {worker for worker, _ in SITUATIONS} == set(WorkerState)


def test_every_live_state_has_a_deadline() -> None:
    assert set(DEADLINES) == set(WorkerState) - {WorkerState.EXITED}


@pytest.mark.parametrize("now", SITUATIONS, ids=name)
def test_the_situation_is_what_it_says(now: Situation) -> None:
    worker, connection = now
    driver = situation(worker, connection)
    assert driver.state(1) is worker
    held = driver.pool._state.connections.get(CONNECTION)
    if connection in (ConnectionState.OFFERED, ConnectionState.ACCEPTED):
        assert held is not None
        assert held.state is connection
    else:
        assert held is None


@pytest.mark.parametrize("event", WORKER_EVENTS, ids=name)
@pytest.mark.parametrize("now", SITUATIONS, ids=name)
def test_worker_event(now: Situation, event: type[Event]) -> None:
    driver = situation(*now)
    before = everything(driver)
    if not legal(now, event):
        with pytest.raises(IllegalEvent):
            driver.send(WORKER_EVENTS[event](1), after=0.5)
        assert everything(driver) == before
        return
    driver.send(WORKER_EVENTS[event](1))
    moved = [
        transition
        for transition in driver.pool.transitions
        if transition.number == 1 and isinstance(transition.after, WorkerState)
    ]
    after = WORKER_TABLE[now[0], event]
    if after is now[0]:
        assert moved == []
        assert driver.state(1) is after
    else:
        assert (moved[0].before, moved[0].after, moved[0].cause) == (
            now[0],
            after,
            event.__name__,
        )


@pytest.mark.parametrize("event", GENERAL_EVENTS, ids=lambda event: type(event).__name__)
@pytest.mark.parametrize("now", SITUATIONS, ids=name)
def test_general_events_are_legal_in_every_state(now: Situation, event: Event) -> None:
    driver = situation(*now)
    driver.send(event)
    driver.send(event)
    seen = driver.pool.snapshot()
    assert sum(seen.states.values()) == len(seen.workers)


@pytest.mark.parametrize("state", ConnectionState, ids=name)
def test_connection_lost(state: ConnectionState) -> None:
    driver = _connection_in(state)
    driver.send(ConnectionLost(CONNECTION))
    moved = [
        (transition.before, transition.after)
        for transition in driver.pool.transitions
        if isinstance(transition.after, ConnectionState)
    ]
    after = CONNECTION_TABLE[state, ConnectionLost]
    assert moved == ([] if after is state else [(state, after)])


@pytest.mark.parametrize("state", ["WAITING", "OFFERED", "ACCEPTED"])
def test_a_connection_cannot_arrive_twice(state: str) -> None:
    driver = _connection_in(ConnectionState[state])
    before = everything(driver)
    with pytest.raises(IllegalEvent):
        driver.send(ConnectionArrived(CONNECTION))
    assert everything(driver) == before


def _connection_in(state: ConnectionState) -> Driver:
    match state:
        case ConnectionState.WAITING | ConnectionState.REFUSED:
            driver = situation(WorkerState.STARTING, None)
            driver.send(ConnectionArrived(CONNECTION))
            if state is ConnectionState.REFUSED:
                driver.tick()
                assert driver.pool.snapshot().totals.refused
        case ConnectionState.OFFERED | ConnectionState.GONE:
            driver = situation(WorkerState.ASSIGNED, state)
        case ConnectionState.ACCEPTED:
            driver = situation(WorkerState.SERVING, state)
        case ConnectionState.DONE:
            driver = situation(WorkerState.RETIRING, state)
    return driver


@pytest.mark.parametrize("event", WORKER_EVENTS, ids=name)
@pytest.mark.parametrize("number", [-1, 0, 99])
def test_a_worker_that_was_never_spawned_is_illegal(event: type[Event], number: int) -> None:
    driver = situation(WorkerState.IDLE, None)
    before = everything(driver)
    with pytest.raises(IllegalEvent):
        driver.send(WORKER_EVENTS[event](number))
    assert everything(driver) == before


@pytest.mark.parametrize("number", [-1, CONNECTION + 1])
def test_a_connection_that_never_arrived_is_illegal(number: int) -> None:
    driver = situation(WorkerState.SERVING, ConnectionState.ACCEPTED)
    with pytest.raises(IllegalEvent):
        driver.send(ConnectionLost(number))


def test_an_illegal_event_says_what_is_wrong() -> None:
    driver = situation(WorkerState.IDLE, None)
    with pytest.raises(IllegalEvent, match=r"SessionAccepted\(worker=1\): the worker is idle"):
        driver.send(SessionAccepted(1))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"workers": 0}, "workers"),
        ({"workers": 3, "max_connections": 2}, "max_connections"),
        ({"spare": -1}, "spare"),
        ({"kill_timeout": 0.0}, "kill_timeout"),
        ({"call_limit": 0.0}, "call_limit"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, float], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        PoolSettings(**{"workers": 1, "max_connections": 2} | changes)  # type: ignore[arg-type]


def test_nothing_is_spawned_before_the_first_reading() -> None:
    driver = Driver(probed=False)
    assert driver.send(Tick()) == []
    assert driver.send(ReloadRequested()) == []
    assert driver.send(BudgetChanged({})) == []
    assert driver.send(PLENTY) != []
