"""voicepool.listening: sound to turns; more through whole calls in test_pipeline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.instruments import LoudnessDetector, ScriptedRecognizer, silence, speech
from voicepool.engines.base import Samples
from voicepool.errors import BufferTooSmall
from voicepool.events import TurnSettings
from voicepool.listening import Listener
from voicepool.stages import EngineThread, Utterance
from voicepool.tasks import TaskSet


class Ear:
    """A listener's handler that writes down what it is told."""

    def __init__(self, turns: TurnSettings | None) -> None:
        self.told: list[tuple[str, int]] = []
        self.turns: list[Utterance] = []
        self.stt = ScriptedRecognizer()
        self.tasks = TaskSet()
        self.thread = EngineThread("stt", 10)
        self.listener = Listener(LoudnessDetector(), turns, self.open, self)

    def open(self) -> Utterance:
        return Utterance(
            "item",
            self.thread,
            self.stt,
            language=None,
            prompt="",
            tasks=self.tasks,
            on_partial=lambda item_id, text: None,
        )

    def turn_started(self, utterance: Utterance, start: int) -> None:
        self.told.append(("started", start))

    def turn_paused(self, utterance: Utterance) -> None:
        self.told.append(("paused", 0))

    def turn_resumed(self, utterance: Utterance) -> None:
        self.told.append(("resumed", 0))

    def turn_stopped(self, utterance: Utterance, end: int) -> None:
        self.told.append(("stopped", end))
        self.turns.append(utterance)

    def turn_dropped(self, utterance: Utterance, end: int) -> None:
        self.told.append(("dropped", end))

    def idled(self, start: int, end: int) -> None:
        self.told.append(("idled", end))


@asynccontextmanager
async def ear(turns: TurnSettings | None = TurnSettings()) -> AsyncIterator[Ear]:  # noqa: B008
    handler = Ear(turns)
    yield handler
    await handler.tasks.close(10)
    assert await handler.thread.close(10)


CALL = np.concatenate(
    [silence(500), speech(400), silence(300), speech(200), silence(700), speech(50), silence(200)]
)


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, len(CALL)), max_size=12))
def test_any_split_of_the_sound_is_heard_alike(cuts: list[int]) -> None:
    async def heard(pieces: list[Samples]) -> tuple[list[tuple[str, int]], Samples]:
        async with ear() as one:
            for piece in pieces:
                await one.listener.hear(piece)
            assert one.listener.now == len(CALL) // 512 * 512
            for utterance in one.turns:
                await utterance.finish()
            return one.told, np.concatenate(one.stt.heard)

    whole = asyncio.run(heard([CALL]))
    split = asyncio.run(heard(np.split(CALL, sorted(cuts))))
    assert split[0] == whole[0]
    assert [name for name, _ in whole[0]] == ["started", "paused", "resumed", "paused", "stopped"]
    assert np.array_equal(split[1], whole[1])


async def test_a_turn_has_the_sound_from_its_start_to_its_end() -> None:
    async with ear() as one:
        await one.listener.hear(CALL)
        (_, start), *_, (_, end) = one.told
        await one.turns[0].finish()
        assert np.array_equal(np.concatenate(one.stt.heard), CALL[start:end])


async def test_commit_takes_what_fills_no_window_too() -> None:
    async with ear() as one:
        await one.listener.hear(silence(350))
        await one.listener.hear(speech(200)[:3000])
        utterance = one.listener.commit()
        assert one.listener.now == 350 * 16 + 3000
        await utterance.finish()
        heard = np.concatenate(one.stt.heard)
        assert np.count_nonzero(heard) == 3000
        with pytest.raises(BufferTooSmall):
            one.listener.commit()


async def test_a_refused_commit_loses_nothing() -> None:
    async with ear() as one:
        await one.listener.hear(speech(60))
        with pytest.raises(BufferTooSmall) as caught:
            one.listener.commit()
        assert caught.value.milliseconds == 60
        await one.listener.hear(speech(60))
        await one.listener.commit().finish()
        assert sum(map(len, one.stt.heard)) == 120 * 16


async def test_settings_count_from_the_next_window() -> None:
    async with ear() as one:
        await one.listener.hear(silence(1000))
        one.listener.configure(TurnSettings(prefix_padding_ms=900, minimum_speech_ms=32))
        await one.listener.hear(np.concatenate([silence(600), speech(400)]))
        (_, start), *_ = one.told
        rise = 1600 * 16 // 512 * 512
        assert abs(start - (rise - 900 * 16)) <= 512
        await one.listener.commit().finish()
        assert sum(map(len, one.stt.heard)) == one.listener.now - start


async def test_other_tasks_run_while_much_sound_is_heard() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with ear() as one:
        counter = asyncio.create_task(count())
        await one.listener.hear(silence(10_000))
        counter.cancel()
    assert turns >= 10_000 / 32 / 4 - 1
