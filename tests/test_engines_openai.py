"""The OpenAI engine against a server with the chat completions API."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.chatting import (
    SECRET,
    asks,
    cancelled,
    closing,
    hear,
    long_talk,
    nothing_was_logged_before,
    reading,
    say,
    text_of,
)
from tests.llm_server import Script
from tests.openai_server import OpenAIServer
from tests.ports import free_port
from voicepool.engines import openai_chat
from voicepool.engines.base import (
    ChatRequest,
    Finished,
    Message,
    TextDelta,
    Tool,
    ToolCall,
    ToolCallDelta,
)
from voicepool.engines.chat import retrying
from voicepool.engines.chat.prompt import SYSTEM_PROMPT
from voicepool.engines.openai_chat import engine
from voicepool.engines.openai_chat.engine import OpenAIModel
from voicepool.engines.openai_chat.options import Options
from voicepool.errors import ConfigError, EngineError, EngineUnavailable

__all__ = ["nothing_was_logged_before"]

WEATHER = Tool("weather", "The weather.", {"type": "object", "properties": {"city": {}}})


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


def serving(**script: Any) -> OpenAIServer:
    return OpenAIServer({"qwen": Script(**script)})


def made(server: OpenAIServer | str, **options: Any) -> OpenAIModel:
    """The engine in a worker, not yet warm."""
    url = server if isinstance(server, str) else server.base_url
    model = openai_chat.create({"base_url": url, "model": "qwen", **options})
    model.load("host")
    return model


def chats(server: OpenAIServer) -> list[Mapping[str, Any]]:
    return [body for path, body in server.requests if path.endswith("/completions")]


# --- replies


async def test_a_reply_streams_with_its_counts() -> None:
    with serving(reply="It is noon.", prompt_tokens=42) as server:
        async with closing(made(server)) as model:
            deltas = await hear(model, asks("What time is it?"))
    assert deltas == [
        TextDelta("It"),
        TextDelta(" is"),
        TextDelta(" noon."),
        Finished("stop", 42, 3),
    ]
    assert [m["content"] for m in chats(server)[0]["messages"]] == [
        SYSTEM_PROMPT,
        "What time is it?",
    ]


async def test_options_and_limits_reach_the_server(server: OpenAIServer) -> None:
    extra = {"chat_template_kwargs": {"enable_thinking": False}}
    options = {"temperature": 0.1, "max_tokens": 5, "extra": extra}
    async with closing(made(server, **options)) as model:
        await say(model, "Go on.")
        request = ChatRequest([Message("user", "Go on.")], max_tokens=2, temperature=0.9)
        deltas = await hear(model, request)
    assert isinstance(deltas[-1], Finished)
    assert deltas[-1].reason == "length"
    first, second = chats(server)
    assert (first["temperature"], first["max_tokens"]) == (0.1, 5)
    assert (second["temperature"], second["max_tokens"]) == (0.9, 2)
    assert first["chat_template_kwargs"] == extra["chat_template_kwargs"]


async def test_the_limit_has_the_servers_name(server: OpenAIServer) -> None:
    model = made(server, limit_name="max_completion_tokens")
    model.warm_up()
    assert chats(server)[0]["max_completion_tokens"] == 1
    assert "max_tokens" not in chats(server)[0]


async def test_one_connection_serves_a_whole_call(server: OpenAIServer) -> None:
    async with closing(made(server)) as model:
        for _ in range(4):
            await say(model, "Hello?")
    assert server.accepted == 1


async def test_tool_calls_stream_and_their_results_follow() -> None:
    calls = (("weather", {"city": "Oslo"}), ("weather", {"city": "Bergen"}))
    with serving(reply="Wait.", tool_calls=calls) as server:
        async with closing(made(server)) as model:
            turn = Message("user", "How is the weather?")
            deltas = await hear(model, ChatRequest([turn], [WEATHER], "weather"))
            told = [delta for delta in deltas if isinstance(delta, ToolCall)]
            results = [Message("tool", "Rain.", tool_call_id=call.call_id) for call in told]
            asked = Message("assistant", "Wait.", tool_calls=tuple(told))
            await hear(model, ChatRequest([turn, asked, *results]))
    assert [(call.name, call.arguments) for call in told] == [
        ("weather", '{"city": "Oslo"}'),
        ("weather", '{"city": "Bergen"}'),
    ]
    for call in told:
        pieces = [d for d in deltas if isinstance(d, ToolCallDelta) and d.call_id == call.call_id]
        assert "".join(piece.arguments for piece in pieces) == call.arguments
        assert pieces[0].name == "weather"
        assert deltas.index(pieces[-1]) < deltas.index(call)
    assert isinstance(deltas[-1], Finished)
    assert deltas[-1].reason == "tool_calls"
    first, second = chats(server)
    assert first["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    assert [m["role"] for m in second["messages"]][2:] == ["assistant", "tool", "tool"]


async def test_reasoning_is_never_said() -> None:
    reply = "<think>They greet me.</think>Hello <reasoning>um</reasoning>there."
    with serving(reply=reply, thinking="Let me see.") as server:
        async with closing(made(server)) as model:
            deltas = await hear(model, asks("Hello."))
    assert text_of(deltas) == "Hello there."
    assert deltas[0] == TextDelta("")  # it lives


async def test_a_reply_may_begin_inside_its_reasoning() -> None:
    with serving(reply="They greet me.</think> Hello.") as server:
        async with closing(made(server, starts_thinking=True)) as model:
            assert await say(model, "Hello.") == "Hello."


# --- cancelling


async def generating(server: OpenAIServer, sent: int) -> None:
    await server.until(lambda: server.count("running") == 1 and server.generations[-1].sent == sent)


@pytest.mark.parametrize("after", [0, 2], ids=["before a token", "between tokens"])
async def test_a_cancelled_task_stops_the_server(after: int) -> None:
    with serving(hold_after=after) as server:
        async with closing(made(server)) as model:
            task = reading(model)
            await generating(server, after)
            await cancelled(task)
            await server.until(lambda: server.states() == ["cancelled"])
            server.models["qwen"] = Script()
            assert await say(model, "Hello?") == Script().reply


async def test_a_closed_generator_stops_the_server() -> None:
    with serving(hold_after=2) as server:
        async with closing(made(server)) as model:
            deltas = model.generate(asks("Hello?"))
            assert await anext(deltas) == TextDelta("Hello")
            await generating(server, 2)
            await deltas.aclose()
            await server.until(lambda: server.states() == ["cancelled"])


# --- warming up


async def test_warming_up_makes_one_token_with_the_servers_first_model(
    server: OpenAIServer,
) -> None:
    model = made(server, model="")
    model.warm_up()
    assert [generation.sent for generation in server.generations] == [1]
    async with closing(model):
        await say(model, "Hello?")
    assert [body["model"] for body in chats(server)] == ["qwen", "qwen"]


def test_warming_up_waits_for_a_server_that_loads_its_model() -> None:
    with serving(status=503, error="Loading model", failures=2) as server:
        made(server).warm_up()
    assert server.states() == ["done"]
    assert len(chats(server)) == 3


def test_a_server_that_stays_away_fails_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "WARM_UP_PATIENCE", 0.3)
    url = f"http://127.0.0.1:{free_port()}/v1"
    with pytest.raises(EngineError, match=f"{url} does not answer") as raised:
        made(url).warm_up()
    assert not isinstance(raised.value, EngineUnavailable)  # the pool shall try again


@pytest.mark.parametrize(
    ("listed", "least", "most"),
    [
        ({"max_model_len": 1024}, 3, 20),
        ({"max_model_len": 8192}, 100, 300),
        ({"meta": {"n_ctx_train": 131_072}}, 50, 100),  # what it runs with may be less
        ({"meta": {"n_ctx_train": 131_072, "n_ctx": 8192}}, 100, 300),
        ({}, 50, 100),
        ({"max_model_len": "a lot", "meta": []}, 50, 100),
    ],
)
async def test_history_is_cut_to_what_the_server_lists(
    listed: Mapping[str, Any], least: int, most: int
) -> None:
    with OpenAIServer(listed=listed) as server:
        async with closing(made(server)) as model:
            model.warm_up()
            await hear(model, ChatRequest(long_talk(500)))
    assert least < len(chats(server)[-1]["messages"]) < most


async def test_history_is_cut_to_the_configured_context(server: OpenAIServer) -> None:
    async with closing(made(server, context=1024)) as model:
        model.warm_up()
        await hear(model, ChatRequest(long_talk(500)))
    assert 3 < len(chats(server)[-1]["messages"]) < 20


async def test_a_server_with_less_room_than_it_told_is_sent_less() -> None:
    with OpenAIServer(context=400) as server:
        async with closing(made(server)) as model:
            assert await hear(model, ChatRequest(long_talk(30)))
    lengths = [len(body["messages"]) for body in chats(server)]
    assert len(lengths) > 1
    assert lengths == sorted(lengths, reverse=True)
    assert server.states() == ["done"]


# --- a server that fails in a call


@pytest.mark.parametrize("death", ["reset", "error", "truncated"])
async def test_before_the_first_token_it_is_tried_again(death: Any) -> None:
    with serving(dies_after=0, death=death, failures=1) as server:
        async with closing(made(server)) as model:
            assert await say(model, "Hello?") == Script().reply
    assert server.states() == ["failed", "done"]


@pytest.mark.parametrize("death", ["reset", "error", "garbage", "truncated"])
async def test_after_the_first_token_it_is_not(
    death: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(dies_after=2, death=death, error=f"cannot tokenise {SECRET}") as server:
        async with closing(made(server)) as model:
            deltas = model.generate(asks(SECRET))
            with caplog.at_level(logging.DEBUG, "voicepool"):
                assert [await anext(deltas) for _ in range(2)] == [
                    TextDelta("Hello"),
                    TextDelta(" there."),
                ]
                with pytest.raises(EngineError, match=server.base_url) as raised:
                    await anext(deltas)
    assert server.states() == ["failed"]
    assert SECRET not in f"{raised.value} {caplog.text} {[vars(r) for r in caplog.records]}"


@pytest.mark.parametrize(
    ("status", "says", "patience"),
    [
        (400, "failed .400.", 3600.0),  # not tried again, whatever patience there is
        (401, "refuses the key", 3600.0),
        (404, "no such model", 3600.0),
        (500, "failed .500.", 0.0),
        (429, "failed .429.", 0.0),
    ],
)
async def test_refusals_are_told_without_the_conversation(
    monkeypatch: pytest.MonkeyPatch, status: int, says: str, patience: float
) -> None:
    monkeypatch.setattr(retrying, "CALL_PATIENCE", patience)
    with serving(status=status, error=f"bad words: {SECRET}") as server:
        async with closing(made(server)) as model:
            with pytest.raises(EngineError, match=says) as raised:
                await say(model, SECRET)
    assert not isinstance(raised.value, EngineUnavailable)
    assert SECRET not in str(raised.value)
    assert len(chats(server)) == 1


@pytest.mark.parametrize("status", [500, 503, 429])
async def test_what_may_pass_is_tried_again(status: int) -> None:
    with serving(status=status, failures=1) as server:
        async with closing(made(server)) as model:
            assert await say(model, "Hello?") == Script().reply
    assert len(chats(server)) == 2


async def test_a_server_that_went_away_is_found_again(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrying, "CALL_PATIENCE", 0.3)
    async with closing(made(server)) as model:
        await say(model, "Hello?")
        server.stop()
        with pytest.raises(EngineError, match="does not answer"):
            await say(model, "Hello?")
        server.start()
        assert await say(model, "Hello?") == Script().reply


async def test_a_silent_server_is_given_up() -> None:
    with serving(hold_after=1) as server:
        async with closing(made(server, timeout=1.0)) as model:
            deltas = model.generate(asks("Hello?"))
            await anext(deltas)
            with pytest.raises(EngineError, match="was silent for too long"):
                await anext(deltas)
            await server.until(lambda: server.states() == ["cancelled"])


@pytest.mark.parametrize("after_end", ["reset", "silence"])
async def test_after_its_end_a_reply_is_whole_whatever_the_server_does(
    after_end: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "AFTERWORD", 0.05)
    with serving(after_end=after_end) as server:
        async with closing(made(server)) as model:
            deltas = await hear(model, asks("Hello?"))
            assert text_of(deltas) == Script().reply
            assert deltas[-1] == Finished("stop")


# --- in the zygote


def test_a_missing_model_stops_the_start() -> None:
    with OpenAIServer({"mistral": Script(), "qwen-3": Script()}) as server:
        with pytest.raises(EngineUnavailable, match=r"no model 'qwen' \(it has qwen-3, mistral\);"):
            made(server).preload()
        made(server, model="mistral").preload()
        made(server, model="").preload()


def test_a_model_need_not_be_listed() -> None:
    with OpenAIServer({"qwen": Script(), "other": Script()}, hidden=("qwen",)) as server:
        made(server).preload()


def test_a_server_without_models_stops_the_start_only_if_none_is_named() -> None:
    with OpenAIServer({}) as server, pytest.raises(EngineUnavailable, match="has no model"):
        made(server, model="").preload()


def test_a_wrong_key_stops_the_start_and_is_not_told() -> None:
    key = "sk-very-secret"
    with OpenAIServer(api_key="another") as server, pytest.raises(EngineUnavailable) as raised:
        made(server, api_key=key).preload()
    assert "refuses the key (401)" in str(raised.value)
    assert key not in str(raised.value)


def test_a_server_that_quotes_the_key_is_quoted_without_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(retrying, "WARM_UP_PATIENCE", 0.0)
    key = "sk-very-secret"
    with serving(status=400, error=f"bad key {key} of yours") as server:
        model = made(server, api_key=key)
        with pytest.raises(EngineError, match=r"bad key \.\.\. of yours") as raised:
            model.warm_up()
    assert key not in f"{raised.value} {raised.value.__cause__} {caplog.text}"


async def test_the_key_is_sent(server: OpenAIServer) -> None:
    server.api_key = "sk-very-secret"
    async with closing(made(server, api_key=server.api_key)) as model:
        model.preload()
        model.warm_up()
        assert await say(model, "Hello?") == Script().reply


def test_a_server_that_is_away_does_not_stop_the_start(caplog: pytest.LogCaptureFixture) -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    made(url).preload()
    (record,) = caplog.records
    assert record.message == "no look at the model server"
    assert url in vars(record)["reason"]


def test_a_path_that_is_no_api_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with OpenAIServer() as server:
        made(server.url).preload()
    assert "most end in /v1" in vars(caplog.records[0])["reason"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"modle": "x"}, "unknown option 'modle'; did you mean 'model'"),
        ({"base_url": "127.0.0.1:8000"}, "base_url is no URL such as"),
        ({"base_url": "http://there:port"}, "base_url"),
        ({"base_url": "http:///v1"}, "it names no host"),
        ({"base_url": "http://me:4711@there/v1"}, "it must not hold a user or password"),
        ({"temperature": 3}, "temperature"),
        ({"context": 0}, "context"),
        ({"limit_name": "tokens"}, "limit_name"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match="engine openai") as raised:
        openai_chat.create({"api_key": "4711", **options})
    assert says in str(raised.value)
    assert "4711" not in str(raised.value)


def test_the_key_is_in_no_representation() -> None:
    assert "4711" not in repr(Options(api_key="4711"))


def test_a_model_serves_one_event_loop_after_another(server: OpenAIServer) -> None:
    model = made(server)

    async def call() -> str:
        async with closing(model):
            return await say(model, "Hello?")

    assert asyncio.run(call()) == asyncio.run(call()) == Script().reply
