"""The synchronous client of the `openai` SDK, unmodified, against a running server."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from openai import OpenAI
from openai.resources.realtime.realtime import RealtimeConnection

from tests.pools import PoolServer
from tests.realtime import Brackets, validate
from tests.servers import speech_server, spoken

__all__ = ["speech_server"]

# The SDK connects in a way that the newest `websockets` has an opinion on.
pytestmark = pytest.mark.filterwarnings("ignore:connect.. must be used as:DeprecationWarning")

TRANSCRIBED = "conversation.item.input_audio_transcription.completed"
TOOL: Any = {
    "type": "function",
    "name": "count_waiting_callers",
    "description": "How many callers wait.",
    "parameters": {"type": "object", "properties": {}},
}


class Call:
    """One connection of the SDK, and all that came over it, each event validated."""

    def __init__(self, connection: RealtimeConnection) -> None:
        self.connection = connection
        self.seen: list[Any] = []
        self._brackets = Brackets()

    def until(self, kind: str) -> Any:
        """Read on until an event of this type. pytest's own timeout is the deadline: the SDK's
        synchronous client knows none."""
        while True:
            data = self.connection.recv_bytes()
            self._brackets.see(validate(data))
            self.seen.append(self.connection.parse_event(data))
            if self.seen[-1].type == kind:
                return self.seen[-1]

    def first(self, kind: str) -> Any:
        return next(event for event in self.seen if event.type == kind)

    def says(self, text: str) -> None:
        for piece in spoken(text):
            self.connection.input_audio_buffer.append(audio=piece)

    def types_in(self, text: str) -> None:
        part: Any = {"type": "input_text", "text": text}
        self.connection.conversation.item.create(
            item={"type": "message", "role": "user", "content": [part]}
        )


@contextmanager
def calling(server: PoolServer) -> Iterator[Call]:
    client = OpenAI(
        api_key="none", base_url=f"{server.url}/v1", websocket_base_url=f"{server.url}/v1"
    )
    with client, client.realtime.connect(model="gpt-realtime") as connection:
        call = Call(connection)
        call.until("session.created")
        heard: Any = {"transcription": {"model": "whisper-1"}}
        connection.session.update(session={"type": "realtime", "audio": {"input": heard}})
        call.until("session.updated")
        yield call


def test_spoken_turn(speech_server: PoolServer) -> None:
    with calling(speech_server) as call:
        call.says("what is your favorite color")
        done = call.until("response.done")
        assert call.first(TRANSCRIBED).transcript == "what is your favorite color"
        assert re.search("green|purple", done.response.output[0].content[0].transcript, re.I)
        assert any(event.type == "response.output_audio.delta" for event in call.seen)


def test_text_turn_and_tool_call(speech_server: PoolServer) -> None:
    with calling(speech_server) as call:
        call.types_in("What is the square of seven?")
        call.connection.response.create(response={"output_modalities": ["text"]})
        assert "49" in call.until("response.output_text.done").text
        call.until("response.done")

        call.connection.session.update(session={"type": "realtime", "tools": [TOOL]})
        call.types_in("how many callers are waiting in the queue")
        call.connection.response.create()
        asked = call.until("response.function_call_arguments.done")
        call.until("response.done")
        call.connection.conversation.item.create(
            item={
                "type": "function_call_output",
                "call_id": asked.call_id,
                "output": json.dumps({"waiting": 3}),
            }
        )
        call.connection.response.create()
        done = call.until("response.done")
        assert "3" in done.response.output[0].content[0].transcript


def test_barge_in_and_truncate(speech_server: PoolServer) -> None:
    with calling(speech_server) as call:
        call.types_in("tell me a very long story")
        call.connection.response.create()
        delta = call.until("response.output_audio.delta")
        call.says("please stop talking now")
        call.until("input_audio_buffer.speech_started")
        call.connection.conversation.item.truncate(
            item_id=delta.item_id, content_index=0, audio_end_ms=1_000
        )
        call.until("conversation.item.truncated")
        call.connection.conversation.item.retrieve(item_id=delta.item_id)
        item = call.until("conversation.item.retrieved").item
        assert len(item.content[0].transcript) < 60
        # Closing would wait for what nobody reads any more.
        done = [event.response.id for event in call.seen if event.type == "response.done"]
        while set(done) <= {delta.response_id}:
            done.append(call.until("response.done").response.id)


def test_mistakes_leave_the_session_usable(speech_server: PoolServer) -> None:
    with calling(speech_server) as call:
        call.connection.response.cancel(event_id="mine")
        error = call.until("error").error
        assert (error.code, error.event_id) == ("response_cancel_not_active", "mine")
        call.types_in("What is the square of seven?")
        call.connection.response.create(response={"output_modalities": ["text"]})
        assert call.until("response.done").response.status == "completed"
