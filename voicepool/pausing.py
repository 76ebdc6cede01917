"""What the caller has said by a pause, and how finished it sounds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from voicepool.completeness import FINISHED, UNFINISHED, completeness
from voicepool.engines.base import Transcript
from voicepool.stages import Utterance
from voicepool.tasks import TaskSet


class Pause:
    """The present pause of the caller's turn, if there is one: one look at its words."""

    def __init__(self, tasks: TaskSet, on_understood: Callable[[float], None]) -> None:
        """`on_understood` is told the completeness of what was said, during that pause alone."""
        self._tasks = tasks
        self._on_understood = on_understood
        self._snapshot: asyncio.Task[Transcript] | None = None

    def begin(self, utterance: Utterance, language: str | None) -> asyncio.Task[Transcript]:
        """Ask what has been said; raises StageFailed in the task. `language` is a hint."""
        utterance.hold()
        self._snapshot = snapshot = self._tasks.spawn(utterance.snapshot())
        snapshot.add_done_callback(lambda done: self._understood(done, language))
        return snapshot

    def end(self) -> None:
        """The turn is over. Whoever waits for the snapshot still gets it: the recogniser makes it
        before the final transcript."""
        self._snapshot = None

    def break_off(self) -> None:
        """The caller goes on, or nobody wants the turn any more."""
        if self._snapshot is not None:
            self._snapshot.cancel()
            self._snapshot = None

    def _understood(self, snapshot: asyncio.Task[Transcript], language: str | None) -> None:
        # The pause may have ended between the snapshot's end and this call.
        if snapshot is not self._snapshot or snapshot.cancelled() or snapshot.exception():
            return
        judged = judge(snapshot.result(), language)
        if judged is not None:
            self._on_understood(judged)


def judge(transcript: Transcript, language: str | None) -> float | None:
    """The completeness of a transcript; None where nothing was understood. `language` is what the
    caller is said to speak, where the recogniser does not tell."""
    if transcript.complete is not None:
        return FINISHED if transcript.complete else UNFINISHED
    return completeness(transcript.text, transcript.language or language or "")
