"""voicepool.stages: engine threads, utterances and speech (more in test_stage_failures)."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import aclosing

import numpy as np
import pytest

from tests.calls import PATIENCE, until
from tests.instruments import ScriptedRecognizer, ToneSynthesizer, speech
from voicepool.engines.base import INPUT_RATE, Samples
from voicepool.errors import EngineError
from voicepool.stages import (
    MOST_BACKLOG,
    MOST_JOBS,
    EngineThread,
    Span,
    Speaker,
    Utterance,
    stage_failed,
)
from voicepool.tasks import TaskSet
from voicepool.turns import LONGEST_TURN


async def test_jobs_run_in_order_in_one_thread_that_is_not_ours() -> None:
    thread = EngineThread("engine", 10)
    done: list[tuple[int, int]] = []
    jobs = [
        thread.run(lambda n=number: done.append((n, threading.get_ident())))  # type: ignore[misc]
        for number in range(20)
    ]
    await asyncio.gather(*jobs)
    assert [number for number, _ in done] == list(range(20))
    assert len({ident for _, ident in done}) == 1
    assert done[0][1] != threading.get_ident()
    assert await thread.close(10)


async def test_results_come_with_the_time_they_took() -> None:
    thread = EngineThread("engine", 10)
    done = await thread.run(lambda: "said")
    assert done.value == "said"
    assert done.span.seconds >= 0
    await thread.close(10)


@pytest.mark.parametrize("error", [ValueError("x"), EngineError("x")])
async def test_errors_are_the_askers(error: Exception) -> None:
    thread = EngineThread("engine", 10)

    def work() -> None:
        raise error

    with pytest.raises(type(error)):
        await thread.run(work)
    assert (await thread.run(lambda: 1)).value == 1
    await thread.close(10)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, StopIteration])
async def test_errors_that_would_end_more_than_the_job_do_not(error: type[BaseException]) -> None:
    thread = EngineThread("engine", 10)

    def work() -> None:
        raise error

    with pytest.raises(EngineError, match=error.__name__):
        await thread.run(work)
    thread.post(work)
    assert (await thread.run(lambda: 1)).value == 1
    await thread.close(10)


async def test_work_that_is_cancelled_before_it_begins_is_skipped() -> None:
    thread = EngineThread("engine", 10)
    gate, done = threading.Event(), list[str]()
    first = asyncio.create_task(thread.run(lambda: gate.wait(10)))
    second = asyncio.create_task(thread.run(lambda: done.append("second")))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    gate.set()
    await first
    await thread.run(lambda: done.append("third"))
    assert done == ["third"]
    await thread.close(10)


async def test_waiting_jobs_are_bounded() -> None:
    thread = EngineThread("engine", 10)
    gate, began = threading.Event(), threading.Event()

    def hold() -> None:
        began.set()
        gate.wait(10)

    thread.post(hold)
    await until(began.is_set)
    for _ in range(MOST_JOBS):
        thread.post(lambda: None)
    with pytest.raises(EngineError, match="too much"):
        await thread.run(lambda: None)
    gate.set()
    await until(lambda: thread._jobs.empty())
    assert await thread.close(10)


async def test_a_thread_with_too_much_to_do_is_closed_too() -> None:
    thread = EngineThread("engine", 10)
    gate, began = threading.Event(), threading.Event()

    def hold() -> None:
        began.set()
        gate.wait(10)

    thread.post(hold)
    await until(began.is_set)
    for _ in range(MOST_JOBS):
        thread.post(lambda: None)
    assert not await thread.close(0.01)
    gate.set()
    thread_ended = [each for each in threading.enumerate() if each.name == "engine"]
    for each in thread_ended:
        each.join(10)
        assert not each.is_alive()


async def test_a_closed_thread_takes_no_work() -> None:
    thread = EngineThread("engine", 10)
    assert await thread.close(0), "it was never started"
    with pytest.raises(EngineError, match="closed"):
        await thread.run(lambda: None)
    thread.post(lambda: None)


def test_the_part_of_a_span_after_a_moment() -> None:
    span = Span(10.0, 12.0)
    assert (span.since(9), span.since(11), span.since(13)) == (2, 1, 0)


class Recorder:
    """An utterance over an instrument."""

    def __init__(self) -> None:
        self.stt = ScriptedRecognizer()
        self.thread = EngineThread("stt", 10)
        self.tasks = TaskSet()
        self.partials: list[tuple[str, str]] = []

    def utterance(self) -> Utterance:
        return Utterance(
            "item_1",
            self.thread,
            self.stt,
            language="en",
            prompt="",
            tasks=self.tasks,
            on_partial=lambda item_id, text: self.partials.append((item_id, text)),
        )

    async def close(self) -> None:
        await self.tasks.close(10)
        assert await self.thread.close(10)


async def test_an_utterance_is_heard_whole_however_it_is_fed() -> None:
    recorder = Recorder()
    utterance = recorder.utterance()
    sound = np.random.default_rng(1).uniform(-1, 1, 9000).astype(np.float32)
    for piece in np.split(sound, [1, 500, 501, 6000]):
        utterance.feed(piece)
        await asyncio.sleep(0)
    await utterance.snapshot()
    utterance.feed(sound)
    assert (await utterance.finish()).value.text == "hello"
    assert np.array_equal(np.concatenate(recorder.stt.heard), np.concatenate((sound, sound)))
    assert utterance.samples == 18_000
    assert {item_id for item_id, _ in recorder.partials} <= {"item_1"}
    utterance.feed(sound)
    assert utterance.samples == 18_000, "it is over"
    await recorder.close()
    assert recorder.stt.streams[0].closed


async def test_an_utterance_that_is_too_long_is_cut() -> None:
    recorder = Recorder()
    utterance = recorder.utterance()
    utterance.feed(np.zeros(LONGEST_TURN - 10, np.float32))
    utterance.feed(np.zeros(100, np.float32))
    utterance.feed(np.zeros(100, np.float32))
    await utterance.finish()
    assert utterance.samples == sum(map(len, recorder.stt.heard)) == LONGEST_TURN
    await recorder.close()


class Contested(deque[Samples]):
    """A backlog that another job takes in the very moment in which it is counted."""

    def __iter__(self) -> Iterator[Samples]:
        counted = list(super().__iter__())
        self.clear()
        return iter(counted)


async def test_the_caller_is_held_up_no_longer_than_there_is_a_backlog() -> None:
    recorder = Recorder()
    recorder.stt.gate.clear()
    utterance = recorder.utterance()
    utterance._backlog = Contested()
    utterance.feed(speech(1000))
    await until(lambda: not len(utterance._backlog))
    for _ in range(MOST_BACKLOG // INPUT_RATE + 1):
        utterance.feed(speech(1000))
    recorder.stt.gate.set()
    async with asyncio.timeout(PATIENCE):
        await utterance.ready()
    utterance.discard()
    await recorder.close()


async def test_a_discarded_utterance_is_silent_and_closed() -> None:
    recorder = Recorder()
    utterance = recorder.utterance()
    recorder.stt.gate.clear()
    utterance.feed(speech(100))
    await until(lambda: len(recorder.stt.streams) == 1)
    utterance.discard()
    utterance.discard()
    recorder.stt.gate.set()
    await recorder.close()
    assert recorder.partials == []
    assert recorder.stt.streams[0].closed


async def test_an_utterance_of_nothing_has_a_transcript_too() -> None:
    recorder = Recorder()
    assert (await recorder.utterance().finish()).value.text == "hello"
    await recorder.close()


async def test_speech_comes_in_chunks_and_times() -> None:
    thread, tts = EngineThread("tts", 10), ToneSynthesizer()
    speaker = Speaker(thread, tts)
    assert speaker.rate == 16_000
    chunks = [done async for done in speaker.speak("one two", voice="", speed=1.0)]
    assert [len(done.value.samples) for done in chunks] == [1600, 1600]
    assert chunks[0].span.ended <= chunks[1].span.began
    assert await thread.close(10)
    assert tts.cancelled == 0


async def test_speech_that_nobody_wants_any_more_is_cancelled_before_the_next() -> None:
    thread, tts = EngineThread("tts", 10), ToneSynthesizer()
    speaker = Speaker(thread, tts)
    async with aclosing(speaker.speak("one two three", voice="", speed=1.0)) as chunks:
        await anext(chunks)
    assert [done async for done in speaker.speak("four", voice="", speed=1.0)]
    assert tts.cancelled == 1
    await thread.close(10)


async def test_two_replies_are_spoken_clause_by_clause() -> None:
    thread, tts = EngineThread("tts", 10), ToneSynthesizer()
    speaker = Speaker(thread, tts)
    order: list[str] = []

    async def speak(text: str) -> None:
        async for _ in speaker.speak(text, voice="", speed=1.0):
            order.append(text)

    await asyncio.gather(speak("a a a"), speak("b b b"))
    assert order in (["a a a"] * 3 + ["b b b"] * 3, ["b b b"] * 3 + ["a a a"] * 3)
    await thread.close(10)


async def test_a_stage_failure_says_nothing_of_the_inside() -> None:
    failure = stage_failed("tts", ValueError("/secret/path"))
    assert failure.stage == "tts"
    assert "secret" not in str(failure)
