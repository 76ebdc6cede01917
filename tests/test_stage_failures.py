"""A stage that fails, hangs or is slow costs a reply, never the call."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Iterator, Sequence

import pytest

from tests.calls import Call, until
from tests.instruments import (
    Cue,
    Loaded,
    ScriptedModel,
    ScriptedRecognizer,
    ToneSynthesizer,
    engines,
    says,
    silence,
    speech,
)
from voicepool import stages
from voicepool.engines.base import ChatDelta, ChatRequest, Engines, Message, SpeechChunk, TextDelta
from voicepool.errors import EngineError
from voicepool.events import (
    FinalTranscript,
    MessageDone,
    PipelineSettings,
    ResponseAudio,
    ResponseDone,
    ResponseRequest,
    ResponseStarted,
    Said,
    SpeechStarted,
    TranscriptFailed,
)
from voicepool.logs import FloodGuard
from voicepool.pipeline import Limits
from voicepool.stages import EngineThread, StageFailed, stage_failed

TURN = (silence(500), speech(600), silence(800))
HASTY = Limits(job=0.6, token=0.6, close=0.6)
SECRET = "the caller's words"


@pytest.fixture(autouse=True)
def nothing_was_logged_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "flood", FloodGuard(stages.logger))


async def recovered(thread: EngineThread) -> None:
    """The job that was stuck has returned."""
    overdue = thread._overdue
    assert overdue is not None
    await until(overdue.done)


async def good_turn(call: Call) -> None:
    """The call is as good as new."""
    call.clock.now += 60
    await call.hear(*TURN)
    await call.next(FinalTranscript)
    assert (await call.next(ResponseDone)).status == "completed"


@pytest.mark.parametrize(
    "error", [EngineError(SECRET), ValueError(SECRET), OSError(), TimeoutError()]
)
async def test_a_turn_that_cannot_be_transcribed(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    stt = ScriptedRecognizer([error, error, "hello"], snapshots=["hello"])
    with caplog.at_level(logging.DEBUG):
        async with Call(engines(stt=stt), speculate=False) as call:
            await call.hear(*TURN)
            failed = await call.next(TranscriptFailed)
            done = await call.next(ResponseDone)
            assert (done.status, done.reason, done.message) == ("failed", "stt", failed.message)
            assert SECRET not in failed.message
            assert call.kinds()[-3:] == ["TranscriptFailed", "ResponseStarted", "ResponseDone"]
            assert call.pipeline.history.messages() == []
            await call.hear(*TURN)
            await call.next(ResponseDone)
            await good_turn(call)
    assert SECRET not in caplog.text
    assert "a stage failed" in caplog.text


def test_a_caller_who_asks_again_and_again_floods_no_log(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(1000):
        stage_failed("llm", EngineError(SECRET))
    assert 0 < len(caplog.records) < 20


async def test_a_manual_turn_that_cannot_be_transcribed_matters_until_something_follows() -> None:
    stt = ScriptedRecognizer([EngineError("no"), "hello"])
    async with Call(engines(stt=stt), PipelineSettings(turns=None)) as call:
        await call.hear(speech(300))
        await call.pipeline.commit()
        call.pipeline.respond(ResponseRequest())
        assert (await call.next(ResponseDone)).reason == "stt"
        call.pipeline.insert("item_1", Message("user", "typed"))
        call.pipeline.respond(ResponseRequest())
        assert (await call.next(ResponseDone)).status == "completed"


@pytest.mark.parametrize("about", ["conversation", "item"])
async def test_a_turn_that_fails_costs_no_reply_to_what_came_after_it(about: str) -> None:
    stt = ScriptedRecognizer([EngineError("no")])
    async with Call(engines(stt=stt), PipelineSettings(turns=None)) as call:
        call.pipeline.insert("item_1", Message("user", "typed before"))
        stt.gate.clear()
        await call.hear(speech(300))
        await call.pipeline.commit()
        if about == "conversation":
            call.pipeline.insert("item_2", Message("user", "typed after"))
            call.pipeline.respond(ResponseRequest())
        else:
            call.pipeline.respond(ResponseRequest(messages=[Said("item_1")], remember=False))
        stt.gate.set()
        await call.next(TranscriptFailed)
        assert (await call.next(ResponseDone)).status == "completed"


async def test_a_clip_that_cannot_be_transcribed() -> None:
    stt = ScriptedRecognizer([EngineError("no"), "hello"])
    async with Call(engines(stt=stt)) as call:
        with pytest.raises(StageFailed):
            await call.pipeline.transcribe(speech(300))
        assert await call.pipeline.transcribe(speech(300)) == "hello"


class BrokenOpening(ScriptedRecognizer):
    def stream(self, *, language: str | None = None, prompt: str = "") -> object:  # type: ignore[override]
        raise SystemExit("a library gave up")


async def test_a_recogniser_that_exits_does_not_take_the_worker_with_it() -> None:
    async with Call(engines(stt=BrokenOpening())) as call:
        await call.hear(*TURN)
        assert (await call.next(ResponseDone)).reason == "stt"


@pytest.mark.parametrize("error", [EngineError(SECRET), ValueError(SECRET), ConnectionError()])
@pytest.mark.parametrize("texts", [[], ["One two. Three"]], ids=["at once", "in mid-reply"])
async def test_a_model_that_fails(
    error: Exception, texts: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    cues: list[Cue] = [*map(TextDelta, texts), error]
    first: Iterator[Sequence[Cue]] = iter([cues])
    chosen = engines(lambda request: next(first, ()) or says("Fine.")(request))
    async with Call(chosen, speculate=False) as call:
        await call.hear(*TURN)
        done = await call.next(ResponseDone)
        assert (done.status, done.reason) == ("failed", "llm")
        assert SECRET not in done.message + caplog.text
        assert [event.complete for event in call.all(MessageDone)] == [False] * len(texts)
        await good_turn(call)


async def test_a_model_that_says_nothing_for_too_long() -> None:
    never = asyncio.Event()
    first: Iterator[Sequence[Cue]] = iter([[never]])
    chosen = engines(lambda request: next(first, ()) or says("Fine.")(request))
    async with Call(chosen, speculate=False, limits=HASTY) as call:
        await call.hear(*TURN)
        done = await call.next(ResponseDone)
        assert (done.status, done.reason) == ("failed", "llm")
        assert isinstance(chosen.llm, ScriptedModel)
        assert chosen.llm.stopped == 1
        await good_turn(call)


@pytest.mark.parametrize("place", ["generation.Clauses.push", "playback.Playback.add_sound"])
async def test_a_fault_of_ours_is_logged_by_its_place_and_never_by_its_words(
    place: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError(SECRET)

    async with Call(engines(), speculate=False) as call:
        with monkeypatch.context() as patch:
            patch.setattr(f"voicepool.{place}", fail)
            await call.hear(*TURN)
            done = await call.next(ResponseDone)
            assert (done.status, done.reason) == ("failed", "pipeline")
        await good_turn(call)
    (fault,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert "in fail" in vars(fault)["frames"]
    assert SECRET not in caplog.text + str(vars(fault)) + done.message


class Unaskable(Loaded):
    def generate(self, request: ChatRequest) -> AsyncGenerator[ChatDelta, None]:
        raise RuntimeError("no such model")


async def test_a_model_that_cannot_even_be_asked() -> None:
    chosen = engines()
    broken = Engines(chosen.vad, chosen.stt, Unaskable(), chosen.tts)
    async with Call(broken) as call:
        call.pipeline.respond(ResponseRequest())
        done = await call.next(ResponseDone)
        assert (done.status, done.reason) == ("failed", "llm")


class Mute(ToneSynthesizer):
    def synthesize(
        self, text: str, *, voice: str = "", speed: float = 1.0
    ) -> Iterator[SpeechChunk]:
        if "mute" in text:
            return
        if "broken" in text:
            raise ValueError(SECRET)
        yield from super().synthesize(text, voice=voice, speed=speed)


@pytest.mark.parametrize("text", ["All mute here.", "Fine so far. Then broken.", "Now broken."])
async def test_a_synthesiser_that_fails(text: str) -> None:
    first = iter([text])
    chosen = engines(lambda request: says(next(first, "Fine."))(request), tts=Mute())
    async with Call(chosen, speculate=False) as call:
        await call.hear(*TURN)
        done = await call.next(ResponseDone)
        assert (done.status, done.reason) == ("failed", "tts")
        assert SECRET not in done.message
        await good_turn(call)


async def test_a_clause_that_has_no_sound_is_passed_over() -> None:
    async with Call(engines(says("A mute one. A loud one."), tts=Mute())) as call:
        call.pipeline.respond(ResponseRequest())
        assert (await call.next(ResponseDone)).status == "completed"
        assert call.seconds_of_sound() == pytest.approx(0.3)


async def test_what_cannot_be_pronounced_is_not_spoken() -> None:
    tts = ToneSynthesizer()
    async with Call(engines(says("... :-) 😀"), tts=tts)) as call:
        call.pipeline.respond(ResponseRequest())
        assert (await call.next(ResponseDone)).status == "completed"
        assert tts.spoken == []


async def test_a_stuck_synthesiser_fails_replies_until_it_answers_again() -> None:
    tts = ToneSynthesizer()
    async with Call(engines(tts=tts), speculate=False, limits=HASTY) as call:
        tts.gate.clear()
        for _ in range(2):
            call.pipeline.respond(ResponseRequest())
            assert (await call.next(ResponseDone)).reason == "tts"
        assert len(tts.spoken) == 1, "it is not called while it is stuck"
        tts.gate.set()
        await recovered(call.pipeline._tts)
        await good_turn(call)
        assert len(tts.threads) == 1, "one thread, not two at once"


async def test_a_stuck_recogniser_fails_turns_and_not_the_event_loop() -> None:
    stt = ScriptedRecognizer()
    async with Call(engines(stt=stt), limits=HASTY) as call:
        stt.gate.clear()
        await call.hear(*TURN)
        await call.next(SpeechStarted)
        assert (await call.next(ResponseDone)).reason == "stt"
        stt.gate.set()
        await recovered(call.pipeline._stt)
        await good_turn(call)


async def test_a_slow_recogniser_does_not_hold_up_an_interruption() -> None:
    stt = ScriptedRecognizer()
    never = asyncio.Event()
    async with Call(engines(lambda _: [TextDelta("One two. Three"), never], stt=stt)) as call:
        call.pipeline.respond(ResponseRequest())
        await call.next(ResponseAudio)
        stt.gate.clear()
        await call.hear(speech(300))
        assert (await call.next(ResponseDone)).reason == "turn_detected"
        stt.gate.set()


async def test_sound_waits_for_a_recogniser_that_is_far_behind() -> None:
    stt = ScriptedRecognizer()
    async with Call(engines(stt=stt), PipelineSettings(turns=None)) as call:
        stt.gate.clear()
        await call.pipeline.push_audio(speech(1_000))
        pushing = asyncio.create_task(call.pipeline.push_audio(speech(40_000)))
        for _ in range(100):
            await asyncio.sleep(0)
        assert not pushing.done()
        stt.gate.set()
        await pushing


async def test_an_engine_that_hangs_for_ever_does_not_hold_up_the_end() -> None:
    gate = threading.Event()
    stt, tts = ScriptedRecognizer(gate=gate), ToneSynthesizer(gate=gate)
    async with Call(engines(stt=stt, tts=tts), limits=Limits(close=0.05)) as call:
        gate.clear()
        call.pipeline.respond(ResponseRequest())
        await call.hear(speech(500))
        await call.next(ResponseStarted)
    assert any(thread.name == "stt" for thread in threading.enumerate())
    assert all(thread.daemon for thread in threading.enumerate() if thread.name in ("stt", "tts"))
    gate.set()
    for thread in threading.enumerate():
        if thread.name in ("stt", "tts"):
            thread.join(10)
            assert not thread.is_alive(), "it ends by itself, once it answers"
