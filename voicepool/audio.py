"""Sound in arrays: PCM, resampling, and the two small buffers of the pipeline's input.

Sound is mono float32 in [-1, 1], shape (n,) (`Samples`), unless a name says PCM.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np
import soxr
from numpy.typing import NDArray

from voicepool.engines.base import Samples

SILENCE: Samples = np.zeros(0, np.float32)
SILENCE.flags.writeable = False


def from_pcm16(data: bytes) -> Samples:
    """Sound from signed 16-bit little-endian PCM. Raises ValueError for half a sample."""
    if len(data) % 2:
        raise ValueError("16-bit PCM has an even number of bytes")
    return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32768)


def to_pcm16(samples: Samples) -> bytes:
    """Signed 16-bit little-endian PCM, two bytes a sample, of what `to_int16` makes of them."""
    pcm: bytes = to_int16(samples).astype("<i2", copy=False).tobytes()
    return pcm


def to_int16(samples: Samples) -> NDArray[np.int16]:
    """The nearest 16-bit samples.

    What is louder than full scale is clipped, and what is not a number is silence: a synthesiser's
    glitch must not wrap round into a bang.
    """
    scaled = np.nan_to_num(samples, nan=0.0, posinf=1.0, neginf=-1.0) * np.float32(32768)
    nearest: NDArray[np.int16] = np.clip(np.rint(scaled), -32768, 32767).astype(np.int16)
    return nearest


class Resampler:
    """Sound from one rate to another, in pieces of any length; the same result for any split.

    Band-limited interpolation by libsoxr ("HQ": 20-bit precision). It holds back about 20 ms until
    `flush`, which ends the signal and makes the resampler ready for a new one.
    """

    def __init__(self, from_rate: int, to_rate: int) -> None:
        self.to_rate = to_rate
        """Samples per second of what comes out."""
        self._stream = (
            None
            if from_rate == to_rate
            else soxr.ResampleStream(from_rate, to_rate, 1, dtype="float32", quality="HQ")
        )

    def push(self, samples: Samples) -> Samples:
        """What of the new rate's sound is certain after these `samples` too."""
        if self._stream is None:
            return samples
        result: Samples = self._stream.resample_chunk(np.ascontiguousarray(samples, np.float32))
        return result

    def flush(self) -> Samples:
        """The rest of the signal."""
        if self._stream is None:
            return SILENCE
        result: Samples = self._stream.resample_chunk(SILENCE, last=True)
        self._stream.clear()
        return result


class Windows:
    """Cuts a signal that comes in pieces of any length into windows of `size` samples."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._rest = SILENCE

    def push(self, samples: Samples) -> Iterator[Samples]:
        """The windows that are full now. Read all of them before the next `push`."""
        sound = np.concatenate((self._rest, samples)) if len(self._rest) else samples
        whole = len(sound) - len(sound) % self.size
        # The rest is copied, or it would keep the whole piece that it was cut from alive.
        self._rest = sound[whole:].copy()
        for start in range(0, whole, self.size):
            yield sound[start : start + self.size]

    def take_rest(self) -> Samples:
        """The samples that fill no window yet; they are gone from here."""
        rest, self._rest = self._rest, SILENCE
        return rest


class Recent:
    """The latest sound, at least `capacity` samples of it once there are as many."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._pieces: deque[Samples] = deque()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def push(self, samples: Samples) -> None:
        """Add sound and forget pieces that are wholly older than the capacity."""
        self._pieces.append(samples)
        self._length += len(samples)
        while self._pieces and self._length - len(self._pieces[0]) >= self.capacity:
            self._length -= len(self._pieces.popleft())

    def last(self, count: int) -> Samples:
        """The last `count` samples, or what there is."""
        sound = np.concatenate((SILENCE, *self._pieces))
        return sound[max(0, len(sound) - count) :]

    def clear(self) -> None:
        self._pieces.clear()
        self._length = 0
