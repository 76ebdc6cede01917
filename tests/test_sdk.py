"""The official `openai` SDK, unmodified, against a running server with the embedded engines."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
from openai import AsyncOpenAI
from openai.resources.realtime.realtime import AsyncRealtimeConnection

from tests.pools import PoolServer
from tests.realtime import Brackets, validate
from tests.servers import speech_server, spoken

__all__ = ["speech_server"]

DEADLINE = 30.0
TRANSCRIBED = "conversation.item.input_audio_transcription.completed"
TOOL: Any = {
    "type": "function",
    "name": "count_waiting_callers",
    "description": "How many callers wait.",
    "parameters": {"type": "object", "properties": {}},
}


class Call:
    """One connection of the SDK, and all that came over it, each event validated."""

    def __init__(self, connection: AsyncRealtimeConnection) -> None:
        self.connection = connection
        self.seen: list[Any] = []
        self._brackets = Brackets()

    async def until(self, kind: str, having: Callable[[Any], bool] = lambda event: True) -> Any:
        """Read on until an event of type `kind`."""
        async with asyncio.timeout(DEADLINE):
            while True:
                data = await self.connection.recv_bytes()
                self._brackets.see(validate(data))
                event = self.connection.parse_event(data)
                self.seen.append(event)
                if event.type == kind and having(event):
                    return event

    async def hears(self, pieces: Iterable[str]) -> None:
        for piece in pieces:
            await self.connection.input_audio_buffer.append(audio=piece)

    async def response_done(self, wanted: Callable[[str], bool]) -> Any:
        """The end of a response whose id is `wanted`, which may have come already."""
        for event in self.seen:
            if event.type == "response.done" and wanted(event.response.id):
                return event
        return await self.until("response.done", lambda event: wanted(event.response.id))

    async def types_in(self, text: str, **fields: Any) -> None:
        part: Any = {"type": "input_text", "text": text}
        item: Any = {"type": "message", "role": "user", "content": [part], **fields}
        await self.connection.conversation.item.create(item=item)

    def first(self, kind: str) -> Any:
        return next(event for event in self.seen if event.type == kind)

    def types(self) -> list[str]:
        """The types of what came, runs of the same delta as one."""
        types = [event.type for event in self.seen]
        return [kind for kind, before in zip(types, [None, *types], strict=False) if kind != before]

    def sound(self, item_id: str) -> bytes:
        return b"".join(
            base64.b64decode(event.delta)
            for event in self.seen
            if event.type == "response.output_audio.delta" and event.item_id == item_id
        )


def client_of(server: PoolServer) -> AsyncOpenAI:
    return AsyncOpenAI(
        api_key="none", base_url=f"{server.url}/v1", websocket_base_url=f"{server.url}/v1"
    )


@asynccontextmanager
async def calling(server: PoolServer, **audio_input: Any) -> AsyncIterator[Call]:
    """Connects and configures a session; `audio_input` is merged into its input settings."""
    client = client_of(server)
    async with client.realtime.connect(model="gpt-realtime") as connection:
        call = Call(connection)
        created = await call.until("session.created")
        assert created.session.model == "gpt-realtime"
        heard: Any = {"transcription": {"model": "whisper-1"}, **audio_input}
        await connection.session.update(session={"type": "realtime", "audio": {"input": heard}})
        await call.until("session.updated")
        yield call
    await client.close()


async def test_spoken_turn(speech_server: PoolServer) -> None:
    async with calling(speech_server) as call:
        await call.hears(spoken("what is your favorite color"))
        done = await call.until("response.done")
        turn = call.first("input_audio_buffer.speech_started").item_id
        transcript = call.first(TRANSCRIBED)
        assert transcript.item_id == turn
        assert transcript.transcript == "what is your favorite color"
        (message,) = done.response.output
        assert re.search("green|purple", message.content[0].transcript, re.IGNORECASE)
        assert len(call.sound(message.id)) > 24_000
        # The transcription comes when it is ready; all else has one order.
        told = [kind for kind in call.types() if "input_audio_transcription" not in kind]
        assert [kind for kind in told if "delta" not in kind] == [
            "session.created",
            "session.updated",
            "input_audio_buffer.speech_started",
            "input_audio_buffer.speech_stopped",
            "input_audio_buffer.committed",
            "conversation.item.added",
            "conversation.item.done",
            "response.created",
            "response.output_item.added",
            "conversation.item.added",
            "response.content_part.added",
            "response.output_audio.done",
            "response.output_audio_transcript.done",
            "response.content_part.done",
            "conversation.item.done",
            "response.output_item.done",
            "response.done",
        ]


async def test_manual_turn(speech_server: PoolServer) -> None:
    async with calling(speech_server, turn_detection=None) as call:
        await call.connection.input_audio_buffer.clear()
        await call.hears(spoken("who is your creator", pause=0.3))
        await call.connection.input_audio_buffer.commit()
        transcript = await call.until(TRANSCRIBED)
        assert transcript.transcript == "who is your creator"
        assert "response.created" not in call.types()
        await call.connection.response.create(response={"metadata": {"client_event_id": "c1"}})
        created = await call.until("response.created")
        assert created.response.metadata == {"client_event_id": "c1"}
        done = await call.until("response.done")
        assert done.response.status == "completed"
        assert done.response.metadata == {"client_event_id": "c1"}
        assert call.sound(done.response.output[0].id)


@pytest.mark.parametrize("modality", ["text", "audio"])
async def test_text_turn(speech_server: PoolServer, modality: Literal["text", "audio"]) -> None:
    async with calling(speech_server) as call:
        await call.types_in("What is the square of seven?")
        added = await call.until("conversation.item.done")
        await call.connection.response.create(response={"output_modalities": [modality]})
        done = await call.until("response.done")
        (message,) = done.response.output
        part = message.content[0]
        assert part.type == f"output_{modality}"
        assert "49" in (part.text or part.transcript)
        assert bool(call.sound(message.id)) == (modality == "audio")
        reply = next(event for event in reversed(call.seen) if event.type.endswith("item.added"))
        assert reply.item.id == message.id
        if reply.type == "conversation.item.added":
            assert reply.previous_item_id == added.item.id


async def test_barge_in_and_truncate(speech_server: PoolServer) -> None:
    async with calling(speech_server) as call:
        await call.types_in("tell me a very long story")
        await call.connection.response.create()
        delta = await call.until("response.output_audio.delta")
        await call.hears(spoken("please stop talking now"))
        await call.until("input_audio_buffer.speech_started")
        await call.connection.conversation.item.truncate(
            item_id=delta.item_id, content_index=0, audio_end_ms=1_000
        )
        await call.until("conversation.item.truncated")
        await call.connection.conversation.item.retrieve(item_id=delta.item_id)
        retrieved = await call.until("conversation.item.retrieved")
        left = retrieved.item.content[0].transcript
        assert left.startswith("Once")
        assert len(left) < 60
        interrupted = await call.response_done(lambda each: each == delta.response_id)
        await call.response_done(lambda each: each != delta.response_id)
        assert interrupted.response.status in ("cancelled", "completed")
        after = call.seen[call.seen.index(interrupted) :]
        late = [each for each in after if getattr(each, "response_id", "") == delta.response_id]
        assert not late


async def test_a_spoken_question_is_answered_with_a_tool(speech_server: PoolServer) -> None:
    async with calling(speech_server) as call:
        await call.connection.session.update(session={"type": "realtime", "tools": [TOOL]})
        await call.until("session.updated")
        await call.hears(spoken("how many callers are waiting in the queue"))
        asked = await call.until("response.function_call_arguments.done")
        assert (asked.name, json.loads(asked.arguments)) == (TOOL["name"], {})
        done = await call.until("response.done")
        (item,) = done.response.output
        assert (item.type, item.call_id, item.id) == ("function_call", asked.call_id, asked.item_id)
        await call.connection.conversation.item.create(
            item={
                "type": "function_call_output",
                "call_id": asked.call_id,
                "output": json.dumps({"waiting": 3}),
            }
        )
        await call.connection.response.create()
        done = await call.until("response.done")
        (message,) = done.response.output
        assert "3" in message.content[0].transcript
        assert call.sound(message.id)


async def test_out_of_band_response_beside_a_reply(speech_server: PoolServer) -> None:
    async with calling(speech_server) as call:
        await call.types_in("tell me a very long story")
        await call.connection.response.create()
        story = await call.until("response.created")
        question: Any = {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "what is your name"}],
        }
        await call.connection.response.create(
            response={
                "conversation": "none",
                "output_modalities": ["text"],
                "metadata": {"topic": "name"},
                "input": [question],
            }
        )
        aside = await call.response_done(lambda each: each != story.response.id)
        assert aside.response.metadata == {"topic": "name"}
        assert aside.response.conversation_id is None
        assert "phrasebook" in aside.response.output[0].content[0].text
        told = await call.response_done(lambda each: each == story.response.id)
        assert told.response.status == "completed"
        await call.connection.conversation.item.retrieve(item_id=aside.response.output[0].id)
        assert (await call.until("error")).error.code == "item_retrieve_invalid_item_id"


@pytest.mark.parametrize("ended_by", ["limit", "crash"])
async def test_reconnects_where_the_sdk_can(
    start_pool: Callable[..., PoolServer], ended_by: str
) -> None:
    server = start_pool(app="", workers=2, call_limit=4.0 if ended_by == "limit" else 3600.0)
    codes: list[int] = []
    connecting = client_of(server).realtime.connect(
        model="gpt-realtime",
        on_reconnecting=lambda event: codes.append(event.close_code),
        initial_delay=0.01,
    )
    async with asyncio.timeout(DEADLINE), connecting as connection:
        call = Call(connection)
        first = await call.until("session.created")
        if ended_by == "crash":
            (worker,) = server.until(lambda: server.workers("serving"), "served")
            os.kill(worker["pid"], signal.SIGKILL)
        async for event in connection:
            if event.type == "error":
                assert event.error.code == "session_expired"
            elif event.type == "session.created":
                break
        assert codes == [1001 if ended_by == "limit" else 1006]
        assert event.session.id != first.session.id  # type: ignore[union-attr]
        await call.types_in("What is the square of seven?")
        await connection.response.create(response={"output_modalities": ["text"]})
        assert "49" in (await call.until("response.done")).response.output[0].content[0].text


async def test_items(speech_server: PoolServer) -> None:
    async with calling(speech_server) as call:
        items = call.connection.conversation.item
        await call.types_in("one", id="item_one")
        await call.types_in("two", id="item_two")
        await items.create(
            previous_item_id="root",
            item={
                "type": "message",
                "role": "system",
                "content": [{"type": "input_text", "text": "zero"}],
            },
        )
        third = await call.until(
            "conversation.item.done", lambda event: event.item.role == "system"
        )
        assert third.previous_item_id is None
        second = next(each for each in call.seen if getattr(each, "previous_item_id", None))
        assert (second.item.id, second.previous_item_id) == ("item_two", "item_one")
        await items.retrieve(item_id="item_two")
        assert (await call.until("conversation.item.retrieved")).item.content[0].text == "two"
        await items.delete(item_id="item_two")
        assert (await call.until("conversation.item.deleted")).item_id == "item_two"
        await items.retrieve(item_id="item_two", event_id="mine")
        error = (await call.until("error")).error
        assert (error.code, error.event_id) == ("item_retrieve_invalid_item_id", "mine")


async def test_mistakes_leave_the_session_usable(speech_server: PoolServer) -> None:
    async with calling(speech_server, turn_detection=None) as call:
        connection = call.connection
        await connection.response.cancel(event_id="e1")
        assert (await call.until("error")).error.message.startswith("Cancellation failed")
        await connection.input_audio_buffer.commit(event_id="e2")
        assert (await call.until("error")).error.code == "input_audio_buffer_commit_empty"
        await connection.input_audio_buffer.append(audio="no base64!", event_id="e3")
        assert (await call.until("error")).error.code == "invalid_value"
        await connection.send({"type": "no.such.event", "event_id": "e4"})  # type: ignore[arg-type]
        assert (await call.until("error")).error.event_id == "e4"
        await call.types_in("tell me a very long story")
        await connection.response.create()
        await connection.response.create(event_id="e5")
        error = (await call.until("error")).error
        assert error.code == "conversation_already_has_active_response"
        await connection.response.cancel()
        done = await call.until("response.done")
        assert done.response.status_details.reason == "client_cancelled"


async def test_handlers_are_told_of_every_event(speech_server: PoolServer) -> None:
    """The SDK's other way: callbacks by event type instead of a loop."""
    async with calling(speech_server) as call:
        told: list[str] = []

        async def hang_up(event: Any) -> None:
            await call.connection.close()

        call.connection.on("error", lambda event: told.append(event.error.code))
        call.connection.on("response.output_text.done", lambda event: told.append(event.text))
        call.connection.on("response.done", hang_up)
        await call.connection.response.cancel()
        await call.types_in("What is the square of seven?")
        await call.connection.response.create(response={"output_modalities": ["text"]})
        async with asyncio.timeout(DEADLINE):
            await call.connection.dispatch_events()
        assert told == ["response_cancel_not_active", "The square of 7 is 49."]


async def test_the_example_of_the_documentation(speech_server: PoolServer, tmp_path: Path) -> None:
    text = (Path(__file__).parent.parent / "docs" / "protocol.md").read_text()
    example = text.partition("```python\n")[2].partition("```")[0]
    assert "ws://127.0.0.1:8000" in example
    script = tmp_path / "example.py"
    script.write_text(example.replace("ws://127.0.0.1:8000", speech_server.url))
    sound = b"".join(map(base64.b64decode, spoken("what is your favorite color")))
    (tmp_path / "hello.pcm").write_bytes(sound)
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), cwd=tmp_path, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(DEADLINE):
        told, _ = await process.communicate()
    assert process.returncode == 0
    assert b"you:   what is your favorite color" in told
    assert b"voice: " in told
    assert len((tmp_path / "reply.pcm").read_bytes()) > 24_000
