"""What the page sends: blocks of sound in binary messages, and wishes in JSON.

    offset  type                  a block
    0       uint32 big-endian     the page's clock in milliseconds, modulo 2**32
    4       uint32 big-endian     flags; bit 0: the page is playing
    8       int16 little-endian   mono sound at a rate that the page does not tell

Nobody answers for the page, so nothing here is an error: what makes no sense is None.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from voicepool.audio import from_pcm16
from voicepool.engines.base import Samples

MAX_BLOCK_BYTES = 256 << 10
"""The page's own are 4,104 bytes; this is more than half a second at any rate."""
MAX_WISH_CHARS = 4096

_HEADER = struct.Struct(">II")
_PLAYING = 1
_SLICE = 16_384
"""Bytes of sound that are decoded at once."""


@dataclass(frozen=True, slots=True)
class Block:
    """A binary message. Half a sample at its end is dropped."""

    milliseconds: int
    """When the page sent it, modulo 2**32."""
    playing: bool
    pcm: bytes

    @property
    def samples(self) -> int:
        return len(self.pcm) // 2


@dataclass(frozen=True, slots=True)
class BlockClip:
    """The sound of a block, see `wire.codec.Clip`."""

    pcm: bytes
    rate: int

    def pieces(self) -> Iterator[Samples]:
        for start in range(0, len(self.pcm), _SLICE):
            yield from_pcm16(self.pcm[start : start + _SLICE])


class Playing(msgspec.Struct, tag="tts_start"):
    """The first sample of a reply sounds."""


class Dry(msgspec.Struct, tag="tts_stop"):
    """Nothing is left to play."""


class ClearHistory(msgspec.Struct, tag="clear_history"):
    """The page has emptied its conversation."""


class SetSpeed(msgspec.Struct, tag="set_speed"):
    """0 takes turns fast, 100 slowly."""

    speed: float


Wish = Playing | Dry | ClearHistory | SetSpeed

_wishes = msgspec.json.Decoder(Wish)


def read_block(message: bytes) -> Block | None:
    """The block in a binary message."""
    if not _HEADER.size + 2 <= len(message) <= MAX_BLOCK_BYTES:
        return None
    milliseconds, flags = _HEADER.unpack_from(message)
    end = len(message) - len(message) % 2
    return Block(milliseconds, bool(flags & _PLAYING), message[_HEADER.size : end])


def read_wish(message: str) -> Wish | None:
    """The wish in a text message. The page has been seen to send "null" when it stops."""
    if len(message) > MAX_WISH_CHARS:
        return None
    try:
        wish: Wish = _wishes.decode(message)
        return wish
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
