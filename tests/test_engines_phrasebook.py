"""The phrasebook as a language model."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest

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
from voicepool.engines.phrasebook import book, engine

HELP = "I only know my phrasebook; configure an LLM for more. Try saying: "
WEATHER = Tool(
    "get_weather",
    "The weather in a city.",
    {"type": "object", "properties": {"location": {"type": "string"}}},
)


@pytest.fixture
def model() -> engine.PhrasebookModel:
    model = engine.create({"seed": 1})
    model.preload()
    model.load("host")
    model.warm_up()
    return model


async def collect(model: engine.PhrasebookModel, request: ChatRequest) -> list[ChatDelta]:
    return [delta async for delta in model.generate(request)]


async def reply(model: engine.PhrasebookModel, said: str, *history: Message) -> str:
    deltas = await collect(model, ChatRequest([*history, Message("user", said)]))
    return "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))


async def test_a_reply_streams_by_words(model: engine.PhrasebookModel) -> None:
    request = ChatRequest([Message("system", "Be brief."), Message("user", "What's 2 + 2?")])
    assert await collect(model, request) == [
        TextDelta("2"),
        TextDelta(" plus"),
        TextDelta(" 2"),
        TextDelta(" is"),
        TextDelta(" 4."),
        Finished("stop", input_tokens=6, output_tokens=5),
    ]


@pytest.mark.parametrize("said", ["", "???", "who will win the election", "what is the capital of"])
async def test_what_is_not_in_the_book_is_answered_with_help(
    model: engine.PhrasebookModel, said: str
) -> None:
    assert (await reply(model, said)).startswith(HELP)


async def test_no_message_at_all_is_answered_with_help(model: engine.PhrasebookModel) -> None:
    deltas = await collect(model, ChatRequest([]))
    assert isinstance(deltas[-1], Finished)
    assert isinstance(deltas[0], TextDelta)


async def test_a_reply_can_be_cut_short(model: engine.PhrasebookModel) -> None:
    story = ChatRequest([Message("user", "tell me a very long story")], max_tokens=3)
    deltas = await collect(model, story)
    assert deltas[-1] == Finished("length", input_tokens=6, output_tokens=3)
    assert len(deltas) == 4


async def test_a_long_reply_can_be_cancelled_and_starves_nobody(
    model: engine.PhrasebookModel,
) -> None:
    heard: list[ChatDelta] = []
    started = asyncio.Event()

    async def listen() -> None:
        async for delta in model.generate(
            ChatRequest([Message("user", "tell me a very long story")])
        ):
            heard.append(delta)
            started.set()

    task = asyncio.create_task(listen())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(heard) < 10


async def test_another_joke_is_another_one(model: engine.PhrasebookModel) -> None:
    history: list[Message] = []
    for _ in range(6):
        said = "tell me another joke"
        joke = await reply(model, said, *history)
        assert joke not in [message.content for message in history]
        history += [Message("user", said), Message("assistant", joke)]
    assert await reply(model, "tell me another joke", *history)


async def test_conversations_do_not_mix(model: engine.PhrasebookModel) -> None:
    await reply(model, "my name is sophie")
    assert "not told me" in await reply(model, "do you remember my name")


async def test_a_declared_tool_is_called(model: engine.PhrasebookModel) -> None:
    asked = Message("user", "What is the weather like in Hong Kong?")
    delta, call, finished = await collect(model, ChatRequest([asked], tools=[WEATHER]))
    assert isinstance(call, ToolCall)
    assert call.name == "get_weather"
    assert json.loads(call.arguments) == {"location": "Hong Kong"}
    assert delta == ToolCallDelta(call.call_id, "get_weather", call.arguments)
    assert finished == Finished("tool_calls", input_tokens=8, output_tokens=1)

    result = Message("tool", '{"sky": "clear"}', tool_call_id=call.call_id)
    history = [asked, Message("assistant", "", (call,)), result]
    deltas = await collect(model, ChatRequest(history, tools=[WEATHER]))
    spoken = "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))
    assert spoken == "The answer is: sky: clear."


@pytest.mark.parametrize(
    ("choice", "said", "called"),
    [
        ("auto", "tell me a funny joke", False),
        ("none", "what is the weather like in paris", False),
        ("required", "tell me a funny joke", True),
        ("get_weather", "tell me a funny joke", True),
        ("get_time", "tell me a funny joke", False),
    ],
)
async def test_the_tool_choice_is_obeyed(
    model: engine.PhrasebookModel, choice: str, said: str, called: bool
) -> None:
    request = ChatRequest([Message("user", said)], tools=[WEATHER], tool_choice=choice)
    deltas = await collect(model, request)
    assert any(isinstance(delta, ToolCall) for delta in deltas) is called


async def test_without_the_tool_it_says_so(model: engine.PhrasebookModel) -> None:
    assert "no tool" in await reply(model, "what is the weather like in paris")


@pytest.mark.parametrize(
    "result",
    [
        *("", "12", '["a", "b"]', "x" * 10_000, "{", '{"a": {"b": 1}}'),
        *("[" * 100_000 + "]" * 100_000, "\ud800"),
    ],
)
async def test_any_tool_result_is_spoken_at_bearable_length(
    model: engine.PhrasebookModel, result: str
) -> None:
    deltas = await collect(model, ChatRequest([Message("tool", result, tool_call_id="c")]))
    spoken = "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))
    assert spoken.startswith("The answer is: ")
    assert len(spoken) < 700


async def test_a_users_own_phrase(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text('[[phrase]]\nid = "x"\nsay = "open the pod doors"\nreply = "I am afraid not."')
    model = engine.create({"phrasebook": str(path)})
    assert await reply(model, "Open the pod doors!") == "I am afraid not."
    assert await reply(model, "what is 2 plus 2") == "2 plus 2 is 4."


DOCUMENTED = re.findall(
    r"^\| ([a-z *]+) \| `(\w+)` \| (?:`(\w+)` )?\|$",
    (Path(__file__).parent.parent / "docs/engines.md").read_text(),
    re.MULTILINE,
)


def test_all_tools_of_the_book_are_documented() -> None:
    tools = [entry.tool for entry in book.load().entries if entry.tool]
    assert [name for _, name, _ in DOCUMENTED] == tools


@pytest.mark.parametrize(("said", "name", "argument"), DOCUMENTED)
async def test_a_documented_phrase_calls_its_tool(
    model: engine.PhrasebookModel, said: str, name: str, argument: str
) -> None:
    slots = {"city": "hong kong", "room": "kitchen", "number": "ten", "topping": "salami"}
    for slot, words in slots.items():
        said = said.replace(f"*{slot}*", words)
    tool = Tool(name, "", {"type": "object", "properties": {argument: {}} if argument else {}})
    deltas = await collect(model, ChatRequest([Message("user", said)], tools=[tool]))
    call = deltas[1]
    assert isinstance(call, ToolCall)
    assert call.name == name
    assert set(json.loads(call.arguments)) == ({argument} if argument else set())
