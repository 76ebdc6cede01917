"""A client of /v1/realtime over `websockets` alone, for tests that must see the wire as it is."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from websockets.asyncio.client import ClientConnection, connect

from tests import speech
from tests.pools import PoolServer
from tests.realtime import Brackets, validate
from voicepool.audio import Resampler, to_pcm16
from voicepool.dialogue import RATE
from voicepool.engines.base import INPUT_RATE, Samples

Event = dict[str, Any]

DEADLINE = 30.0
PIECE_MS = 20


class Caller:
    """One call, and all that came over it, each event validated."""

    def __init__(self, websocket: ClientConnection) -> None:
        self._websocket = websocket
        self._ear = Resampler(INPUT_RATE, RATE)
        self._brackets = Brackets()
        self.seen: list[Event] = []

    # -- saying

    async def send(self, kind: str, **fields: Any) -> None:
        await self._websocket.send(json.dumps({"type": kind, **fields}))

    async def configure(self, **session: Any) -> Event:
        """Change the session; the new session object."""
        await self.send("session.update", session={"type": "realtime", **session})
        event = await self.until("session.updated", "error")
        assert event["type"] == "session.updated", event
        return event

    async def listen_by(self, kind: str | None, **detection: Any) -> None:
        """Set the turn detection, with transcripts."""
        turns = None if kind is None else {"type": kind, **detection}
        heard = {"turn_detection": turns, "transcription": {"model": "any"}}
        await self.configure(audio={"input": heard})

    async def hear(self, *sounds: Samples, real_time: bool = False) -> None:
        """Send the caller's sound (16 kHz), as fast as it goes or at the pace of speech."""
        loop = asyncio.get_running_loop()
        began, size = loop.time(), INPUT_RATE * PIECE_MS // 1000
        sent = 0
        for sound in sounds:
            for at in range(0, len(sound), size):
                if real_time:
                    await asyncio.sleep(began + sent / INPUT_RATE - loop.time())
                piece = self._ear.push(sound[at : at + size])
                sent += len(sound[at : at + size])
                if len(piece):
                    audio = base64.b64encode(to_pcm16(piece)).decode()
                    await self.send("input_audio_buffer.append", audio=audio)

    async def type_in(self, text: str, **fields: Any) -> None:
        part = {"type": "input_text", "text": text}
        item = {"type": "message", "role": "user", "content": [part], **fields}
        await self.send("conversation.item.create", item=item)

    async def answer(self, call_id: str, output: object) -> None:
        """The output of a function call."""
        item = {"type": "function_call_output", "call_id": call_id, "output": json.dumps(output)}
        await self.send("conversation.item.create", item=item)

    # -- hearing

    async def until(
        self, *kinds: str, having: Callable[[Event], bool] = lambda event: True
    ) -> Event:
        """Read on until an event of one of these types."""
        async with asyncio.timeout(DEADLINE):
            while True:
                event = validate(await self._websocket.recv())
                self._brackets.see(event)
                self.seen.append(event)
                if event["type"] in kinds and having(event):
                    return event

    async def response(self, **request: Any) -> Event:
        """Ask for a response; the one that is done."""
        await self.send("response.create", response=request)
        return await self.done()

    async def done(self) -> Event:
        """The next response that is done."""
        response: Event = (await self.until("response.done"))["response"]
        return response

    def all(self, kind: str) -> list[Event]:
        return [event for event in self.seen if event["type"] == kind]

    def kinds(self, *, since: int = 0) -> list[str]:
        """The types of what came, without deltas."""
        return [e["type"] for e in self.seen[since:] if not e["type"].endswith(".delta")]

    def forget(self) -> None:
        """Drop what came so far."""
        self.seen.clear()


def text_of(response: Mapping[str, Any]) -> str:
    """What a response's messages say."""
    parts = [part for item in response["output"] for part in item.get("content", ())]
    return " ".join(part.get("text") or part.get("transcript") or "" for part in parts)


def calls_of(response: Mapping[str, Any]) -> list[Event]:
    """The function calls in a response."""
    return [item for item in response["output"] if item["type"] == "function_call"]


@asynccontextmanager
async def calling(server: PoolServer, path: str = "/v1/realtime") -> AsyncIterator[Caller]:
    # With a bounded queue, a reply that nobody reads any more would hold up the closing handshake.
    async with connect(server.url + path, proxy=None, max_size=None, max_queue=None) as websocket:
        caller = Caller(websocket)
        await caller.until("session.created")
        yield caller


def function(name: str, **properties: Any) -> Event:
    """A tool that takes these parameters."""
    parameters = {"type": "object", "properties": properties}
    return {"type": "function", "name": name, "description": f"{name}.", "parameters": parameters}


def spoken(*parts: str | float) -> Samples:
    """Texts and pauses in seconds, in light noise, with 0.3 s of it before and after.

    The pauses are as long as they say: espeak's own at the end of a text is cut off.
    """
    sounds = [_say(it) if isinstance(it, str) else speech.silence(it) for it in parts]
    return speech.noisy(np.concatenate(sounds), seed=1)


def _say(text: str) -> Samples:
    sound = speech.say(text)
    loud = np.flatnonzero(np.abs(sound) > 0.01)
    return sound[loud[0] : loud[-1] + 1]


def order(events: Sequence[Event], response_id: str) -> list[str]:
    """The types of a response's own events and of its items', without deltas."""
    items: set[str] = set()
    told = []
    for event in events:
        if event.get("response_id") == response_id and "item" in event:
            items.add(event["item"]["id"])
        of_response = event.get("response_id") == response_id
        of_response |= event.get("response", {}).get("id") == response_id
        of_item = event.get("item", {}).get("id") in items
        if (of_response or of_item) and not event["type"].endswith(".delta"):
            told.append(event["type"])
    return told
