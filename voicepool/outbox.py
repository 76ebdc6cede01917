"""The bounded queue between a pipeline and its session."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from voicepool.events import PipelineEvent, ResponseAudio, ResponseText

Delta = ResponseText | ResponseAudio

MOST_DELTAS = 64
"""Deltas that wait; their maker waits then. At most 13 s of sound."""
MOST_EVENTS = 1024
"""Events of any kind after which the pipeline takes no more sound in."""


@dataclass(slots=True)
class _Waiting:
    event: PipelineEvent
    on_taken: Callable[[], None] | None


class Outbox:
    """Events in order, for one reader.

    Deltas of a reply wait for room; all other events never do, so that a barge-in is told at once
    however slow the reader is. They are bounded by `ready`, which the sources of all events (the
    caller's sound, the session's own requests) await.
    """

    def __init__(self) -> None:
        self._queue: deque[_Waiting] = deque()
        self._deltas = 0
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, event: PipelineEvent) -> None:
        """Tell an event that is no delta."""
        self._append(_Waiting(event, None))

    async def put_delta(self, delta: Delta, on_taken: Callable[[], None] | None = None) -> None:
        """Tell a delta, once there is room; `on_taken` is called when the reader takes it."""
        while self._deltas >= MOST_DELTAS and not self._closed:
            self._room.clear()
            await self._room.wait()
        self._deltas += 1
        self._append(_Waiting(delta, on_taken))

    async def ready(self) -> None:
        """Wait until the reader has caught up, if it is far behind."""
        while len(self._queue) >= MOST_EVENTS and not self._closed:
            self._room.clear()
            await self._room.wait()

    def withdraw(self, unwanted: Callable[[Delta], bool]) -> list[Delta]:
        """Take back the deltas that nobody has read yet and that are `unwanted`, in order."""
        kept: deque[_Waiting] = deque()
        withdrawn: list[Delta] = []
        for waiting in self._queue:
            event = waiting.event
            if isinstance(event, ResponseText | ResponseAudio) and unwanted(event):
                withdrawn.append(event)
            else:
                kept.append(waiting)
        self._queue = kept
        self._deltas -= len(withdrawn)
        self._room.set()
        return withdrawn

    async def take(self) -> PipelineEvent | None:
        """The next event; None when the outbox is closed and empty."""
        while not self._queue:
            if self._closed:
                return None
            self._wake.clear()
            await self._wake.wait()
        waiting = self._queue.popleft()
        if isinstance(waiting.event, ResponseText | ResponseAudio):
            self._deltas -= 1
        self._room.set()
        if waiting.on_taken is not None:
            waiting.on_taken()
        return waiting.event

    def close(self) -> None:
        """No more events; those that wait can still be read."""
        self._closed = True
        self._wake.set()
        self._room.set()

    def _append(self, waiting: _Waiting) -> None:
        if self._closed:
            return
        self._queue.append(waiting)
        self._wake.set()
