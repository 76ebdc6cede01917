"""How often partial transcripts are made."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicepool.engines.faster_whisper.pacing import Pace

costs = st.lists(st.floats(0.001, 5), min_size=1, max_size=30)


def test_the_first_one_may_come_at_any_time() -> None:
    assert Pace(0.5, 0.5).due(-1000.0)


def test_a_fast_device_is_held_to_the_shortest_interval() -> None:
    pace = Pace(0.5, 0.5)
    pace.spent(10.0, 10.01)
    assert not pace.due(10.49)
    assert pace.due(10.5)


def test_an_interval_is_twice_the_cost_at_half_a_core() -> None:
    pace = Pace(0.5, 0.5)
    pace.spent(0.0, 1.2)
    assert pace.interval == pytest.approx(2.4)


def test_a_machine_that_becomes_busy_is_relieved_at_once_and_then_trusted_slowly() -> None:
    pace = Pace(0.5, 0.1)
    pace.spent(0.0, 0.2)
    pace.spent(1.0, 3.0)
    assert pace.interval == pytest.approx(4.0)
    pace.spent(10.0, 10.2)
    assert 0.4 < pace.interval < 4.0


def test_none_are_made_without_a_share() -> None:
    assert not Pace(0.0, 0.5).due(1e12)


@given(costs, st.floats(0.05, 0.5))
def test_partials_made_as_soon_as_they_may_be_keep_to_their_share(
    lasting: list[float], share: float
) -> None:
    pace, now, busy = Pace(share, 0.1), 0.0, 0.0
    for cost in lasting:
        pace.spent(now, now + cost)
        busy += cost
        now += pace.interval
        assert pace.interval >= 0.999999 * cost / share
        assert pace.due(now + 1e-6)
        assert not pace.due(now - 0.001)
    assert busy <= share * now * 1.000001
