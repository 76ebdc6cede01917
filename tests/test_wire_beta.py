"""The beta dialect, as the official SDK speaks it, with a running server."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from openai import AsyncOpenAI
from openai.resources.beta.realtime.realtime import AsyncRealtimeConnection
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from tests.pools import PoolServer
from tests.realtime import BETA_MODELS, Brackets, validate
from tests.servers import speech_server, spoken

__all__ = ["speech_server"]

DEADLINE = 30.0
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:openai")


class Call:
    """One connection of the SDK; every event validated against the SDK's beta models."""

    def __init__(self, connection: AsyncRealtimeConnection) -> None:
        self.connection = connection
        self.seen: list[Any] = []
        self._brackets = Brackets()

    async def until(self, kind: str) -> Any:
        async with asyncio.timeout(DEADLINE):
            while True:
                data = await self.connection.recv_bytes()
                self._brackets.see(validate(data, BETA_MODELS))
                event = self.connection.parse_event(data)
                self.seen.append(event)
                if event.type == kind:
                    return event


@asynccontextmanager
async def calling(server: PoolServer) -> AsyncIterator[Call]:
    client = AsyncOpenAI(
        api_key="none", base_url=f"{server.url}/v1", websocket_base_url=f"{server.url}/v1"
    )
    async with client.beta.realtime.connect(model="gpt-4o-realtime-preview") as connection:
        call = Call(connection)
        created = await call.until("session.created")
        assert created.session.input_audio_format == "pcm16"
        yield call
    await client.close()


async def test_a_spoken_turn(speech_server: PoolServer) -> None:
    async with calling(speech_server) as call:
        await call.connection.session.update(
            session={
                "modalities": ["text", "audio"],
                "voice": "alloy",
                "input_audio_transcription": {"model": "whisper-1"},
                "turn_detection": {"type": "server_vad", "silence_duration_ms": 500},
            }
        )
        updated = await call.until("session.updated")
        assert (updated.session.voice, updated.session.turn_detection.silence_duration_ms) == (
            "alloy",
            500,
        )
        for piece in spoken("what is your favorite color"):
            await call.connection.input_audio_buffer.append(audio=piece)
        done = await call.until("response.done")
        (message,) = done.response.output
        assert message.content[0].type == "audio"
        said = next(e for e in call.seen if e.type == "response.audio_transcript.done")
        assert said.transcript == message.content[0].transcript
        sound = [e.delta for e in call.seen if e.type == "response.audio.delta"]
        assert sum(len(base64.b64decode(delta)) for delta in sound) > 24_000
        kinds = [event.type for event in call.seen]
        assert kinds.count("conversation.item.created") == 2
        heard = "conversation.item.input_audio_transcription.completed"
        assert next(e for e in call.seen if e.type == heard).transcript == (
            "what is your favorite color"
        )


async def test_a_text_turn(speech_server: PoolServer) -> None:
    async with calling(speech_server) as call:
        part: Any = {"type": "input_text", "text": "What is the square of seven?"}
        item: Any = {"type": "message", "role": "user", "content": [part]}
        await call.connection.conversation.item.create(item=item)
        await call.connection.response.create(response={"modalities": ["text"]})
        text = await call.until("response.text.done")
        assert "49" in text.text
        done = await call.until("response.done")
        assert done.response.output[0].content[0].type == "text"


async def test_a_transcription_session(speech_server: PoolServer) -> None:
    async with calling(speech_server) as call:
        await call.connection.transcription_session.update(
            session={
                "input_audio_format": "pcm16",
                "input_audio_transcription": {"model": "whisper-1", "language": "en"},
            }
        )
        await call.until("transcription_session.updated")
        for piece in spoken("who is your creator"):
            await call.connection.input_audio_buffer.append(audio=piece)
        kind = "conversation.item.input_audio_transcription.completed"
        assert (await call.until(kind)).transcript == "who is your creator"


async def test_a_browser_asks_by_its_subprotocols(speech_server: PoolServer) -> None:
    offered = [Subprotocol("realtime"), Subprotocol("openai-beta.realtime-v1")]
    url = f"{speech_server.url}/v1/realtime?model=m".replace("http", "ws")
    async with connect(url, subprotocols=offered) as websocket, asyncio.timeout(DEADLINE):
        assert websocket.subprotocol == "realtime"
        created = validate(await websocket.recv(decode=False), BETA_MODELS)
        assert created["session"]["modalities"] == ["audio", "text"]
