"""voicepool.patience: the closing silence, by how finished a turn sounds."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicepool.patience import EAGERNESS, Patience, paced

shares = st.floats(0, 1)
patiences = st.lists(st.integers(1, 20_000), min_size=3, max_size=3).map(
    lambda times: Patience(*sorted(times))
)


def test_the_points_of_the_curve() -> None:
    patience = Patience(300, 700, 4000)
    assert patience.silence_ms(1.0) == 300
    assert patience.silence_ms(0.5) == patience.silence_ms(None) == 700
    assert patience.silence_ms(0.0) == 4000


@given(patiences, shares, shares)
def test_never_longer_for_what_is_more_finished(patience: Patience, a: float, b: float) -> None:
    less, more = sorted((a, b))
    assert patience.silence_ms(more) <= patience.silence_ms(less)
    assert patience.finished_ms <= patience.silence_ms(a) <= patience.longest_ms


@pytest.mark.parametrize("wrong", [(0, 1, 2), (300, 200, 400), (300, 400, 350), (-1, 2, 3)])
def test_a_patience_that_shrinks_is_refused(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="longer"):
        Patience(*wrong)


def test_eagerness_has_the_documented_longest_waits() -> None:
    longest = {name: patience.longest_ms for name, patience in EAGERNESS.items()}
    assert longest == {"low": 8000, "medium": 4000, "high": 2000, "auto": 4000}
    assert EAGERNESS["auto"] == EAGERNESS["medium"]


@given(st.one_of(shares, st.none()))
def test_the_more_eager_never_waits_longer(completeness: float | None) -> None:
    low, medium, high = (
        EAGERNESS["low"].silence_ms(completeness),
        EAGERNESS["medium"].silence_ms(completeness),
        EAGERNESS["high"].silence_ms(completeness),
    )
    assert high < medium < low


def test_a_finished_sentence_waits_less_than_a_fixed_silence_would() -> None:
    assert max(patience.finished_ms for patience in EAGERNESS.values()) < 500


@given(st.one_of(shares, st.none()))
def test_a_slower_pace_waits_longer(completeness: float | None) -> None:
    waits = [paced(step / 100).silence_ms(completeness) for step in range(0, 101, 10)]
    assert all(one < two for one, two in itertools.pairwise(waits))


def test_a_pace_beyond_its_ends_is_its_end() -> None:
    assert paced(-3) == paced(0)
    assert paced(7) == paced(1)
