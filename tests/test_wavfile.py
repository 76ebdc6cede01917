"""WAV files: every width, rate and channel count in, one format out, and what is no WAV."""

from __future__ import annotations

import os
import struct
import wave
from pathlib import Path

import numpy as np
import pytest

from voicepool.errors import WavError
from voicepool.wavfile import Loudness, read_wav, write_wav


def tone(rate: int, seconds: float = 1.0, level: float = 0.5) -> np.ndarray:
    return level * np.sin(2 * np.pi * 440 * np.arange(int(rate * seconds)) / rate)


def save(path: Path, signal: np.ndarray, rate: int, width: int = 2, channels: int = 1) -> Path:
    """Write `signal` (floats) with the given sample width; all channels alike."""
    integers = np.rint(signal * (2 ** (8 * width - 1) - 1)).astype(np.int64)
    if width == 1:
        integers = integers + 128
    data = integers.repeat(channels).astype("<i8").view(np.uint8).reshape(-1, 8)[:, :width]
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(data.tobytes())
    return path


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (22050, 2), (24000, 1), (48000, 6)])
def test_any_pcm_file_becomes_the_same_sound(
    tmp_path: Path, width: int, rate: int, channels: int
) -> None:
    sound = read_wav(save(tmp_path / "a.wav", tone(rate, 1.5), rate, width, channels), 24_000)
    assert sound.dtype == np.int16
    assert len(sound) == pytest.approx(36_000, abs=2)
    middle = slice(4_000, 32_000)  # a resampler's filter needs a moment at either end
    error = sound[middle] / 32767 - tone(24_000, 1.5)[middle]
    assert np.sqrt(np.mean(error**2)) < (0.01 if width == 1 else 0.002)


def test_full_scale_does_not_wrap(tmp_path: Path) -> None:
    square = np.sign(tone(16_000))
    sound = read_wav(save(tmp_path / "a.wav", square, 16_000), 24_000).astype(int)
    assert np.abs(np.diff(np.sign(sound))).sum() == pytest.approx(2 * 880, abs=10)


def test_write_and_read_back(tmp_path: Path) -> None:
    sound = (tone(24_000) * 32767).astype(np.int16)
    write_wav(tmp_path / "a.wav", sound, 24_000)
    np.testing.assert_allclose(read_wav(tmp_path / "a.wav", 24_000), sound, atol=1)
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_a_pipe_takes_the_sound_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_wav(pipe, np.zeros(240, np.int16), 24_000)
    assert os.read(reader, 4096)[:4] == b"RIFF"
    os.close(reader)
    assert pipe.is_fifo()


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        write_wav(tmp_path / "no" / "a.wav", np.zeros(1, np.int16), 24_000)
    assert not list(tmp_path.iterdir())


def header(code: int, size: int, bits: int = 16, rate: int = 16_000, channels: int = 1) -> bytes:
    fmt = struct.pack("<HHIIHH", code, channels, rate, 0, 2, bits)
    chunks = b"fmt " + struct.pack("<I", len(fmt)) + fmt + b"data" + struct.pack("<I", size)
    return b"RIFF" + struct.pack("<I", 36 + size) + b"WAVE" + chunks


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a WAV file, or broken"),
        (b"RIFF", "not a WAV file, or broken"),
        (b"ID3\x04" + bytes(1000), "not a WAV file, or broken"),
        (header(1, 0), "holds no sound"),
        (header(1, 1) + b"\0", "holds no sound"),
        (header(1, 4, bits=64) + bytes(8), "not a WAV file, or broken"),
        (header(1, 4, rate=0) + bytes(8), "not a WAV file, or broken"),
        (header(1, 4, rate=4_000_000_000) + bytes(8), "not a WAV file, or broken"),
        (header(1, 4, channels=0) + bytes(8), "not a WAV file, or broken"),
        (header(3, 4, bits=32) + bytes(4), "not plain PCM"),
    ],
)
def test_what_is_no_sound_is_said_so(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    with pytest.raises(WavError, match=reason) as caught:
        read_wav(path, 24_000)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WavError, match="cannot be read: No such file"):
        read_wav(tmp_path / "a.wav", 24_000)


@pytest.mark.parametrize("size", [32_000, 0x7FFFFFFF, 0xFFFFFFFF - 36])
def test_a_file_that_was_cut_off_gives_what_is_there(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(header(1, size) + bytes(16_001))
    assert len(read_wav(path, 16_000)) == 8_000


def test_loudness_finds_the_end_of_speech_in_any_pieces() -> None:
    rate = 24_000
    noise = np.random.default_rng(1).normal(0, 30, rate * 3)
    noise[rate // 2 : rate] += tone(rate, 0.5) * 32767
    noise[rate * 2 : rate * 2 + 2400] += tone(rate, 0.1) * 32767
    sound = noise.astype(np.int16)
    loudness = Loudness(rate)
    for piece in np.split(sound, np.arange(497, len(sound), 497)):
        loudness.append(piece)
    assert loudness.last_loud_ms(400) is None
    assert loudness.last_loud_ms(1500) == 1000
    assert loudness.last_loud_ms(10_000) == 2100
    assert Loudness(rate).last_loud_ms(1000) is None
