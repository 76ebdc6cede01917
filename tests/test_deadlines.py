from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from voicepool.deadlines import Deadlines

steps = st.lists(
    st.tuples(
        st.sampled_from(["set", "set", "clear", "pop"]),
        st.integers(0, 5),
        st.integers(0, 30).map(float),
    ),
    max_size=60,
)


@given(steps)
def test_it_behaves_like_a_dict_that_is_searched(steps: list[tuple[str, int, float]]) -> None:
    deadlines: Deadlines[int] = Deadlines()
    model: dict[int, float] = {}
    for step, key, at in steps:
        match step:
            case "set":
                deadlines.set(key, at)
                model[key] = at
            case "clear":
                deadlines.clear(key)
                model.pop(key, None)
            case _:
                due = list(deadlines.pop_due(at))
                assert [model[key] for key in due] == sorted(t for t in model.values() if t <= at)
                assert len(set(due)) == len(due)
                model = {key: t for key, t in model.items() if t > at}
        assert deadlines.next == min(model.values(), default=None)
        assert len(deadlines) == len(model)
        assert all(deadlines.get(key) == model.get(key) for key in range(6))


def test_what_is_set_or_cleared_while_others_are_popped_counts() -> None:
    deadlines: Deadlines[str] = Deadlines()
    deadlines.set("first", 1.0)
    deadlines.set("cleared", 2.0)
    popped = []
    for key in deadlines.pop_due(5.0):
        popped.append(key)
        if key == "first":
            deadlines.clear("cleared")
            deadlines.set("added", 4.0)
            deadlines.set("too late", 6.0)
    assert popped == ["first", "added"]
    assert deadlines.next == 6.0


def test_the_heap_stays_small_whatever_is_set_and_cleared() -> None:
    deadlines: Deadlines[int] = Deadlines()
    for key in range(10):
        deadlines.set(key, 1e9)
    for step in range(5_000):
        deadlines.set(step % 10, 1e9 - step)  # ever earlier: each leaves a dead entry
        deadlines.set(100 + step, 1e6)
        deadlines.clear(100 + step)
        deadlines.set(3, 2e9 + step)  # ever later: leaves none
        assert len(deadlines._heap) <= 2 * len(deadlines) + 64
    assert len(deadlines) == 10
