"""Whatever a session and its caller have done, in whatever order: the next turn is answered, no
response is left open, and a response's events have their order."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.calls import PATIENCE, Call
from tests.instruments import Cue, ScriptedRecognizer, engines, silence, speech
from voicepool.engines.base import Finished, Message, TextDelta, ToolCall
from voicepool.errors import EngineError, PipelineError
from voicepool.events import (
    FinalTranscript,
    MessageDone,
    MessageStarted,
    PipelineSettings,
    ResponseDone,
    ResponseRequest,
    ResponseStarted,
    TurnSettings,
)
from voicepool.patience import EAGERNESS
from voicepool.response import new_id

REPLIES: Sequence[Callable[[], Sequence[Cue]]] = [
    lambda: [TextDelta("One two three. Four "), TextDelta("five."), Finished()],
    lambda: [TextDelta("word " * 300), Finished()],
    lambda: [TextDelta("One. "), EngineError("broken")],
    lambda: [ToolCall("call_1", "look", "{}"), Finished("tool_calls")],
    lambda: [TextDelta("One two"), Finished("length")],
    lambda: [TextDelta("One. Two. "), asyncio.Event()],
    lambda: [Finished()],
]
"""What the model does in turn; one of them goes on until it is cancelled."""

SETTINGS = [
    PipelineSettings(),
    PipelineSettings(turns=None),
    PipelineSettings(turns=TurnSettings(interrupt_response=False)),
    PipelineSettings(turns=TurnSettings(create_response=False)),
    PipelineSettings(turns=TurnSettings(patience=EAGERNESS["high"])),
    PipelineSettings(turns=TurnSettings(idle_timeout_ms=1000, silence_duration_ms=200)),
]

step = st.one_of(
    st.tuples(st.just("turn"), st.integers(200, 600)),
    st.tuples(st.just("turn"), st.integers(200, 600)),
    st.tuples(st.just("speech"), st.integers(40, 600)),
    st.tuples(st.just("silence"), st.sampled_from([100, 250, 600, 1500])),
    st.tuples(st.just("configure"), st.integers(0, len(SETTINGS) - 1)),
    st.tuples(st.just("respond"), st.booleans()),
    st.tuples(st.just("wait"), st.integers(1, 30)),
    st.tuples(st.just("listen"), st.sampled_from([0.1, 5.0])),
    st.tuples(st.sampled_from(["commit", "clear", "cancel", "truncate", "delete"]), st.just(0)),
    st.tuples(st.sampled_from(["forget", "insert"]), st.just(0)),
    st.tuples(st.just("read"), st.booleans()),
)


async def take(call: Call, what: str, value: Any) -> None:
    pipeline = call.pipeline
    match what:
        case "turn":
            await call.hear(silence(300), speech(value), silence(800))
        case "speech":
            await call.hear(speech(value))
        case "silence":
            await call.hear(silence(value))
        case "configure":
            pipeline.configure(SETTINGS[value])
        case "respond":
            pipeline.respond(ResponseRequest(remember=value))
        case "wait":
            for _ in range(value):
                await asyncio.sleep(0)
        case "listen":
            call.clock.now += value
        case "commit":
            await pipeline.commit()
        case "clear":
            await pipeline.clear()
        case "cancel":
            pipeline.cancel()
        case "truncate" if pipeline.history.ids:
            pipeline.truncate(pipeline.history.ids[-1], 150)
        case "delete" if pipeline.history.ids:
            pipeline.delete(pipeline.history.ids[-1])
        case "forget":
            await pipeline.forget()
        case "insert":
            pipeline.insert(new_id("item"), Message("user", "typed"))
        case "read" if value:
            call.reading.set()
        case "read":
            call.reading.clear()


def check(call: Call) -> None:
    """Every response begins once and ends once, with all of its messages in between."""
    open_responses: dict[str, set[str]] = {}
    over: set[str] = set()
    for event in call.events:
        match event:
            case ResponseStarted(response_id=response_id):
                assert response_id not in over
                assert open_responses.setdefault(response_id, set()) == set()
            case MessageStarted(response_id=response_id, item_id=item_id):
                open_responses[response_id].add(item_id)
            case MessageDone(response_id=response_id, item_id=item_id):
                open_responses[response_id].remove(item_id)
            case ResponseDone(response_id=response_id):
                assert open_responses.pop(response_id) == set()
                over.add(response_id)
            case _ if hasattr(event, "response_id"):
                assert event.response_id in open_responses or type(event).__name__ == "Interrupted"
    assert not open_responses


async def settle(call: Call) -> None:
    """End all that is going on; nothing of it stays behind."""
    call.reading.set()
    call.pipeline.configure(PipelineSettings(turns=None))
    await call.pipeline.clear()
    done: set[str] = set()
    while len(call.pipeline._tasks) or len(call.pipeline._outbox):
        for event in call.all(ResponseStarted):
            if event.response_id not in done:
                call.pipeline.cancel(event.response_id)
        done.update(event.response_id for event in call.all(ResponseDone))
        await asyncio.sleep(0.001)
    assert call.pipeline.running_generation is None
    assert not call.pipeline.requests_queue


async def play(
    steps: Sequence[tuple[str, Any]], replies: Sequence[int], *, speculate: bool
) -> None:
    script = itertools.cycle(replies)
    stt = ScriptedRecognizer(["one", EngineError("no"), "", "two", "", "three"])
    chosen = engines(lambda _: REPLIES[next(script)](), stt=stt)
    async with Call(chosen, speculate=speculate) as call:
        for what, value in steps:
            with suppress(PipelineError):  # refused: nothing has changed
                await take(call, what, value)
        async with asyncio.timeout(PATIENCE):
            await settle(call)
        check(call)
        call.forget()
        call.clock.now += 1000
        script, stt.finals = itertools.cycle([0]), ["ready"]
        call.pipeline.configure(PipelineSettings())
        await call.hear(silence(700), speech(600), silence(800))
        assert (await call.next(FinalTranscript)).text == "ready"
        assert (await call.next(ResponseDone)).status == "completed"
        check(call)
        said = [message.content for message in call.pipeline.history.messages()[-2:]]
        assert said == ["ready", "One two three. Four five."]


@settings(max_examples=150, deadline=None)
@given(
    steps=st.lists(step, max_size=14),
    replies=st.lists(st.integers(0, len(REPLIES) - 1), min_size=1, max_size=4),
    speculate=st.booleans(),
)
def test_the_next_turn_is_answered_whatever_came_before(
    steps: list[tuple[str, Any]], replies: list[int], speculate: bool
) -> None:
    asyncio.run(play(steps, replies, speculate=speculate))
