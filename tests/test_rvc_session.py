"""RealtimeVoiceChat's page on a real WebSocket, with engines that tests can play."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np
import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from tests.calls import ManualClock
from tests.instruments import Cue, ScriptedModel, ScriptedRecognizer, ToneSynthesizer, engines, says
from tests.rvc import BLOCK, Visitor, block
from voicepool.audio import Resampler
from voicepool.engines.base import (
    ChatRequest,
    Engines,
    Finished,
    Message,
    Samples,
    SpeechChunk,
    TextDelta,
)
from voicepool.pipeline import SpeechPipelineManager
from voicepool.session import Session
from voicepool.wire.rvc.frames import MAX_BLOCK_BYTES
from voicepool.wire.rvc.protocol import AHEAD_SECONDS, RvcProtocol

RATES = pytest.mark.parametrize("rate", [44_100, 48_000])


@dataclass
class Call:
    """Both ends of one."""

    visitor: Visitor
    pipeline: SpeechPipelineManager
    clock: ManualClock
    played: float = 0.0

    async def turn(self, milliseconds: int = 600) -> None:
        """The caller says something."""
        rate = self.visitor.microphone.rate
        loud = np.full(rate * milliseconds // 1000, 0.5, np.float32)
        await self.visitor.say(loud, np.zeros(rate, np.float32))

    async def play(self, seconds: float) -> None:
        """The page plays so much more, as it gets it."""
        left, rate = seconds, self.visitor.microphone.rate
        while left > 1e-9:
            step = min(0.1, left)
            left -= step
            self.played += step
            while self.visitor.page.seconds(rate) < self.played:
                await self.visitor.until("tts_chunk")
            self.clock.now += step


@asynccontextmanager
async def calling(
    chosen: Engines, rate: int = 48_000, *, plays: bool = True
) -> AsyncIterator[Call]:
    """A call whose page plays what it gets at once, or nothing until the test moves the clock."""
    clock = ManualClock()
    pipelines: asyncio.Queue[SpeechPipelineManager] = asyncio.Queue()

    async def answer(websocket: ServerConnection) -> None:
        codec = RvcProtocol()
        async with SpeechPipelineManager(
            chosen, codec.settings, ahead=AHEAD_SECONDS, clock=clock
        ) as pipeline:
            pipelines.put_nowait(pipeline)
            await Session(websocket, codec, pipeline).run()

    def play(seconds: float) -> None:
        clock.now += seconds

    async with (
        serve(answer, "127.0.0.1", 0, compression=None) as server,
        connect(
            f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws", compression=None
        ) as websocket,
    ):
        visitor = Visitor(websocket, rate, play if plays else lambda _: None)
        yield Call(visitor, await pipelines.get(), clock)


QUESTION = "How are you today?"
LONG = "One two three four five six seven eight nine ten. " * 5
"""5 s, 100 ms a word."""


@RATES
async def test_a_conversation(rate: int) -> None:
    chosen = engines(says("Hello there. ", "How are you?"), stt=ScriptedRecognizer([QUESTION]))
    async with calling(chosen, rate) as call:
        for _ in range(2):
            await call.turn()
            await call.visitor.until("final_assistant_answer")
        page = call.visitor.page
        assert page.bubbles == [("user", QUESTION), ("assistant", "Hello there. How are you?")] * 2
        assert page.typing == {"user": "", "assistant": ""}
        assert "stop_tts" not in page.kinds
        said = [message.role for message in call.pipeline.history.messages()]
        assert said == ["user", "assistant"] * 2


@RATES
async def test_once_the_rate_is_known_sound_is_heard_and_played_at_it(rate: int) -> None:
    stt = ScriptedRecognizer([QUESTION])
    async with calling(engines(says("Hello there."), stt=stt), rate) as call:
        await call.visitor.say(np.zeros(rate * 2, np.float32))
        await call.turn(1_000)
        await call.visitor.until("final_assistant_answer")
        # 100 ms of tone a word.
        assert len(call.visitor.page.sound) == rate // 10 * 2
        heard = np.concatenate(stt.heard)
        assert abs(np.sum(np.abs(heard)) * 2 / 16_000 - 1.0) < 0.01, "a second of loud sound"


class Sine(ToneSynthesizer):
    """A second of 440 Hz, in pieces that fit no other length."""

    def synthesize(
        self, text: str, *, voice: str = "", speed: float = 1.0
    ) -> Iterator[SpeechChunk]:
        for piece in np.array_split(sine(self.sample_rate), 7):
            yield SpeechChunk(piece)


def sine(rate: int) -> Samples:
    phase: Samples = (np.arange(rate) * (2 * np.pi * 440 / rate)).astype(np.float32)
    return np.sin(phase) * np.float32(0.5)


@RATES
@pytest.mark.parametrize("made_at", [16_000, 22_050, 24_000])
async def test_chunks_join_without_a_click(rate: int, made_at: int) -> None:
    chosen = engines(
        says("Hum."), stt=ScriptedRecognizer([QUESTION]), tts=Sine(sample_rate=made_at)
    )
    async with calling(chosen, rate) as call:
        await call.visitor.say(np.zeros(rate * 2, np.float32))
        await call.turn()
        await call.visitor.until("final_assistant_answer")
        page = call.visitor.page
        assert page.kinds.count("tts_chunk") > 7
        assert abs(len(page.sound) - rate) <= 1
        resampler = Resampler(made_at, rate)
        whole = np.concatenate([resampler.push(sine(made_at)), resampler.flush()])
        np.testing.assert_allclose(page.sound, whole, atol=1 / 32_768)
        steepest = 0.5 * 2 * np.pi * 440 / rate
        inside = page.sound[rate // 20 : -rate // 20]
        assert np.abs(np.diff(inside)).max() < steepest * 1.01


# --- barge-in --------------------------------------------------------------------------------


async def test_an_interrupted_reply_is_silenced_and_remembered_as_far_as_it_was_heard() -> None:
    chosen = engines(says(LONG), stt=ScriptedRecognizer([QUESTION]))
    async with calling(chosen, plays=False) as call:
        page = call.visitor.page
        await call.turn()
        await call.play(0.45)  # it is in its fifth word
        await call.visitor.say(np.full(48_000 // 2, 0.5, np.float32))
        await call.visitor.until("tts_interruption")
        assert page.kinds[-3:] == ["final_assistant_answer", "stop_tts", "tts_interruption"]
        unheard = page.seconds(48_000) - 0.45
        assert unheard <= AHEAD_SECONDS
        assert page.bubbles[-1] == ("assistant", LONG)
        assert call.pipeline.history.messages()[-1] == Message(
            "assistant", "One two three four five"
        )
        await call.visitor.say(np.zeros(48_000, np.float32))
        await call.visitor.until("tts_chunk")
        assert not page.deaf, "the answer to what the caller said is heard"


async def test_no_more_is_sent_than_the_page_can_have_played() -> None:
    chosen = engines(says(LONG), stt=ScriptedRecognizer([QUESTION]))
    async with calling(chosen) as call:
        began = call.clock.now
        await call.turn()
        page = call.visitor.page
        while page.seconds(48_000) < 4.5:
            await call.visitor.until("tts_chunk")
            ahead = page.seconds(48_000) - (call.clock.now - began)
            assert ahead <= AHEAD_SECONDS
        assert page.bubbles[-1] == ("user", QUESTION), "the reply is not over before its sound"


@pytest.mark.parametrize("heard", [0.0, 0.25])
async def test_a_reply_that_is_made_and_held_back_is_not_over(heard: float) -> None:
    chosen = engines(says("One two three four five six."), stt=ScriptedRecognizer([QUESTION]))
    async with calling(chosen, plays=False) as call:
        await call.turn()
        await call.visitor.until("tts_chunk")
        await call.play(heard)
        await call.visitor.say(np.full(48_000 // 2, 0.5, np.float32))
        await call.visitor.until("tts_interruption")
        await call.visitor.say(np.zeros(48_000, np.float32))
        await call.visitor.until("final_user_request")
        told = [message.content for message in call.pipeline.history.messages()]
        assert told == ([QUESTION, "One two three", QUESTION] if heard else [QUESTION] * 2)


async def test_a_page_that_plays_on_after_the_end_of_our_clock_is_silenced() -> None:
    chosen = engines(says("Hello there."), stt=ScriptedRecognizer([QUESTION]))
    async with calling(chosen) as call:
        await call.turn()
        await call.visitor.until("final_assistant_answer")
        call.clock.now += 60
        call.visitor.microphone.playing = True
        await call.visitor.say(np.full(48_000 // 2, 0.5, np.float32))
        await call.visitor.until("tts_interruption")
        assert call.visitor.page.kinds[-2:] == ["stop_tts", "tts_interruption"]


# --- wishes ----------------------------------------------------------------------------------


async def test_a_new_conversation_in_the_middle_of_a_reply() -> None:
    asked: list[ChatRequest] = []

    def reply(request: ChatRequest) -> list[Cue]:
        asked.append(request)
        return [TextDelta(LONG), Finished()]

    chosen = engines(reply, stt=ScriptedRecognizer([QUESTION]))
    async with calling(chosen, plays=False) as call:
        page = call.visitor.page
        await call.turn()
        await call.visitor.until("tts_chunk")
        page.clear()
        await call.visitor.wish("clear_history")
        await call.visitor.until("stop_tts")
        page.clear()  # what was on its way
        sent = len(page.pcm)
        await call.visitor.until("partial_assistant_answer")
        assert (page.bubbles, page.typing) == ([], {"user": "", "assistant": ""})
        assert len(page.pcm) == sent
        assert call.pipeline.history.messages() == []
        await call.turn()
        await call.visitor.until("tts_chunk")
        assert page.bubbles == [("user", QUESTION)]
        said = [message for message in asked[-1].messages if message.role != "system"]
        assert said == [Message("user", QUESTION)]


async def test_a_new_conversation_in_the_middle_of_a_turn() -> None:
    stt = ScriptedRecognizer([QUESTION])
    async with calling(engines(stt=stt)) as call:
        await call.visitor.say(np.full(48_000, 0.5, np.float32))
        await call.visitor.until("partial_user_request")
        await call.visitor.clear()
        await call.visitor.say(np.zeros(48_000, np.float32))
        await call.turn()
        await call.visitor.until("final_assistant_answer")
        assert [who for who, _ in call.visitor.page.bubbles] == ["user", "assistant"]
        assert len(call.pipeline.history.messages()) == 2


@pytest.mark.parametrize(("speed", "turns"), [(0, 2), (100, 1)])
async def test_the_slider_says_how_long_a_pause_may_be(speed: int, turns: int) -> None:
    """A second's pause after what may be a whole sentence, or not."""
    chosen = engines(says("Hm."), stt=ScriptedRecognizer(["perhaps tomorrow"]))
    async with calling(chosen) as call:
        await call.visitor.wish("set_speed", speed=speed)
        await call.turn()
        await call.turn()
        await call.visitor.say(np.zeros(48_000 * 6, np.float32))
        for _ in range(turns):
            await call.visitor.until("final_user_request")
        await call.visitor.clear()
        assert call.visitor.page.kinds.count("final_user_request") == turns, "after all the sound"


# --- what goes wrong -------------------------------------------------------------------------


async def test_a_reply_that_fails_is_told_and_the_call_goes_on() -> None:
    replies: list[list[Cue]] = [
        [RuntimeError("secret of the inside")],
        [TextDelta("Better."), Finished()],
    ]
    chosen = engines(lambda _: replies.pop(0), stt=ScriptedRecognizer([QUESTION]))
    async with calling(chosen) as call:
        for _ in range(2):
            await call.turn()
            await call.visitor.until("final_assistant_answer")
        sorry, better = [text for who, text in call.visitor.page.bubbles if who == "assistant"]
        assert sorry
        assert "secret" not in sorry
        assert better == "Better."


async def test_a_turn_without_words_is_taken_away() -> None:
    stt = ScriptedRecognizer(["", QUESTION], rejected="noise")
    async with calling(engines(stt=stt)) as call:
        await call.turn()
        await call.visitor.until("final_user_request")
        assert call.visitor.page.bubbles == []
        assert call.visitor.page.typing["user"] == ""


async def test_nonsense_is_ignored() -> None:
    chosen = engines(says("Hello there."), stt=ScriptedRecognizer([QUESTION]))
    async with calling(chosen) as call:
        send = call.visitor.websocket.send
        for nonsense in ("null", "{", "[]", '{"type":7}', '{"type":"set_speed"}', "x" * 900_000):
            await send(nonsense)
        for size in (0, 1, 7, 8, 9, MAX_BLOCK_BYTES + 2):
            await send(bytes(size))
        await send(block(0, bytes(2 * BLOCK + 1)))
        await call.turn()
        await call.visitor.until("final_assistant_answer")
        assert call.visitor.page.bubbles[-1] == ("assistant", "Hello there.")


async def test_a_page_that_leaves_in_the_middle_of_a_reply_ends_it() -> None:
    chosen = engines(
        lambda _: [TextDelta(LONG), asyncio.Event()], stt=ScriptedRecognizer([QUESTION])
    )
    assert isinstance(chosen.llm, ScriptedModel)
    async with calling(chosen, plays=False) as call:
        await call.turn()
        await call.visitor.until("tts_chunk")
    assert chosen.llm.stopped == 1
    assert asyncio.all_tasks() == {asyncio.current_task()}
