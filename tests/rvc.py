"""What tests know of RealtimeVoiceChat's page: how it takes messages, and the blocks it sends."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from websockets.asyncio.client import ClientConnection

from voicepool.audio import to_pcm16
from voicepool.engines.base import Samples

BLOCK = 2048
"""Samples in a block."""
KINDS = {
    "partial_user_request",
    "final_user_request",
    "partial_assistant_answer",
    "final_assistant_answer",
    "tts_chunk",
    "stop_tts",
    "tts_interruption",
}
EMPTIED = ["partial_user_request", "partial_assistant_answer"]
"""What confirms a new conversation."""


@dataclass
class Page:
    """The page's state, with everything that would spoil it as a failure."""

    bubbles: list[tuple[str, str]] = field(default_factory=list)
    """What the conversation shows: who said what."""
    typing: dict[str, str] = field(default_factory=lambda: {"user": "", "assistant": ""})
    deaf: bool = False
    """It ignores chunks."""
    pcm: bytes = b""
    """All that was put into the player."""
    flushed: int = 0
    """Bytes that the player had been given when it was last emptied."""
    kinds: list[str] = field(default_factory=list)

    def take(self, message: str | bytes) -> str:
        """A message as the page takes it; its type."""
        told: dict[str, Any] = json.loads(message)
        assert set(told) == {"type", "content"}
        kind, content = told["type"], told["content"]
        assert kind in KINDS
        assert isinstance(content, str)
        self.kinds.append(kind)
        who = "user" if kind.endswith("user_request") else "assistant"
        match kind.partition("_")[0]:
            case "partial":
                assert "<" not in content, "it would be read as HTML"
                self.typing[who] = content
            case "final":
                if content.strip():
                    self.bubbles.append((who, content))
                self.typing[who] = ""
            case "stop":
                assert not self.deaf
                self.deaf, self.flushed = True, len(self.pcm)
            case _ if kind == "tts_interruption":
                assert self.deaf, "it comes after stop_tts"
                self.deaf, self.flushed = False, len(self.pcm)
            case _:
                assert not self.deaf, "nobody hears this chunk"
                chunk = base64.b64decode(content, validate=True)
                assert chunk, "the player counts wrongly from here on"
                assert len(chunk) % 2 == 0, "no Int16Array can be made of it"
                self.pcm += chunk
        return str(kind)

    def clear(self) -> None:
        """The user empties the conversation; the page sends `clear_history` then."""
        self.bubbles.clear()
        self.typing = {"user": "", "assistant": ""}

    @property
    def sound(self) -> Samples:
        """All the sound that it was given."""
        return np.frombuffer(self.pcm, "<i2").astype(np.float32) / np.float32(32_768)

    def seconds(self, rate: int) -> float:
        """How much that was."""
        return len(self.pcm) / 2 / rate


def block(milliseconds: int, pcm: bytes, *, playing: bool = False) -> bytes:
    """A binary message."""
    return struct.pack(">II", milliseconds & 0xFFFF_FFFF, int(playing)) + pcm


class Microphone:
    """Sound at the page's rate as blocks, with the times at which a page would send them.

    `late(number)` is by how many milliseconds block `number` is sent too late.
    """

    def __init__(
        self,
        rate: int,
        *,
        starts_at: int = 1_790_000_000_123,
        late: Callable[[int], float] | None = None,
    ) -> None:
        self.rate = rate
        self.playing = False
        self._start = starts_at
        self._late = late or (lambda _: 0.0)
        self._sent = 0
        self._rest: Samples = np.zeros(0, np.float32)

    def blocks(self, sound: Samples) -> Iterator[bytes]:
        """The blocks that are full now; what is left waits for more sound."""
        sound = np.concatenate([self._rest, sound])
        whole = len(sound) - len(sound) % BLOCK
        self._rest = sound[whole:]
        for at in range(0, whole, BLOCK):
            self._sent += 1
            due = self._sent * BLOCK * 1000 / self.rate + self._late(self._sent)
            yield block(
                self._start + int(due), to_pcm16(sound[at : at + BLOCK]), playing=self.playing
            )


PATIENCE = 20.0
"""Seconds after which a test that waits has failed; never part of what is tested."""


class Visitor:
    """A page on a real WebSocket. It plays what it gets by `plays`, which is told the seconds of
    each chunk; without it, it never plays."""

    def __init__(
        self,
        websocket: ClientConnection,
        rate: int = 48_000,
        plays: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self.websocket = websocket
        self.page = Page()
        self.microphone = Microphone(rate)
        self._plays = plays

    async def say(self, *sounds: Samples) -> None:
        """Sound into the microphone, at the page's rate."""
        for sound in sounds:
            for message in self.microphone.blocks(sound):
                await self.websocket.send(message)

    async def wish(self, type: str, **fields: object) -> None:
        await self.websocket.send(json.dumps({"type": type, **fields}))

    async def until(self, *kinds: str) -> str:
        """Take messages up to one of these types."""
        async with asyncio.timeout(PATIENCE):
            while True:
                before = len(self.page.pcm)
                kind = self.page.take(await self.websocket.recv())
                if kind == "tts_chunk":
                    self._plays((len(self.page.pcm) - before) / 2 / self.microphone.rate)
                if kind in kinds:
                    return kind

    async def clear(self) -> None:
        """Empty the conversation, and wait until the server has done so as well: by then it has
        heard all that was said before."""
        self.page.clear()
        await self.wish("clear_history")
        while self.page.kinds[-2:] != EMPTIED or any(self.page.typing.values()):
            await self.until(*KINDS)
        self.page.clear()
