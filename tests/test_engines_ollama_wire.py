"""Conversations and tools as Ollama's client can send them."""

from __future__ import annotations

import json
from typing import Any

import ollama
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicepool.engines.base import ChatRequest, Message, Tool, ToolCall
from voicepool.engines.ollama import wire

TOOLS = (Tool("weather", "The weather."), Tool("time", "The time."))

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


@pytest.mark.parametrize("arguments", ['{"a": 1}', "", "{", "[1]", "null", '{"a": "\\ud800"}'])
def test_arguments_are_sent_as_an_object(arguments: str) -> None:
    call = ToolCall("c", "f", arguments)
    (sent,) = wire.messages([Message("assistant", "Wait.", tool_calls=(call,))])
    whole = isinstance(json.loads(arguments), dict) if arguments not in ("", "{") else False
    expected = json.loads(arguments) if whole else {}
    assert sent["tool_calls"] == [{"function": {"name": "f", "arguments": expected}}]


def test_arguments_that_are_too_deep_are_none() -> None:
    call = ToolCall("c", "f", '{"a": ' * 100_000)
    (sent,) = wire.messages([Message("assistant", "Wait.", tool_calls=(call,))])
    assert sent["tool_calls"][0]["function"]["arguments"] == {}


def test_a_result_without_its_call_is_sent_without_a_name() -> None:
    (sent,) = wire.messages([Message("tool", "42", tool_call_id="gone")])
    assert sent == {"role": "tool", "content": "42", "tool_name": ""}


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("auto", ["weather", "time"]),
        ("required", ["weather", "time"]),
        ("none", []),
        ("time", ["time"]),
        ("unknown", ["weather", "time"]),
    ],
)
def test_a_choice_of_tool_is_what_the_model_is_given(choice: str, names: list[str]) -> None:
    sent = wire.tools(ChatRequest([], TOOLS, choice))
    assert [tool["function"]["name"] for tool in sent] == names


def test_what_the_client_would_drop_of_a_schema_is_described() -> None:
    place = {
        "type": "object",
        "description": "Where.",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    }
    parameters = {"type": "object", "properties": {"place": place}, "required": ["place"]}
    (tool,) = wire.tools(ChatRequest([], [Tool("weather", "", parameters)]))
    sent = ollama.Tool.model_validate(tool).model_dump(exclude_none=True)["function"]["parameters"]
    assert sent["required"] == ["place"]
    described = sent["properties"]["place"]["description"]
    where, _, schema = described.partition(" JSON Schema: ")
    assert where == "Where."
    assert json.loads(schema) == {
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    }


def test_a_schema_that_the_client_knows_is_sent_as_it_is() -> None:
    city = {"type": "string", "description": "Which.", "enum": ["Oslo", "Bergen"]}
    parameters = {"type": "object", "properties": {"city": city}}
    (tool,) = wire.tools(ChatRequest([], [Tool("weather", "", parameters)]))
    assert tool["function"]["parameters"] == parameters


@given(st.dictionaries(st.text(max_size=6), JSON, max_size=4))
def test_any_parameters_make_a_tool_or_are_refused_by_the_client(parameters: Any) -> None:
    for given_parameters in (parameters, {"properties": parameters}):
        (tool,) = wire.tools(ChatRequest([], [Tool("f", "", given_parameters)]))
        try:
            ollama.Tool.model_validate(tool)
        except ValueError:
            continue


@pytest.mark.parametrize(
    ("done", "called", "reason"),
    [
        ("stop", False, "stop"),
        (None, False, "stop"),
        ("load", False, "stop"),
        ("length", False, "length"),
        ("stop", True, "tool_calls"),
    ],
)
def test_reasons(done: str | None, called: bool, reason: str) -> None:
    assert wire.reason(done, called=called) == reason


@pytest.mark.parametrize(
    ("model", "listed", "there"),
    [
        ("llama3.2", "llama3.2:latest", True),
        ("Llama3.2:1b", "llama3.2:1b", True),
        ("hf.co/a/b:Q4", "hf.co/a/b:Q4", True),
        ("host:5000/a/b", "host:5000/a/b:latest", True),
        ("llama3.2", "llama3.2:1b", False),
    ],
)
def test_loaded_models_are_found_by_name(model: str, listed: str, there: bool) -> None:
    found = wire.loaded([ollama.ProcessResponse.Model(model=listed)], model)
    assert (found is not None) is there
