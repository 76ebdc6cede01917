"""How often a language model server is tried: `Patience` is pure, the two loops keep to it."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TypeVar

from voicepool.backoff import Backoff
from voicepool.engines.base import ChatDelta
from voicepool.errors import EngineError
from voicepool.logs import FloodGuard

T = TypeVar("T")
flood = FloodGuard(logging.getLogger(__name__))
"""A caller may ask again and again for what fails."""

WARM_UP_PATIENCE = 20.0
"""Seconds that a worker waits for a server that is away; then the pool starts another, later."""
CALL_PATIENCE = 4.0
"""Seconds that a caller waits for one."""


class ServerFailed(EngineError):
    """A language model server did not do what it was asked. The message names the remedy and
    quotes nothing of a conversation."""

    def __init__(self, message: str, *, again: bool = False) -> None:
        super().__init__(message)
        self.again = again
        """Whether the same request may succeed a moment later."""


Explain = Callable[[Exception], ServerFailed | None]
"""What an exception of a client library means; None: nothing that a server could cause."""


class Patience:
    """Waits between attempts that back off, up to a moment after which nobody waits any more.

    `seconds`: from `now` (any monotonic clock) to that moment. The first wait is `base` seconds at
    most, a later one `cap`; see `Backoff`.
    """

    def __init__(
        self, seconds: float, now: float, *, base: float, cap: float, rng: random.Random
    ) -> None:
        self._backoff = Backoff(base, cap, rng)
        self._until = now + seconds

    def after_failure(self, began: float, now: float) -> float | None:
        """Seconds to wait after the attempt begun at `began` has failed; None: give up."""
        self._backoff.failed(began, now)
        assert self._backoff.until is not None
        return self._backoff.until - now if self._backoff.until < self._until else None


def for_warm_up(rng: random.Random) -> Patience:
    """Of a worker that warms up, from now on."""
    return Patience(WARM_UP_PATIENCE, time.monotonic(), base=0.25, cap=4.0, rng=rng)


def for_call(rng: random.Random) -> Patience:
    """Of a caller, from now on."""
    return Patience(CALL_PATIENCE, time.monotonic(), base=0.25, cap=1.0, rng=rng)


def persist(attempt: Callable[[], T], explain: Explain, patience: Patience) -> T:
    """What `attempt` returns, tried again while that may help; blocks.

    Raises ServerFailed for the last failure, and at once what `explain` does not know. Without its
    cause: a library's exception may hold the request, and with it the conversation.
    """
    while True:
        began = time.monotonic()
        try:
            return attempt()
        except Exception as error:  # noqa: BLE001 - what has no meaning is raised again
            failure = _explained(error, explain)
            wait = _wait(failure, patience, began)
            if wait is None:
                raise failure from None
        time.sleep(wait)


async def persist_until_first(
    attempt: Callable[[], AsyncGenerator[ChatDelta, None]], explain: Explain, patience: Patience
) -> AsyncGenerator[ChatDelta, None]:
    """The deltas of `attempt`, tried again while that may help and none has come.

    Once one has come its text may have been spoken, and another attempt would begin anew. Raises
    as `persist` does, and logs it, as pipelines tell nobody. Closing it closes the attempt.
    """
    while True:
        began = time.monotonic()
        started = False
        try:
            async with aclosing(attempt()) as deltas:
                async for delta in deltas:
                    started = True
                    yield delta
            return
        except Exception as error:  # noqa: BLE001 - what has no meaning is raised again
            failure = _explained(error, explain)
            wait = None if started else _wait(failure, patience, began)
            if wait is None:
                flood.warning("the model server failed", reason=str(failure))
                raise failure from None
        await asyncio.sleep(wait)


def _explained(error: Exception, explain: Explain) -> ServerFailed:
    """The meaning of `error`, which is raised itself where it has none."""
    failure = error if isinstance(error, ServerFailed) else explain(error)
    if failure is None:
        raise error
    return failure


def _wait(failure: ServerFailed, patience: Patience, began: float) -> float | None:
    """Seconds until the next attempt; None: there is none."""
    return patience.after_failure(began, time.monotonic()) if failure.again else None
