"""voicepool.wire.rvc.rates: the page's rate, from the times of its blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rvc import BLOCK
from voicepool.wire.rvc.rates import (
    ASSUMED_RATE,
    COMMON_RATES,
    LONGEST_MS,
    MOST_BLOCKS,
    RateMeter,
)

WRAP = 1 << 32
USUAL = st.sampled_from([44_100, 48_000])


def times(rate: int, seconds: float, start: int = 0) -> list[int]:
    """When the page's clock shows that a block is full, for every block of that time."""
    count = int(seconds * rate / BLOCK)
    return [start + int(number * BLOCK * 1000 / rate) for number in range(1, count + 1)]


def metered(sent: list[int], meter: RateMeter | None = None) -> RateMeter:
    meter = meter or RateMeter()
    for moment in sent:
        meter.hear(moment % WRAP, BLOCK)
    return meter


@pytest.mark.parametrize("rate", COMMON_RATES)
def test_every_common_rate_is_known_within_two_seconds(rate: int) -> None:
    meter = metered(times(rate, 2.4))
    assert meter.known
    assert meter.rate == rate


def test_before_it_is_known_the_usual_rate_is_assumed() -> None:
    meter = metered(times(44_100, 1.2))
    assert not meter.known
    assert meter.rate == ASSUMED_RATE == 48_000


@settings(deadline=None, max_examples=50)
@given(USUAL, st.integers(0, 3_000))
def test_a_clock_that_wraps_does_not_matter(rate: int, before: int) -> None:
    meter = metered(times(rate, 2.5, start=WRAP - before))
    assert (meter.known, meter.rate) == (True, rate)


@settings(deadline=None, max_examples=50)
@given(USUAL, st.integers(0, 2**32 - 1), st.integers(0, 10_000))
def test_jitter_of_a_busy_page_does_not_matter(rate: int, start: int, seed: int) -> None:
    """Most blocks are up to 20 ms late, one in ten up to 150 ms; none overtakes another."""
    rng = np.random.default_rng(seed)
    sent = np.array(times(rate, 4.0, start))
    late = rng.uniform(0, 20, len(sent)) + (rng.random(len(sent)) < 0.1) * rng.uniform(0, 150)
    meter = metered([int(each) for each in np.maximum.accumulate(sent + late)])
    assert (meter.known, meter.rate) == (True, rate)


@settings(deadline=None, max_examples=50)
@given(USUAL, st.floats(0, 1000))
def test_a_page_in_the_background_that_sends_once_a_second(rate: int, phase: float) -> None:
    sent = [int(-(-(each - phase) // 1000) * 1000 + phase) for each in times(rate, 10.0)]
    meter = metered(sent)
    assert (meter.known, meter.rate) == (True, rate)


@settings(deadline=None, max_examples=50)
@given(USUAL, st.integers(0, 90), st.integers(20, 1_900))
def test_a_gap_in_the_sound_does_not_matter_for_long(rate: int, at: int, gap: int) -> None:
    """The sound card hiccups: time passes and no sound comes."""
    sent = [each + (gap if number >= at else 0) for number, each in enumerate(times(rate, 8.0))]
    meter = metered(sent)
    assert (meter.known, meter.rate) == (True, rate)


@settings(deadline=None, max_examples=50)
@given(USUAL, st.integers(0, 60), st.integers(-100_000, 100_000))
def test_a_clock_that_is_set_does_not_matter_for_long(rate: int, at: int, step: int) -> None:
    sent = [
        10**6 + each + (step if number >= at else 0)
        for number, each in enumerate(times(rate, 14.0))
    ]
    meter = metered(sent)
    assert (meter.known, meter.rate) == (True, rate)


def test_one_odd_finding_changes_nothing_and_two_in_a_row_do() -> None:
    meter = metered(times(48_000, 2.0))
    elsewhere = times(44_100, 1.7, start=5_000_000)
    metered(elsewhere, meter)
    assert meter.rate == 48_000
    metered(times(48_000, 1.7, start=9_000_000), meter)
    metered(elsewhere, meter)
    assert meter.rate == 48_000
    metered(times(44_100, 1.7, start=7_000_000), meter)
    assert meter.rate == 44_100


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, WRAP - 1), st.integers(1, 131_072)), max_size=60))
def test_any_clock_leaves_a_common_rate(heard: list[tuple[int, int]]) -> None:
    meter = RateMeter()
    for milliseconds, samples in heard:
        meter.hear(milliseconds, samples)
        assert meter.rate in COMMON_RATES


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 40), st.integers(1, 64))
def test_what_is_kept_is_bounded(step: int, samples: int) -> None:
    """Tiny blocks, at a pace that makes no sense, for long."""
    meter = RateMeter()
    for number in range(2 * MOST_BLOCKS):
        meter.hear(number * step % WRAP, samples)
        assert len(meter._times) <= MOST_BLOCKS + 1
        assert not meter._times or meter._times[-1] <= LONGEST_MS + 2_000
