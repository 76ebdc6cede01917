"""voicepool.chronicle: which times of workers and callers the metrics are told."""

from __future__ import annotations

from tests.calls import ManualClock
from voicepool.chronicle import Chronicle


class Told:
    def __init__(self) -> None:
        self.times: list[tuple[str, float]] = []
        self.ends: list[tuple[str, float]] = []

    def observe(self, name: str, seconds: float) -> None:
        self.times.append((name, seconds))

    def ended(self, outcome: str, seconds: float) -> None:
        self.ends.append((outcome, seconds))


def test_a_worker_that_serves() -> None:
    told, clock = Told(), ManualClock()
    chronicle = Chronicle(told, clock)
    chronicle.spawned(1)
    clock.now += 3
    chronicle.ready(1)
    arrived = clock.now
    clock.now += 2
    chronicle.assigned(1, arrived)
    assert told.times == [("warmup_seconds", 3)], "nobody knows yet whether it takes the caller"
    chronicle.accepted(1, clock.now + 0.5)
    assert told.times[1:] == [("queue_seconds", 2), ("handoff_seconds", 0.5)]
    clock.now += 60.5
    chronicle.ended(1, "completed")
    chronicle.gone(1)
    assert told.ends == [("completed", 60)]


def test_a_worker_that_dies_in_a_call_has_lost_it() -> None:
    told, clock = Told(), ManualClock()
    chronicle = Chronicle(told, clock)
    chronicle.spawned(1)
    chronicle.assigned(1, clock.now)
    chronicle.accepted(1, clock.now)
    clock.now += 5
    chronicle.gone(1)
    assert told.ends == [("lost", 5)]


def test_a_caller_whose_worker_dies_first_has_waited_for_the_next_all_the_time() -> None:
    told, clock = Told(), ManualClock()
    chronicle = Chronicle(told, clock)
    arrived = clock.now
    for worker in (1, 2):
        chronicle.spawned(worker)
    chronicle.assigned(1, arrived)
    clock.now += 3
    chronicle.gone(1)
    chronicle.assigned(2, arrived)
    clock.now += 1
    chronicle.accepted(2, clock.now)
    assert told.times == [("queue_seconds", 3), ("handoff_seconds", 1)]
    assert told.ends == []
