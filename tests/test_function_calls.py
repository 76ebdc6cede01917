"""Function tools end to end: a real server, and clients that speak the wire themselves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.caller import Caller, calling, calls_of, function, order, spoken, text_of
from tests.calls import until
from tests.llm_server import LlmServer, Script
from tests.ollama_server import Model, OllamaServer
from tests.openai_server import OpenAIServer
from tests.pools import PoolServer
from tests.servers import speech_server

__all__ = ["speech_server"]

WEATHER = function("get_weather", location={"type": "string"})
LIGHTS = function("turn_on_lights", room={"type": "string"})
QUESTION = "What is the weather like in Hong Kong?"


@pytest.fixture
def server(speech_server: PoolServer) -> PoolServer:
    return speech_server


async def test_a_call_its_output_and_the_reply(server: PoolServer) -> None:
    async with calling(server) as caller:
        await caller.configure(tools=[WEATHER])
        await caller.type_in(QUESTION)
        response = await caller.response()
        (call,) = response["output"]
        assert response["status"] == "completed"
        assert (call["type"], call["status"], call["name"]) == (
            "function_call",
            "completed",
            "get_weather",
        )
        assert json.loads(call["arguments"]) == {"location": "Hong Kong"}
        assert 0 < len(call["call_id"]) <= 32
        assert order(caller.seen, response["id"]) == [
            "response.created",
            "response.output_item.added",
            "conversation.item.added",
            "response.function_call_arguments.done",
            "conversation.item.done",
            "response.output_item.done",
            "response.done",
        ]
        added = caller.all("response.output_item.added")[0]["item"]
        assert (added["status"], added["arguments"]) == ("in_progress", "")
        assert (added["call_id"], added["name"]) == (call["call_id"], "get_weather")
        deltas = caller.all("response.function_call_arguments.delta")
        assert "".join(event["delta"] for event in deltas) == call["arguments"]
        (done,) = caller.all("response.function_call_arguments.done")
        assert (done["name"], done["arguments"]) == ("get_weather", call["arguments"])
        assert {event["call_id"] for event in (*deltas, done)} == {call["call_id"]}

        await caller.answer(call["call_id"], {"sky": "clear", "degrees": 31})
        told = await caller.until("conversation.item.done")
        assert told["item"]["type"] == "function_call_output"
        assert told["item"]["call_id"] == call["call_id"]
        assert told["previous_item_id"] == call["id"]
        assert text_of(await caller.response()) == "The answer is: sky: clear, degrees: 31."


async def test_a_spoken_turn_calls_and_nothing_is_told_before_the_turn_is_over(
    server: PoolServer,
) -> None:
    async with calling(server) as caller:
        await caller.configure(tools=[function("count_waiting_callers")])
        await caller.hear(spoken("how many callers are waiting in the queue", 0.6))
        response = await caller.done()
        assert [call["name"] for call in calls_of(response)] == ["count_waiting_callers"]
        kinds = caller.kinds()
        committed = kinds.index("input_audio_buffer.committed")
        early = [
            kind for kind in kinds[:committed] if kind.startswith(("response", "conversation"))
        ]
        assert not early
        assert "error" not in kinds


async def test_the_next_response_may_be_asked_for_before_the_call_is_answered(
    server: PoolServer,
) -> None:
    """The model is told of no call without its output."""
    async with calling(server) as caller:
        await caller.configure(tools=[WEATHER], output_modalities=["text"])
        await caller.type_in(QUESTION)
        (call,) = calls_of(await caller.response())
        await caller.type_in("what is the square of seven")
        assert "49" in text_of(await caller.response())
        await caller.answer(call["call_id"], "rain")
        assert text_of(await caller.response()) == "The answer is: rain."


@pytest.mark.parametrize("where", ["session", "response"])
@pytest.mark.parametrize(
    ("choice", "said", "names"),
    [
        ("auto", QUESTION, ["get_weather"]),
        ("auto", "what time is it", []),
        ("none", QUESTION, []),
        ("required", QUESTION, ["get_weather"]),
        ("required", "what time is it", ["get_weather"]),
        ({"type": "function", "name": "turn_on_lights"}, QUESTION, ["turn_on_lights"]),
    ],
)
async def test_tool_choice(
    server: PoolServer, where: str, choice: Any, said: str, names: list[str]
) -> None:
    async with calling(server) as caller:
        fields = {"tools": [WEATHER, LIGHTS], "tool_choice": choice}
        await caller.configure(
            output_modalities=["text"], **(fields if where == "session" else {"tools": [LIGHTS]})
        )
        await caller.type_in(said)
        response = await caller.response(**(fields if where == "response" else {}))
        assert [call["name"] for call in calls_of(response)] == names
        assert bool(text_of(response)) == (not names)
        if where == "response":  # the session's own are as they were
            await caller.type_in("please turn on the lights in the office")
            (call,) = calls_of(await caller.response())
            assert call["name"] == "turn_on_lights"
            assert json.loads(call["arguments"]) == {"room": "office"}


async def test_tools_may_change_between_turns(server: PoolServer) -> None:
    async with calling(server) as caller:
        for tools, called in (([WEATHER], True), ([LIGHTS], False), ([], False), ([WEATHER], True)):
            await caller.configure(tools=tools, output_modalities=["text"])
            await caller.type_in(QUESTION)
            response = await caller.response()
            assert bool(calls_of(response)) == called
            if not called:
                assert "no tool named get weather" in text_of(response)


async def test_an_output_for_a_call_that_never_was_harms_nothing(server: PoolServer) -> None:
    async with calling(server) as caller:
        await caller.answer("call_of_nobody", "x")
        await caller.until("conversation.item.done")
        await caller.type_in("what is the square of seven")
        assert "49" in text_of(await caller.response(output_modalities=["text"]))
        assert "error" not in caller.kinds()


# --- language models -------------------------------------------------------------------------

CALLS = (("get_weather", {"location": "Oslo"}), ("turn_on_lights", {"room": "office"}))


@pytest.fixture(params=["ollama", "openai"])
def llm(request: pytest.FixtureRequest) -> Iterator[LlmServer]:
    """A stand-in that says a word and calls two tools whenever it is given any."""
    script = Script(reply="One moment.", tool_calls=CALLS)
    made: LlmServer
    if request.param == "ollama":
        made = OllamaServer({"llama3.2": Model(script)})
    else:
        made = OpenAIServer({"local": script})
    with made as server:
        yield server


@pytest.fixture
def pool(llm: LlmServer, start_pool: Any) -> PoolServer:
    """A server whose language model is the stand-in."""
    if isinstance(llm, OllamaServer):
        engine = {"engine": "ollama", "host": llm.url, "model": "llama3.2"}
    else:
        engine = {"engine": "openai", "base_url": f"{llm.url}/v1"}
    server: PoolServer = start_pool(
        app="", workers=1, spare=1, profile="embedded", engines={"llm": engine}
    )
    return server


def asked(llm: LlmServer, said: str) -> list[dict[str, Any]]:
    """The requests for replies to a conversation with these words: not those of warm-ups."""
    chats = [dict(body) for path, body in llm.requests if "/chat" in path]
    return [body for body in chats if any(m.get("content") == said for m in body["messages"])]


async def test_a_message_and_two_calls_in_one_response(pool: PoolServer, llm: LlmServer) -> None:
    async with calling(pool) as caller:
        await caller.configure(tools=[WEATHER, LIGHTS])
        await caller.type_in("Weather, and light!")
        response = await caller.response()
        assert [item["type"] for item in response["output"]] == [
            "message",
            "function_call",
            "function_call",
        ]
        indexes = [event["output_index"] for event in caller.all("response.output_item.done")]
        assert indexes == [0, 1, 2]
        assert text_of(response) == "One moment."
        calls = calls_of(response)
        assert [(call["name"], json.loads(call["arguments"])) for call in calls] == list(CALLS)
        assert len({call["call_id"] for call in calls}) == 2

        for call, output in zip(calls, ("rain", "on"), strict=True):
            await caller.answer(call["call_id"], output)
        await caller.response(tool_choice="none")
        told = asked(llm, "Weather, and light!")[-1]["messages"]
        roles = [message["role"] for message in told]
        assert roles[-3:] == ["assistant", "tool", "tool"], "each output after its call"
        assert [message["content"] for message in told[-2:]] == ['"rain"', '"on"']
        names = [made["function"]["name"] for made in told[-3]["tool_calls"]]
        assert names == ["get_weather", "turn_on_lights"]

        again = calls_of(await caller.response())
        assert not {call["call_id"] for call in again} & {call["call_id"] for call in calls}


async def test_the_choice_of_tools_reaches_the_model(pool: PoolServer, llm: LlmServer) -> None:
    async with calling(pool) as caller:
        await caller.configure(tools=[WEATHER, LIGHTS], output_modalities=["text"])
        await caller.type_in("Well?")
        for choice in ("none", {"type": "function", "name": "turn_on_lights"}, "required"):
            await caller.response(tool_choice=choice)
        bodies = asked(llm, "Well?")
        if isinstance(llm, OpenAIServer):
            assert [body["tool_choice"] for body in bodies] == [
                "none",
                {"type": "function", "function": {"name": "turn_on_lights"}},
                "required",
            ]
            assert [len(body["tools"]) for body in bodies] == [2, 2, 2]
        else:  # Ollama knows no choice: it is told of the tools that may be called
            sent = [[t["function"]["name"] for t in body.get("tools") or ()] for body in bodies]
            assert sent == [[], ["turn_on_lights"], ["get_weather", "turn_on_lights"]]


async def test_a_tool_is_never_called_for_half_a_turn(pool: PoolServer, llm: LlmServer) -> None:
    """The model was asked ahead, and called: of that nobody hears."""
    async with calling(pool) as caller:
        await caller.configure(tools=[WEATHER])
        sound = spoken("please stop", 0.4, "talking now", 0.8)
        pause = len(spoken("please stop"))  # 0.3 s into it
        await caller.hear(sound[:pause])
        await until(lambda: any(body.get("tools") for _, body in llm.requests))
        await caller.hear(sound[pause:])
        response = await caller.done()
        assert len(caller.all("response.created")) == 1
        assert len(caller.all("input_audio_buffer.committed")) == 1
        assert len(calls_of(response)) == 2
        items = [event["item"]["type"] for event in caller.all("conversation.item.added")]
        assert items == ["message", "message", "function_call", "function_call"]
        kinds = caller.kinds()
        assert kinds.index("input_audio_buffer.committed") < kinds.index("response.created")


async def test_an_interruption_while_a_tool_is_called(pool: PoolServer, llm: LlmServer) -> None:
    async with calling(pool) as caller:
        await caller.configure(tools=[WEATHER])
        await caller.type_in("Weather, and light!")
        await caller.send("response.create")
        call = await caller.until(
            "response.output_item.added", having=lambda e: e["item"]["type"] == "function_call"
        )
        await caller.hear(spoken("what time is it", 0.6))
        await caller.until("input_audio_buffer.speech_started")
        await caller.done()
        first = next(
            event["response"]
            for event in caller.all("response.done")
            if event["response"]["id"] == call["response_id"]
        )
        assert first["status"] in ("completed", "cancelled")
        # What was called is answered as ever, the caller's new turn notwithstanding.
        for made in calls_of(first):
            await caller.answer(made["call_id"], "rain")
            await caller.until(
                "conversation.item.done",
                having=lambda e: e["item"]["type"] == "function_call_output",
            )
        response = await caller.response(tool_choice="none")
        assert response["status"] == "completed"
        assert "error" not in caller.kinds()


# --- responses of their own ------------------------------------------------------------------


async def test_overrides_hold_for_one_response(pool: PoolServer, llm: LlmServer) -> None:
    async with calling(pool) as caller:
        await caller.configure(instructions="Be kind.", max_output_tokens=50)
        await caller.type_in("Hello?")
        text = await caller.response(
            instructions="Be brief.",
            output_modalities=["text"],
            max_output_tokens=1,
            temperature=0.25,
            tools=[WEATHER],
            tool_choice="none",
            metadata={"kind": "short"},
        )
        assert text["status"] == "incomplete"
        assert text["status_details"]["reason"] == "max_output_tokens"
        assert text["metadata"] == {"kind": "short"}
        assert text_of(text) == "One"
        assert text["output"][0]["content"][0]["type"] == "output_text"
        whole = await caller.response(audio={"output": {"voice": "en-gb-x-rp"}})
        assert whole["audio"]["output"]["voice"] == "en-gb-x-rp"
        assert whole["status"] == "completed"
        assert text_of(whole) == "One moment."
        assert whole["output"][0]["content"][0]["type"] == "output_audio"
        short, usual = asked(llm, "Hello?")
        assert "Be brief." in short["messages"][0]["content"]
        assert "Be kind." in usual["messages"][0]["content"]
        if isinstance(llm, OpenAIServer):
            assert (short["temperature"], short["max_tokens"]) == (0.25, 1)
            assert (usual.get("temperature"), usual["max_tokens"]) == (None, 50)
        else:
            options = short["options"]
            assert (options["temperature"], options["num_predict"]) == (0.25, 1)
            assert "temperature" not in usual["options"]
            assert usual["options"]["num_predict"] == 50


async def test_out_of_band_beside_a_spoken_call(server: PoolServer) -> None:
    """They may refer to items, are told apart by their metadata, and leave no trace."""
    async with calling(server) as caller:
        await caller.type_in("what is the square of seven", id="item_seven")
        await caller.send("response.create")
        spoken_one = (await caller.until("response.created"))["response"]["id"]
        beside = {"conversation": "none", "output_modalities": ["text"]}
        reference = {"type": "item_reference", "id": "item_seven"}
        other = {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "what is two plus three"}],
        }
        for name, prompt in (("seven", reference), ("five", other)):
            await caller.send(
                "response.create",
                response={**beside, "input": [prompt], "metadata": {"about": name}},
            )
        done = [await caller.done() for _ in range(3)]
        told = {(each["metadata"] or {}).get("about", ""): each for each in done}
        assert "49" in text_of(told["seven"])
        assert "5" in text_of(told["five"])
        assert told[""]["id"] == spoken_one
        assert "49" in text_of(told[""])
        assert told["seven"]["conversation_id"] is None
        assert told[""]["conversation_id"] is not None
        outside = {item["id"] for name in ("seven", "five") for item in told[name]["output"]}
        inside = {event["item"]["id"] for event in caller.all("conversation.item.added")}
        assert not outside & inside
        await caller.send("conversation.item.retrieve", item_id=next(iter(outside)))
        assert (await caller.until("error"))["error"]["code"] == "item_retrieve_invalid_item_id"


async def test_a_call_out_of_band(server: PoolServer) -> None:
    async with calling(server) as caller:
        prompt = {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": QUESTION}],
        }
        response = await caller.response(conversation="none", input=[prompt], tools=[WEATHER])
        assert [call["name"] for call in calls_of(response)] == ["get_weather"]
        assert not caller.all("conversation.item.added")


async def test_callers_at_once_have_tools_of_their_own(server: PoolServer) -> None:
    async def ask(caller: Caller, tools: list[dict[str, Any]]) -> list[str]:
        await caller.configure(tools=tools, output_modalities=["text"])
        await caller.type_in(QUESTION)
        return [call["name"] for call in calls_of(await caller.response())]

    async with calling(server) as one, calling(server) as other:
        asking = asyncio.gather(ask(one, [WEATHER]), ask(other, []))
        assert list(await asking) == [["get_weather"], []]
