"""The conversation as the client knows it: order, bounds, and prompts made of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicepool.engines.base import Message
from voicepool.wire.realtime import items
from voicepool.wire.realtime.client import ItemParam, Part
from voicepool.wire.realtime.conversation import Conversation
from voicepool.wire.realtime.errors import WireError


def add(conversation: Conversation, item_id: str, after: str | None = None) -> str | None:
    return conversation.add(items.user_audio(item_id), Message("user", ""), after)


def order(conversation: Conversation) -> list[str]:
    """Read through what `add` says: each new last item names the one before it."""
    found: list[str] = []
    while len(conversation):
        probe = add(conversation, "probe")
        conversation.remove("probe")
        assert probe is not None
        found.insert(0, probe)
        conversation.remove(probe)
    return found


def test_places() -> None:
    conversation = Conversation()
    assert add(conversation, "b") is None
    assert add(conversation, "a", "root") is None
    assert add(conversation, "c", "b") == "b"
    assert add(conversation, "ab", "a") == "a"
    assert add(conversation, "d", "never seen") == "c"
    assert order(conversation) == ["a", "ab", "b", "c", "d"]


@given(st.lists(st.tuples(st.integers(0, 30), st.none() | st.integers(0, 30)), max_size=60))
def test_order_is_that_of_a_list(places: list[tuple[int, int | None]]) -> None:
    conversation, model = Conversation(), list[str]()
    for number, after in places:
        if str(number) in model:
            model.remove(str(number))
            conversation.remove(str(number))
            continue
        place = model.index(str(after)) + 1 if str(after) in model else len(model)
        previous = add(conversation, str(number), None if after is None else str(after))
        assert previous == (model[place - 1] if place else None)
        model.insert(place, str(number))
    assert order(conversation) == model


def test_the_oldest_go_when_there_are_too_many() -> None:
    conversation = Conversation(max_items=3)
    for item_id in "abcde":
        add(conversation, item_id)
    assert conversation.overflow() == ["a", "b"]


def test_the_oldest_go_when_they_are_too_large_but_the_newest_stays() -> None:
    conversation = Conversation(max_bytes=1_000)
    for item_id in "abc":
        add(conversation, item_id)
    assert conversation.overflow() == []
    entry = conversation.get("c")
    assert entry is not None
    entry.message = Message("user", "x" * 2_000)
    conversation.resize(entry)
    assert conversation.overflow() == ["a", "b"]
    conversation.remove("c")
    assert conversation.overflow() == []


def ids(prefix: str) -> str:
    return f"{prefix}_new"


def test_a_transcript_of_the_client_stands_for_its_audio() -> None:
    part = Part("input_audio", audio="AAAA", transcript="hello")
    written = items.read_item(ItemParam(role="user", content=[part]), ids)
    assert written.audio == ""
    assert written.message == Message("user", "hello")
    assert written.item["content"] == [{"type": "input_audio", "transcript": "hello"}]


def test_sound_beside_a_text_is_none_of_its_business() -> None:
    written = items.read_item(
        ItemParam(role="user", content=[Part("input_text", "x", "AA==")]), ids
    )
    assert (written.message, written.audio) == (Message("user", "x"), "")


@pytest.mark.parametrize(
    "param",
    [
        ItemParam(role="user", content=[Part("input_audio")]),
        ItemParam(role="user", content=[Part("input_audio", audio="AA=="), Part("text", "x")]),
        ItemParam(role="assistant", content=[Part("output_audio", audio="AA==")]),
        ItemParam(role="system", content=[Part("input_audio", transcript="x")]),
        ItemParam(role="tool", content=[]),
        ItemParam(type="function_call"),
        ItemParam(type="function_call_output", output="x"),
        ItemParam(type="item_reference", id="x"),
        ItemParam(role="user", content=[Part("input_text", "\x01" * 200_000)]),
    ],
)
def test_items_that_are_refused(param: ItemParam) -> None:
    with pytest.raises(WireError):
        items.read_item(param, ids)
