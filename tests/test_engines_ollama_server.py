"""The Ollama engine and its server's life: loading, failing, lacking room, lacking the model."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.chatting import (
    SECRET,
    asks,
    closing,
    hangs_up_once,
    hear,
    long_talk,
    nothing_was_logged_before,
    ollama_model,
    say,
)
from tests.llm_server import Script
from tests.ollama_server import Model, OllamaServer, serving
from tests.ports import free_port
from voicepool.engines import ollama as engine
from voicepool.engines.base import (
    ChatRequest,
    Message,
    TextDelta,
    Tool,
)
from voicepool.engines.chat import retrying
from voicepool.engines.chat.prompt import SYSTEM_PROMPT
from voicepool.errors import EngineError, EngineUnavailable

__all__ = ["nothing_was_logged_before"]

WEATHER = Tool("weather", "The weather.")


@pytest.fixture
def server() -> Iterator[OllamaServer]:
    with OllamaServer() as server:
        yield server


# --- warming up


async def test_the_model_is_resident_and_never_loaded_again(server: OllamaServer) -> None:
    model = ollama_model(server, options={"num_ctx": 2048, "num_gpu": 99, "temperature": 0.5})
    model.warm_up()
    loads = [("llama3.2:latest", {"num_ctx": 2048, "num_gpu": 99})]
    assert server.loads == loads
    assert server.keep_alive == {"llama3.2:latest": -1}
    assert server.states() == ["done"]
    assert server.generations[0].sent == 1
    async with closing(model):
        request = ChatRequest([Message("user", "Hm?")], [WEATHER], max_tokens=5, temperature=0.9)
        await hear(model, request)
        await say(model, "Hello?")
    assert server.loads == loads
    assert server.keep_alive == {"llama3.2:latest": -1}


def test_warming_up_waits_for_a_server_that_is_away() -> None:
    server = OllamaServer()
    with hangs_up_once() as (port, gone):

        def come_back() -> None:
            gone.wait()
            server.start(port)

        coming = threading.Thread(target=come_back)
        coming.start()
        ollama_model(f"127.0.0.1:{port}").warm_up()
        coming.join()
    assert server.states() == ["done"]
    server.stop()


def test_warming_up_waits_for_a_server_that_is_busy() -> None:
    with serving(status=503, failures=2) as server:
        ollama_model(server).warm_up()
    assert server.paths().count("/api/chat") == 3


def test_a_server_that_stays_away_fails_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "WARM_UP_PATIENCE", 0.3)
    host = f"127.0.0.1:{free_port()}"
    with pytest.raises(
        EngineError, match=f"{host} does not answer; start it with: ollama serve"
    ) as e:
        ollama_model(host).warm_up()
    assert not isinstance(e.value, EngineUnavailable)  # the pool shall try again


def test_what_keeps_a_model_from_loading_is_told() -> None:
    error = "model requires more system memory (5.6 GiB) than is available (3.1 GiB)"
    with serving(status=500, error=error) as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrying, "WARM_UP_PATIENCE", 0.1)
        with pytest.raises(EngineError, match=r"5\.6 GiB"):
            ollama_model(server).warm_up()


# --- a server that fails in a call


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "CALL_PATIENCE", 0.3)


@pytest.mark.parametrize("status", [500, 503])
async def test_a_caller_waits_for_a_busy_server(status: int) -> None:
    with serving(status=status, failures=2) as server:
        async with closing(ollama_model(server)) as model:
            assert await say(model, "Hello?") == Script().reply
    assert len(server.chats) == 3


@pytest.mark.parametrize("death", ["reset", "error", "truncated"])
async def test_before_the_first_token_it_is_tried_again(death: Any) -> None:
    with serving(dies_after=0, death=death, failures=1) as server:
        async with closing(ollama_model(server)) as model:
            assert await say(model, "Hello?") == Script().reply
    assert server.states() == ["failed", "done"]


@pytest.mark.parametrize("death", ["reset", "error", "garbage", "truncated"])
async def test_after_the_first_token_it_is_not(
    death: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(dies_after=2, death=death, error=f"cannot tokenise {SECRET}") as server:
        async with closing(ollama_model(server)) as model:
            deltas = model.generate(asks(SECRET))
            with caplog.at_level(logging.DEBUG, "voicepool"):
                assert [await anext(deltas) for _ in range(2)] == [
                    TextDelta("Hello"),
                    TextDelta(" there."),
                ]
                with pytest.raises(EngineError, match=f"Ollama at {server.url}") as raised:
                    await anext(deltas)
    assert server.states() == ["failed"]
    assert SECRET not in f"{raised.value} {caplog.text} {[vars(r) for r in caplog.records]}"
    assert [record.message for record in caplog.records] == ["the model server failed"]


@pytest.mark.parametrize(
    ("status", "says", "patience"),
    [
        (400, "failed .400.", 3600.0),  # not tried again, whatever patience there is
        (401, "refuses", 3600.0),
        (404, "ollama pull llama3.2", 3600.0),
        (500, "failed .500.: CUDA error", 0.0),
        (503, "OLLAMA_NUM_PARALLEL", 0.0),
    ],
)
async def test_refusals_are_told_without_the_conversation(
    status: int, says: str, patience: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrying, "CALL_PATIENCE", patience)
    with serving(status=status, error=f"CUDA error at {SECRET}") as server:
        async with closing(ollama_model(server)) as model:
            with pytest.raises(EngineError, match=says) as raised:
                await say(model, SECRET)
    assert not isinstance(raised.value, EngineUnavailable)
    assert SECRET not in str(raised.value)
    assert len(server.chats) == 1


@pytest.mark.usefixtures("impatient")
async def test_a_server_that_went_away_is_told_and_found_again(server: OllamaServer) -> None:
    async with closing(ollama_model(server)) as model:
        await say(model, "Hello?")
        server.stop()
        with pytest.raises(EngineError, match="ollama serve"):
            await say(model, "Hello?")
        server.start()
        assert await say(model, "Hello?") == Script().reply


async def test_a_silent_server_is_given_up() -> None:
    with serving(hold_after=1) as server:
        async with closing(ollama_model(server, timeout=1.0)) as model:
            deltas = model.generate(asks("Hello?"))
            await anext(deltas)
            with pytest.raises(EngineError, match="was silent for too long"):
                await anext(deltas)
            await server.until(lambda: server.states() == ["cancelled"])


# --- the context


async def test_history_is_cut_to_the_configured_context(server: OllamaServer) -> None:
    talk = long_talk(60)
    async with closing(ollama_model(server, options={"num_ctx": 2048})) as model:
        model.warm_up()
        await hear(model, ChatRequest(talk))
    told = [message["content"] for message in server.chats[-1]["messages"]]
    assert told[0] == SYSTEM_PROMPT
    assert told[-1] == talk[-1].content
    assert told[1:] == [message.content for message in talk[-len(told) + 1 :]]
    assert 20 < len(told) < 70
    assert sum(map(len, told)) / 4 < 2048 - 512


@pytest.mark.parametrize(
    ("reported", "least", "most"), [(1024, 3, 20), (8192, 100, 300), (1_000_000, 400, 1000)]
)
async def test_history_is_cut_to_what_the_server_has_loaded(
    server: OllamaServer, monkeypatch: pytest.MonkeyPatch, reported: int, least: int, most: int
) -> None:
    monkeypatch.setattr("tests.ollama_server.DEFAULT_CONTEXT", reported)
    async with closing(ollama_model(server)) as model:
        model.warm_up()
        await hear(model, ChatRequest(long_talk(500)))
    assert least < len(server.chats[-1]["messages"]) < most


async def test_the_servers_counts_correct_the_estimate() -> None:
    with serving(prompt_tokens=5000) as server:
        async with closing(ollama_model(server)) as model:
            for _ in range(2):
                await hear(model, ChatRequest(long_talk(20)))
    first, second = (len(body["messages"]) for body in server.chats)
    assert first == 42
    assert second < first


# --- in the zygote


def test_a_missing_model_stops_the_start() -> None:
    models = {"mistral": Model(), "llama3.1": Model(), "llama3.3:70b": Model()}
    with OllamaServer(models) as server:
        with pytest.raises(EngineUnavailable) as raised:
            engine.create({"host": server.url}).preload()
        engine.create({"host": server.url, "model": "mistral:latest"}).preload()
    said = str(raised.value)
    assert said.endswith("get it with: ollama pull llama3.2")
    assert said.index("llama3.1") < said.index("mistral")


async def test_a_model_that_goes_missing_fails_the_reply_alone(server: OllamaServer) -> None:
    async with closing(ollama_model(server)) as model:
        models, server.models = server.models, {}
        with pytest.raises(EngineError, match=r"ollama pull llama3\.2") as raised:
            await say(model, "Hello?")
        assert not isinstance(raised.value, EngineUnavailable)
        server.models = models
        assert await say(model, "Hello?") == Script().reply


@pytest.mark.parametrize("trouble", ["away", "busy", "foreign"])
def test_a_server_in_trouble_does_not_stop_the_start(
    trouble: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with OllamaServer() as server:
        if trouble == "away":
            server.stop()
        elif trouble == "busy":
            monkeypatch.setattr(server, "_show", lambda exchange: exchange.reply({}, 503))
        else:
            monkeypatch.setattr(server, "_show", lambda exchange: exchange.reply([1]))
        engine.create({"host": server.url}).preload()
    (record,) = caplog.records
    assert record.message == "no look at the model server"
    assert server.url in vars(record)["reason"]
