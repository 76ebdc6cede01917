"""Conversations cut to a model's context."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicepool.engines.base import Message, Tool, ToolCall
from voicepool.engines.chat.context import STEPS, TokenEstimate, fitted, trim

TOOL = Tool("look_up", "Looks something up.")


def count(item: Message | Tool) -> float:
    """A token per character and ten per message, so that costs are plain to see."""
    return 10 + (len(item.content) if isinstance(item, Message) else 5)


def cost(messages: Sequence[Message]) -> float:
    return sum(map(count, messages))


def is_within(part: Sequence[Message], whole: Sequence[Message]) -> bool:
    rest = iter(whole)
    return all(any(message is other for other in rest) for message in part)


@st.composite
def conversations(draw: st.DrawFn) -> list[Message]:
    """System messages, then turns, replies, calls and results, also where they do not belong."""
    head = [Message("system", "Be kind.")] * draw(st.integers(0, 2))
    body: list[Message] = []
    called: list[str] = []
    for number in range(draw(st.integers(0, 14))):
        text = "x" * draw(st.integers(0, 40))
        match draw(st.sampled_from(["user", "user", "assistant", "call", "result", "system"])):
            case "user":
                body.append(Message("user", text))
            case "assistant":
                body.append(Message("assistant", text))
            case "call":
                call = ToolCall(f"id{number}", "look_up", "{}")
                called.append(call.call_id)
                body.append(Message("assistant", "", tool_calls=(call,)))
            case "result":
                name = draw(st.sampled_from([*called, "unknown"]))
                body.append(Message("tool", text, tool_call_id=name))
            case "system" if body:
                body.append(Message("system", text))
    return head + body


def untouchable(messages: Sequence[Message]) -> list[Message]:
    """The head, and the caller's last turn with all that follows it."""
    head = [m for i, m in enumerate(messages) if all(n.role == "system" for n in messages[: i + 1])]
    turns = [i for i, m in enumerate(messages) if m.role == "user"]
    return head + list(messages[turns[-1] :] if turns else [])


@given(conversations(), st.integers(1, 400), st.integers(0, 100))
def test_a_cut_conversation_makes_sense(messages: list[Message], limit: int, kept: int) -> None:
    result = trim(messages, [TOOL], limit, kept, count)
    assert is_within(result, messages)
    called: set[str] = set()
    for message in result:
        called.update(call.call_id for call in message.tool_calls)
        assert message.role != "tool" or message.tool_call_id in called
    known = {c.call_id for m in messages for c in m.tool_calls}
    for message in untouchable(messages):
        if message.role != "tool" or message.tool_call_id in known:
            called_before = message.role != "tool" or any(
                message.tool_call_id in {c.call_id for c in m.tool_calls}
                for m in messages[: messages.index(message)]
            )
            assert not called_before or message in result


@given(conversations(), st.integers(1, 400))
def test_it_fits_or_nothing_more_may_go(messages: list[Message], limit: int) -> None:
    result = trim(messages, [TOOL], limit, 0, count)
    if cost(result) + count(TOOL) > limit:
        assert result == trim(messages, [TOOL], 1, 0, count)


@given(conversations())
def test_what_fits_stays(messages: list[Message]) -> None:
    room = int(cost(messages) + count(TOOL)) + 1
    result = trim(messages, [TOOL], room, 0, count)
    gone = [m for m in messages if not any(m is kept for kept in result)]
    assert all(message.role == "tool" for message in gone)


def test_whole_exchanges_go_oldest_first() -> None:
    exchanges = [[Message("user", f"q{i}"), Message("assistant", "a" * 78)] for i in range(10)]
    head = Message("system", "s" * 10)
    flat = [message for exchange in exchanges for message in exchange]
    result = trim([head, *flat], [], 560, 40, count)
    # Each exchange costs 100, the head 20: five fit, and steps are of 140.
    assert result == [head, *flat[12:]]


def test_the_beginning_stays_the_same_for_many_turns() -> None:
    limit, beginnings = 1000, set()
    messages: list[Message] = []
    for turn in range(60):
        messages += [Message("user", f"question {turn:03}"), Message("assistant", "a" * 29)]
        result = trim(messages, [], limit, 0, count)
        assert cost(result) <= limit
        assert cost(result) >= min(cost(messages), limit - limit / STEPS - 61)
        beginnings.add(result[0].content)
    assert len(beginnings) <= 60 * 61 / (limit / STEPS)


def test_a_result_in_the_last_turn_keeps_its_call() -> None:
    call = ToolCall("c", "look_up", "{}")
    messages = [
        Message("user", "a" * 100),
        Message("user", "look it up"),
        Message("assistant", "", tool_calls=(call,)),
        Message("user", "are you there"),
        Message("tool", "42", tool_call_id="c"),
    ]
    assert trim(
        [Message("user", "old"), Message("assistant", "x"), *messages], [], 1, 0, count
    ) == (messages)


def test_the_reply_has_room_but_not_more_than_half() -> None:
    messages = [Message("user", "q"), Message("assistant", "a" * 189), Message("user", "last")]
    assert len(fitted(messages, [], 1000, 512, count)) == 3
    assert len(fitted(messages, [], 700, None, count)) == 3
    assert len(fitted(messages, [], 400, None, count)) == 1
    assert len(fitted(messages, [], 400, 10, count)) == 3


# --- what it costs


@pytest.mark.parametrize(
    ("letters", "most_per_token"),
    [("The quick brown fox jumps over the lazy dog. ", 4), ("Съешь же ещё ", 2), ("你好天气", 1)],
)
def test_letters_outside_latin_cost_more(letters: str, most_per_token: float) -> None:
    text = letters * 20
    assert TokenEstimate()(Message("user", text)) >= len(text) / most_per_token


def test_calls_and_tools_cost_too() -> None:
    estimate = TokenEstimate()
    bare = Message("assistant", "")
    call = Message("assistant", "", tool_calls=(ToolCall("c", "look_up", '{"word": "fjord"}'),))
    assert estimate(call) > estimate(bare)
    assert estimate(Tool("f", "d", {"type": "object"})) > estimate(Tool("f", "d"))


def test_it_believes_the_server() -> None:
    estimate = TokenEstimate()
    message = Message("user", "x" * 300)
    first = estimate(message)
    estimate.observe([message], int(first * 2))
    assert estimate(message) == pytest.approx(first * 2.1, rel=0.02)  # at once, and a margin
    higher = estimate(message)
    estimate.observe([message], int(first))
    assert first < estimate(message) < higher  # less by and by
    for _ in range(20):
        estimate.observe([message], int(first))
    assert estimate(message) == pytest.approx(first * 1.05, rel=0.02)


@given(st.lists(st.integers(-5, 10**9), max_size=10))
def test_no_server_makes_it_absurd(counts: list[int]) -> None:
    estimate = TokenEstimate()
    message = Message("user", "x" * 300)
    first = estimate(message)
    for tokens in counts:
        estimate.observe([message], tokens)
        estimate.observe([], tokens)
    assert first / 2 <= estimate(message) <= first * 3
