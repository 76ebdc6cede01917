"""Conversations as the chat completions API takes them, and replies as it streams them."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletionChunk

from voicepool.engines.base import (
    ChatDelta,
    ChatRequest,
    Finished,
    Message,
    TextDelta,
    Tool,
    ToolCall,
    ToolCallDelta,
)
from voicepool.engines.chat.bounds import LONGEST_NAME, MOST_CALLS
from voicepool.engines.openai_chat import wire
from voicepool.engines.openai_chat.calls import MOST_ARGUMENTS, Calls
from voicepool.engines.openai_chat.reply import Reply

ONE, TWO = ToolCall("1", "f", "{}"), ToolCall("2", "f", "{}")


# --- there


def roles(conversation: list[Message]) -> list[str]:
    return [
        message["role"] + "+" * len(message.get("tool_calls", ()))
        for message in wire.messages(conversation)
    ]


@pytest.mark.parametrize(
    ("conversation", "sent"),
    [
        (
            [Message("assistant", "", (ONE,)), Message("tool", "r", tool_call_id="1")],
            ["assistant+", "tool"],
        ),
        # The caller spoke before the tool answered.
        (
            [
                Message("assistant", "", (ONE,)),
                Message("user", "Well?"),
                Message("tool", "r", tool_call_id="1"),
            ],
            ["assistant+", "tool", "user"],
        ),
        # One of two tools has not answered.
        (
            [Message("assistant", "", (ONE, TWO)), Message("tool", "r", tool_call_id="2")],
            ["assistant+", "tool"],
        ),
        ([Message("assistant", "Wait.", (ONE,)), Message("user", "Well?")], ["assistant", "user"]),
        ([Message("assistant", "", (ONE,)), Message("user", "Well?")], ["user"]),
        ([Message("tool", "r", tool_call_id="1"), Message("user", "Well?")], ["user"]),
        ([Message("system", ""), Message("user", "")], ["system", "user"]),
    ],
)
def test_results_follow_their_calls(conversation: list[Message], sent: list[str]) -> None:
    assert roles(conversation) == sent


messages = st.lists(
    st.one_of(
        st.builds(Message, st.sampled_from(["user", "assistant", "system"]), st.just("text")),
        st.builds(
            lambda calls: Message("assistant", "", tuple(calls)),
            st.lists(st.sampled_from([ONE, TWO]), unique=True),
        ),
        st.builds(
            lambda call: Message("tool", "r", tool_call_id=call), st.sampled_from(["1", "2", "3"])
        ),
    ),
    max_size=10,
)


@given(messages)
def test_every_call_is_answered_at_once_and_every_answer_was_asked_for(
    conversation: list[Message],
) -> None:
    sent = wire.messages(conversation)
    open_calls: list[str] = []
    for message in sent:
        if message["role"] == "tool":
            assert message["tool_call_id"] == open_calls.pop(0)
        else:
            assert not open_calls
            open_calls = [call["id"] for call in message.get("tool_calls", ())]
    assert not open_calls


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [('{"a": 1}', '{"a": 1}'), ("{", "{}"), ("1", "{}"), ("[" * 100_000, "{}")],
)
def test_arguments_are_an_object(arguments: str, sent: str) -> None:
    call = Message("assistant", "", (ToolCall("1", "f", arguments),))
    told = wire.messages([call, Message("tool", "r", tool_call_id="1")])
    assert told[0]["tool_calls"][0]["function"]["arguments"] == sent


@pytest.mark.parametrize("choice", ["auto", "none", "required"])
def test_tools_are_sent_with_the_choice(choice: str) -> None:
    assert wire.tools(ChatRequest([], (), choice)) == {}
    sent = wire.tools(ChatRequest([], [Tool("f", "d")], choice))
    assert sent["tool_choice"] == choice
    assert sent["tools"][0]["function"]["parameters"] == {"type": "object", "properties": {}}


def test_a_choice_is_one_of_the_tools() -> None:
    tools = [Tool("f"), Tool("g")]
    chosen = {"type": "function", "function": {"name": "g"}}
    assert wire.tools(ChatRequest([], tools, "g"))["tool_choice"] == chosen
    assert wire.tools(ChatRequest([], tools, "gone"))["tool_choice"] == "auto"


# --- and back


def chunk(delta: dict[str, Any], finish: str | None = None, **fields: Any) -> ChatCompletionChunk:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    head = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return ChatCompletionChunk.model_validate({**head, "choices": [choice], **fields})


def read(*chunks: ChatCompletionChunk) -> list[ChatDelta]:
    reply = Reply(starts_thinking=False)
    deltas = [delta for chunk in chunks for delta in reply.feed(chunk)]
    return [*deltas, *reply.finish()]


def call_part(**part: Any) -> dict[str, Any]:
    return {"tool_calls": [{"index": 0, **part}]}


def test_text_that_is_held_back_comes_before_a_call() -> None:
    deltas = read(
        chunk({"content": "It is <"}),
        chunk(call_part(id="1", function={"name": "f", "arguments": "{}"})),
        chunk({}, "tool_calls"),
    )
    call = deltas[3]
    assert isinstance(call, ToolCall)
    assert deltas == [
        TextDelta("It is "),
        TextDelta("<"),
        ToolCallDelta(call.call_id, "f", "{}"),
        ToolCall(call.call_id, "f", "{}"),
        Finished("tool_calls"),
    ]


def test_a_call_makes_the_reason_whatever_the_server_says() -> None:
    part = call_part(id="1", function={"name": "f", "arguments": "{}"})
    assert read(chunk(part), chunk({}, "stop"))[-1] == Finished("tool_calls")


@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_a_call_that_breaks_off_is_none(reason: Literal["length", "content_filter"]) -> None:
    first = call_part(id="1", function={"name": "f", "arguments": "{}"})
    second = {"index": 1, "id": "2", "function": {"name": "g", "arguments": '{"room": "ki'}}
    deltas = read(chunk(first), chunk({"tool_calls": [second]}), chunk({}, reason))
    assert [delta.name for delta in deltas if isinstance(delta, ToolCall)] == ["f"]
    assert deltas[-1] == Finished(reason)


def test_usage_may_come_with_any_chunk() -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    assert read(chunk({"content": "a"}, "stop", usage=usage))[-1] == Finished("stop", 7, 3)


def test_a_reply_that_only_broke_off_is_not_over() -> None:
    reply = Reply(starts_thinking=False)
    list(reply.feed(chunk({"content": "a"})))
    assert not reply.over
    list(reply.feed(chunk({}, "stop")))
    assert reply.over


def test_calls_of_servers_that_give_all_the_same_index() -> None:
    calls = Calls()
    told = [*calls.add(0, "1", "f", "{}"), *calls.add(0, "2", "g", "{}"), *calls.finish()]
    made = [call for call in told if isinstance(call, ToolCall)]
    assert [(call.name, call.arguments) for call in made] == [("f", "{}"), ("g", "{}")]


@pytest.mark.parametrize("given", ["call_0", None, f"chatcmpl-tool-{'x' * 32}"])
def test_ids_are_unique_in_a_conversation_and_fit_into_a_clients(given: str | None) -> None:
    ids = set()
    for _ in range(3):  # replies, each with its first call
        calls = Calls()
        told = [*calls.add(0, given, "f", "{}"), *calls.finish()]
        assert len({delta.call_id for delta in told}) == 1
        ids.add(told[0].call_id)
    assert len(ids) == 3
    assert all(len(call_id) <= 32 for call_id in ids)


def test_calls_of_servers_that_give_no_ids() -> None:
    calls = Calls()
    told = [*calls.add(0, None, "f", "{}"), *calls.add(1, "", "g", None), *calls.finish()]
    ids = [call.call_id for call in told if isinstance(call, ToolCall)]
    assert len(set(ids)) == 2
    assert all(call_id.startswith("call_") for call_id in ids)
    assert told[-1] == ToolCall(ids[1], "g", "{}")


@given(st.text(min_size=1, max_size=30), st.data())
def test_arguments_are_the_same_in_any_pieces(text: str, data: st.DataObject) -> None:
    arguments = json.dumps({"a": text})
    at = data.draw(st.integers(0, len(arguments)))
    calls = Calls()
    told = [
        *calls.add(0, "1", "f", ""),
        *calls.add(0, None, None, arguments[:at]),
        *calls.add(0, "1", "f", arguments[at:]),
        *calls.finish(),
    ]
    assert told[-1] == ToolCall(told[0].call_id, "f", arguments)
    assert "".join(delta.arguments for delta in told[:-1]) == arguments


def test_calls_without_a_name_or_an_end_are_refused() -> None:
    with pytest.raises(ValueError, match="without a name"):
        list(Calls().add(0, "1", None, "{}"))
    with pytest.raises(ValueError, match="without an end"):
        list(Calls().add(0, "1", "f", "x" * (MOST_ARGUMENTS + 1)))
    with pytest.raises(ValueError, match="without an end"):
        list(Calls().add(0, "1", "f" * (LONGEST_NAME + 1), "{}"))
    calls = Calls()
    for index in range(MOST_CALLS):
        list(calls.add(index, str(index), "f", "{}"))
    with pytest.raises(ValueError, match="without an end"):
        list(calls.add(MOST_CALLS, "last", "f", "{}"))


def test_a_chunk_that_brings_the_usage_alone_may_have_no_choices_at_all() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    last = ChatCompletionChunk.model_construct(
        id="1", choices=None, usage=CompletionUsage.model_validate(usage)
    )
    reply = Reply(starts_thinking=False)
    told = [*reply.feed(chunk({"content": "Hi."}, "stop")), *reply.feed(last)]
    assert told[0] == TextDelta("Hi.")
    assert reply.over
    assert reply.input_tokens == 3


def test_halves_of_characters_are_never_told() -> None:
    """Neither a client's event nor the next request could hold one."""
    pieces = ["Hi \ud83d", "\ude00 \ud83d you", "\ude00", " \ud83d"]
    told = read(*(chunk({"content": piece}) for piece in pieces), chunk({}, "stop"))
    text = "".join(delta.text for delta in told if isinstance(delta, TextDelta))
    assert text == "Hi \U0001f600 \ufffd you\ufffd \ufffd"
    calls = Calls()
    parts = [
        *calls.add(0, "1", "f\ude00", '{"a":"\ud83d'),
        *calls.add(0, None, None, '\ude00"}\ud83d'),
        *calls.finish(),
    ]
    assert parts[-1] == ToolCall(parts[0].call_id, "f\ufffd", '{"a":"\U0001f600"}\ufffd')


def test_the_last_chunk_may_have_no_delta() -> None:
    last = chunk({}, "stop")
    last.choices[0].delta = None  # type: ignore[assignment] # as the client makes it
    reply = Reply(starts_thinking=False)
    assert [*reply.feed(chunk({"content": "Hi."})), *reply.feed(last)] == [TextDelta("Hi.")]
    assert reply.over
