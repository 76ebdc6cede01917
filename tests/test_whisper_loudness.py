"""Quiet places in a sound."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.speech import say, silence
from voicepool.engines.base import INPUT_RATE, Samples
from voicepool.engines.faster_whisper import loudness


def noise(seconds: float, level: float = 0.1) -> Samples:
    rng = np.random.default_rng(round(seconds * 1000))
    return (rng.standard_normal(round(seconds * INPUT_RATE)) * level).astype(np.float32)


def test_the_quietest_place_is_found_within_its_bounds() -> None:
    sound = np.concatenate([silence(1), noise(3), noise(0.2, 0.01), noise(3), silence(1)])
    place = loudness.quietest(sound, 2 * INPUT_RATE, 6 * INPUT_RATE)
    assert 4.0 < place / INPUT_RATE < 4.2


def test_of_equally_quiet_places_the_latest_is_taken() -> None:
    sound = np.concatenate([noise(1), silence(0.5), noise(1), silence(0.5), noise(1)])
    assert 2.5 < loudness.quietest(sound, 0, len(sound)) / INPUT_RATE < 3.0


@given(st.integers(0, 5000), st.integers(1600, 9000), st.integers(0, 3))
def test_the_place_is_always_between_the_bounds(begin: int, length: int, seed: int) -> None:
    sound = np.random.default_rng(seed).standard_normal(begin + length + 100).astype(np.float32)
    assert begin <= loudness.quietest(sound, begin, begin + length) <= begin + length


def test_a_pause_after_words_is_noticed_and_words_are_none() -> None:
    words = say("this is a longer sentence without a pause")
    assert loudness.has_fallen_quiet(np.concatenate([words, noise(0.12, 0.001)]))
    assert not loudness.has_fallen_quiet(words[: INPUT_RATE + 4000])
    assert not loudness.has_fallen_quiet(noise(2))


@pytest.mark.parametrize("length", [0, 1, 319, 1599])
def test_less_than_a_tenth_of_a_second_is_no_pause(length: int) -> None:
    assert not loudness.has_fallen_quiet(np.zeros(length, np.float32))
