"""The Ollama engine against a server that speaks its protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from tests.chatting import (
    asks,
    cancelled,
    closing,
    hear,
    ollama_model,
    reading,
    say,
    text_of,
)
from tests.llm_server import Script
from tests.ollama_server import Model, OllamaServer, serving
from voicepool.engines import ollama as engine
from voicepool.engines.base import (
    ChatRequest,
    Finished,
    Message,
    TextDelta,
    Tool,
    ToolCall,
    ToolCallDelta,
)
from voicepool.engines.chat.bounds import LONGEST_NAME, MOST_CALLS
from voicepool.engines.chat.prompt import SYSTEM_PROMPT
from voicepool.errors import ConfigError, EngineError

WEATHER = Tool(
    "weather", "The weather.", {"type": "object", "properties": {"city": {"type": "string"}}}
)


@pytest.fixture
def server() -> Iterator[OllamaServer]:
    with OllamaServer() as server:
        yield server


# --- replies


async def test_a_reply_streams_with_its_counts(server: OllamaServer) -> None:
    server.models["llama3.2:latest"].script = Script(reply="It is noon.", prompt_tokens=42)
    async with closing(ollama_model(server)) as model:
        deltas = await hear(model, asks("What time is it?"))
    assert deltas == [
        TextDelta("It"),
        TextDelta(" is"),
        TextDelta(" noon."),
        Finished("stop", 42, 3),
    ]


async def test_the_conversation_is_told_in_order(server: OllamaServer) -> None:
    async with closing(ollama_model(server)) as model:
        await say(model, "Hello.", "Hi!", "How are you?")
        await hear(model, ChatRequest([Message("system", "Be rude."), Message("user", "Hm.")]))
    first, second = (body["messages"] for body in server.chats)
    assert [(m["role"], m["content"]) for m in first] == [
        ("system", SYSTEM_PROMPT),
        ("user", "Hello."),
        ("assistant", "Hi!"),
        ("user", "How are you?"),
    ]
    assert [m["content"] for m in second] == ["Be rude.", "Hm."]


async def test_options_and_limits_reach_the_server(server: OllamaServer) -> None:
    options = {"num_ctx": 2048, "top_p": 0.5, "temperature": 0.1}
    request = ChatRequest([Message("user", "Go on.")], max_tokens=2, temperature=0.9)
    async with closing(ollama_model(server, options=options, keep_alive="10m")) as model:
        deltas = await hear(model, request)
    assert deltas[-1] == Finished("length", deltas[-1].input_tokens, 2)  # type: ignore[union-attr]
    body = server.chats[0]
    assert body["options"] == {"num_ctx": 2048, "top_p": 0.5, "temperature": 0.9, "num_predict": 2}
    assert body["keep_alive"] == "10m"


async def test_one_connection_serves_a_whole_call(server: OllamaServer) -> None:
    async with closing(ollama_model(server)) as model:
        for _ in range(4):
            await say(model, "Hello?")
    assert server.accepted == 1


def test_a_model_serves_one_event_loop_after_another(server: OllamaServer) -> None:
    model = ollama_model(server)

    async def call() -> str:
        async with closing(model):
            return await say(model, "Hello?")

    assert asyncio.run(call()) == asyncio.run(call()) == Script().reply


# --- tools


async def test_tool_calls_come_whole_and_results_name_their_tool() -> None:
    with serving(reply="", tool_calls=(("weather", {"city": "Oslo"}),)) as server:
        async with closing(ollama_model(server)) as model:
            turn = Message("user", "How is the weather in Oslo?")
            deltas = await hear(model, ChatRequest([turn], [WEATHER]))
            delta, call, finished = deltas
            assert isinstance(call, ToolCall)
            assert (call.name, call.arguments) == ("weather", '{"city": "Oslo"}')
            assert delta == ToolCallDelta(call.call_id, call.name, call.arguments)
            assert isinstance(finished, Finished)
            assert finished.reason == "tool_calls"
            asked = Message("assistant", "", tool_calls=(call,))
            result = Message("tool", "Rain.", tool_call_id=call.call_id)
            await hear(model, ChatRequest([turn, asked, result]))
    first, second = server.chats
    assert first["tools"][0]["function"] == {
        "name": "weather",
        "description": "The weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    }
    assert second["messages"][2]["tool_calls"] == [
        {"function": {"name": "weather", "arguments": {"city": "Oslo"}}}
    ]
    assert second["messages"][3] == {"role": "tool", "content": "Rain.", "tool_name": "weather"}


async def test_ids_of_calls_differ() -> None:
    calls = (("weather", {"city": "Oslo"}), ("weather", {"city": "Bergen"}))
    with serving(reply="Wait.", tool_calls=calls) as server:
        async with closing(ollama_model(server)) as model:
            deltas = await hear(model, ChatRequest([Message("user", "Hm?")], [WEATHER]))
    ids = [delta.call_id for delta in deltas if isinstance(delta, ToolCall)]
    assert len(set(ids)) == 2


@pytest.mark.parametrize("names", [("f",) * (MOST_CALLS + 1), ("f" * (LONGEST_NAME + 1),)])
async def test_calls_without_an_end_are_refused(names: tuple[str, ...]) -> None:
    with serving(tool_calls=tuple((name, {}) for name in names)) as server:
        async with closing(ollama_model(server)) as model:
            with pytest.raises(EngineError, match="sent what is not"):
                await hear(model, ChatRequest([Message("user", "Hm?")], [WEATHER]))


async def test_a_model_without_tools_is_named() -> None:
    with serving(capabilities=("completion",)) as server:
        async with closing(ollama_model(server)) as model:
            with pytest.raises(EngineError, match=r"cannot call tools; set \[llm\] model"):
                await hear(model, ChatRequest([Message("user", "Hm?")], [WEATHER]))
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "parameters",
    [{"properties": {"a": {"type": {"not": "a type"}}}}, {"required": "all"}],
)
async def test_a_schema_that_cannot_be_sent_fails_its_reply_alone(
    server: OllamaServer, parameters: dict[str, Any]
) -> None:
    async with closing(ollama_model(server)) as model:
        request = ChatRequest([Message("user", "Hm?")], [Tool("f", "", parameters)])
        with pytest.raises(EngineError, match="cannot send these messages or tools"):
            await hear(model, request)
        assert await say(model, "Hello?") == Script().reply


async def test_halves_of_characters_are_never_told() -> None:
    """Neither a client's event nor the next request could hold one."""
    with serving(tokens=("Hi \ud83d", "\ude00 \ude00 you", "\ud83d")) as server:
        async with closing(ollama_model(server)) as model:
            assert await say(model, "Hello?") == "Hi \U0001f600 \ufffd you\ufffd"


# --- reasoning


async def test_reasoning_is_never_said() -> None:
    reply = "<think>They greet me.</think>Hello <thinking>um</thinking>there."
    with serving(reply=reply, thinking="Let me see.") as server:
        async with closing(ollama_model(server, think=True)) as model:
            deltas = await hear(model, asks("Hello."))
    assert text_of(deltas) == "Hello there."
    assert deltas[0] == TextDelta("")  # it lives
    assert server.chats[0]["think"] is True


async def test_reasoning_is_switched_off_unless_wanted() -> None:
    with serving(reply="Hello.", thinking="Let me see.") as server:
        async with closing(ollama_model(server)) as model:
            deltas = await hear(model, asks("Hello."))
    assert deltas[0] == TextDelta("Hello.")
    assert server.chats[0]["think"] is False


def test_a_model_that_cannot_think_is_not_asked_to() -> None:
    with serving(capabilities=("completion",)) as server:
        engine.create({"host": server.url}).preload()
        with pytest.raises(ConfigError, match=r"llama3\.2 cannot think; set think = false"):
            engine.create({"host": server.url, "think": "high"}).preload()


# --- cancelling

HELD = pytest.mark.parametrize("after", [0, 2], ids=["before a token", "between tokens"])


async def generating(server: OllamaServer, sent: int) -> None:
    await server.until(lambda: server.count("running") == 1 and server.generations[-1].sent == sent)


@HELD
async def test_a_cancelled_task_stops_the_server(after: int) -> None:
    with serving(hold_after=after) as server:
        async with closing(ollama_model(server)) as model:
            task = reading(model)
            await generating(server, after)
            await cancelled(task)
            await server.until(lambda: server.states() == ["cancelled"])
            server.models["llama3.2:latest"].script = Script()
            assert await say(model, "Hello?") == Script().reply


async def test_a_closed_generator_stops_the_server() -> None:
    with serving(hold_after=2) as server:
        async with closing(ollama_model(server)) as model:
            deltas = model.generate(asks("Hello?"))
            assert await anext(deltas) == TextDelta("Hello")
            await generating(server, 2)
            await deltas.aclose()
            await server.until(lambda: server.states() == ["cancelled"])


async def test_a_caller_in_the_queue_leaves_it() -> None:
    with OllamaServer({"llama3.2": Model(Script(hold_after=1))}, slots=1) as server:
        async with closing(ollama_model(server)) as first, closing(ollama_model(server)) as second:
            one = reading(first)
            await generating(server, 1)
            two = reading(second)
            await server.until(lambda: server.count("queued") == 1)
            await cancelled(two)
            await server.until(lambda: server.states() == ["running", "cancelled"])
            server.release()
            await one
    assert server.states() == ["done", "cancelled"]


# --- options


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"modle": "x"}, "unknown option 'modle'; did you mean 'model'"),
        ({"model": ""}, "model"),
        ({"host": "ftp://there"}, "host is no address of a server: ftp:// is not http://"),
        ({"host": "there:port"}, "host is no address of a server"),
        ({"host": "http://ex ample"}, "it has blanks"),
        ({"host": "http://me:4711@there"}, "it must not hold a user or password"),
        ({"think": "hard"}, "think"),
        ({"timeout": 0}, "timeout"),
        ({"options": {"num_ctx": "many"}}, "num_ctx must be a number of tokens, not 'many'"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match="engine ollama") as raised:
        engine.create(options)
    assert says in str(raised.value)
    assert "4711" not in str(raised.value)


def test_options_of_ollama_are_spelt_right(server: OllamaServer) -> None:
    options = {"host": server.url, "options": {"num_ctxt": 4096}}
    with pytest.raises(ConfigError, match="Ollama has no 'num_ctxt'; did you mean 'num_ctx'"):
        engine.create(options).preload()
