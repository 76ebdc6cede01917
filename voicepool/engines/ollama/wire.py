"""Conversations and tools as Ollama's chat API takes them. Pure.

https://github.com/ollama/ollama/blob/main/docs/api.md. Ollama's own client drops what its types do
not know, so what it would drop is said in another way.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import ollama

from voicepool.engines.base import ChatRequest, Message, Tool, ToolCall

_KEPT = frozenset({"type", "items", "description", "enum"})
"""What the client sends of a parameter's JSON Schema."""


def messages(conversation: Sequence[Message]) -> list[dict[str, Any]]:
    """The `messages` of a request. A result names its tool, because Ollama knows no call ids."""
    names = {call.call_id: call.name for message in conversation for call in message.tool_calls}
    sent = []
    for message in conversation:
        told: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.tool_calls:
            told["tool_calls"] = [_call(call) for call in message.tool_calls]
        if message.role == "tool":
            told["tool_name"] = names.get(message.tool_call_id, "")
        sent.append(told)
    return sent


def _call(call: ToolCall) -> dict[str, Any]:
    try:
        arguments = json.loads(call.arguments)
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        arguments = {}
    return {"function": {"name": call.name, "arguments": arguments}}


def tools(request: ChatRequest) -> list[dict[str, Any]]:
    """The `tools` of a request.

    Ollama leaves the choice to the model. Of a `tool_choice` it can be told "none", by no tools,
    and a tool's name, by that tool alone; "required" is as "auto".
    """
    if request.tool_choice == "none":
        return []
    named = [tool for tool in request.tools if tool.name == request.tool_choice]
    return [_tool(tool) for tool in named or request.tools]


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "description": tool.description}
    if tool.parameters:
        given = tool.parameters.get("properties")
        properties = given if isinstance(given, Mapping) else {}
        function["parameters"] = {
            **tool.parameters,
            "type": "object",
            "properties": {name: _property(schema) for name, schema in properties.items()},
        }
    return {"type": "function", "function": function}


def _property(schema: object) -> dict[str, Any]:
    """A parameter whose description says what of its schema the client would drop."""
    if not isinstance(schema, Mapping):
        return {}
    kept = {key: value for key, value in schema.items() if key in _KEPT}
    rest = {key: value for key, value in schema.items() if key not in _KEPT}
    if rest:
        told = f"JSON Schema: {json.dumps(rest)}"
        kept["description"] = " ".join(filter(None, (str(schema.get("description", "")), told)))
    return kept


def new_call(name: str, arguments: Mapping[str, Any]) -> ToolCall:
    """A call of the model's, with an id made here: the client drops Ollama's."""
    return ToolCall(f"call_{secrets.token_hex(12)}", name, json.dumps(dict(arguments)))


def reason(done_reason: str | None, *, called: bool) -> Literal["stop", "length", "tool_calls"]:
    """Why a generation ended; `called`: it called tools."""
    if called:
        return "tool_calls"
    return "length" if done_reason == "length" else "stop"


def loaded(
    models: Sequence[ollama.ProcessResponse.Model], model: str
) -> ollama.ProcessResponse.Model | None:
    """`model` among those that the server has in memory."""
    tagged = model if ":" in model.rpartition("/")[2] else f"{model}:latest"
    return next((m for m in models if (m.model or m.name or "").lower() == tagged.lower()), None)
