"""A session over a real WebSocket, with engines that tests can play (see instruments.py)."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal

import numpy as np
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from tests.instruments import Cue, ScriptedRecognizer, ScriptedStream, engines, says
from tests.realtime import Brackets, validate
from voicepool import clips, g711
from voicepool.audio import Resampler
from voicepool.engines.base import ChatRequest, Engines, Finished, Samples, TextDelta
from voicepool.errors import EngineError
from voicepool.events import PipelineEvent
from voicepool.outbox import MOST_EVENTS, Outbox
from voicepool.sending import HARD_LIMIT, Sender
from voicepool.speech import SpeechApp
from voicepool.turns import LONGEST_TURN
from voicepool.wire.realtime.audio import RATE

DEADLINE = 20.0


def sound(milliseconds: int, level: float = 0.5) -> bytes:
    """Loud is speech for the instruments' detector. 24 kHz PCM."""
    return np.full(RATE * milliseconds // 1000, int(level * 32_767), "<i2").tobytes()


class Client:
    """A raw client; validates every event that it gets."""

    def __init__(self, websocket: ClientConnection) -> None:
        self.websocket = websocket
        self.seen: list[dict[str, Any]] = []
        self._brackets = Brackets()

    async def send(self, type: str, **fields: Any) -> None:
        await self.websocket.send(json.dumps({"type": type, **fields}))

    async def append(self, pcm: bytes) -> None:
        await self.send("input_audio_buffer.append", audio=base64.b64encode(pcm).decode())

    async def until(self, *kinds: str) -> dict[str, Any]:
        async with asyncio.timeout(DEADLINE):
            while True:
                event = validate(await self.websocket.recv(decode=False))
                self._brackets.see(event)
                self.seen.append(event)
                if event["type"] in kinds:
                    return event

    async def create_text(self, text: str, **fields: Any) -> None:
        content = [{"type": "input_text", "text": text}]
        item = {"type": "message", "role": "user", "content": content}
        await self.send("conversation.item.create", item=item, **fields)

    def sound(self) -> bytes:
        deltas = [e["delta"] for e in self.seen if e["type"] == "response.output_audio.delta"]
        return b"".join(map(base64.b64decode, deltas))


class Host:
    """What a worker is for a session: serves one app and keeps what became of each call."""

    def __init__(self, app: SpeechApp) -> None:
        self.app = app
        self.calls: list[asyncio.Task[None]] = []
        self.began = asyncio.Event()

    async def __call__(self, websocket: ServerConnection) -> None:
        call = asyncio.create_task(self.app.serve(websocket))
        self.calls.append(call)
        self.began.set()
        await asyncio.wait([call])
        if not call.cancelled() and call.exception() is not None:
            await websocket.close(1011, "the server failed")

    async def ended(self) -> asyncio.Task[None]:
        """The first call, when it has ended."""
        await self.began.wait()
        async with asyncio.timeout(DEADLINE):
            await asyncio.wait(self.calls[:1])
        return self.calls[0]


def _choose(_: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    return Subprotocol("realtime") if "realtime" in offered else None


@asynccontextmanager
async def hosting(app: SpeechApp) -> AsyncIterator[tuple[Host, int]]:
    """A server for the app on loopback, and its port."""
    host = Host(app)
    server: Server = await serve(
        host,
        "127.0.0.1",
        0,
        max_size=host.app.max_message_size,
        select_subprotocol=_choose,
        compression=None,
    )
    async with server:
        yield host, server.sockets[0].getsockname()[1]


@asynccontextmanager
async def calling(
    set_of_engines: Engines, **audio_input: Any
) -> AsyncIterator[tuple[Client, Host]]:
    async with (
        hosting(SpeechApp(set_of_engines)) as (host, port),
        connect(f"ws://127.0.0.1:{port}/v1/realtime?model=m", compression=None) as websocket,
    ):
        client = Client(websocket)
        heard = {"transcription": {"model": "any"}, **audio_input}
        await client.send("session.update", session={"audio": {"input": heard}})
        await client.until("session.updated")
        yield client, host


MANUAL = {"turn_detection": None}


# --- sound in and out ------------------------------------------------------------------------


async def test_a_spoken_turn_in_one_append() -> None:
    async with calling(engines(says("Hello there."))) as (client, _):
        await client.append(sound(600) + sound(900, 0.0))
        stopped = await client.until("input_audio_buffer.speech_stopped")
        done = await client.until("response.done")
        assert 500 < stopped["audio_end_ms"] < 1_500
        assert done["response"]["status"] == "completed"
        # 100 ms of tone a word, resampled from 16 to 24 kHz, to the last sample.
        assert len(client.sound()) // 2 == RATE // 10 * 2


async def test_the_recogniser_hears_what_the_client_sent() -> None:
    """Whole samples in pieces of any length: resampled as one signal, flushed at the commit."""
    stt = ScriptedRecognizer()
    rng = np.random.default_rng(7)
    pcm = (rng.standard_normal(RATE) * 8_000).astype("<i2").tobytes()
    async with calling(engines(stt=stt), **MANUAL) as (client, _):
        for start in range(0, len(pcm), 1_234):
            await client.append(pcm[start : start + 1_234])
        await client.send("input_audio_buffer.commit")
        await client.until("conversation.item.input_audio_transcription.completed")
    samples = np.frombuffer(pcm, "<i2").astype(np.float32) / np.float32(32_768)
    resampler = Resampler(RATE, 16_000)
    expected = np.concatenate([resampler.push(samples), resampler.flush()])
    np.testing.assert_allclose(np.concatenate(stt.heard), expected, atol=1e-6)


async def test_a_hundred_milliseconds_are_enough_for_a_turn() -> None:
    async with calling(engines(), **MANUAL) as (client, _):
        await client.append(sound(99))
        await client.send("input_audio_buffer.commit", event_id="short")
        error = await client.until("error", "input_audio_buffer.committed")
        assert error["error"]["code"] == "input_audio_buffer_commit_empty"
        assert "99.00ms" in error["error"]["message"]
        await client.append(sound(1))
        await client.send("input_audio_buffer.commit")
        await client.until("input_audio_buffer.committed")


async def test_a_clear_forgets_the_sound() -> None:
    async with calling(engines(), **MANUAL) as (client, _):
        await client.append(sound(500))
        await client.send("input_audio_buffer.clear")
        await client.until("input_audio_buffer.cleared")
        await client.send("input_audio_buffer.commit")
        error = await client.until("error")
        assert error["error"]["code"] == "input_audio_buffer_commit_empty"


async def test_bad_sound_is_no_sound() -> None:
    """An error far into a long append must not leave its beginning in the buffer."""
    async with calling(engines(), **MANUAL) as (client, _):
        good = base64.b64encode(sound(2_000)).decode()
        await client.send("input_audio_buffer.append", audio=good + "!!!!!!!!", event_id="bad")
        error = await client.until("error")
        assert error["error"]["event_id"] == "bad"
        await client.send("input_audio_buffer.commit")
        error = await client.until("error")
        assert "0.00ms" in error["error"]["message"]


async def test_fifteen_mebibytes_in_one_append_hold_nobody_up() -> None:
    async with calling(engines(), **MANUAL) as (client, _):
        await client.append(bytes(15 << 20))
        ticks = 0
        done = asyncio.create_task(client.until("input_audio_buffer.committed"))
        await client.send("input_audio_buffer.commit")
        while not done.done():
            ticks += 1
            await asyncio.sleep(0)  # one round of the loop
        await done
        # Client and server share this loop: it went round while 1,638 slices were taken in.
        assert ticks > 1_600


MU_LAW, A_LAW = {"type": "audio/pcmu"}, {"type": "audio/pcma"}


async def test_a_call_in_telephone_sound() -> None:
    """G.711 in, the other law out, another format for one response, and back in mid call."""
    async with calling(engines(says("Hello there.")), format=MU_LAW) as (client, _):
        formats = {"output": {"format": A_LAW}}
        await client.send("session.update", session={"type": "realtime", "audio": formats})
        caller = np.concatenate([np.full(4_800, 0.5), np.zeros(7_200)]).astype(np.float32)
        await client.append(g711.encode(caller, g711.Law.MU))
        stopped = await client.until("input_audio_buffer.speech_stopped")
        assert 500 < stopped["audio_end_ms"] < 1_500
        await client.until("response.done")
        # 100 ms of tone a word, at 8 kHz, a byte a sample.
        assert len(client.sound()) == 1_600
        assert np.abs(g711.decode(client.sound(), g711.Law.A)).max() > 0.1
        client.seen.clear()
        wide = {"output": {"format": {"type": "audio/pcm", "rate": 48_000}}}
        await client.create_text("again")
        await client.send("response.create", response={"audio": wide})
        created = await client.until("response.created")
        assert created["response"]["audio"]["output"]["format"] == wide["output"]["format"]
        await client.until("response.done")
        assert len(client.sound()) == 9_600 * 2


async def test_a_format_may_change_in_mid_turn() -> None:
    """The sound before and after is one turn, each heard at its own rate."""
    stt = ScriptedRecognizer()
    async with calling(engines(stt=stt), **MANUAL) as (client, _):
        await client.append(sound(500))
        for format, data in ((MU_LAW, bytes(4_000)), ({"type": "audio/pcm"}, sound(500))):
            heard = {"input": {"format": format}}
            await client.send("session.update", session={"type": "realtime", "audio": heard})
            await client.append(data)
        await client.send("input_audio_buffer.commit")
        await client.until("conversation.item.input_audio_transcription.completed")
    heard_samples = sum(map(len, stt.heard))
    assert abs(heard_samples - 16_000 * 3 // 2) <= 2


async def test_a_transcription_session() -> None:
    app = SpeechApp(engines(stt=ScriptedRecognizer(finals=["what was said"])))
    async with (
        hosting(app) as (_, port),
        connect(f"ws://127.0.0.1:{port}/v1/realtime?intent=transcription") as websocket,
    ):
        client = Client(websocket)
        created = await client.until("session.created")
        assert created["session"]["type"] == "transcription"
        await client.append(sound(600) + sound(900, 0.0))
        completed = await client.until("conversation.item.input_audio_transcription.completed")
        assert completed["transcript"] == "what was said"
        await client.send("response.create")
        assert (await client.until("error", "response.created"))["type"] == "error"


# --- items -----------------------------------------------------------------------------------


async def test_an_item_of_sound_is_transcribed_and_answered() -> None:
    asked: list[ChatRequest] = []

    def reply(request: ChatRequest) -> list[Any]:
        asked.append(request)
        return [TextDelta("Yes."), Finished()]

    stt = ScriptedRecognizer(finals=["what the clip says"])
    async with calling(engines(reply, stt=stt), **MANUAL) as (client, _):
        encoded = base64.b64encode(sound(700)).decode()
        part = {"type": "input_audio", "audio": encoded}
        item = {"id": "clip", "type": "message", "role": "user", "content": [part]}
        await client.send("conversation.item.create", item=item)
        await client.send("response.create")
        added = await client.until("conversation.item.added")
        assert added["item"]["content"][0]["transcript"] is None
        completed = await client.until("conversation.item.input_audio_transcription.completed")
        assert (completed["item_id"], completed["transcript"]) == ("clip", "what the clip says")
        await client.until("response.done")
        assert asked[0].messages[-1].content == "what the clip says"


async def test_an_item_of_sound_that_nobody_can_transcribe_has_its_place_all_the_same() -> None:
    stt = ScriptedRecognizer(finals=[EngineError("broken")])
    async with calling(engines(stt=stt), **MANUAL) as (client, _):
        part = {"type": "input_audio", "audio": base64.b64encode(sound(700)).decode()}
        item = {"id": "clip", "type": "message", "role": "user", "content": [part]}
        await client.send("conversation.item.create", item=item)
        failed = await client.until("conversation.item.input_audio_transcription.failed")
        assert failed["item_id"] == "clip"
        await client.send("conversation.item.retrieve", item_id="clip")
        await client.until("conversation.item.retrieved")


async def test_a_clip_holds_up_nobodys_next_message() -> None:
    """Its recogniser is stuck: all else goes on, and what is asked of the model waits for it."""
    asked: list[ChatRequest] = []

    def reply(request: ChatRequest) -> list[Any]:
        asked.append(request)
        return [TextDelta("Yes."), Finished()]

    stt = Stuck(finals=["what the clip says"])
    async with calling(engines(reply, stt=stt), **MANUAL) as (client, _):
        part = {"type": "input_audio", "audio": base64.b64encode(sound(700)).decode()}
        item = {"id": "clip", "type": "message", "role": "user", "content": [part]}
        await client.send("conversation.item.create", item=item)
        await client.create_text("typed later")
        await client.send("conversation.item.create", previous_item_id="root", item=item)
        await client.send("conversation.item.retrieve", item_id="clip")
        await client.send("response.create")
        retrieved = await client.until("conversation.item.retrieved")
        assert retrieved["item"]["content"][0]["transcript"] is None
        told = [each for each in client.seen if each["type"] == "conversation.item.added"]
        assert [each["previous_item_id"] for each in told] == [None, "clip"]
        assert [each["error"]["code"] for each in client.seen if each["type"] == "error"] == [
            "item_create_duplicate_item_id"
        ]
        await client.until("response.created")
        assert not asked
        stt.gate.set()
        await client.until("response.done")
        said = [each.content for each in asked[0].messages if each.role == "user"]
        assert said == ["what the clip says", "typed later"]


async def test_clips_are_bounded() -> None:
    """What is more than a few waits in the socket until there is room."""
    stt = Stuck(finals=[f"clip {number}" for number in range(clips.MOST + 1)])
    async with calling(engines(stt=stt), **MANUAL) as (client, _):
        part = {"type": "input_audio", "audio": base64.b64encode(sound(300)).decode()}
        item = {"type": "message", "role": "user", "content": [part]}
        for number in range(clips.MOST + 1):
            await client.send("conversation.item.create", item={**item, "id": f"clip {number}"})
        await client.send("input_audio_buffer.clear")
        for _ in range(clips.MOST):
            await client.until("conversation.item.added")
        assert not any(each["type"] == "input_audio_buffer.cleared" for each in client.seen)
        stt.gate.set()
        await client.until("input_audio_buffer.cleared")
        added = [e["item"]["id"] for e in client.seen if e["type"] == "conversation.item.added"]
        assert added == [f"clip {number}" for number in range(clips.MOST + 1)]


async def test_a_clip_is_no_longer_than_a_turn_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []
    insert = clips.Clips.insert

    def watch(self: clips.Clips, item_id: str, samples: Samples, after: str | None) -> None:
        kept.append(len(samples))
        insert(self, item_id, samples, after)

    monkeypatch.setattr(clips.Clips, "insert", watch)
    mu_law = {"type": "audio/pcmu"}
    async with calling(engines(), format=mu_law, **MANUAL) as (client, _):
        sound = base64.b64encode(bytes(g711.RATE * 630)).decode()
        part = {"type": "input_audio", "audio": sound}
        item = {"type": "message", "role": "user", "content": [part]}
        await client.send("conversation.item.create", item=item)
        await client.until("conversation.item.input_audio_transcription.completed")
        faulty = {**item, "content": [{**part, "audio": f"{sound[:-4]}!AAA"}]}
        await client.send("conversation.item.create", item=faulty)
        await client.until("error")
    assert kept == [LONGEST_TURN]


async def test_a_response_to_sound_of_its_own() -> None:
    asked: list[ChatRequest] = []

    def reply(request: ChatRequest) -> list[Any]:
        asked.append(request)
        return [TextDelta("Yes."), Finished()]

    stt = ScriptedRecognizer(finals=["the first", EngineError("broken")])
    async with calling(engines(reply, stt=stt), **MANUAL) as (client, _):
        part = {"type": "input_audio", "audio": base64.b64encode(sound(700)).decode()}
        heard = {"type": "message", "role": "user", "content": [part]}
        text = {"type": "input_text", "text": "typed"}
        typed = {"type": "message", "role": "user", "content": [text]}
        aside = {"conversation": "none", "input": [typed, heard]}
        await client.send("response.create", response=aside)
        assert (await client.until("response.done"))["response"]["status"] == "completed"
        assert [each.content for each in asked[0].messages] == ["typed", "the first"]
        await client.send("response.create", response=aside)
        failed = await client.until("response.done")
        assert failed["response"]["status_details"]["error"]["code"] == "stt_failed"
        bad = {**heard, "content": [{**part, "audio": "A" * 20_000 + "!!!!"}]}
        await client.send("response.create", event_id="bad", response={"input": [bad]})
        error = (await client.until("error"))["error"]
        assert (error["event_id"], error["param"]) == ("bad", "response.input[0].content[0].audio")


async def test_a_response_to_a_turn_whose_words_are_yet_to_come() -> None:
    asked: list[ChatRequest] = []

    def reply(request: ChatRequest) -> list[Any]:
        asked.append(request)
        return [TextDelta("Yes."), Finished()]

    stt = Stuck(finals=["what was said"])
    async with calling(engines(reply, stt=stt), **MANUAL) as (client, _):
        await client.append(sound(700))
        await client.send("input_audio_buffer.commit")
        turn = (await client.until("input_audio_buffer.committed"))["item_id"]
        reference = {"type": "item_reference", "id": turn}
        aside = {"conversation": "none", "input": [reference], "instructions": "Judge."}
        await client.send("response.create", response=aside)
        await client.until("response.created")
        stt.gate.set()
        await client.until("response.done")
        assert [each.content for each in asked[0].messages] == ["Judge.", "what was said"]


async def test_a_response_is_shown_as_it_is_made_whatever_the_session_is_by_then() -> None:
    async with calling(engines(), **MANUAL) as (client, _):
        await client.send("response.create")
        spoken = {"output": {"voice": "another"}}
        changed = {"output_modalities": ["text"], "max_output_tokens": 9, "audio": spoken}
        await client.send("session.update", session=changed)
        created = (await client.until("response.created"))["response"]
        assert created["output_modalities"] == ["audio"]
        assert created["max_output_tokens"] == "inf"
        assert created["audio"]["output"]["voice"] == "tone"
        part = await client.until("response.content_part.added")
        assert part["part"]["type"] == "audio"
        await client.until("response.done")


async def test_deleted_items_are_not_in_the_prompt() -> None:
    asked: list[ChatRequest] = []

    def reply(request: ChatRequest) -> list[Any]:
        asked.append(request)
        return [TextDelta("Yes."), Finished()]

    async with calling(engines(reply), **MANUAL) as (client, _):
        for text in ("first", "second"):
            await client.create_text(text)
        first = await client.until("conversation.item.added")
        await client.send("conversation.item.delete", item_id=first["item"]["id"])
        await client.until("conversation.item.deleted")
        await client.send("response.create")
        await client.until("response.done")
        assert [each.content for each in asked[0].messages if each.role == "user"] == ["second"]


# --- failure and interruption ----------------------------------------------------------------


async def test_a_broken_model_fails_its_response_only() -> None:
    replies: list[list[Cue]] = [
        [RuntimeError("secret of the inside")],
        [TextDelta("Better."), Finished()],
    ]
    async with calling(engines(lambda _: replies.pop(0)), **MANUAL) as (client, _):
        await client.create_text("hello")
        await client.send("response.create")
        done = await client.until("response.done", "error")
        assert done["response"]["status"] == "failed"
        assert done["response"]["status_details"]["error"]["code"] == "llm_failed"
        assert "secret" not in json.dumps(done)
        await client.send("response.create")
        done = await client.until("response.done")
        assert done["response"]["status"] == "completed"


@pytest.mark.parametrize("reason", ["stop", "length"])
async def test_a_reply_keeps_its_last_sound_however_it_ends(
    reason: Literal["stop", "length"],
) -> None:
    def reply(request: ChatRequest) -> list[Cue]:
        return [TextDelta("One two."), Finished(reason)]

    async with calling(engines(reply), **MANUAL) as (client, _):
        await client.create_text("Count.")
        await client.send("response.create")
        await client.until("response.done")
        assert len(client.sound()) == 2 * RATE // 5, "a tenth of a second for each word"


async def test_a_response_can_be_cancelled_while_it_is_made() -> None:
    never = asyncio.Event()
    model = engines(lambda _: [TextDelta("Well. "), TextDelta("So. "), never])
    async with calling(model, **MANUAL) as (client, _):
        await client.create_text("hello")
        await client.send("response.create")
        await client.until("response.output_audio.delta")
        await client.send("response.create", event_id="again")
        error = await client.until("error")
        assert error["error"]["code"] == "conversation_already_has_active_response"
        await client.send("response.cancel")
        done = await client.until("response.done")
        assert done["response"]["status_details"]["reason"] == "client_cancelled"
        await client.send("response.cancel", event_id="late")
        error = await client.until("error")
        assert error["error"]["code"] == "response_cancel_not_active"


async def test_an_interrupted_reply_sends_no_more() -> None:
    never = asyncio.Event()
    model = engines(lambda _: [TextDelta("One two three four five. "), never])
    async with calling(model) as (client, _):
        await client.append(sound(600) + sound(900, 0.0))
        delta = await client.until("response.output_audio.delta")
        await client.append(sound(600))
        done = await client.until("response.done")
        assert done["response"]["id"] == delta["response_id"]
        assert done["response"]["status_details"] == {
            "type": "cancelled",
            "reason": "turn_detected",
        }
        cut = {"item_id": delta["item_id"], "content_index": 0, "audio_end_ms": 100}
        await client.send("conversation.item.truncate", **cut)
        await client.until("conversation.item.truncated")


# --- clients that misbehave ------------------------------------------------------------------


async def test_binary_messages_are_ignored() -> None:
    async with calling(engines()) as (client, _):
        await client.websocket.send(b"\x00" * 1_000)
        await client.websocket.send("garbage")
        assert (await client.until("error"))["error"]["code"] == "invalid_json"
        assert len(client.seen) == 3


async def test_a_message_above_the_limit_ends_the_call_with_1009() -> None:
    async with calling(engines()) as (client, host):
        length = (host.app.max_message_size + 1).to_bytes(8, "big")
        client.websocket.transport.write(bytes([0x81, 0x80 | 127]) + length + bytes(4))
        with pytest.raises(ConnectionClosed) as closed:
            await client.until("error")
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009
        assert (await host.ended()).exception() is None


@pytest.mark.parametrize("how", ["close", "abort"])
@pytest.mark.parametrize("when", ["silent", "speaking", "replying"])
async def test_a_client_that_vanishes_leaves_nothing(how: str, when: str) -> None:
    never = asyncio.Event()
    model = engines(lambda _: [TextDelta("One two three. "), never])
    async with calling(model) as (client, host):
        if when != "silent":
            await client.append(sound(600))
            await client.until("input_audio_buffer.speech_started")
        if when == "replying":
            await client.append(sound(900, 0.0))
            await client.until("response.output_audio.delta")
        if how == "close":
            await client.websocket.close()
        else:
            client.websocket.transport.abort()
        assert (await host.ended()).exception() is None
    assert asyncio.all_tasks() == {asyncio.current_task()}


class Stuck(ScriptedRecognizer):
    """Hears nothing until it is released, however long that takes."""

    def __post_init__(self) -> None:
        """The gate is closed from the start."""

    def stream(self, *, language: str | None = None, prompt: str = "") -> ScriptedStream:
        self.gate.wait()
        return super().stream()


async def test_a_client_that_vanishes_is_not_listened_to_any_more() -> None:
    """However much of its sound has yet to be heard."""
    stt = Stuck()
    app = SpeechApp(engines(stt=stt))
    async with (
        hosting(app) as (host, port),
        connect(f"ws://127.0.0.1:{port}/v1/realtime", compression=None) as websocket,
    ):
        client = Client(websocket)
        await client.send("session.update", session={"audio": {"input": MANUAL}})
        for _ in range(5):
            await client.append(sound(20_000))
        await client.until("session.updated")
        websocket.transport.abort()
        call = await host.ended()
        assert not stt.gate.is_set()
        stt.gate.set()
    assert call.exception() is None


async def dial(port: int) -> tuple[socket.socket, Callable[[bytes], Awaitable[None]]]:
    """A WebSocket client that never reads, and how to send one text frame of its."""
    raw = socket.create_connection(("127.0.0.1", port))
    raw.setblocking(False)
    loop = asyncio.get_running_loop()
    handshake = (
        "GET /v1/realtime HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    await loop.sock_sendall(raw, handshake.encode())

    async def send(payload: bytes) -> None:
        length = len(payload).to_bytes(8, "big")
        await loop.sock_sendall(raw, bytes([0x81, 0x80 | 127]) + length + bytes(4) + payload)

    return raw, send


class Watched(Sender):
    """Keeps how much was ever pending, and gives up soon."""

    most = 0

    def __init__(self, websocket: ServerConnection) -> None:
        super().__init__(websocket, write_deadline=0.5)

    def put(
        self, data: bytes, audio_of: str = "", on_sent: Callable[[], None] | None = None
    ) -> None:
        super().put(data, audio_of, on_sent)
        Watched.most = max(Watched.most, self.pending)


@pytest.mark.parametrize("greed", ["a long reply", "many answers"])
async def test_a_client_that_never_reads_costs_little_and_is_cut_off(
    greed: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It asks for more than the buffers between us hold, and reads none of it."""
    caplog.set_level(logging.INFO, "voicepool.session")
    monkeypatch.setattr("voicepool.session.Sender", Watched)
    monkeypatch.setattr(Watched, "most", 0)
    part = {"type": "input_text", "text": "x" * 400_000}
    item = {"id": "a", "type": "message", "role": "user", "content": [part]}
    asking = {"a long reply": "response.create", "many answers": "conversation.item.retrieve"}
    ask = json.dumps({"type": asking[greed], "item_id": "a"}).encode()
    async with hosting(SpeechApp(engines(says("word " * 2_000)))) as (host, port):
        raw, send = await dial(port)
        await send(json.dumps({"type": "conversation.item.create", "item": item}).encode())
        with contextlib.suppress(OSError):
            for _ in range(1 if greed == "a long reply" else 200):
                await send(ask)
        call = await host.ended()
        raw.close()
    assert call.exception() is None
    assert [vars(each)["ended"] for each in caplog.records if "ended" in vars(each)] == [
        "client too slow"
    ]
    assert 0 < Watched.most < HARD_LIMIT + (1 << 20)


class Counted(Outbox):
    """Keeps how many events ever waited."""

    most = 0

    def put(self, event: PipelineEvent) -> None:
        super().put(event)
        Counted.most = max(Counted.most, len(self))


async def test_a_client_that_asks_and_cancels_and_never_reads_is_held_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it is told goes through the pipeline, which must not keep it all."""
    monkeypatch.setattr("voicepool.session.Sender", Watched)
    monkeypatch.setattr("voicepool.pipeline.Outbox", Counted)
    monkeypatch.setattr(Counted, "most", 0)
    metadata = {f"key {number}": "x" * 500 for number in range(16)}
    ask = json.dumps({"type": "response.create", "response": {"metadata": metadata}}).encode()
    async with hosting(SpeechApp(engines())) as (host, port):
        raw, send = await dial(port)
        with contextlib.suppress(OSError):
            for _ in range(4_000):
                await send(ask)
                await send(b'{"type": "response.cancel"}')
        call = await host.ended()
        raw.close()
    assert call.exception() is None
    assert MOST_EVENTS <= Counted.most < MOST_EVENTS + 10


async def test_text_that_is_not_unicode_ends_the_call_with_1007() -> None:
    """RFC 6455, section 8.1."""
    async with calling(engines()) as (client, host):
        await client.websocket.send(b'{"type": "\xff"}', text=True)
        with pytest.raises(ConnectionClosed) as closed:
            await client.until("error")
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1007
        assert (await host.ended()).exception() is None


# --- the host ends the call ------------------------------------------------------------------


async def test_a_call_at_its_limit_is_told_so() -> None:
    async with calling(engines()) as (client, host):
        host.calls[0].cancel("call_limit")
        error = await client.until("error")
        assert error["error"]["code"] == "session_expired"
        with pytest.raises(ConnectionClosed) as closed:
            await client.until("response.done")
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (
            1001,
            error["error"]["message"],
        )
        assert (await host.ended()).cancelled()


async def test_a_cancelled_call_ends_without_a_word() -> None:
    async with calling(engines()) as (client, host):
        host.calls[0].cancel()
        with pytest.raises(ConnectionClosed):
            await client.until("error")
        assert (await host.ended()).cancelled()


async def test_a_fault_reaches_the_host_and_nothing_of_it_the_client(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("secret of the inside")

    monkeypatch.setattr("voicepool.pipeline.SpeechPipelineManager.clear", fail)
    async with calling(engines()) as (client, host):
        await client.send("input_audio_buffer.clear")
        with pytest.raises(ConnectionClosed) as closed:
            await client.until("error")
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1011
        assert "secret" not in closed.value.rcvd.reason
        assert isinstance((await host.ended()).exception(), RuntimeError)


async def test_no_words_in_the_logs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "voicepool")
    stt = ScriptedRecognizer(finals=["confidential question"])
    async with calling(engines(says("Confidential answer."), stt=stt)) as (client, host):
        await client.append(sound(600) + sound(900, 0.0))
        await client.until("response.done")
        await client.websocket.send("confidential garbage")
        await client.until("error")
        await client.websocket.close()
        await host.ended()
    ours = [each for each in caplog.records if each.name.startswith("voicepool")]
    (ended,) = [each for each in ours if each.getMessage() == "session ended"]
    assert vars(ended)["ended"] == "hang-up"
    assert (vars(ended)["turns"], vars(ended)["responses"]) == (1, 1)
    assert "onfidential" not in "".join(str(vars(each)) for each in ours)
