"""The token bucket."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from voicepool.allowance import Allowance


def test_so_much_at_once_and_then_so_much_a_second() -> None:
    allowance = Allowance(3, 2.0)
    assert [allowance.take(100.0) for _ in range(4)] == [True, True, True, False]
    assert not allowance.take(100.25)
    assert allowance.take(100.5)
    assert not allowance.take(100.5)
    assert [allowance.take(200.0) for _ in range(4)] == [True, True, True, False]


@given(st.lists(st.floats(0.0, 1e6)))
def test_no_time_gives_more_than_its_share(times: list[float]) -> None:
    allowance = Allowance(5, 0.5)
    taken = [now for now in sorted(times) if allowance.take(now)]
    for first, start in enumerate(taken):
        for count, end in enumerate(taken[first:], 1):
            assert count <= 5 + 0.5 * (end - start) + 1e-3
