"""When a server is tried again, and when not."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncGenerator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chatting import nothing_was_logged_before
from voicepool.engines.base import ChatDelta, TextDelta
from voicepool.engines.chat.retrying import Patience, ServerFailed, persist, persist_until_first

__all__ = ["nothing_was_logged_before"]


def patience(seconds: float = 60.0) -> Patience:
    return Patience(seconds, time.monotonic(), base=1e-4, cap=1e-3, rng=random.Random(1))


def explain(error: Exception) -> ServerFailed | None:
    return ServerFailed("away", again=True) if isinstance(error, ConnectionError) else None


class Attempts:
    """An attempt that raises these in turn, then succeeds."""

    def __init__(self, *errors: Exception, after: int = 0) -> None:
        self.errors = list(errors)
        self.after = after
        self.made = 0
        self.closed = 0

    def __call__(self) -> str:
        self.made += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"

    async def stream(self) -> AsyncGenerator[ChatDelta, None]:
        self.made += 1
        try:
            for _ in range(self.after):
                yield TextDelta("early")
            if self.errors:
                raise self.errors.pop(0)
            yield TextDelta("late")
        finally:
            self.closed += 1


@given(
    st.floats(0.1, 30),
    st.lists(st.floats(0, 5), min_size=1, max_size=50),
    st.integers(0, 2**32),
)
def test_patience_ends(seconds: float, attempts: list[float], seed: int) -> None:
    start = now = 1000.0
    waiting = Patience(seconds, start, base=0.25, cap=4.0, rng=random.Random(seed))
    for number, taken in enumerate(attempts):
        began, now = now, now + taken
        wait = waiting.after_failure(began, now)
        if wait is None:
            assert now + min(4.0, 0.25 * 2**number) >= start + seconds
            return
        assert min(4.0, 0.25 * 2**number) / 2 <= wait <= min(4.0, 0.25 * 2**number) + 1e-9
        now += wait
        assert now < start + seconds


def test_what_may_pass_is_tried_again() -> None:
    attempts = Attempts(ConnectionError(), ServerFailed("busy", again=True))
    assert persist(attempts, explain, patience()) == "done"
    assert attempts.made == 3


def test_what_cannot_pass_is_not_tried_again() -> None:
    attempts = Attempts(ServerFailed("no such model"))
    with pytest.raises(ServerFailed, match="no such model"):
        persist(attempts, explain, patience())
    assert attempts.made == 1


def test_nobody_waits_for_ever() -> None:
    attempts = Attempts(*[ConnectionError("who said what")] * 1000)
    with pytest.raises(ServerFailed, match="away") as raised:
        persist(attempts, explain, patience(0.02))
    assert 1 < attempts.made < 1000
    assert raised.value.__suppress_context__  # what a library says may quote the conversation


def test_a_bug_is_raised_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        persist(Attempts(ZeroDivisionError()), explain, patience())


async def test_a_stream_is_tried_again_before_its_first_delta() -> None:
    attempts = Attempts(ConnectionError(), ConnectionError())
    deltas = [d async for d in persist_until_first(attempts.stream, explain, patience())]
    assert deltas == [TextDelta("late")]
    assert attempts.made == attempts.closed == 3


async def test_a_stream_is_never_tried_again_after_its_first_delta() -> None:
    attempts = Attempts(ConnectionError(), after=1)
    deltas = persist_until_first(attempts.stream, explain, patience())
    assert await anext(deltas) == TextDelta("early")
    with pytest.raises(ServerFailed, match="away"):
        await anext(deltas)
    assert attempts.made == 1


async def test_closing_a_stream_closes_the_attempt() -> None:
    attempts = Attempts()
    deltas = persist_until_first(attempts.stream, explain, patience())
    await anext(deltas)
    assert attempts.closed == 0
    await deltas.aclose()
    assert attempts.closed == 1


async def test_a_caller_who_asks_again_and_again_floods_no_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for _ in range(1000):
        attempts = Attempts(ServerFailed("the key is wrong"))
        with pytest.raises(ServerFailed):
            await anext(persist_until_first(attempts.stream, explain, patience()))
    assert 0 < len(caplog.records) < 20
