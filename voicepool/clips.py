"""Sound that a client sends as a message instead of speaking it: transcribed beside the call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from voicepool.engines.base import INPUT_RATE, Message, Samples
from voicepool.errors import EngineError
from voicepool.events import FinalTranscript, PipelineEvent, TranscriptFailed
from voicepool.history import Entry, History
from voicepool.stages import Utterance, stage_failed
from voicepool.tasks import TaskSet

MOST = 2
"""Clips that are transcribed at once; each holds its sound, up to ten minutes of it."""
PATIENCE = 60.0
"""Seconds for a clip that lasts no longer; a longer one may take as long as it lasts."""
_PIECE = INPUT_RATE * 2
"""Samples that the recogniser gets at once: between them it hears the caller's own turn."""


class Clips:
    """The clips of one call. `open_utterance` makes one for the recogniser."""

    def __init__(
        self,
        tasks: TaskSet,
        history: History,
        tell: Callable[[PipelineEvent], None],
        open_utterance: Callable[[], Utterance],
    ) -> None:
        self._tasks = tasks
        self._history = history
        self._tell = tell
        self._open_utterance = open_utterance
        self._under_way: set[asyncio.Task[str]] = set()
        self._of_items: set[asyncio.Task[str]] = set()

    async def room(self) -> None:
        """Wait until another clip may be begun."""
        while len(self._under_way) >= MOST:
            await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)

    def transcribe(self, samples: Samples) -> asyncio.Task[str]:
        """Begin to transcribe; the words, or StageFailed."""
        return self._begin(self._transcribe(self._open_utterance(), samples))

    def insert(self, item_id: str, samples: Samples, after: str | None) -> None:
        """Give the clip its place in the history, see `History.insert`. Its words come later, with
        a FinalTranscript or TranscriptFailed; without words the model is told nothing of it."""
        entry = Entry(item_id, Message("user", ""), pending=True)
        self._history.insert(entry, after)
        task = self._begin(self._settle(entry, samples))
        self._of_items.add(task)
        task.add_done_callback(self._of_items.discard)

    async def settled(self) -> None:
        """Wait for the words of the clips that have been given a place in the history by now."""
        if self._of_items:
            await asyncio.wait(set(self._of_items))

    def _begin(self, work: Coroutine[Any, Any, str]) -> asyncio.Task[str]:
        task = self._tasks.spawn(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return task

    async def _settle(self, entry: Entry, samples: Samples) -> str:
        utterance = self._open_utterance()
        try:
            text = await self._transcribe(utterance, samples)
        except EngineError as error:
            self._tell(TranscriptFailed(entry.item_id, str(error)))
            return ""
        if text:  # else it stays pending
            self._history.settle(entry, Message("user", text))
        self._tell(FinalTranscript(entry.item_id, text, utterance.samples / INPUT_RATE))
        return text

    async def _transcribe(self, utterance: Utterance, samples: Samples) -> str:
        try:
            async with asyncio.timeout(max(PATIENCE, len(samples) / INPUT_RATE)):
                for start in range(0, len(samples), _PIECE):
                    utterance.feed(samples[start : start + _PIECE])
                    await utterance.caught_up()
                return (await utterance.finish()).value.text.strip()
        except TimeoutError as error:
            raise stage_failed("stt", error) from None
        finally:
            utterance.discard()
