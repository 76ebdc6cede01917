"""What the caller has said by a pause, and how finished it sounds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from voicepool.completeness import FINISHED, LIKELY_UNFINISHED, UNFINISHED, completeness
from voicepool.engines.base import Transcript
from voicepool.stages import StageFailed, Utterance
from voicepool.tasks import TaskSet


class Pause:
    """The present pause of the caller's turn, if there is one: one look at its words."""

    def __init__(self, tasks: TaskSet, on_understood: Callable[[float], None]) -> None:
        """`on_understood` is told the completeness of what was said, during that pause alone."""
        self._tasks = tasks
        self._on_understood = on_understood
        self._look: asyncio.Task[None] | None = None

    def begin(
        self,
        utterance: Utterance,
        language: str | None,
        and_then: Callable[[Transcript], None] = lambda transcript: None,
    ) -> None:
        """Ask what has been said, and tell `and_then` of it, even if the turn is over by then.
        `language` is a hint."""
        utterance.hold()
        self._look = self._tasks.spawn(self._ask(utterance, language, and_then))

    def end(self) -> None:
        """The turn is over."""
        self._look = None

    def break_off(self) -> None:
        """The caller goes on, or nobody wants the turn any more."""
        if self._look is not None:
            self._look.cancel()
            self._look = None

    async def _ask(
        self, utterance: Utterance, language: str | None, and_then: Callable[[Transcript], None]
    ) -> None:
        try:
            transcript = await utterance.snapshot()
        except StageFailed:
            return  # told when the turn is transcribed
        # No step on the loop between here and the end: where the turn is over, its final transcript
        # comes next, and could overtake what is told now.
        judged = judge(transcript, language)
        if judged is not None and self._look is asyncio.current_task():
            self._on_understood(judged)
        and_then(transcript)


def judge(transcript: Transcript, language: str | None) -> float | None:
    """The completeness of a transcript; None where nothing was understood. `language` is what the
    caller is said to speak, where the recogniser does not tell."""
    if transcript.complete:
        return FINISHED
    spoken = transcript.language or language or ""
    if transcript.beginning:
        words = completeness(transcript.beginning, spoken) or UNFINISHED
        # Even if it is none that the recogniser knows: "hello" is all that some say.
        return words if words == FINISHED else min(words, LIKELY_UNFINISHED)
    return completeness(transcript.text, spoken)
