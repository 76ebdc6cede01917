"""From when a pipeline counts the wait for a reply, and what it counts and times besides."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.calls import Call
from tests.instruments import (
    LoudnessDetector,
    LoudnessStream,
    ScriptedRecognizer,
    ToneSynthesizer,
    engines,
    says,
    silence,
    speech,
)
from voicepool import figures
from voicepool.engines.base import Engines, Message, Samples, SpeechChunk
from voicepool.events import (
    FinalTranscript,
    IdleTimeout,
    PipelineSettings,
    ResponseDone,
    ResponseRequest,
    ResponseStarted,
    TurnSettings,
)
from voicepool.figures import Figures, Recorder

MANUAL = PipelineSettings(turns=None)
ON_REQUEST = PipelineSettings(turns=TurnSettings(create_response=False))


async def heard(call: Call, *sounds: Samples) -> tuple[float, float]:
    """Let the pipeline hear something; when that began and ended, by the monotonic clock.

    The detector has heard it by then if it ends with a window: all sound so far is a multiple of
    32 ms.
    """
    began = time.monotonic()
    await call.hear(*sounds)
    return began, time.monotonic()


# --- the end of speech -----------------------------------------------------------------------


@pytest.mark.parametrize("speculate", [True, False])
async def test_it_counts_from_the_last_speech_that_was_heard(speculate: bool) -> None:
    async with Call(engines(), speculate=speculate) as call:
        await call.hear(silence(512), speech(384))
        began, ended = await heard(call, speech(192))
        await call.hear(silence(800))
        started = await call.next(ResponseStarted)
        assert started.spoke_until is not None
        assert began <= started.spoke_until <= ended


async def test_it_counts_from_speech_that_went_on_after_a_pause() -> None:
    async with Call(engines()) as call:
        await call.hear(silence(512), speech(576), silence(320))
        began, ended = await heard(call, speech(320))
        await call.hear(silence(800))
        started = await call.next(ResponseStarted)
        assert started.spoke_until is not None
        assert began <= started.spoke_until <= ended


async def test_without_a_detector_it_counts_from_the_commit() -> None:
    async with Call(engines(), MANUAL) as call:
        await call.hear(speech(600), silence(300))
        began = time.monotonic()
        await call.pipeline.commit()
        ended = time.monotonic()
        call.pipeline.respond(ResponseRequest())
        started = await call.next(ResponseStarted)
        assert started.spoke_until is not None
        assert began <= started.spoke_until <= ended


async def test_a_client_that_asks_itself_takes_its_time_at_the_callers_expense() -> None:
    async with Call(engines(), ON_REQUEST) as call:
        await call.hear(silence(512))
        began, ended = await heard(call, speech(576))
        await call.hear(silence(800))
        await call.next(FinalTranscript)
        call.pipeline.respond(ResponseRequest())
        started = await call.next(ResponseStarted)
        assert started.spoke_until is not None
        assert began <= started.spoke_until <= ended


async def test_a_turn_is_answered_once() -> None:
    async with Call(engines(), MANUAL) as call:
        await call.hear(speech(600))
        await call.pipeline.commit()
        for remember in (False, True, True):
            call.pipeline.respond(ResponseRequest(remember=remember))
            await call.next(ResponseDone)
        started = [event.spoke_until is not None for event in call.all(ResponseStarted)]
        assert started == [False, True, False], "what is out of band answers nobody"


async def test_what_is_typed_was_not_spoken() -> None:
    async with Call(engines(), ON_REQUEST) as call:
        await call.hear(silence(500), speech(600), silence(800))
        await call.next(FinalTranscript)
        call.pipeline.insert("typed", Message("user", "hello"))
        call.pipeline.respond(ResponseRequest())
        assert (await call.next(ResponseStarted)).spoke_until is None


async def test_nobody_has_spoken_in_an_idle_turn() -> None:
    settings = PipelineSettings(turns=TurnSettings(idle_timeout_ms=1000))
    async with Call(engines(), settings) as call:
        await call.hear(silence(500), speech(600), silence(800))
        await call.next(ResponseDone)
        call.clock.now += 60
        await call.hear(silence(3000))
        await call.next(IdleTimeout)
        assert (await call.next(ResponseStarted)).spoke_until is None


# --- what is counted and timed ---------------------------------------------------------------


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """Of the call that the test makes."""
    recorder = Recorder()
    token = figures.recorder.set(recorder)
    yield recorder
    figures.recorder.reset(token)


def told(recorder: Recorder) -> Figures:
    return recorder.take() or Figures()


class Deaf(LoudnessDetector):
    """Fails at the first sound that is loud."""

    def stream(self) -> LoudnessStream:
        return _DeafStream()


class _DeafStream(LoudnessStream):
    def push(self, window: Samples) -> float:
        if window.any():
            raise RuntimeError("the detector is broken")
        return 0.0


class Mute(ToneSynthesizer):
    def synthesize(
        self, text: str, *, voice: str = "", speed: float = 1.0
    ) -> Iterator[SpeechChunk]:
        raise RuntimeError("the synthesiser is broken")


BROKEN: dict[str, Engines] = {
    "stt": engines(stt=ScriptedRecognizer([RuntimeError("broken")])),
    "llm": engines(lambda _: [RuntimeError("broken")]),
    "tts": engines(tts=Mute()),
}


@pytest.mark.parametrize("stage", BROKEN)
async def test_an_engine_that_fails_is_counted_once(stage: str, recorder: Recorder) -> None:
    async with Call(BROKEN[stage], speculate=False) as call:
        await call.hear(silence(500), speech(600), silence(800))
        assert (await call.next(ResponseDone)).reason == stage
    assert told(recorder).counts == {f"engine_errors.{stage}": 1}


async def test_a_detector_that_fails_is_counted_and_ends_the_call(recorder: Recorder) -> None:
    async with Call(replace(engines(), vad=Deaf())) as call:
        with pytest.raises(RuntimeError, match="detector is broken"):
            await call.hear(silence(500), speech(600))
    assert told(recorder).counts == {"engine_errors.vad": 1}


async def test_stages_are_timed_for_the_replies_that_are_told(recorder: Recorder) -> None:
    async with Call(engines(says("Hello."))) as call:
        await call.hear(silence(500), speech(600), silence(800))
        timing = (await call.next(ResponseDone)).timing
    times = told(recorder).times
    assert times["llm"] == (timing.llm,)
    assert times["tts"] == (timing.tts,)
    assert times["stt"] == pytest.approx((timing.transcript,))


async def test_a_turn_without_a_reply_is_transcribed_in_time_too(recorder: Recorder) -> None:
    async with Call(engines(), ON_REQUEST) as call:
        await call.hear(silence(500), speech(600), silence(800))
        await call.next(FinalTranscript)
    assert {name: len(times) for name, times in told(recorder).times.items()} == {"stt": 1}
