"""voicepool.pausing: one look at what was said by a pause."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.calls import until
from tests.instruments import ScriptedRecognizer, speech
from voicepool.completeness import FINISHED, LIKELY_UNFINISHED, UNFINISHED, UNKNOWN
from voicepool.engines.base import Transcript
from voicepool.errors import EngineError
from voicepool.pausing import Pause, judge
from voicepool.stages import EngineThread, Utterance
from voicepool.tasks import TaskSet


@pytest.mark.parametrize(
    ("transcript", "hint", "expected"),
    [
        (Transcript("", final=True), None, None),
        (Transcript("", final=True, rejected="nothing like a phrase"), "en", None),
        (Transcript("the weather in paris", final=True), "en", UNKNOWN),
        (Transcript("the weather in paris", final=True, complete=True), "en", FINISHED),
        (Transcript("", final=True, beginning="tell me a very long"), "en", LIKELY_UNFINISHED),
        (Transcript("", final=True, beginning="i would like to"), "en", UNFINISHED),
        (Transcript("", final=True, beginning="hello"), "en", FINISHED),
        (Transcript("ich möchte", final=True), "de", UNFINISHED),
        (Transcript("ich möchte", final=True, language="de"), "en", UNFINISHED),
        (Transcript("ich möchte", final=True), "en", UNKNOWN),
    ],
)
def test_a_transcript_is_judged(
    transcript: Transcript, hint: str | None, expected: float | None
) -> None:
    assert judge(transcript, hint) == expected


class Listening:
    """An utterance, and what its pauses have said of it."""

    def __init__(self, stt: ScriptedRecognizer) -> None:
        self.tasks, self.thread = TaskSet(), EngineThread("stt", 10)
        self.understood: list[float] = []
        self.heard: list[Transcript] = []
        self.pause = Pause(self.tasks, self.understood.append)
        self.utterance = Utterance(
            "item",
            self.thread,
            stt,
            language=None,
            prompt="",
            tasks=self.tasks,
            on_partial=lambda item_id, text: None,
        )
        self.utterance.feed(speech(300))


@asynccontextmanager
async def listening(stt: ScriptedRecognizer) -> AsyncIterator[Listening]:
    it = Listening(stt)
    yield it
    it.utterance.discard()
    await it.tasks.close(10)
    assert await it.thread.close(10)


async def test_each_pause_tells_once_what_was_said() -> None:
    stt = ScriptedRecognizer(snapshots=["i would like to", "thank you"])
    async with listening(stt) as it:
        it.pause.begin(it.utterance, "en")
        await until(lambda: it.understood == [UNFINISHED])
        it.pause.break_off()
        it.pause.begin(it.utterance, "en", it.heard.append)
        await until(lambda: it.understood == [UNFINISHED, FINISHED])
        assert [transcript.text for transcript in it.heard] == ["thank you"]


async def test_a_pause_that_is_broken_off_tells_nothing() -> None:
    stt = ScriptedRecognizer(snapshots=["thank you", "yes"])
    stt.gate.clear()
    async with listening(stt) as it:
        it.pause.begin(it.utterance, "en", it.heard.append)
        it.pause.break_off()
        stt.gate.set()
        await until(lambda: not len(it.tasks))
        assert (it.understood, it.heard) == ([], [])


async def test_the_end_of_a_turn_is_told_to_who_replies_to_it_alone() -> None:
    stt = ScriptedRecognizer(snapshots=["thank you"])
    stt.gate.clear()
    async with listening(stt) as it:
        it.pause.begin(it.utterance, "en", it.heard.append)
        it.pause.end()
        stt.gate.set()
        await until(lambda: len(it.heard) == 1)
        assert it.understood == []


async def test_a_recogniser_that_fails_tells_nothing() -> None:
    async with listening(ScriptedRecognizer(snapshots=[EngineError("broken")])) as it:
        it.pause.begin(it.utterance, "en", it.heard.append)
        await until(lambda: not len(it.tasks))
        assert (it.understood, it.heard) == ([], [])
