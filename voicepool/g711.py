"""G.711, the sound of telephones: one byte a sample, 8,000 samples a second.

ITU-T Recommendation G.711 (11/88) quantises 14 bits (mu-law) or 13 bits (A-law) in 8 segments, each
twice as wide as the one before, and sends mu-law's bits inverted and every other of A-law's. As in
the reference code of ITU-T G.191, 16-bit samples are shifted to that width first.
"""

from __future__ import annotations

import enum

import numpy as np
from numpy.typing import NDArray

from voicepool.audio import to_int16
from voicepool.engines.base import Samples

RATE = 8_000
"""Samples per second."""

_Bytes = NDArray[np.uint8]
_CODES = np.arange(256, dtype=np.int32)
_LINEAR = np.arange(65_536, dtype=np.uint16).view(np.int16).astype(np.int32)
"""All 16-bit samples, where their bits as an unsigned number would index them."""


class Law(enum.Enum):
    """The two ways to quantise."""

    MU = "mu"
    A = "a"


def decode(data: bytes, law: Law) -> Samples:
    """The sound in `data`, a byte a sample."""
    decoded: Samples = _DECODE[law][np.frombuffer(data, np.uint8)]
    return decoded


def encode(samples: Samples, law: Law) -> bytes:
    """`samples` with what is louder than full scale clipped, and what is not a number silent.

    A sample s comes back with an error of at most |s| / 32 + 1 / 4,096.
    """
    coded: bytes = _ENCODE[law][to_int16(samples).view(np.uint16)].tobytes()
    return coded


_BIAS = 33
"""Shifts mu-law's segments to powers of two, in 14-bit steps."""
_LOUDEST = 8_158
"""Of mu-law, in 14-bit steps: the last segment ends after it."""


def _mu_decoded() -> NDArray[np.int32]:
    code = _CODES ^ 0xFF
    segment, step = code >> 4 & 7, code & 0xF
    magnitude = ((2 * step + _BIAS) << segment) - _BIAS
    return 4 * np.where(code & 0x80, -magnitude, magnitude)


def _mu_encoded() -> NDArray[np.int32]:
    linear = _LINEAR >> 2
    magnitude = np.minimum(np.abs(linear), _LOUDEST) + _BIAS
    segment = _bits(magnitude) - 6
    code = segment << 4 | magnitude >> (segment + 1) & 0xF
    coded: NDArray[np.int32] = code ^ np.where(linear < 0, 0x7F, 0xFF)
    return coded


def _a_decoded() -> NDArray[np.int32]:
    code = _CODES ^ 0x55
    segment, step = code >> 4 & 7, code & 0xF
    # The first two segments are equally fine.
    magnitude = (2 * step + 1 + 32 * (segment > 0)) << np.maximum(segment - 1, 0)
    decoded: NDArray[np.int32] = 8 * np.where(code & 0x80, magnitude, -magnitude)
    return decoded


def _a_encoded() -> NDArray[np.int32]:
    linear = _LINEAR >> 3
    magnitude = np.where(linear < 0, ~linear, linear)
    segment = np.maximum(_bits(magnitude) - 5, 0)
    code = segment << 4 | magnitude >> np.maximum(segment, 1) & 0xF
    coded: NDArray[np.int32] = code ^ np.where(linear < 0, 0x55, 0xD5)
    return coded


def _bits(magnitude: NDArray[np.int32]) -> NDArray[np.int32]:
    """How many bits each number takes."""
    bits: NDArray[np.int32] = np.frexp(magnitude.astype(np.float64))[1]
    return bits


def _samples(decoded: NDArray[np.int32]) -> Samples:
    return decoded.astype(np.float32) / np.float32(32768)


_DECODE: dict[Law, Samples] = {Law.MU: _samples(_mu_decoded()), Law.A: _samples(_a_decoded())}
_ENCODE: dict[Law, _Bytes] = {
    Law.MU: _mu_encoded().astype(np.uint8),
    Law.A: _a_encoded().astype(np.uint8),
}
