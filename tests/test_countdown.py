"""One timer for many deadlines, on a loop whose clock the test moves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from voicepool.countdown import Countdown


class Timer:
    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when, self.callback, self.cancelled = when, callback, False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """The part of an event loop that a Countdown uses."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        self.timers.append(Timer(when, callback))
        return self.timers[-1]

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        while due := [t for t in self.timers if not t.cancelled and t.when <= self.now]:
            self.timers.remove(due[0])
            due[0].callback()


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def late() -> list[str]:
    return []


@pytest.fixture
def countdown(loop: Loop, late: list[str]) -> Countdown[str]:
    return Countdown(cast(Any, loop), 5.0, late.append)


def test_each_has_its_time(loop: Loop, late: list[str], countdown: Countdown[str]) -> None:
    countdown.add("a")
    loop.pass_time(3)
    countdown.add("b")
    assert (countdown.oldest, len(countdown)) == ("a", 2)
    loop.pass_time(2)
    assert (late, "a" in countdown, "b" in countdown) == (["a"], False, True)
    loop.pass_time(3)
    assert late == ["a", "b"]
    loop.pass_time(100)
    assert late == ["a", "b"]


def test_what_is_done_is_not_late(loop: Loop, late: list[str], countdown: Countdown[str]) -> None:
    for name in "abc":
        countdown.add(name)
    countdown.discard("a")
    countdown.discard("nobody")
    loop.pass_time(5)
    assert late == ["b", "c"]


def test_one_timer_at_a_time(loop: Loop, countdown: Countdown[str]) -> None:
    for name in "abcd":
        countdown.add(name)
        loop.pass_time(1)
    assert len(loop.timers) == 1


def test_cleared(loop: Loop, late: list[str], countdown: Countdown[str]) -> None:
    for name in "ab":
        countdown.add(name)
    assert countdown.clear() == ["a", "b"]
    loop.pass_time(100)
    assert late == []
    countdown.add("c")
    loop.pass_time(5)
    assert late == ["c"]


def test_another_can_be_added_by_the_late_ones_end(loop: Loop) -> None:
    ended = []

    def again(name: str) -> None:
        ended.append(name)
        if len(ended) < 3:
            again_and_again.add(name)

    again_and_again = Countdown[str](cast(Any, loop), 5.0, again)
    again_and_again.add("a")
    for _ in range(4):
        loop.pass_time(5)
    assert ended == ["a", "a", "a"]
