"""Barge-in and truncation: what the caller has heard is what the conversation remembers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise

import pytest

from tests.calls import Call, until
from tests.instruments import (
    Cue,
    ScriptedModel,
    ScriptedRecognizer,
    ToneSynthesizer,
    engines,
    says,
    silence,
    speech,
)
from voicepool.engines.base import (
    ChatRequest,
    Finished,
    Message,
    TextDelta,
    ToolCall,
    ToolCallDelta,
)
from voicepool.events import (
    FinalTranscript,
    Interrupted,
    MessageDone,
    MessageStarted,
    PartialTranscript,
    PipelineSettings,
    ResponseAudio,
    ResponseDone,
    ResponseRequest,
    ResponseStarted,
    ResponseText,
    Said,
    SpeechStarted,
    SpeechStopped,
    ToolCallArguments,
    ToolCallStarted,
    TurnCommitted,
    TurnSettings,
)
from voicepool.generation import MOST_PARTS
from voicepool.outbox import MOST_DELTAS, MOST_EVENTS

TURN = (silence(500), speech(600), silence(800))
LONG = "One two three. Four five six. Seven eight nine."
"""900 ms, 100 a word."""


def of_response(call: Call, response_id: str) -> list[str]:
    return [
        type(event).__name__
        for event in call.events
        if getattr(event, "response_id", None) == response_id
    ]


async def test_speech_ends_a_reply_in_the_making_within_a_window() -> None:
    never = asyncio.Event()
    reply: list[Cue] = [TextDelta("One two three. Four"), never]
    chosen = engines(lambda _: reply)
    async with Call(chosen) as call:
        await call.hear(*TURN)
        for _ in range(3):
            await call.next(ResponseAudio)
        call.clock.now += 0.15
        before = len(call.events)
        await call.pipeline.push_audio(speech(64))
        assert len(call.events) == before
        await call.pipeline.push_audio(speech(32))
        assert call.pipeline.running_generation is None, "with the third window, at once"
        await call.next(ResponseDone)
        response_id = call.all(ResponseStarted)[0].response_id
        kinds = [type(event).__name__ for event in call.events[before:]]
        assert kinds == ["SpeechStarted", "Interrupted", "MessageDone", "ResponseDone"]
        interrupted = call.all(Interrupted)[0]
        message = call.all(MessageStarted)[0]
        assert interrupted == Interrupted(response_id, message.item_id, heard_ms=150)
        done = call.all(MessageDone)[0]
        assert (done.text, done.complete) == ("One two three. Four", False)
        assert call.all(ResponseDone)[0].status == "cancelled"
        assert call.all(ResponseDone)[0].reason == "turn_detected"
        assert call.pipeline.history.messages()[-1] == Message("assistant", "One two")
        assert isinstance(chosen.llm, ScriptedModel)
        model = chosen.llm
        await until(lambda: model.stopped == 1)
        await call.hear(silence(1000))
        await call.next(FinalTranscript)
        assert of_response(call, response_id)[-1] == "ResponseDone"


async def test_speech_over_a_reply_that_is_made_but_still_plays() -> None:
    async with Call(engines(says(LONG))) as call:
        await call.hear(*TURN)
        done = await call.next(ResponseDone)
        call.clock.now += 0.45
        await call.hear(speech(200))
        interrupted = await call.next(Interrupted)
        assert (interrupted.response_id, interrupted.heard_ms) == (done.response_id, 450)
        assert call.kinds(PartialTranscript)[-2:] == ["SpeechStarted", "Interrupted"]
        assert len(call.all(ResponseDone)) == 1
        assert done.status == "completed"
        assert call.pipeline.history.messages()[-1] == Message(
            "assistant", "One two three. Four five"
        )


async def test_whoever_refers_to_an_interrupted_reply_refers_to_what_was_heard() -> None:
    chosen = engines(says(LONG))
    async with Call(chosen) as call:
        await call.hear(*TURN)
        await call.next(ResponseDone)
        call.clock.now += 0.45
        await call.hear(speech(200))
        said = Said((await call.next(Interrupted)).item_id)
        call.pipeline.respond(ResponseRequest(messages=[said], remember=False))
        await call.next(ResponseDone)
        assert isinstance(chosen.llm, ScriptedModel)
        asked = chosen.llm.requests[-1]
        assert asked.messages == (Message("assistant", "One two three. Four five"),)


async def test_speech_after_a_reply_has_been_played_interrupts_nothing() -> None:
    async with Call(engines(says(LONG))) as call:
        await call.hear(*TURN)
        await call.next(ResponseDone)
        call.clock.now += 0.91
        await call.hear(speech(200))
        await call.next(SpeechStarted)
        assert not call.all(Interrupted)
        assert call.pipeline.history.messages()[-1] == Message("assistant", LONG)


async def test_a_slow_session_is_told_of_the_interruption_and_no_stale_delta() -> None:
    async with Call(engines(says("word " * 500))) as call:
        await call.hear(*TURN)
        await call.next(ResponseAudio)
        call.reading.clear()
        await until(lambda: len(call.pipeline._outbox) >= 64)
        taken = len(call.all(ResponseAudio))
        call.clock.now += 1000
        await call.hear(speech(200))
        assert call.pipeline.running_generation is None
        call.reading.set()
        await call.next(ResponseDone)
        assert len(call.all(ResponseAudio)) <= taken + 1, "the reader may hold one more"
        text = "".join(event.delta for event in call.all(ResponseText))
        assert call.all(MessageDone)[0].text == text
        heard = call.pipeline.history.messages()[-1].content
        assert heard == " ".join(["word"] * len(call.all(ResponseAudio)))


async def test_a_slow_session_gets_no_stale_sound_of_a_reply_that_is_made() -> None:
    async with Call(engines(says(LONG))) as call:
        call.reading.clear()
        await call.hear(*TURN)
        await until(lambda: not call.pipeline.requests_queue)
        await until(lambda: len(call.pipeline.history) == 2)
        await until(lambda: call.pipeline.running_generation is None)
        await call.hear(speech(200))
        call.reading.set()
        await call.next(Interrupted)
        assert not call.all(ResponseAudio)
        assert call.all(MessageDone)[0].text == LONG
        assert "".join(event.delta for event in call.all(ResponseText)) == LONG
        assert [message.role for message in call.pipeline.history.messages()] == ["user"]


async def test_back_pressure_reaches_the_synthesiser() -> None:
    tts = ToneSynthesizer()
    async with Call(engines(says("Word word. " * 2000), tts=tts)) as call:
        call.reading.clear()
        call.pipeline.respond(ResponseRequest())
        await until(lambda: len(call.pipeline._outbox) >= MOST_DELTAS)
        generation = call.pipeline.running_generation
        assert generation is not None
        await until(generation._parts.full)
        await call.hear(silence(3000))
        most = MOST_DELTAS // 2 + MOST_PARTS // 3 + 3
        assert len(tts.spoken) <= most, "of 2000; each has two sounds, and a part before them"
        call.pipeline.cancel()


async def test_a_model_that_writes_arguments_without_end_waits_for_the_reader() -> None:
    chosen = engines(lambda _: [ToolCallDelta("call", "f", "x")] * 20_000)
    async with Call(chosen) as call:
        call.reading.clear()
        call.pipeline.respond(ResponseRequest())
        await until(lambda: len(call.pipeline._outbox) >= MOST_EVENTS)
        for _ in range(1000):
            await asyncio.sleep(0)
        assert len(call.pipeline._outbox) == MOST_EVENTS
        call.reading.set()
        await call.next(ResponseDone)
        assert len(call.all(ToolCallArguments)) == 20_000


async def test_a_response_that_has_not_begun_gives_way_in_silence() -> None:
    stt = ScriptedRecognizer(["first", "second"])
    chosen = engines(stt=stt)
    async with Call(chosen, speculate=False) as call:
        await call.hear(silence(500), speech(600))
        await call.next(SpeechStarted)
        stt.gate.clear()
        await call.hear(silence(800))
        await call.next(SpeechStopped)
        await call.hear(speech(300))
        await call.next(SpeechStarted)
        stt.gate.set()
        await call.hear(silence(800))
        await call.next(ResponseDone)
        assert len(call.all(ResponseStarted)) == 1
        assert not call.all(Interrupted)
    assert isinstance(chosen.llm, ScriptedModel)
    assert [request.messages for request in chosen.llm.requests] == [
        (Message("user", "first"), Message("user", "second"))
    ]


async def test_a_reply_that_may_not_be_interrupted_goes_on_and_the_next_one_waits() -> None:
    go = asyncio.Event()
    stt = ScriptedRecognizer(["first", "second", "third"])
    chosen = engines(
        lambda request: [TextDelta("One two. "), go, TextDelta("Three."), Finished()], stt=stt
    )
    turns = TurnSettings(interrupt_response=False)
    async with Call(chosen, PipelineSettings(turns=turns), speculate=False) as call:
        await call.hear(*TURN)
        await call.next(ResponseAudio)
        await call.hear(*TURN)
        await call.hear(*TURN)
        for _ in range(2):
            await call.next(FinalTranscript)
        assert len(call.all(ResponseStarted)) == 1
        assert len(call.pipeline.requests_queue) == 1, "one answer to both turns"
        go.set()
        for _ in range(2):
            assert (await call.next(ResponseDone)).status == "completed"
        assert not call.all(Interrupted)
    assert isinstance(chosen.llm, ScriptedModel)
    said = [message.content for message in chosen.llm.requests[1].messages]
    assert said == ["first", "One two. Three.", "second", "third"]
    assert len(chosen.llm.requests) == 2


async def test_a_reply_that_begins_late_comes_before_what_was_said_meanwhile() -> None:
    go = asyncio.Event()
    stt = ScriptedRecognizer(["first", "second"])
    chosen = engines(lambda _: [go, TextDelta("One."), ToolCall("call", "f", "{}")], stt=stt)
    turns = TurnSettings(interrupt_response=False)
    async with Call(chosen, PipelineSettings(turns=turns), speculate=False) as call:
        for _ in range(2):
            await call.hear(*TURN)
            await call.next(FinalTranscript)
        go.set()
        for _ in range(2):
            await call.next(ResponseDone)
        first, second = (event.item_id for event in call.all(TurnCommitted))
        message = call.all(MessageStarted)[0]
        tool = call.all(ToolCallStarted)[0]
        assert (message.previous_id, tool.previous_id) == (first, message.item_id)
        assert call.pipeline.history.ids[:4] == [first, message.item_id, tool.item_id, second]
    assert isinstance(chosen.llm, ScriptedModel)
    assert chosen.llm.requests[1].messages[-1] == Message("user", "second")


# -- what is not speech


COUGH = (speech(200), silence(800))
QUESTION = Message("user", "what time is it")


@pytest.mark.parametrize("coughs", [1, 2])
@pytest.mark.parametrize("made", [False, True])
async def test_a_cough_does_not_cost_an_answer_of_which_nothing_was_heard(
    coughs: int, made: bool
) -> None:
    go = asyncio.Event()
    chosen = engines(
        lambda request: [*([] if made else [go]), *says("Noon.")(request)],
        stt=ScriptedRecognizer([QUESTION.content, ""]),
    )
    async with Call(chosen) as call:
        await call.hear(*TURN)
        await call.next(ResponseDone if made else ResponseStarted)
        for _ in range(coughs):
            await call.hear(*COUGH)
            await call.next(FinalTranscript)
            await call.next(ResponseStarted)
        go.set()
        await call.next(ResponseDone, lambda done: done.status == "completed")
        assert call.pipeline.history.messages() == [QUESTION, Message("assistant", "Noon.")]


async def test_a_cough_does_not_cost_what_is_made_of_a_tools_result() -> None:
    never, asked = asyncio.Event(), ToolCall("call", "look", "{}")

    def reply(request: ChatRequest) -> Sequence[Cue]:
        if request.messages[-1].role != "tool":
            return [asked, Finished("tool_calls")]
        return [never] if len(model.requests) == 2 else says("Noon.")(request)

    chosen = engines(reply, stt=ScriptedRecognizer([QUESTION.content, ""]))
    assert isinstance(chosen.llm, ScriptedModel)
    model = chosen.llm
    async with Call(chosen) as call:
        await call.hear(*TURN)
        await call.next(ResponseDone)
        call.pipeline.insert("result", Message("tool", "12:00", tool_call_id="call"))
        call.pipeline.respond(ResponseRequest())
        await until(lambda: len(model.requests) == 2)
        await call.hear(*COUGH)
        await call.next(ResponseDone, lambda done: done.status == "completed")
        assert call.pipeline.history.messages()[-1] == Message("assistant", "Noon.")


@pytest.mark.parametrize("end", ["heard", "cancelled"])
async def test_a_cough_asks_for_no_answer_that_was_heard_or_given_up(end: str) -> None:
    never = asyncio.Event()
    stt = ScriptedRecognizer([QUESTION.content, "", "second"])
    chosen = engines(lambda request: [TextDelta("It is noon. "), never], stt=stt)
    async with Call(chosen) as call:
        await call.hear(*TURN)
        await call.next(ResponseAudio)
        if end == "heard":
            call.clock.now += 0.15
        else:
            call.pipeline.cancel()
        await call.hear(*COUGH)
        await call.next(FinalTranscript, lambda final: not final.text)
        await call.hear(*TURN)
        await call.next(ResponseAudio)
        assert len(call.all(ResponseStarted)) == 2
    assert isinstance(chosen.llm, ScriptedModel)
    assert [request.messages[-1].content for request in chosen.llm.requests] == [
        QUESTION.content,
        "second",
    ]


async def test_a_cough_does_not_cost_an_answer_that_waits() -> None:
    go = asyncio.Event()
    stt = ScriptedRecognizer(["first", QUESTION.content, ""])
    chosen = engines(lambda request: [TextDelta("It is "), go, *says("noon.")(request)], stt=stt)
    turns = TurnSettings(interrupt_response=False)
    async with Call(chosen, PipelineSettings(turns=turns), speculate=False) as call:
        await call.hear(*TURN)
        await call.next(ResponseText)
        for sound in (TURN, COUGH):
            await call.hear(*sound)
            await call.next(FinalTranscript)
        go.set()
        for _ in range(2):
            assert (await call.next(ResponseDone)).status == "completed"
        said = [message.content for message in call.pipeline.history.messages()]
        assert said == ["first", "It is noon.", QUESTION.content, "It is noon."]


# -- truncation


@pytest.mark.parametrize("timed", [True, False], ids=["word times", "proportional"])
async def test_a_finished_item_is_cut_to_what_was_heard(timed: bool) -> None:
    async with Call(engines(says(LONG), tts=ToneSynthesizer(timed=timed))) as call:
        await call.hear(*TURN)
        await call.next(ResponseDone)
        call.clock.now += 10
        item_id = call.all(MessageDone)[0].item_id
        assert call.pipeline.truncate(item_id, 5000) == LONG
        assert call.pipeline.truncate(item_id, 600) == "One two three. Four five six."
        assert call.pipeline.truncate(item_id, 350) == (
            "One two three. Four" if timed else "One two three."
        )
        assert call.pipeline.truncate(item_id, 600).startswith("One two three."), "never longer"
        assert len(call.pipeline.history.messages()[-1].content.split()) <= 4
        assert call.pipeline.truncate(item_id, 0) == ""
        assert [message.role for message in call.pipeline.history.messages()] == ["user"]


@pytest.mark.parametrize(("clock_ms", "client_ms"), [(450, 250), (250, 450)])
async def test_the_smaller_of_clock_and_client_counts(clock_ms: int, client_ms: int) -> None:
    async with Call(engines(says(LONG))) as call:
        await call.hear(*TURN)
        await call.next(ResponseDone)
        call.clock.now += clock_ms / 1000
        await call.hear(speech(200))
        interrupted = await call.next(Interrupted)
        assert call.pipeline.truncate(interrupted.item_id, client_ms) == "One two three."


async def test_an_item_that_is_truncated_plays_no_more() -> None:
    async with Call(engines(says(LONG))) as call:
        await call.hear(*TURN)
        await call.next(ResponseDone)
        call.pipeline.truncate(call.all(MessageDone)[0].item_id, 300)
        await call.hear(speech(200))
        await call.next(SpeechStarted)
        assert not call.all(Interrupted)


async def test_an_item_is_truncated_while_it_is_made() -> None:
    go = asyncio.Event()
    reply: list[Cue] = [TextDelta("One two three. "), go, TextDelta("Four."), Finished()]
    async with Call(engines(lambda _: reply)) as call:
        await call.hear(*TURN)
        await call.next(ResponseAudio)
        item_id = call.all(MessageStarted)[0].item_id
        call.pipeline.truncate(item_id, 150)
        go.set()
        assert (await call.next(MessageDone)).text == "One two three. Four."
        assert call.pipeline.history.messages()[-1].content == "One two"


async def test_a_cancelled_reply_is_remembered_as_far_as_it_was_heard() -> None:
    never = asyncio.Event()
    reply: list[Cue] = [TextDelta("One two three. Four"), never]
    async with Call(engines(lambda _: reply)) as call:
        call.pipeline.respond(ResponseRequest())
        for _ in range(3):
            await call.next(ResponseAudio)
        call.clock.now += 0.25
        call.pipeline.cancel()
        await call.next(ResponseDone)
        assert call.pipeline.history.messages() == [Message("assistant", "One two three.")]


async def test_started_and_stopped_alternate_through_it_all() -> None:
    async with Call(engines(says(LONG))) as call:
        for _ in range(5):
            await call.hear(silence(600), speech(400))
        await call.pipeline.clear()
        await call.hear(*TURN)
        await call.next(ResponseDone, lambda done: done.status == "completed")
        marks = [e for e in call.events if isinstance(e, SpeechStarted | SpeechStopped)]
        for one, two in pairwise(marks):
            assert type(one) is not type(two)
            if isinstance(one, SpeechStarted):
                assert one.item_id == two.item_id
