"""Sound on this wire: base64 of one of three formats, the same in both directions."""

from __future__ import annotations

import binascii
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from voicepool import g711
from voicepool.audio import from_pcm16, to_pcm16
from voicepool.engines.base import Samples
from voicepool.wire.realtime import patch
from voicepool.wire.realtime.errors import WireError, invalid_value

RATE = 24_000
"""Samples per second of `audio/pcm`, unless a client asks for another."""
MAX_AUDIO_BYTES = 15 << 20
"""Of one event: the limit of the OpenAI service."""


@dataclass(frozen=True, slots=True)
class Format:
    """How sound is written."""

    rate: int = RATE
    """Samples per second."""
    law: g711.Law | None = None
    """None: PCM, 16 bits a sample."""

    @classmethod
    def of(cls, written: patch.Format | None) -> Format:
        """The format that a client asks for; None is the default."""
        match written:
            case patch.Pcmu():
                return MU_LAW
            case patch.Pcma():
                return A_LAW
            case _:
                return cls(written.rate or RATE) if written else PCM

    @property
    def shown(self) -> dict[str, Any]:
        """As the session object has it: G.711 has no `rate`."""
        if self.law is None:
            return {"type": "audio/pcm", "rate": self.rate}
        return {"type": _G711_NAMES[self.law]}

    @property
    def width(self) -> int:
        """Bytes a sample."""
        return 2 if self.law is None else 1

    @property
    def longest(self) -> int:
        """Samples in 200 ms: clients play, cut and truncate by the delta, and the loop has other
        work to do between slices of a long clip."""
        return self.rate // 5

    def decode(self, data: bytes) -> Samples:
        """The sound in whole samples."""
        return from_pcm16(data) if self.law is None else g711.decode(data, self.law)

    def encode(self, samples: Samples) -> bytes:
        """The bytes of sound at this rate."""
        return to_pcm16(samples) if self.law is None else g711.encode(samples, self.law)

    def deltas(self, samples: Samples) -> Iterator[str]:
        """Base64 of the sound, in pieces of at most 200 ms."""
        for start in range(0, len(samples), self.longest):
            yield b64encode(self.encode(samples[start : start + self.longest])).decode()


PCM = Format()
MU_LAW = Format(g711.RATE, g711.Law.MU)
A_LAW = Format(g711.RATE, g711.Law.A)
_G711_NAMES = {g711.Law.MU: "audio/pcmu", g711.Law.A: "audio/pcma"}


@dataclass(frozen=True, slots=True)
class EncodedClip:
    """Sound of one client event, see `wire.codec.Clip`."""

    audio: str
    format: Format
    param: str
    """Where in the event it is."""

    @property
    def rate(self) -> int:
        return self.format.rate

    def pieces(self) -> Iterator[Samples]:
        return (self.format.decode(data) for data in self._bytes())

    def check(self) -> None:
        """Raises WireError where it cannot be whole samples, judged by its length alone."""
        if len(self.audio) % 4:
            raise self._bad_base64()
        size = len(self.audio) // 4 * 3 - (self.audio[-2:].count("=") if self.audio else 0)
        if size > MAX_AUDIO_BYTES:
            raise invalid_value(
                f"One event may carry at most {MAX_AUDIO_BYTES} bytes of audio.", self.param
            )
        if size % self.format.width:
            raise invalid_value(
                "Invalid audio: 16-bit PCM has an even number of bytes; send whole samples.",
                self.param,
            )

    def _bytes(self) -> Iterator[bytes]:
        """Slices of whole samples. Raises WireError at one that is no base64."""
        # 8 characters are 6 bytes, which are whole samples whatever the width.
        step = self.format.longest * self.format.width // 6 * 8
        for start in range(0, len(self.audio), step):
            piece = self.audio[start : start + step]
            try:
                data = binascii.a2b_base64(piece, strict_mode=True)
            except ValueError:
                raise self._bad_base64() from None
            if len(data) < len(piece) // 4 * 3 and start + step < len(self.audio):
                raise self._bad_base64()
            yield data

    def _bad_base64(self) -> WireError:
        return invalid_value("Invalid audio: expected base64-encoded bytes.", self.param)
