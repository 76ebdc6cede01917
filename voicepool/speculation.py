"""The reply to a turn that is likely over: begun before that is certain, told only if it fits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from voicepool.asking import Asked
from voicepool.engines.base import ChatRequest, Transcript
from voicepool.generation import Generation, Voice
from voicepool.stages import StageFailed
from voicepool.tasks import TaskSet


@dataclass(slots=True)
class _Ahead:
    task: asyncio.Task[None] = field(init=False)
    asked: Asked | None = None
    generation: Generation | None = None

    def cancel(self) -> None:
        self.task.cancel()
        if self.generation is not None:
            self.generation.cancel()


class Speculator:
    """At most one reply that nobody has been told of. Whatever is not taken is cancelled."""

    def __init__(self, tasks: TaskSet, generate: Callable[[ChatRequest, Voice | None], Generation]):
        self._tasks = tasks
        self._generate = generate
        self._ahead: _Ahead | None = None

    def begin(self, snapshot: asyncio.Task[Transcript], ask: Callable[[str], Asked]) -> None:
        """Begin the reply to what the caller has said so far; `ask` says what to ask about it."""
        self.discard()
        self._ahead = ahead = _Ahead()
        ahead.task = self._tasks.spawn(self._reply(ahead, snapshot, ask))

    async def _reply(
        self, ahead: _Ahead, snapshot: asyncio.Task[Transcript], ask: Callable[[str], Asked]
    ) -> None:
        try:
            # Shielded: others wait for it too.
            transcript = await asyncio.shield(snapshot)
        except StageFailed:
            return  # told when the turn is transcribed
        if transcript.unsaid:
            return
        ahead.asked = ask(transcript.text.strip())
        ahead.generation = self._generate(*ahead.asked)

    def take(self, asked: Asked) -> Generation | None:
        """The reply, if it is one to just this: the same conversation, words and settings."""
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return None
        if ahead.asked == asked:
            return ahead.generation
        ahead.cancel()
        return None

    def discard(self) -> None:
        """Nobody wants it."""
        if self._ahead is not None:
            self._ahead.cancel()
            self._ahead = None
