"""Turns that end by what was said: scripted engines say when, real ones what."""

from __future__ import annotations

import numpy as np
import pytest

from tests.caller import spoken
from tests.calls import Call, until
from tests.instruments import ScriptedModel, ScriptedRecognizer, engines, silence, speech
from tests.speech import silence as seconds_of_silence
from voicepool.engines import registry
from voicepool.engines.base import INPUT_RATE, Engines, Message
from voicepool.errors import EngineError
from voicepool.events import (
    FinalTranscript,
    PipelineSettings,
    ResponseDone,
    SpeechStarted,
    SpeechStopped,
    TurnSettings,
)
from voicepool.patience import EAGERNESS, Patience

PATIENCE = EAGERNESS["medium"]
SEMANTIC = PipelineSettings(turns=TurnSettings(patience=PATIENCE), language="en")
WINDOW_MS = 32
SPOKEN = (silence(500), speech(600))
PAUSE = silence(192)
"""Long enough for a look at what was said."""


async def looked(call: Call) -> None:
    """Wait until the look at the present pause is over."""
    look = call.pipeline._pause._look
    assert look is not None
    await until(look.done)


async def closing_silence(call: Call) -> int:
    """Milliseconds of silence that the turn in progress takes to end; PAUSE was heard already."""
    for more in range(0, PATIENCE.longest_ms + 1000, WINDOW_MS):
        if call.all(SpeechStopped):
            return 192 + more
        await call.hear(silence(WINDOW_MS))
        for _ in range(3):
            await until(lambda: not len(call.pipeline._outbox))
    raise AssertionError("the turn never ended")


@pytest.mark.parametrize("speculate", [True, False])
@pytest.mark.parametrize(
    ("said", "milliseconds"),
    [
        ("I would like to hear a story.", PATIENCE.finished_ms),
        ("the weather in paris", PATIENCE.unknown_ms),
        ("I would like to", PATIENCE.longest_ms),
        ("", PATIENCE.unknown_ms),
        (EngineError("broken"), PATIENCE.unknown_ms),
    ],
    ids=["finished", "unknown", "unfinished", "nothing", "failed"],
)
async def test_the_silence_that_ends_a_turn(
    said: str | Exception, milliseconds: int, speculate: bool
) -> None:
    stt = ScriptedRecognizer(["final"], snapshots=[said])
    async with Call(engines(stt=stt), SEMANTIC, speculate=speculate) as call:
        await call.hear(*SPOKEN, PAUSE)
        await looked(call)
        assert await closing_silence(call) == pytest.approx(milliseconds, abs=2 * WINDOW_MS)


async def test_a_caller_who_goes_on_is_judged_anew_and_answered_once() -> None:
    stt = ScriptedRecognizer(["one two"], snapshots=["I would like to", "thank you"])
    chosen = engines(stt=stt)
    async with Call(chosen, SEMANTIC) as call:
        await call.hear(*SPOKEN, PAUSE)
        await looked(call)
        await call.hear(silence(2500), speech(300), PAUSE)
        await looked(call)
        await call.hear(silence(200))
        done = await call.next(ResponseDone)
        assert len(call.all(SpeechStopped)) == len(call.all(SpeechStarted)) == 1
        assert len(call.all(ResponseDone)) == 1
        assert done.status == "completed"
        assert [message.role for message in call.pipeline.history.messages()] == [
            "user",
            "assistant",
        ]


async def test_a_reply_that_was_begun_at_the_pause_is_the_one_that_is_told() -> None:
    chosen = engines(stt=ScriptedRecognizer(["thank you"]))
    async with Call(chosen, SEMANTIC) as call:
        await call.hear(*SPOKEN, PAUSE)
        await looked(call)
        await call.hear(silence(200))
        assert (await call.next(ResponseDone)).timing.speculated
        assert isinstance(chosen.llm, ScriptedModel)
        assert len(chosen.llm.requests) == 1
        assert chosen.llm.requests[0].messages == (Message("user", "thank you"),)


async def test_a_look_that_comes_late_ends_the_turn_with_the_next_window() -> None:
    stt = ScriptedRecognizer(["thank you"])
    waiting = Patience(200, 3000, 4000)
    settings = PipelineSettings(turns=TurnSettings(patience=waiting), language="en")
    async with Call(engines(stt=stt), settings) as call:
        await call.hear(*SPOKEN)
        await call.next(SpeechStarted)
        stt.gate.clear()
        await call.hear(speech(64), PAUSE, silence(500))
        assert not call.all(SpeechStopped)
        stt.gate.set()
        await looked(call)
        await call.hear(silence(WINDOW_MS))
        await call.next(SpeechStopped)
        await call.next(ResponseDone)


@pytest.fixture(scope="module")
def embedded() -> Engines:
    made = registry.build(registry.resolve_profile("embedded", {}))
    for engine in (made.vad, made.stt, made.llm, made.tts):
        engine.preload()
        engine.load("host")
    return made


@pytest.mark.parametrize(
    ("said", "milliseconds"),
    [
        ("what time is it", PATIENCE.finished_ms),
        ("i would like to order a", PATIENCE.longest_ms),
        ("tell me a very long", PATIENCE.silence_ms(0.25)),
    ],
)
async def test_real_words_by_real_engines(embedded: Engines, said: str, milliseconds: int) -> None:
    sound = spoken(said)
    loud = int(np.flatnonzero(np.abs(sound) > 0.01)[-1])
    look_at = loud + INPUT_RATE * 260 // 1000
    async with Call(embedded, SEMANTIC) as call:
        await call.hear(sound[:look_at])
        await looked(call)
        await call.hear(seconds_of_silence(5.0))
        stopped = await call.next(SpeechStopped)
        closing = stopped.end_ms - loud * 1000 // INPUT_RATE
        # Silero takes some windows to be sure of a silence.
        assert milliseconds <= closing + WINDOW_MS
        assert closing <= milliseconds + 5 * WINDOW_MS
        final = await call.next(FinalTranscript)
        assert final.text == (said if milliseconds == PATIENCE.finished_ms else "")
