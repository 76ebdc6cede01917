"""A turn that is over becomes words in the history, and everybody who waits for them is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from tests.calls import PATIENCE
from tests.instruments import ScriptedRecognizer, speech
from voicepool.engines.base import Message
from voicepool.errors import EngineError
from voicepool.events import (
    FinalTranscript,
    PartialTranscript,
    PipelineEvent,
    PipelineSettings,
    TranscriptFailed,
    TurnCommitted,
)
from voicepool.history import History
from voicepool.outbox import Outbox
from voicepool.response import Stopwatch
from voicepool.stages import EngineThread, StageFailed
from voicepool.tasks import TaskSet
from voicepool.transcribing import Transcriber, Turn


class Bench:
    """A transcriber on its own."""

    def __init__(self) -> None:
        self.recognizer = ScriptedRecognizer(["one two"])
        self.settings = PipelineSettings()
        self.history = History()
        self.outbox = Outbox()
        self.tasks = TaskSet()
        self.thread = EngineThread("stt", PATIENCE)
        self.transcriber = Transcriber(
            self.thread,
            self.recognizer,
            settings=lambda: self.settings,
            history=self.history,
            outbox=self.outbox,
            tasks=self.tasks,
        )

    def turn(self) -> Turn:
        utterance = self.transcriber.utterance()
        utterance.feed(speech(500))
        return self.transcriber.commit(utterance)

    async def told(self) -> list[type[PipelineEvent]]:
        self.outbox.close()
        kinds: list[type[PipelineEvent]] = []
        while (event := await self.outbox.take()) is not None:
            if not isinstance(event, PartialTranscript):
                kinds.append(type(event))
        return kinds


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    await bench.tasks.close(PATIENCE)
    assert await bench.thread.close(PATIENCE)


async def test_a_turn_has_its_place_at_once_and_its_words_later(bench: Bench) -> None:
    bench.recognizer.gate.clear()
    turn = bench.turn()
    assert bench.history.ids == [turn.entry.item_id]
    assert bench.history.messages() == []
    bench.recognizer.gate.set()
    stopwatch = Stopwatch(turn.confirmed)
    await bench.transcriber.last_transcribed(stopwatch)
    assert bench.history.messages() == [Message("user", "one two")]
    assert stopwatch.transcript is not None
    assert stopwatch.stt is not None
    assert await bench.told() == [TurnCommitted, FinalTranscript]


async def test_words_come_though_nobody_waits_for_them_any_more(bench: Bench) -> None:
    bench.recognizer.gate.clear()
    turn = bench.turn()
    waiting = asyncio.create_task(bench.transcriber.transcribed(turn, Stopwatch(0)))
    await asyncio.sleep(0)
    waiting.cancel()
    bench.recognizer.gate.set()
    await turn.transcribing
    assert bench.history.messages() == [Message("user", "one two")]


async def test_a_session_that_wants_no_transcripts_is_told_of_the_turn_alone(bench: Bench) -> None:
    bench.settings = PipelineSettings(transcribe=False)
    await bench.turn().transcribing
    assert await bench.told() == [TurnCommitted]


def goes_on(bench: Bench) -> None:
    bench.recognizer.finals = ["three"]
    bench.turn()


def begins_anew(bench: Bench) -> None:
    bench.history.clear()
    bench.transcriber.forget()


@pytest.mark.parametrize("then", [goes_on, begins_anew])
async def test_a_turn_that_failed_matters_until_something_follows(
    bench: Bench, then: Callable[[Bench], None]
) -> None:
    bench.recognizer.finals = [EngineError("broken")]
    turn = bench.turn()
    with pytest.raises(StageFailed):
        await bench.transcriber.last_transcribed(Stopwatch(turn.confirmed))
    then(bench)
    await bench.transcriber.last_transcribed(Stopwatch(turn.confirmed))
    assert TranscriptFailed in await bench.told()
