"""The caller's turns on their way to be words in the history."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from voicepool.engines.base import INPUT_RATE, Message, SpeechRecognizer
from voicepool.events import (
    FinalTranscript,
    PartialTranscript,
    PipelineEvent,
    PipelineSettings,
    TranscriptFailed,
    TurnCommitted,
)
from voicepool.figures import took
from voicepool.history import Entry, History
from voicepool.outbox import Outbox
from voicepool.response import Stopwatch, new_id
from voicepool.stages import EngineThread, Span, StageFailed, Utterance
from voicepool.tasks import TaskSet


@dataclass(slots=True)
class Turn:
    """A turn of the caller that is over."""

    entry: Entry
    confirmed: float
    """When it was (monotonic clock)."""
    spoke_until: float
    """When the caller's speech ended: as it was heard, or, where no detector heard it, as the turn
    was confirmed."""
    transcribing: asyncio.Task[str] = field(init=False)
    stt: Span | None = None
    transcribed: float | None = None
    unsaid: bool = False
    """There were no words in it."""
    answered: bool = False
    """There is a response to it, or will be."""


class Transcriber:
    """What a call asks of its recogniser, in its thread, and tells of it."""

    def __init__(
        self,
        thread: EngineThread,
        recognizer: SpeechRecognizer,
        *,
        settings: Callable[[], PipelineSettings],
        history: History,
        outbox: Outbox,
        tasks: TaskSet,
    ) -> None:
        """`settings` are the present ones."""
        self._thread = thread
        self._recognizer = recognizer
        self._settings = settings
        self._history = history
        self._outbox = outbox
        self._tasks = tasks
        self._last: Turn | None = None

    def utterance(self) -> Utterance:
        """For a turn of the caller."""
        return self._open(self._tell_partial)

    def clip(self) -> Utterance:
        """For sound that came as a message: nobody wants its partial transcripts."""
        return self._open(lambda item_id, text: None)

    def tell(self, event: PipelineEvent) -> None:
        """Tell of a transcript, if the session wants any."""
        if self._settings().transcribe:
            self._outbox.put(event)

    def commit(self, utterance: Utterance) -> Turn:
        """The turn is over: give it its place in the history and begin to transcribe it."""
        entry = Entry(utterance.item_id, Message("user", ""), pending=True)
        previous = self._history.append(entry)
        self._outbox.put(TurnCommitted(entry.item_id, previous))
        confirmed = time.monotonic()
        turn = Turn(entry, confirmed, utterance.spoke_until or confirmed)
        turn.transcribing = self._tasks.spawn(self._transcribe(turn, utterance))
        self._last = turn
        return turn

    def take_unanswered(self) -> Turn | None:
        """The turn that a response to the history as it is now would be the first to answer."""
        turn = self._last
        if turn is None or turn.answered or self._history.last_id != turn.entry.item_id:
            return None
        turn.answered = True
        return turn

    def forget(self) -> None:
        """The history is empty: what was said last matters no more."""
        self._last = None

    async def transcribed(self, turn: Turn, stopwatch: Stopwatch) -> None:
        """Wait for the turn's words. Raises StageFailed."""
        # Shielded: a response that is cancelled must not take the turn's transcript with it.
        await asyncio.shield(turn.transcribing)
        stopwatch.stt, stopwatch.transcript = turn.stt, turn.transcribed

    async def last_transcribed(
        self, stopwatch: Stopwatch, of: Collection[str] | None = None
    ) -> None:
        """Wait for the words of the last turn. Raises StageFailed where there are none and they
        matter: where the turn is among the items `of`, or, without those, has the last word."""
        turn = self._last
        if turn is None:
            return
        if turn.transcribing.done() and not self._matters(turn, of):
            return
        try:
            await self.transcribed(turn, stopwatch)
        except StageFailed:
            if self._matters(turn, of):
                raise

    def _matters(self, turn: Turn, of: Collection[str] | None) -> bool:
        last = self._history.last_id
        return turn.entry.item_id in ([last] if of is None else of)

    def _open(self, on_partial: Callable[[str, str], None]) -> Utterance:
        settings = self._settings()
        return Utterance(
            new_id("item"),
            self._thread,
            self._recognizer,
            language=settings.language,
            prompt=settings.prompt,
            tasks=self._tasks,
            on_partial=on_partial,
        )

    def _tell_partial(self, item_id: str, text: str) -> None:
        self.tell(PartialTranscript(item_id, text))

    async def _transcribe(self, turn: Turn, utterance: Utterance) -> str:
        item_id = utterance.item_id
        try:
            done = await utterance.finish()
        except StageFailed as error:
            self.tell(TranscriptFailed(item_id, str(error)))
            raise
        turn.stt, turn.transcribed = done.span, time.monotonic()
        took("stt", turn.transcribed - turn.confirmed)
        text, turn.unsaid = done.value.text.strip(), done.value.unsaid
        if not turn.unsaid:  # else it stays pending: the model is told nothing of it
            self._history.settle(turn.entry, Message("user", text))
        self.tell(FinalTranscript(item_id, text, utterance.samples / INPUT_RATE))
        return text
