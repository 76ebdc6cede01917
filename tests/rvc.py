"""What tests know of RealtimeVoiceChat's page: how it takes messages, and the blocks it sends."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

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
