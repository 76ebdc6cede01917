"""Sound in and out of events: base64 of each format, whole samples, and no clicks."""

from __future__ import annotations

import base64
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voicepool import g711
from voicepool.audio import Resampler
from voicepool.engines.base import Samples
from voicepool.wire.realtime import patch
from voicepool.wire.realtime.audio import A_LAW, MAX_AUDIO_BYTES, MU_LAW, PCM, EncodedClip, Format
from voicepool.wire.realtime.errors import WireError

FORMATS = [PCM, MU_LAW, A_LAW, *(Format(rate) for rate in (8_000, 16_000, 48_000))]
EVERY = pytest.mark.parametrize("format", FORMATS, ids=lambda each: f"{each.law}-{each.rate}")


def clip(sound: bytes | str, format: Format = PCM) -> EncodedClip:
    encoded = sound if isinstance(sound, str) else base64.b64encode(sound).decode()
    return EncodedClip(encoded, format, "audio")


def heard(sound: bytes | str, format: Format = PCM) -> Samples:
    given = clip(sound, format)
    given.check()
    return np.concatenate([np.zeros(0, np.float32), *given.pieces()])


# --- in --------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("size", [0, 2, 4, 6, 1_598, 9_598, 9_600, 9_602, 100_000])
def test_sound_comes_through_in_slices_of_whole_samples(size: int, format: Format) -> None:
    sound = bytes(n % 251 for n in range(size))
    pieces = list(clip(sound, format).pieces())
    assert all(len(piece) <= format.longest for piece in pieces)
    np.testing.assert_array_equal(heard(sound, format), format.decode(sound))
    assert len(heard(sound, format)) * format.width == size


@pytest.mark.parametrize(
    "encoded",
    ["AAA", "AA=AAAAA", "====AAAA", "AAAAAAA\n", "AAAA AAA", "AA==AAAA", "AAAAAAAé", "_-AAAAAA"],
)
def test_no_base64(encoded: str) -> None:
    with pytest.raises(WireError, match="base64"):
        heard(encoded)


@EVERY
def test_padding_inside_a_long_sound_is_no_base64(format: Format) -> None:
    slice_chars = format.longest * format.width // 6 * 8
    with pytest.raises(WireError, match="base64"):
        heard("A" * (slice_chars - 4) + "AAA=" + "AAAAAAAA", format)


@pytest.mark.parametrize("size", [1, 3, 4_801])
def test_half_a_sample(size: int) -> None:
    with pytest.raises(WireError, match="even number"):
        heard(bytes(size))
    assert len(heard(bytes(size), MU_LAW)) == size


@EVERY
def test_too_much_sound(format: Format) -> None:
    with pytest.raises(WireError, match="at most"):
        clip("A" * (MAX_AUDIO_BYTES // 3 * 4 + 4), format).check()


# --- out -------------------------------------------------------------------------------------


@EVERY
def test_deltas_are_whole_samples_of_at_most_200_ms(format: Format) -> None:
    ramp = np.linspace(-1, 1, format.rate + 1, dtype=np.float32)
    deltas = [base64.b64decode(delta) for delta in format.deltas(ramp)]
    assert [len(delta) // format.width for delta in deltas] == [format.rate // 5] * 5 + [1]
    assert b"".join(deltas) == format.encode(ramp)


@EVERY
def test_what_goes_out_comes_back_within_its_error(format: Format) -> None:
    ramp = np.linspace(-1, 1, 5_001, dtype=np.float32)[:-1]
    again = np.concatenate([heard(delta, format) for delta in format.deltas(ramp)])
    bound = 1 / 32_768 if format.law is None else np.abs(ramp) / 32 + 1 / 4_096
    assert (np.abs(again - ramp) <= bound).all()


HERTZ, SECONDS = 440.0, 0.7


@EVERY
@pytest.mark.parametrize("rate", [16_000, 22_050, 24_000])
@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(0, 15_400), max_size=12))
def test_chunks_join_without_a_click(format: Format, rate: int, cuts: list[int]) -> None:
    """A tone in chunks of any length, as a session sends it: nowhere steeper than the tone."""
    time = np.arange(int(rate * SECONDS)) / rate
    loudness = 0.5 * np.clip(np.minimum(time, time[-1] - time) / 0.05, 0, 1)
    tone = loudness * np.sin(2 * np.pi * HERTZ * time)
    borders = sorted({0, len(tone), *(min(cut, len(tone)) for cut in cuts)})
    voice = Resampler(rate, format.rate)
    pieces = [voice.push(tone[a:b].astype(np.float32)) for a, b in pairwise(borders)]
    deltas = [delta for piece in (*pieces, voice.flush()) for delta in format.deltas(piece)]
    played = np.concatenate([heard(delta, format) for delta in deltas])
    tail = abs(len(played) - len(tone) * format.rate / rate)
    assert tail <= 1, "the resampler's tail is part of the sound"
    steepest = 0.5 * 2 * np.pi * HERTZ / format.rate
    quantised = 1 / 16_384 if format.law is None else 2 * (0.5 / 32 + 1 / 4_096)
    assert np.abs(np.diff(played)).max() <= 1.02 * steepest + quantised


@EVERY
@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(0, 9_000), max_size=12))
def test_any_split_of_the_input_is_heard_the_same(format: Format, cuts: list[int]) -> None:
    sound = np.random.default_rng(3).integers(0, 256, 9_000, np.uint8).tobytes()
    borders = sorted({0, len(sound), *(cut - cut % format.width for cut in cuts)})
    ear, whole = Resampler(format.rate, 16_000), Resampler(format.rate, 16_000)
    split = [ear.push(heard(sound[a:b], format)) for a, b in pairwise(borders)]
    at_once = [whole.push(heard(sound, format)), whole.flush()]
    np.testing.assert_allclose(
        np.concatenate([*split, ear.flush()]), np.concatenate(at_once), atol=1e-6
    )


# --- what is asked for and shown -------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "format", "shown"),
    [
        (None, PCM, {"type": "audio/pcm", "rate": 24_000}),
        (patch.Pcm(), PCM, {"type": "audio/pcm", "rate": 24_000}),
        (patch.Pcm(rate=48_000), Format(48_000), {"type": "audio/pcm", "rate": 48_000}),
        (patch.Pcmu(), Format(8_000, g711.Law.MU), {"type": "audio/pcmu"}),
        (patch.Pcma(), Format(8_000, g711.Law.A), {"type": "audio/pcma"}),
    ],
)
def test_formats(written: patch.Format | None, format: Format, shown: object) -> None:
    assert Format.of(written) == format
    assert format.shown == shown
