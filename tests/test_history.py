"""voicepool.history: order, identity, and what the model is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicepool.engines.base import Message, ToolCall
from voicepool.errors import DuplicateItem, UnknownItem
from voicepool.history import LONGEST, Entry, History


def entry(item_id: str, role: str = "user", content: str = "x") -> Entry:
    return Entry(item_id, Message(role, content))  # type: ignore[arg-type]


def test_entries_have_their_place() -> None:
    history = History()
    assert History().last_id is None
    assert history.append(entry("a")) is None
    assert history.append(entry("c")) == "a"
    assert history.insert(entry("b"), "a") == "a"
    assert history.insert(entry("first"), "root") is None
    assert history.ids == ["first", "a", "b", "c"]
    assert history.last_id == "c"
    assert "b" in history
    assert "d" not in history
    history.delete("b")
    assert history.ids == ["first", "a", "c"]


def test_errors_change_nothing() -> None:
    history = History()
    history.append(entry("a"))
    with pytest.raises(DuplicateItem) as duplicate:
        history.append(entry("a"))
    assert duplicate.value.item_id == "a"
    for wrong in (
        lambda: history.insert(entry("b"), "nowhere"),
        lambda: history.delete("nowhere"),
        lambda: history.truncate("nowhere", 0),
        lambda: history.find("nowhere"),
    ):
        with pytest.raises(UnknownItem) as unknown:
            wrong()
        assert unknown.value.item_id == "nowhere"
    assert history.ids == ["a"]


def test_the_oldest_entries_go() -> None:
    history = History()
    for number in range(LONGEST + 5):
        history.append(entry(str(number)))
    assert len(history) == LONGEST
    assert history.ids[0] == "5"


def test_what_is_pending_or_unheard_is_not_told() -> None:
    history = History()
    turn = Entry("turn", Message("user", ""), pending=True)
    history.append(turn)
    history.append(entry("unheard", "assistant", ""))
    history.append(entry("nothing understood", "user", ""))
    assert history.messages() == [Message("user", "")]
    history.settle(turn, Message("user", "hello"))
    assert history.messages() == [Message("user", "hello"), Message("user", "")]


def test_a_message_and_the_calls_after_it_are_one_to_the_model() -> None:
    one, two = ToolCall("1", "look", "{}"), ToolCall("2", "go", "{}")
    history = History()
    for number, message in enumerate(
        (
            Message("assistant", "Let me see."),
            Message("assistant", "", (one,)),
            Message("assistant", "", (two,)),
            Message("tool", "seen", tool_call_id="1"),
            Message("assistant", "", (two,)),
            Message("assistant", "There."),
        )
    ):
        history.append(Entry(str(number), message))
    assert history.messages() == [
        Message("assistant", "Let me see.", (one, two)),
        Message("tool", "seen", tool_call_id="1"),
        Message("assistant", "", (two,)),
        Message("assistant", "There."),
    ]
    assert history.find("0").message == Message("assistant", "Let me see."), "entries stay apart"


operations = st.lists(
    st.tuples(st.sampled_from(["append", "insert", "delete"]), st.integers(0, 7), st.integers(0, 8))
)


@given(operations)
def test_it_is_a_list_without_duplicates(steps: list[tuple[str, int, int]]) -> None:
    history, model = History(), list[str]()
    for step, name, place in steps:
        item_id, after = str(name), "root" if place == 8 else str(place)
        try:
            if step == "append":
                assert history.append(entry(item_id)) == (model[-1] if model else None)
                model.append(item_id)
            elif step == "insert":
                previous = history.insert(entry(item_id), after)
                index = 0 if after == "root" else model.index(after) + 1
                assert previous == (model[index - 1] if index else None)
                model.insert(index, item_id)
            else:
                history.delete(item_id)
                model.remove(item_id)
        except DuplicateItem:
            assert item_id in model
        except UnknownItem:
            assert item_id not in model or after not in model
        assert history.ids == model
        assert len(history) == len(model)
