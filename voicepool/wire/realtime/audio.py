"""Sound in client events: base64 of signed 16-bit little-endian mono PCM at 24 kHz."""

from __future__ import annotations

import binascii
from collections.abc import Iterator
from dataclasses import dataclass

from voicepool.audio import from_pcm16
from voicepool.engines.base import Samples
from voicepool.wire.realtime.config import RATE
from voicepool.wire.realtime.errors import WireError, invalid_value

MAX_AUDIO_BYTES = 15 << 20
"""Of one event: the limit of the OpenAI service."""
SLICE_CHARS = 12_800
"""Base64 characters taken at once: 200 ms of sound, which a detector hears in some 6 ms. A multiple
of 8: slices are whole samples."""


@dataclass(frozen=True, slots=True)
class EncodedClip:
    """Sound of one client event, see `wire.codec.Clip`."""

    audio: str
    param: str

    @property
    def rate(self) -> int:
        return RATE

    def pieces(self) -> Iterator[Samples]:
        return (from_pcm16(pcm) for pcm in decode(self.audio, self.param))


def check(audio: str, param: str) -> None:
    """Raises WireError where `audio` cannot be whole samples, judged by its length alone."""
    if len(audio) % 4:
        raise _bad_base64(param)
    size = len(audio) // 4 * 3 - (audio[-2:].count("=") if audio else 0)
    if size > MAX_AUDIO_BYTES:
        raise invalid_value(f"One event may carry at most {MAX_AUDIO_BYTES} bytes of audio.", param)
    if size % 2:
        raise invalid_value(
            "Invalid audio: 16-bit PCM has an even number of bytes; send whole samples.", param
        )


def decode(audio: str, param: str = "audio") -> Iterator[bytes]:
    """The PCM bytes, in slices of whole samples and a bounded amount of work.

    Raises WireError at a slice that is no base64: take none before all are decoded.
    """
    for start in range(0, len(audio), SLICE_CHARS):
        piece = audio[start : start + SLICE_CHARS]
        try:
            pcm = binascii.a2b_base64(piece, strict_mode=True)
        except ValueError:
            raise _bad_base64(param) from None
        if len(pcm) < len(piece) // 4 * 3 and start + SLICE_CHARS < len(audio):
            raise _bad_base64(param)
        yield pcm


def _bad_base64(param: str) -> WireError:
    return invalid_value("Invalid audio: expected base64-encoded bytes.", param)
