"""voicepool.audio: PCM, resampling, and the buffers of the input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voicepool.audio import Recent, Resampler, Windows, from_pcm16, to_pcm16
from voicepool.engines.base import Samples


def tone(rate: int, seconds: float, hertz: float = 440.0) -> Samples:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)).astype(
        np.float32
    )


@given(st.binary(max_size=400).filter(lambda data: len(data) % 2 == 0))
def test_pcm_survives_the_way_there_and_back(data: bytes) -> None:
    samples = from_pcm16(data)
    assert samples.dtype == np.float32
    assert np.abs(samples).max(initial=0) <= 1
    assert to_pcm16(samples) == data


def test_half_a_sample_is_an_error() -> None:
    with pytest.raises(ValueError, match="even number"):
        from_pcm16(b"abc")


def test_too_loud_is_clipped_and_not_a_number_is_silence() -> None:
    wild = np.array([2.0, -2.0, np.nan, np.inf, -np.inf, 1.0, -1.0], np.float32)
    expected = [32767, -32768, 0, 32767, -32768, 32767, -32768]
    assert np.frombuffer(to_pcm16(wild), "<i2").tolist() == expected


@pytest.mark.parametrize(
    ("from_rate", "to_rate"), [(24_000, 16_000), (16_000, 24_000), (22_050, 24_000), (8_000, 8_000)]
)
@settings(max_examples=30)
@given(cuts=st.lists(st.integers(0, 6000), max_size=15), seed=st.integers(0, 99))
def test_any_split_is_resampled_alike(
    from_rate: int, to_rate: int, cuts: list[int], seed: int
) -> None:
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, 6000).astype(np.float32)

    def resampled(pieces: list[Samples]) -> Samples:
        resampler = Resampler(from_rate, to_rate)
        return np.concatenate([*(resampler.push(piece) for piece in pieces), resampler.flush()])

    whole = resampled([noise])
    assert np.array_equal(resampled(np.split(noise, sorted(cuts))), whole)
    assert abs(len(whole) - 6000 * to_rate / from_rate) <= 1


@pytest.mark.parametrize(("from_rate", "to_rate"), [(24_000, 16_000), (22_050, 24_000)])
def test_a_tone_stays_the_same_tone(from_rate: int, to_rate: int) -> None:
    resampler = Resampler(from_rate, to_rate)
    heard = np.concatenate([resampler.push(tone(from_rate, 1)), resampler.flush()])
    middle = slice(to_rate // 4, 3 * to_rate // 4)  # the ends ring
    assert np.abs(heard[middle] - tone(to_rate, 1)[middle]).max() < 1e-3


def test_a_flushed_resampler_begins_anew() -> None:
    resampler = Resampler(24_000, 16_000)
    first = np.concatenate([resampler.push(tone(24_000, 0.2)), resampler.flush()])
    second = np.concatenate([resampler.push(tone(24_000, 0.2)), resampler.flush()])
    assert np.array_equal(first, second)


pieces_of_sound = st.lists(st.integers(0, 700), max_size=20)


def numbered(lengths: list[int]) -> list[Samples]:
    """Pieces of these lengths whose samples count up from 0, so that each is recognisable."""
    return np.split(np.arange(sum(lengths), dtype=np.float32), np.cumsum(lengths)[:-1].tolist())


@given(pieces_of_sound, st.integers(1, 600))
def test_windows_lose_and_repeat_nothing(lengths: list[int], size: int) -> None:
    windows = Windows(size)
    found = [window for piece in numbered(lengths) for window in windows.push(piece)]
    assert all(len(window) == size for window in found)
    rest = windows.take_rest()
    assert len(rest) < size
    assert np.concatenate([*found, rest]).tolist() == list(range(sum(lengths)))
    assert len(windows.take_rest()) == 0


@given(pieces_of_sound, st.integers(0, 900), st.integers(0, 2000))
def test_recent_sound_is_the_end_of_all_sound(
    lengths: list[int], capacity: int, count: int
) -> None:
    recent = Recent(capacity)
    for piece in numbered(lengths):
        recent.push(piece)
    everything = list(range(sum(lengths)))
    assert len(recent) >= min(capacity, len(everything))
    assert len(recent) < capacity + 701, "what is older than the capacity goes, piece by piece"
    kept = recent.last(count).tolist()
    assert kept == everything[max(0, len(everything) - min(count, len(recent))) :]
    recent.clear()
    assert len(recent) == len(recent.last(10)) == 0
