"""G.711 against Python's own implementation, and its error against what is promised."""

from __future__ import annotations

import warnings
from types import ModuleType

import numpy as np
import pytest

from voicepool import g711
from voicepool.audio import from_pcm16, to_pcm16
from voicepool.g711 import Law

ALL_CODES = bytes(range(256))
ALL_SAMPLES = np.arange(-32_768, 32_768).astype("<i2")
LAWS = pytest.mark.parametrize("law", list(Law))


def reference() -> ModuleType:
    with warnings.catch_warnings():  # it leaves the library in Python 3.13
        warnings.simplefilter("ignore", DeprecationWarning)
        import audioop
    return audioop


def test_every_code_means_what_it_means_elsewhere() -> None:
    mu, a = reference().ulaw2lin(ALL_CODES, 2), reference().alaw2lin(ALL_CODES, 2)
    assert to_pcm16(g711.decode(ALL_CODES, Law.MU)) == mu
    assert to_pcm16(g711.decode(ALL_CODES, Law.A)) == a


def test_every_sample_has_the_code_that_it_has_elsewhere() -> None:
    pcm = ALL_SAMPLES.tobytes()
    assert g711.encode(from_pcm16(pcm), Law.MU) == reference().lin2ulaw(pcm, 2)
    assert g711.encode(from_pcm16(pcm), Law.A) == reference().lin2alaw(pcm, 2)


@LAWS
def test_every_code_comes_back(law: Law) -> None:
    again = g711.encode(g711.decode(ALL_CODES, law), law)
    # mu-law has two zeros; the negative one comes back as the other.
    assert again == (ALL_CODES.replace(b"\x7f", b"\xff") if law is Law.MU else ALL_CODES)


@LAWS
def test_the_error_is_within_what_is_promised(law: Law) -> None:
    samples = from_pcm16(ALL_SAMPLES.tobytes())
    error = np.abs(g711.decode(g711.encode(samples, law), law) - samples)
    assert (error <= np.abs(samples) / 32 + 1 / 4_096).all()


@LAWS
def test_what_is_no_sound_is_loud_at_most(law: Law) -> None:
    broken = np.array([np.inf, -np.inf, 7.5, -7.5, np.nan, 0.0], np.float32)
    coded = g711.decode(g711.encode(broken, law), law)
    assert np.abs(coded).max() < 1.0
    assert coded[0] == coded[2] == -coded[1] == -coded[3] > 0.97
    assert coded[4] == coded[5]
    assert g711.encode(broken[:0], law) == b""
