"""WAV files in and out, as the mono 16-bit sound that the wire carries."""

from __future__ import annotations

import io
import itertools
import os
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

from voicepool.errors import WavError

Pcm = NDArray[np.int16]
"""Mono sound, shape (n,), int16."""


def read_wav(path: Path, rate: int) -> Pcm:
    """The sound of a PCM WAV file (8, 16, 24 or 32 bits, any rate and channels) at `rate`, mono.

    Raises WavError. A file that was cut off gives what is there.
    """
    try:
        with path.open("rb") as raw, wave.open(raw) as file:
            pieces = list(_resampled(file, rate))
    except (OSError, EOFError, wave.Error) as error:
        raise WavError(f"{path}: {_explain(error)}") from error
    sound = np.concatenate(pieces) if pieces else np.empty(0, np.int16)
    if not sound.size:
        raise WavError(f"{path}: holds no sound")
    return sound


def _explain(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror or error}"
    if str(error).startswith("unknown format"):
        # The standard library reads plain PCM only, and before 3.12 no WAVE_FORMAT_EXTENSIBLE.
        return (
            "not plain PCM (a compressed, float or extensible WAV); "
            "convert it with: ffmpeg -i IN.wav -c:a pcm_s16le OUT.wav"
        )
    return (
        "not a WAV file, or broken; "
        "other sound is converted with: ffmpeg -i IN -c:a pcm_s16le OUT.wav"
    )


def _resampled(file: wave.Wave_read, rate: int) -> Iterator[Pcm]:
    """Second by second, so that a long file is never in memory at its own size."""
    width, channels, own_rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
    if width > 4 or not 1 <= own_rate <= 768_000:
        raise wave.Error("implausible header")
    stream = soxr.ResampleStream(own_rate, rate, 1, dtype="float32")
    last = False
    while not last:
        data = file.readframes(own_rate)
        last = len(data) < own_rate * width * channels
        yield _to_int16(stream.resample_chunk(_mono(data, width, channels), last=last))


def _mono(data: bytes, width: int, channels: int) -> NDArray[np.float32]:
    """Interleaved PCM as float32 in [-1, 1], the channels averaged."""
    data = data[: len(data) - len(data) % (width * channels)]
    if width == 1:  # the one unsigned width
        wide = (np.frombuffer(data, np.uint8).astype(np.int32) - 128) << 24
    else:
        # Little-endian samples, moved up into the high bytes of 32 bits.
        samples = np.zeros((len(data) // width, 4), np.uint8)
        samples[:, 4 - width :] = np.frombuffer(data, np.uint8).reshape(-1, width)
        wide = samples.view("<i4").reshape(-1)
    sound: NDArray[np.float32] = wide.reshape(-1, channels).mean(axis=1).astype(np.float32)
    return sound / np.float32(2**31)


def _to_int16(samples: NDArray[np.float32]) -> Pcm:
    sound: Pcm = np.clip(np.rint(samples * 32767.0), -32768, 32767).astype(np.int16)
    return sound


def write_wav(path: Path, sound: Pcm, rate: int) -> None:
    """Write mono 16-bit; a file appears whole or not at all. Raises OSError."""
    whole = io.BytesIO()
    with wave.open(whole, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(sound.astype("<i2").tobytes())
    if path.exists() and not path.is_file():
        # A pipe or a device, such as /dev/null, takes the sound; root could also replace it.
        path.write_bytes(whole.getvalue())
        return
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        partial.write_bytes(whole.getvalue())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


class Loudness:
    """Where in a growing sound somebody spoke, by its level in steps of 10 ms."""

    step_ms = 10
    floor = 0.02
    """Of the loudest step (-34 dB): above a quiet room, below the ends of words."""

    def __init__(self, rate: int) -> None:
        self._step = rate * self.step_ms // 1000
        self._levels: list[float] = []
        self._rest = np.empty(0, np.int16)

    def append(self, sound: Pcm) -> None:
        sound = np.concatenate((self._rest, sound))
        steps = sound[: len(sound) - len(sound) % self._step].reshape(-1, self._step)
        self._levels += np.sqrt(np.mean(np.square(steps, dtype=np.float64), axis=1)).tolist()
        self._rest = sound[steps.size :]

    def last_loud_ms(self, before_ms: float) -> int | None:
        """The end of the last loud step that begins before `before_ms`; None if all is quiet."""
        threshold = max(self._levels, default=0.0) * self.floor
        steps = min(len(self._levels), before_ms / self.step_ms)
        for index in range(int(steps) - 1, -1, -1):
            if self._levels[index] > threshold:
                return (index + 1) * self.step_ms
        return None

    def pauses(self, least_ms: int) -> list[int]:
        """Where each quiet of `least_ms` or more between two loud steps ends."""
        threshold = max(self._levels, default=0.0) * self.floor
        loud = [index for index, level in enumerate(self._levels) if level > threshold]
        return [
            after * self.step_ms
            for before, after in itertools.pairwise(loud)
            if (after - before - 1) * self.step_ms >= least_ms
        ]
