"""A call to a pipeline, as a test makes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from voicepool.engines.base import Engines, Samples
from voicepool.events import PipelineEvent, PipelineSettings, ResponseAudio
from voicepool.pipeline import Limits, SpeechPipelineManager

E = TypeVar("E")
PATIENCE = 20.0
"""Seconds after which a test that waits has failed; never part of what is tested."""


class ManualClock:
    """The caller's listening time stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Call:
    """A pipeline with a reader of its events.

    `reading` cleared makes the reader stop before its next event: a slow session.
    """

    def __init__(
        self,
        engines: Engines,
        settings: PipelineSettings | None = None,
        *,
        speculate: bool = True,
        limits: Limits | None = None,
    ) -> None:
        self.clock = ManualClock()
        self.pipeline = SpeechPipelineManager(
            engines, settings, speculate=speculate, limits=limits, clock=self.clock
        )
        self.events: list[PipelineEvent] = []
        self.reading = asyncio.Event()
        self.reading.set()
        self._told = asyncio.Condition()
        self._seen = 0

    async def __aenter__(self) -> Call:
        await self.pipeline.__aenter__()
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.reading.set()
        async with asyncio.timeout(PATIENCE):
            await self.pipeline.__aexit__(*exc)
            await self._reader
        assert len(self.pipeline._tasks) == 0, "a task outlived its call"

    async def _read(self) -> None:
        async for event in self.pipeline.events():
            self.events.append(event)
            async with self._told:
                self._told.notify_all()
            await self.reading.wait()

    async def hear(self, *sounds: Samples) -> None:
        """The caller's sound, in pieces of 20 ms."""
        for sound in sounds:
            for start in range(0, len(sound), 320):
                await self.pipeline.push_audio(sound[start : start + 320])

    async def next(self, kind: type[E], test: Callable[[E], bool] = lambda _: True) -> E:
        """The next event of that kind; what came before it is passed over."""
        async with asyncio.timeout(PATIENCE), self._told:
            while True:
                while self._seen < len(self.events):
                    event = self.events[self._seen]
                    self._seen += 1
                    if isinstance(event, kind) and test(event):
                        return event
                await self._told.wait()

    def forget(self) -> None:
        """Drop the events so far."""
        self.events.clear()
        self._seen = 0

    def kinds(self, *without: type[Any]) -> list[str]:
        """The names of all events so far, runs of one kind as one."""
        names: list[str] = []
        for event in self.events:
            name = type(event).__name__
            if not isinstance(event, without) and names[-1:] != [name]:
                names.append(name)
        return names

    def all(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    def seconds_of_sound(self) -> float:
        return sum(len(event.samples) / event.rate for event in self.all(ResponseAudio))


async def until(condition: Callable[[], bool]) -> None:
    """Let other tasks and threads go on until the condition holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - what threads do has no event to wait for
            await asyncio.sleep(0.001)
