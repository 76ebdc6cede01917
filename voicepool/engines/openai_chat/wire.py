"""Conversations, tools and models as OpenAI's API has them. Pure.

https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from voicepool.engines.base import ChatRequest, Message, Tool, ToolCall
from voicepool.engines.chat.context import DEFAULT_CONTEXT, MOST_CONTEXT

_WINDOW_FIELDS = ("max_model_len", "context_length", "context_window", "max_context_length")
"""Of vLLM and SGLang; OpenRouter and Together; Groq; LM Studio."""


def messages(conversation: Sequence[Message]) -> list[dict[str, Any]]:
    """The `messages` of a request.

    The API wants every call's result right after the message that calls. Callers may speak before
    a tool answers, so results move up to their calls; calls without one are left out.
    """
    results = {m.tool_call_id: m for m in conversation if m.role == "tool"}
    sent: list[dict[str, Any]] = []
    for message in conversation:
        if message.role == "tool":
            continue
        calls = [call for call in message.tool_calls if call.call_id in results]
        if message.content or calls or not message.tool_calls:
            sent.append(_message(message, calls))
        for call in calls:
            result = results.pop(call.call_id)
            told = {"role": "tool", "tool_call_id": call.call_id, "content": result.content}
            sent.append(told)
    return sent


def _message(message: Message, calls: Sequence[ToolCall]) -> dict[str, Any]:
    told: dict[str, Any] = {"role": message.role, "content": message.content}
    if calls:
        told["tool_calls"] = [
            {
                "id": call.call_id,
                "type": "function",
                "function": {"name": call.name, "arguments": _arguments(call)},
            }
            for call in calls
        ]
    return told


def _arguments(call: ToolCall) -> str:
    """A JSON object in any case: chat templates read it, and fail at what the model garbled."""
    try:
        whole = isinstance(json.loads(call.arguments), dict)
    except (ValueError, RecursionError):
        whole = False
    return call.arguments if whole else "{}"


def tools(request: ChatRequest) -> dict[str, Any]:
    """The request's fields `tools` and `tool_choice`; none where it has no tools.

    A choice that is none of the tools is as "auto": servers would refuse the whole conversation.
    """
    if not request.tools:
        return {}
    choice: str | dict[str, Any] = request.tool_choice
    if choice not in ("auto", "none", "required"):
        known = any(tool.name == choice for tool in request.tools)
        choice = {"type": "function", "function": {"name": choice}} if known else "auto"
    return {"tools": [_tool(tool) for tool in request.tools], "tool_choice": choice}


def _tool(tool: Tool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description}
    parameters = tool.parameters or {"type": "object", "properties": {}}
    return {"type": "function", "function": {**function, "parameters": parameters}}


def reason(
    given: str | None, *, called: bool
) -> Literal["stop", "length", "content_filter", "tool_calls"]:
    """Why a generation ended; `called`: it called tools, whatever the server names it, unless it
    ran out of tokens or a filter of the server's stopped it."""
    if given == "length":
        return "length"
    if given == "content_filter":
        return "content_filter"
    return "tool_calls" if called else "stop"


def context_of(model: Mapping[str, Any]) -> int:
    """Tokens of context of a model as the server lists it."""
    for field in _WINDOW_FIELDS:
        if (size := _size(model.get(field))) is not None:
            return min(size, MOST_CONTEXT)
    meta = model.get("meta")  # llama.cpp: what it runs with, and what the model was made for
    if isinstance(meta, Mapping):
        if (size := _size(meta.get("n_ctx"))) is not None:
            return min(size, MOST_CONTEXT)
        if (size := _size(meta.get("n_ctx_train"))) is not None:
            return min(size, DEFAULT_CONTEXT)
    return DEFAULT_CONTEXT


def _size(value: object) -> int | None:
    return value if isinstance(value, int) and value > 0 else None
