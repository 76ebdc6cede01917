"""The bounded queue between a pipeline and its session."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from voicepool.events import (
    FinalTranscript,
    IdleTimeout,
    PartialTranscript,
    PipelineEvent,
    ResponseAudio,
    ResponseText,
    SpeechStarted,
    SpeechStopped,
    TranscriptFailed,
    TurnCommitted,
)
from voicepool.playback import MILLISECOND, Loudspeaker

Delta = ResponseText | ResponseAudio
OnTaken = Callable[[float], None]
"""Told how many seconds of sound the reader took: all of a delta's, or the first part of it."""

MOST_DELTAS = 64
"""Deltas that wait; their maker waits then. At most 13 s of sound."""
MOST_EVENTS = 1024
"""Events of any kind after which the pipeline takes no more sound in."""
PIECE = 0.06
"""Seconds of sound that a pace lets go at once: what is ahead stays close to its bound."""

_OF_THE_CALLER = (
    SpeechStarted,
    SpeechStopped,
    IdleTimeout,
    TurnCommitted,
    PartialTranscript,
    FinalTranscript,
    TranscriptFailed,
)
"""What overtakes a reply that is held back."""


@dataclass(slots=True)
class _Waiting:
    event: PipelineEvent
    on_taken: OnTaken | None


@dataclass(frozen=True, slots=True)
class Pace:
    """Sound goes out only while the caller's side has less than `ahead` seconds of it to play."""

    loudspeaker: Loudspeaker
    clock: Callable[[], float]
    ahead: float

    def wait(self, seconds: float) -> float:
        """Seconds until so much more sound may go out."""
        room = self.ahead - self.loudspeaker.remaining(self.clock())
        wait = min(seconds, self.ahead) - room
        return wait if wait > MILLISECOND else 0.0


class Outbox:
    """Events in order, for one reader.

    Deltas of a reply wait for room; all other events never do, so that a barge-in is told at once
    however slow the reader is. They are bounded by `ready`, which the sources of all events (the
    caller's sound, the session's own requests) await.

    With a `pace` a reply's sound is held back here, and with it what follows in that reply; what is
    told of the caller overtakes it. Who takes it must let its `Loudspeaker` know by `on_taken`.
    """

    def __init__(self, pace: Pace | None = None) -> None:
        self._pace = pace
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

    async def put_delta(self, delta: Delta, on_taken: OnTaken | None = None) -> None:
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

    async def let_go(self) -> None:
        """Wait until nothing of a reply is held back by the pace."""
        while self._pace is not None and self._deltas and not self._closed:
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
        self._wake.set()  # for a reader who waits until it may take what is not there any more
        return withdrawn

    async def take(self) -> PipelineEvent | None:
        """The next event; None when the outbox is closed and empty."""
        while True:
            if not self._queue and self._closed:
                return None
            wait = self._wait()
            if wait == 0:
                return self._pop(0)
            if wait is not None and (index := self._overtaking()) is not None:
                return self._pop(index)
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._wake.wait()

    def _wait(self) -> float | None:
        """Seconds until the first event may be taken; None: until there is one."""
        if not self._queue:
            return None
        event = self._queue[0].event
        if self._pace is None or self._closed or not isinstance(event, ResponseAudio):
            return 0.0
        return self._pace.wait(min(len(event.samples) / event.rate, PIECE))

    def _overtaking(self) -> int | None:
        """The place of the first event that waits for no sound."""
        for index, waiting in enumerate(self._queue):
            if isinstance(waiting.event, _OF_THE_CALLER):
                return index
        return None

    def _pop(self, index: int) -> PipelineEvent:
        waiting = self._queue[index]
        event = waiting.event
        seconds = 0.0
        rest: ResponseAudio | None = None
        if isinstance(event, ResponseAudio):
            event, rest = self._cut(event)
            seconds = len(event.samples) / event.rate
        if rest is not None:
            waiting.event = rest
        else:
            del self._queue[index]
            self._deltas -= isinstance(event, ResponseText | ResponseAudio)
            self._room.set()
        if waiting.on_taken is not None:
            waiting.on_taken(seconds)
        return event

    def _cut(self, sound: ResponseAudio) -> tuple[ResponseAudio, ResponseAudio | None]:
        """What may be taken at once, and the rest."""
        size = max(1, int(PIECE * sound.rate))
        if self._pace is None or len(sound.samples) <= size:
            return sound, None
        first, rest = sound.samples[:size], sound.samples[size:]
        return replace(sound, samples=first), replace(sound, samples=rest)

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
