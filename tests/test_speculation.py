"""Replies that are begun before the turn is confirmed: nobody hears of one that does not fit."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
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
from voicepool.engines.base import ChatRequest, Message, ToolCall
from voicepool.errors import EngineError
from voicepool.events import (
    FinalTranscript,
    MessageDone,
    PartialTranscript,
    PipelineSettings,
    ResponseDone,
    ResponseRequest,
    ToolCallDone,
    TurnSettings,
)
from voicepool.turns import PAUSE as PAUSE_SAMPLES

SPOKEN = (silence(500), speech(600))
PAUSE = silence(250)
"""Long enough to speculate, too short to end the turn."""
REST = silence(500)


def echo(request: ChatRequest) -> Sequence[Cue]:
    return says(f"You said {request.messages[-1].content}.")(request)


def model_of(call: Call) -> ScriptedModel:
    model = call.pipeline._engines.llm
    assert isinstance(model, ScriptedModel)
    return model


async def test_a_reply_is_ready_when_the_turn_is_confirmed() -> None:
    tts = ToneSynthesizer()
    async with Call(engines(tts=tts)) as call:
        await call.hear(*SPOKEN, PAUSE)
        await until(lambda: tts.spoken == ["Hello there.", "How are you today?"])
        assert call.kinds(PartialTranscript) == ["SpeechStarted"]
        assert len(call.pipeline.history) == 0
        await call.hear(REST)
        done = await call.next(ResponseDone)
        assert done.timing.speculated
        assert done.timing.first_token == 0
        assert done.timing.first_audio is not None
        assert done.timing.overhead is not None
        assert done.timing.transcript is not None
        assert done.timing.overhead <= done.timing.first_audio
        assert len(model_of(call).requests) == 1


async def test_a_caller_who_goes_on_is_not_answered_half_way() -> None:
    stt = ScriptedRecognizer(["one two"], snapshots=["one", "one two"])
    never = asyncio.Event()
    chosen = engines(
        lambda request: [never] if request.messages[-1].content == "one" else echo(request),
        stt=stt,
    )
    async with Call(chosen) as call:
        await call.hear(*SPOKEN, PAUSE)
        await until(lambda: len(model_of(call).requests) == 1)
        await call.hear(speech(300))
        await until(lambda: model_of(call).stopped == 1)
        await call.hear(PAUSE)
        await until(lambda: len(model_of(call).requests) == 2)
        await call.hear(REST)
        done = await call.next(ResponseDone)
        assert done.timing.speculated
        assert call.all(MessageDone)[0].text == "You said one two."
        assert len(call.all(ResponseDone)) == 1
        assert len(model_of(call).requests) == 2


async def test_the_closing_silence_is_heard_only_by_who_goes_on() -> None:
    stt = ScriptedRecognizer()
    async with Call(engines(stt=stt)) as call:
        await call.hear(*SPOKEN, PAUSE, speech(320), silence(800))
        final = await call.next(FinalTranscript)
        heard = np.concatenate(stt.heard)
        assert len(heard) == round(final.seconds * 16_000)
        assert np.count_nonzero(heard) == (600 + 320) * 16
        closing = len(heard) - int(np.flatnonzero(heard)[-1]) - 1
        assert PAUSE_SAMPLES - 512 <= closing <= PAUSE_SAMPLES + 512, "by windows"
        between = np.flatnonzero(np.diff(np.flatnonzero(heard)) > 1)
        assert len(between) == 1, "the pause in mid-turn is there, once"
        assert np.diff(np.flatnonzero(heard)).max() - 1 == len(PAUSE)


async def test_another_transcript_in_the_end_is_another_reply() -> None:
    stt = ScriptedRecognizer(["final words"], snapshots=["early words"])
    async with Call(engines(echo, stt=stt)) as call:
        await call.hear(*SPOKEN, PAUSE)
        await until(lambda: len(model_of(call).requests) == 1)
        await call.hear(REST)
        done = await call.next(ResponseDone)
        assert not done.timing.speculated
        assert call.all(MessageDone)[0].text == "You said final words."
        assert call.pipeline.history.messages() == [
            Message("user", "final words"),
            Message("assistant", "You said final words."),
        ]


@pytest.mark.parametrize("change", ["settings", "history"])
async def test_another_conversation_in_the_end_is_another_reply(change: str) -> None:
    async with Call(engines()) as call:
        await call.hear(*SPOKEN, PAUSE)
        await until(lambda: len(model_of(call).requests) == 1)
        if change == "settings":
            call.pipeline.configure(PipelineSettings(instructions="Be brief."))
        else:
            call.pipeline.insert("item_1", Message("system", "Be brief."))
        await call.hear(REST)
        done = await call.next(ResponseDone)
        assert not done.timing.speculated
        assert model_of(call).requests[-1].messages == (
            Message("system", "Be brief."),
            Message("user", "hello"),
        )


@pytest.mark.parametrize(
    ("turns", "speculate"),
    [(TurnSettings(), False), (TurnSettings(create_response=False), True), (None, True)],
    ids=["off", "unanswered", "manual"],
)
async def test_nothing_is_begun_where_nothing_may_be(
    turns: TurnSettings | None, speculate: bool
) -> None:
    async with Call(engines(), PipelineSettings(turns=turns), speculate=speculate) as call:
        await call.hear(*SPOKEN, PAUSE, speech(300))
        await call.pipeline.commit()
        call.pipeline.respond(ResponseRequest())
        await call.next(ResponseDone)
        assert len(model_of(call).requests) == 1


@pytest.mark.parametrize("remember", [True, False], ids=["in the conversation", "out of band"])
async def test_a_model_that_is_at_work_is_not_asked_ahead(remember: bool) -> None:
    """It would answer what is asked of it now the later, and this call has only the one."""
    go = asyncio.Event()
    chosen = engines(lambda request: [go, *echo(request)] if not go.is_set() else echo(request))
    turns = TurnSettings(interrupt_response=False)
    async with Call(chosen, PipelineSettings(turns=turns)) as call:
        asked = ResponseRequest(messages=[Message("user", "this")], remember=remember)
        first = call.pipeline.respond(asked)
        await call.hear(*SPOKEN, PAUSE)
        await call.next(PartialTranscript)
        await until(lambda: not call.pipeline._stt._jobs.qsize())
        assert len(model_of(call).requests) == 1
        go.set()
        await call.hear(REST)
        done = [await call.next(ResponseDone) for _ in range(2)]
        assert done[0].response_id == first
        assert not done[1].timing.speculated
        assert len(model_of(call).requests) == 2


async def test_a_tool_is_not_called_before_the_turn_is_confirmed() -> None:
    tool = ToolCall("call_1", "open_door", "{}")
    async with Call(engines(lambda _: [tool])) as call:
        await call.hear(*SPOKEN, PAUSE)
        await until(lambda: len(model_of(call).requests) == 1)
        await call.hear(speech(300), PAUSE)
        await until(lambda: len(model_of(call).requests) == 2)
        assert not call.all(ToolCallDone)
        assert len(call.pipeline.history) == 0
        await call.hear(REST)
        await call.next(ResponseDone)
        assert len(call.all(ToolCallDone)) == 1


@pytest.mark.parametrize("end", ["clear", "commit", "respond", "close"])
async def test_a_speculation_ends_with_its_turn(end: str) -> None:
    never = asyncio.Event()
    async with Call(engines(lambda _: [never])) as call:
        await call.hear(*SPOKEN, PAUSE)
        await until(lambda: len(model_of(call).requests) == 1)
        match end:
            case "clear":
                await call.pipeline.clear()
            case "commit":
                await call.pipeline.commit()
            case "respond":
                call.pipeline.respond(ResponseRequest())
        if end != "close":
            await until(lambda: model_of(call).stopped == 1)
    assert model_of(call).stopped == len(model_of(call).requests)


async def test_a_speculation_ends_where_no_answer_is_wanted_any_more() -> None:
    never = asyncio.Event()
    async with Call(engines(lambda _: [never])) as call:
        await call.hear(*SPOKEN, PAUSE)
        await until(lambda: len(model_of(call).requests) == 1)
        turns = TurnSettings(create_response=False)
        call.pipeline.configure(PipelineSettings(turns=turns))
        await call.hear(REST)
        await call.next(FinalTranscript)
        await until(lambda: model_of(call).stopped == 1)


async def test_a_recogniser_that_cannot_look_ahead_fails_only_if_it_fails_in_the_end() -> None:
    stt = ScriptedRecognizer([EngineError("broken")], snapshots=[EngineError("broken")])
    async with Call(engines(stt=stt)) as call:
        await call.hear(*SPOKEN, PAUSE)
        await call.hear(REST)
        done = await call.next(ResponseDone)
        assert (done.status, done.reason) == ("failed", "stt")


async def test_a_long_reply_that_nobody_reads_yet_is_not_made_to_its_end() -> None:
    tts = ToneSynthesizer()
    async with Call(engines(says("Word word. " * 1000), tts=tts)) as call:
        await call.hear(*SPOKEN, PAUSE)
        await until(lambda: len(tts.spoken) > 3)
        for _ in range(500):
            await asyncio.sleep(0)
        assert len(tts.spoken) < 100
        assert call.kinds(PartialTranscript) == ["SpeechStarted"]
