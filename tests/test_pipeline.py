"""voicepool.pipeline: whole turns, by voice and by hand, over engines that tests play."""

from __future__ import annotations

import asyncio
import gc
import threading
import tracemalloc
from typing import Literal

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
from voicepool.engines.base import (
    Finished,
    Message,
    TextDelta,
    Tool,
    ToolCall,
    ToolCallDelta,
)
from voicepool.errors import BufferTooSmall, DuplicateItem, ResponseActive, UnknownItem
from voicepool.events import (
    FinalTranscript,
    IdleTimeout,
    MessageDone,
    MessageStarted,
    PartialTranscript,
    PipelineSettings,
    ResponseAudio,
    ResponseDone,
    ResponseRequest,
    ResponseStarted,
    ResponseText,
    SpeechStarted,
    SpeechStopped,
    ToolCallArguments,
    ToolCallDone,
    ToolCallStarted,
    TurnCommitted,
    TurnSettings,
)

TURN = (silence(500), speech(600), silence(800))
MANUAL = PipelineSettings(turns=None)


async def test_a_spoken_turn_is_answered_with_speech() -> None:
    async with Call(engines()) as call:
        await call.hear(*TURN)
        done = await call.next(ResponseDone)
        assert call.kinds(PartialTranscript) == [
            "SpeechStarted",
            "SpeechStopped",
            "TurnCommitted",
            "FinalTranscript",
            "ResponseStarted",
            "MessageStarted",
            "ResponseText",
            "ResponseAudio",
            "MessageDone",
            "ResponseDone",
        ]
        started, stopped = call.all(SpeechStarted)[0], call.all(SpeechStopped)[0]
        committed = call.all(TurnCommitted)[0]
        message = call.all(MessageStarted)[0]
        assert 150 <= started.start_ms <= 232, "500 ms less 300 ms of padding, by windows of 32 ms"
        assert 1600 <= stopped.end_ms <= 1632, "with the silence that ended it"
        assert started.item_id == stopped.item_id == committed.item_id
        assert (committed.previous_id, message.previous_id) == (None, committed.item_id)
        assert message.spoken
        final = call.all(FinalTranscript)[0]
        assert (final.text, final.item_id) == ("hello", committed.item_id)
        assert final.seconds == pytest.approx((1280 - started.start_ms) / 1000, abs=0.03), (
            "up to the silence that made the turn's end likely"
        )
        assert call.seconds_of_sound() == pytest.approx(0.6), "six words"
        assert all(len(event.samples) <= 0.2 * event.rate for event in call.all(ResponseAudio))
        assert (done.status, done.reason) == ("completed", "")
        assert (done.input_tokens, done.output_tokens) == (3, 4)
        assert call.all(MessageDone)[0] == MessageDone(
            message.response_id,
            message.item_id,
            0,
            "Hello there. How are you today?",
            complete=True,
        )
        assert call.pipeline.history.ids == [committed.item_id, message.item_id]
        assert call.pipeline.history.messages() == [
            Message("user", "hello"),
            Message("assistant", "Hello there. How are you today?"),
        ]
        assert call.pipeline.running_generation is None
        assert call.pipeline.llm_generator is None


async def test_the_recogniser_hears_the_whole_turn_and_nothing_twice() -> None:
    stt = ScriptedRecognizer()
    async with Call(engines(stt=stt), speculate=False) as call:
        await call.hear(*TURN)
        await call.next(ResponseDone)
        start, stop = call.all(SpeechStarted)[0].start_ms, call.all(SpeechStopped)[0].end_ms
        spoken = np.concatenate(TURN)[start * 16 : stop * 16]
        heard = np.concatenate(stt.heard)
        assert abs(len(heard) - len(spoken)) < 16, "milliseconds are whole"
        assert np.count_nonzero(heard) == 9600
        assert all(stream.closed for stream in stt.streams)


async def test_partial_transcripts_come_while_the_caller_speaks() -> None:
    async with Call(engines()) as call:
        await call.hear(silence(300), speech(400))
        await call.next(PartialTranscript)
        assert not call.all(SpeechStopped)


async def test_a_session_that_wants_no_transcripts_gets_none() -> None:
    async with Call(engines(), PipelineSettings(transcribe=False)) as call:
        await call.hear(*TURN)
        await call.next(ResponseDone)
        assert not call.all(FinalTranscript)
        assert not call.all(PartialTranscript)
        assert call.pipeline.history.messages()[0] == Message("user", "hello")


async def test_text_is_never_later_than_the_sound_that_speaks_it() -> None:
    tts = ToneSynthesizer()
    async with Call(engines(says(*"One two. Three four. Five six."), tts=tts)) as call:
        await call.hear(*TURN)
        await call.next(ResponseDone)
        text, words = "", 0
        for event in call.events:
            if isinstance(event, ResponseText):
                text += event.delta
            elif isinstance(event, ResponseAudio):
                words += 1
                assert len(text.split()) >= words
        assert words == 6
        assert tts.spoken == ["One two.", "Three four.", "Five six."]


async def test_speech_begins_while_the_model_still_writes() -> None:
    more = asyncio.Event()
    reply: list[Cue] = [TextDelta("One two. "), more, TextDelta("Three."), Finished()]
    async with Call(engines(lambda _: reply)) as call:
        await call.hear(*TURN)
        await call.next(ResponseAudio)
        assert call.pipeline.running_generation is not None
        assert call.pipeline.llm_generator is not None
        more.set()
        await call.next(ResponseDone)
        assert call.seconds_of_sound() == pytest.approx(0.3)


async def test_text_alone_where_nobody_listens() -> None:
    tts = ToneSynthesizer()
    async with Call(engines(tts=tts), PipelineSettings(speak=False)) as call:
        await call.hear(*TURN)
        await call.next(ResponseDone)
        assert not call.all(ResponseAudio)
        assert not call.all(MessageStarted)[0].spoken
        assert tts.spoken == []


async def test_what_was_not_understood_is_asked_of_the_model_as_nothing() -> None:
    chosen = engines(stt=ScriptedRecognizer([""], rejected="no phrase"))
    async with Call(chosen) as call:
        await call.hear(*TURN)
        await call.next(ResponseDone)
        assert call.all(FinalTranscript)[0].text == ""
        assert isinstance(chosen.llm, ScriptedModel)
        assert chosen.llm.requests[0].messages == (Message("user", ""),)


async def test_a_turn_without_words_is_not_answered_and_not_remembered() -> None:
    chosen = engines(stt=ScriptedRecognizer(["", "hello"]))
    async with Call(chosen) as call:
        await call.hear(*TURN)
        assert (await call.next(FinalTranscript)).text == ""
        await call.hear(*TURN)
        await call.next(ResponseDone)
        assert len(call.all(ResponseStarted)) == 1
        assert isinstance(chosen.llm, ScriptedModel)
        assert [request.messages for request in chosen.llm.requests] == [
            (Message("user", "hello"),)
        ]


async def test_a_turn_may_be_committed_and_not_answered() -> None:
    turns = TurnSettings(create_response=False)
    async with Call(engines(), PipelineSettings(turns=turns)) as call:
        await call.hear(*TURN)
        await call.next(FinalTranscript)
        assert not call.all(ResponseStarted)
        response_id = call.pipeline.respond(ResponseRequest(tag={"a": 1}))
        done = await call.next(ResponseDone)
        assert done.response_id == response_id
        assert call.all(ResponseStarted)[0].request.tag == {"a": 1}


# -- by hand


async def test_a_manual_turn() -> None:
    async with Call(engines(), MANUAL) as call:
        await call.hear(speech(300), silence(900), speech(200))
        item_id = await call.pipeline.commit()
        final = await call.next(FinalTranscript)
        assert final.item_id == item_id
        assert final.seconds == pytest.approx(1.4)
        call.pipeline.respond(ResponseRequest())
        await call.next(ResponseDone)
        assert call.kinds(PartialTranscript)[:3] == [
            "TurnCommitted",
            "FinalTranscript",
            "ResponseStarted",
        ]
        assert not call.all(SpeechStarted)


async def test_a_response_waits_for_the_transcript_of_the_turn_before_it() -> None:
    chosen = engines()
    async with Call(chosen, MANUAL) as call:
        await call.hear(speech(300))
        await call.pipeline.commit()
        call.pipeline.respond(ResponseRequest())
        await call.next(ResponseDone)
        assert isinstance(chosen.llm, ScriptedModel)
        assert chosen.llm.requests[0].messages == (Message("user", "hello"),)


@pytest.mark.parametrize("settings", [PipelineSettings(), MANUAL], ids=["detected", "manual"])
async def test_too_little_sound_is_no_turn(settings: PipelineSettings) -> None:
    async with Call(engines(), settings) as call:
        with pytest.raises(BufferTooSmall) as caught:
            await call.pipeline.commit()
        assert caught.value.milliseconds == 0
        await call.hear(silence(90))
        with pytest.raises(BufferTooSmall) as caught:
            await call.pipeline.commit()
        assert caught.value.milliseconds == 90
        await call.hear(silence(10))
        await call.pipeline.commit()
        assert (await call.next(FinalTranscript)).seconds == pytest.approx(0.1)
        with pytest.raises(BufferTooSmall):
            await call.pipeline.commit()


async def test_commit_ends_a_detected_turn_without_an_answer() -> None:
    async with Call(engines()) as call:
        await call.hear(silence(400), speech(500))
        started = await call.next(SpeechStarted)
        assert await call.pipeline.commit() == started.item_id
        await call.next(FinalTranscript)
        assert call.kinds(PartialTranscript) == [
            "SpeechStarted",
            "SpeechStopped",
            "TurnCommitted",
            "FinalTranscript",
        ]
        assert call.all(SpeechStopped)[0].end_ms == 900
        await call.hear(speech(200))
        again = await call.next(SpeechStarted)
        assert again.start_ms >= 900
        assert again.item_id != started.item_id


async def test_clear_forgets_a_turn() -> None:
    stt = ScriptedRecognizer()
    async with Call(engines(stt=stt)) as call:
        await call.hear(silence(400), speech(500))
        await call.pipeline.clear()
        await call.hear(silence(1000))
        stopped = await call.next(SpeechStopped)
        await until(lambda: all(stream.closed for stream in stt.streams))
        assert stopped.end_ms == 900
        assert not call.all(TurnCommitted)
        assert len(call.pipeline.history) == 0


async def test_clear_forgets_a_manual_turn() -> None:
    async with Call(engines(), MANUAL) as call:
        await call.hear(speech(500))
        await call.pipeline.clear()
        with pytest.raises(BufferTooSmall):
            await call.pipeline.commit()
        assert not call.all(SpeechStopped)


async def test_turning_detection_on_and_off_begins_with_an_empty_buffer() -> None:
    async with Call(engines()) as call:
        await call.hear(silence(400), speech(500))
        call.pipeline.configure(MANUAL)
        await call.next(SpeechStopped)
        await call.hear(silence(1000))
        assert not call.all(TurnCommitted)
        call.pipeline.configure(PipelineSettings())
        with pytest.raises(BufferTooSmall):
            await call.pipeline.commit()
        await call.hear(*TURN)
        await call.next(ResponseDone)
        assert call.all(SpeechStarted)[1].start_ms >= 1900, "time goes on in manual turns too"


async def test_a_clip_is_transcribed_beside_the_call() -> None:
    async with Call(engines(stt=ScriptedRecognizer(["a clip", "a turn"]))) as call:
        await call.hear(silence(300), speech(300))
        assert await call.pipeline.transcribe(speech(500)) == "a clip"
        await call.hear(silence(800))
        assert (await call.next(FinalTranscript)).text == "a turn"


# -- responses


async def test_one_remembered_response_at_a_time() -> None:
    go = asyncio.Event()
    async with Call(engines(lambda _: [go, *says("Hi.")(_)])) as call:
        first = call.pipeline.respond(ResponseRequest())
        with pytest.raises(ResponseActive) as caught:
            call.pipeline.respond(ResponseRequest())
        assert caught.value.response_id == first
        go.set()
        await call.next(ResponseDone)
        assert call.pipeline.respond(ResponseRequest()) != first


async def test_out_of_band_responses_are_made_beside_the_conversation() -> None:
    go = asyncio.Event()
    chosen = engines(
        lambda request: (
            says("Aside.")(request)
            if request.messages[-1].content == "judge"
            else [go, *says("Main.")(request)]
        )
    )
    async with Call(chosen) as call:
        call.pipeline.insert("item_1", Message("user", "talk"))
        main = call.pipeline.respond(ResponseRequest())
        aside = call.pipeline.respond(
            ResponseRequest(messages=[Message("user", "judge")], remember=False, speak=False)
        )
        assert (await call.next(ResponseDone)).response_id == aside
        assert call.pipeline.history.ids == ["item_1"]
        go.set()
        assert (await call.next(ResponseDone)).response_id == main
        assert call.pipeline.history.messages()[-1] == Message("assistant", "Main.")
        started = {event.response_id: event for event in call.all(MessageStarted)}
        assert (started[aside].previous_id, started[main].previous_id) == (None, "item_1")


@pytest.mark.parametrize("words", ["wait", ""])
async def test_what_is_asked_for_while_an_answer_waits_for_words_takes_its_place(
    words: str,
) -> None:
    """Nobody has been told of the answer, and to a cough there will be none."""
    stt = ScriptedRecognizer([words])
    chosen = engines(says("Noon."), stt=stt)
    async with Call(chosen, speculate=False) as call:
        call.pipeline.insert("item_q", Message("user", "what time is it"))
        await call.hear(silence(500), speech(600))
        await call.next(SpeechStarted)
        stt.gate.clear()
        await call.hear(silence(800))
        await call.next(TurnCommitted)
        with pytest.raises(ResponseActive):  # it answers something else
            call.pipeline.respond(ResponseRequest(messages=[Message("user", "judge")]))
        asked = call.pipeline.respond(ResponseRequest(tag="asked"))
        with pytest.raises(ResponseActive) as caught:
            call.pipeline.respond(ResponseRequest())
        assert caught.value.response_id == asked
        stt.gate.set()
        done = await call.next(ResponseDone)
        assert (done.response_id, done.status) == (asked, "completed")
        (started,) = call.all(ResponseStarted)
        assert started.request.tag == "asked"
        assert started.spoke_until is not None, "it is the answer to the turn"
    assert isinstance(chosen.llm, ScriptedModel)
    (request,) = chosen.llm.requests
    said = [message.content for message in request.messages]
    assert said == ["what time is it", *filter(None, [words])]


async def test_a_model_is_told_of_messages_as_of_a_conversation() -> None:
    calls = (ToolCall("call_1", "look", "{}"), ToolCall("call_2", "go", "{}"))
    results = [Message("tool", "Done.", tool_call_id=call.call_id) for call in calls]
    given = [
        Message("user", "Look and go."),
        *(Message("assistant", "", (call,)) for call in calls),
        *results,
        Message("assistant", ""),  # an item that means nothing to a model, or was not heard
    ]
    chosen = engines()
    async with Call(chosen) as call:
        call.pipeline.respond(ResponseRequest(messages=given, remember=False))
        await call.next(ResponseDone)
    assert isinstance(chosen.llm, ScriptedModel)
    (asked,) = chosen.llm.requests
    assert asked.messages == (given[0], Message("assistant", "", calls), *results)


async def test_waiting_responses_are_bounded() -> None:
    go = asyncio.Event()
    aside = ResponseRequest(remember=False, speak=False)
    async with Call(engines(lambda _: [go, *says("Hi.")(_)])) as call:
        ids = [call.pipeline.respond(aside) for _ in range(20)]
        assert len(call.pipeline.requests_queue) == 16
        with pytest.raises(ResponseActive):
            call.pipeline.respond(aside)
        assert call.pipeline.cancel(ids[-1])
        assert len(call.pipeline.requests_queue) == 15
        go.set()
        for _ in ids:
            await call.next(ResponseDone)
        done = {event.response_id: event.status for event in call.all(ResponseDone)}
        assert set(done) == set(ids)
        assert list(done.values()).count("cancelled") == 1


async def test_a_request_overrides_the_settings() -> None:
    chosen = engines()
    settings = PipelineSettings(
        instructions="Be kind.", max_tokens=9, temperature=0.5, tool_choice="none"
    )
    async with Call(chosen, settings) as call:
        call.pipeline.respond(ResponseRequest())
        await call.next(ResponseDone)
        tool = Tool("look")
        call.pipeline.respond(
            ResponseRequest(
                instructions="Be brief.",
                tools=[tool],
                tool_choice="required",
                max_tokens=1,
                temperature=0.0,
            )
        )
        await call.next(ResponseDone)
    assert isinstance(chosen.llm, ScriptedModel)
    first, second = chosen.llm.requests
    assert first.messages[0] == Message("system", "Be kind.")
    assert (first.max_tokens, first.temperature, first.tool_choice) == (9, 0.5, "none")
    assert second.messages[0] == Message("system", "Be brief.")
    assert (second.max_tokens, second.temperature, second.tool_choice) == (1, 0.0, "required")
    assert second.tools == (tool,)


async def test_cancelling_what_is_not_there() -> None:
    async with Call(engines()) as call:
        assert not call.pipeline.cancel()
        assert not call.pipeline.cancel("resp_unknown")
        call.pipeline.respond(ResponseRequest())
        await call.next(ResponseDone)
        assert not call.pipeline.cancel()


async def test_a_cancelled_response_ends_at_once() -> None:
    never = asyncio.Event()
    chosen = engines(lambda _: [TextDelta("One two. Three"), never])
    async with Call(chosen) as call:
        call.pipeline.respond(ResponseRequest())
        await call.next(ResponseAudio)
        assert call.pipeline.cancel()
        done = await call.next(ResponseDone)
        assert (done.status, done.reason) == ("cancelled", "client_cancelled")
        assert not call.all(MessageDone)[0].complete
        assert call.kinds()[-2:] == ["MessageDone", "ResponseDone"]
        assert isinstance(chosen.llm, ScriptedModel)
        model = chosen.llm
        await until(lambda: model.stopped == 1)


async def test_a_response_is_cancelled_before_it_has_said_anything() -> None:
    never = asyncio.Event()
    async with Call(engines(lambda _: [never])) as call:
        response_id = call.pipeline.respond(ResponseRequest())
        assert call.pipeline.cancel(response_id)
        done = await call.next(ResponseDone)
        assert call.kinds() == ["ResponseStarted", "ResponseDone"]
        assert (done.response_id, done.status) == (response_id, "cancelled")


@pytest.mark.parametrize(
    ("by", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")]
)
async def test_a_reply_that_is_cut_off_is_incomplete(
    by: Literal["length", "content_filter"], reason: str
) -> None:
    async with Call(engines(lambda _: [TextDelta("One two"), Finished(by)])) as call:
        call.pipeline.respond(ResponseRequest())
        done = await call.next(ResponseDone)
        assert (done.status, done.reason) == ("incomplete", reason)
        assert not call.all(MessageDone)[0].complete
        assert call.seconds_of_sound() == pytest.approx(0.2), "what there is of it is spoken"


async def test_a_reply_of_nothing_is_complete() -> None:
    async with Call(engines(lambda _: [Finished()])) as call:
        call.pipeline.respond(ResponseRequest())
        assert (await call.next(ResponseDone)).status == "completed"
        assert call.kinds() == ["ResponseStarted", "ResponseDone"]


# -- tools


async def test_a_reply_with_a_message_and_two_calls() -> None:
    calls = (ToolCall("call_1", "look", '{"a":1}'), ToolCall("call_2", "go", "{}"))
    cues: list[Cue] = [
        TextDelta("Let me look."),
        ToolCallDelta("call_1", "look", '{"a"'),
        ToolCallDelta("call_1", "look", ":1}"),
        calls[0],
        calls[1],
        Finished("tool_calls"),
    ]
    chosen = engines(
        lambda request: says("Found.")(request) if request.messages[-1].role == "tool" else cues
    )
    async with Call(chosen) as call:
        call.pipeline.insert("item_q", Message("user", "look"))
        call.pipeline.respond(ResponseRequest())
        await call.next(ResponseDone)
        assert call.kinds() == [
            "ResponseStarted",
            "MessageStarted",
            "ResponseText",
            "ResponseAudio",
            "MessageDone",
            "ToolCallStarted",
            "ToolCallArguments",
            "ToolCallDone",
            "ToolCallStarted",
            "ToolCallArguments",
            "ToolCallDone",
            "ResponseDone",
        ]
        started = call.all(ToolCallStarted)
        done = call.all(ToolCallDone)
        assert [event.output_index for event in started] == [1, 2]
        assert [event.delta for event in call.all(ToolCallArguments)] == ['{"a"', ":1}", "{}"]
        assert [(event.name, event.arguments) for event in done] == [
            ("look", '{"a":1}'),
            ("go", "{}"),
        ]
        message_id = call.all(MessageDone)[0].item_id
        assert call.pipeline.history.ids == ["item_q", message_id, *(e.item_id for e in started)]
        for number, result in enumerate(("here", "gone"), 1):
            call.pipeline.insert(
                f"item_r{number}", Message("tool", result, tool_call_id=f"call_{number}")
            )
        call.pipeline.respond(ResponseRequest())
        await call.next(ResponseDone)
    assert isinstance(chosen.llm, ScriptedModel)
    assert chosen.llm.requests[1].messages == (
        Message("user", "look"),
        Message("assistant", "Let me look.", tool_calls=calls),
        Message("tool", "here", tool_call_id="call_1"),
        Message("tool", "gone", tool_call_id="call_2"),
    )


async def test_a_tool_call_that_is_cancelled_is_not_made() -> None:
    never = asyncio.Event()
    async with Call(engines(lambda _: [ToolCallDelta("call_1", "look", "{"), never])) as call:
        call.pipeline.respond(ResponseRequest())
        await call.next(ToolCallArguments)
        call.pipeline.cancel()
        await call.next(ResponseDone)
        assert not call.all(ToolCallDone)
        assert call.pipeline.history.messages() == []


# -- the history


async def test_the_history_is_the_sessions_to_change() -> None:
    async with Call(engines()) as call:
        pipeline = call.pipeline
        assert pipeline.insert("b", Message("user", "two")) is None
        assert pipeline.insert("a", Message("system", "one"), "root") is None
        assert pipeline.insert("c", Message("user", "three"), "a") == "a"
        assert pipeline.history.ids == ["a", "c", "b"]
        with pytest.raises(DuplicateItem):
            pipeline.insert("a", Message("user", "again"))
        with pytest.raises(UnknownItem):
            pipeline.insert("d", Message("user", "lost"), "nowhere")
        pipeline.delete("c")
        with pytest.raises(UnknownItem):
            pipeline.delete("c")
        with pytest.raises(UnknownItem):
            pipeline.truncate("c", 0)
        assert pipeline.truncate("b", 0) == "two", "what has no sound cannot be cut"
        assert pipeline.history.ids == ["a", "b"]


async def test_a_turn_that_is_deleted_before_its_transcript_comes_is_gone() -> None:
    stt = ScriptedRecognizer()
    stt.gate.clear()
    async with Call(engines(stt=stt), MANUAL) as call:
        await call.hear(speech(300))
        item_id = await call.pipeline.commit()
        call.pipeline.delete(item_id)
        stt.gate.set()
        await call.next(FinalTranscript)
        assert call.pipeline.history.messages() == []


# -- idle


async def test_a_silent_caller_is_spoken_to() -> None:
    settings = PipelineSettings(turns=TurnSettings(idle_timeout_ms=1000))
    chosen = engines()
    async with Call(chosen, settings) as call:
        await call.hear(*TURN)
        await call.next(ResponseDone)
        heard_until = 1900
        # The reply lasts 600 ms of the caller's own time from here.
        await call.hear(silence(1500))
        assert not call.all(IdleTimeout)
        await call.hear(silence(200))
        idle = await call.next(IdleTimeout)
        committed = await call.next(TurnCommitted)
        done = await call.next(ResponseDone)
        assert heard_until + 500 <= idle.start_ms <= heard_until + 600
        assert idle.end_ms - idle.start_ms >= 1000
        assert committed.item_id == idle.item_id
        assert done.status == "completed"
        assert isinstance(chosen.llm, ScriptedModel)
        assert chosen.llm.requests[-1].messages[-1] == Message("user", "")


async def test_nobody_is_idle_before_the_first_reply() -> None:
    settings = PipelineSettings(turns=TurnSettings(idle_timeout_ms=100))
    async with Call(engines(), settings) as call:
        await call.hear(silence(3000))
        assert call.events == []


# -- one call and another


async def test_two_calls_over_the_same_engines_share_nothing() -> None:
    chosen = engines(
        lambda request: says(f"You said {request.messages[-1].content}.")(request),
        stt=ScriptedRecognizer(["anna", "bert", "anna", "bert"]),
    )
    async with Call(chosen, speculate=False) as first, Call(chosen, speculate=False) as second:
        for _ in range(2):
            for call in (first, second):
                await call.hear(*TURN)
                await call.next(ResponseDone)
                call.clock.now += 60  # the reply is played out
        for call, name in ((first, "anna"), (second, "bert")):
            assert [message.content for message in call.pipeline.history.messages()] == [
                name,
                f"You said {name}.",
            ] * 2
        assert not set(first.pipeline.history.ids) & set(second.pipeline.history.ids)
        second.pipeline.configure(PipelineSettings(instructions="Other."))
        first.pipeline.respond(ResponseRequest())
        await first.next(ResponseDone)
    assert isinstance(chosen.llm, ScriptedModel)
    asked = [message for request in chosen.llm.requests for message in request.messages]
    assert not any(message.role == "system" for message in asked)


async def test_a_closed_pipeline_leaves_nothing_behind() -> None:
    before = threading.enumerate()
    never = asyncio.Event()
    stt, tts = ScriptedRecognizer(), ToneSynthesizer()
    chosen = engines(lambda _: [TextDelta("One two. Three"), never], stt=stt, tts=tts)
    async with Call(chosen) as call:
        await call.hear(*TURN)
        await call.next(ResponseAudio)
        await call.hear(speech(300), silence(200))
    assert isinstance(chosen.llm, ScriptedModel)
    assert len(asyncio.all_tasks()) == 1
    assert threading.enumerate() == before
    assert all(stream.closed for stream in stt.streams)
    assert chosen.llm.stopped == len(chosen.llm.requests)
    seen = len(call.events)
    await call.pipeline.push_audio(speech(300))
    assert len(call.events) == seen


async def test_two_hundred_turns_leave_no_memory_behind() -> None:
    stt = ScriptedRecognizer()
    async with Call(engines(stt=stt), PipelineSettings(transcribe=False)) as call:

        async def turn() -> None:
            await call.hear(*TURN)
            await call.next(ResponseDone)
            call.clock.now += 60
            for item_id in call.pipeline.history.ids:
                call.pipeline.delete(item_id)
            call.forget()
            stt.heard.clear()
            stt.streams.clear()

        for _ in range(10):
            await turn()
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(200):
            await turn()
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
    # One turn's sound alone is 100 kB: keeping it, or the reply's, would be 20 MB.
    assert grown < 300_000
