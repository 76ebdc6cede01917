"""response.create, as the request that a pipeline takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from voicepool.engines.base import Message
from voicepool.events import ResponseRequest
from voicepool.wire.realtime import config
from voicepool.wire.realtime.client import ResponseParam
from voicepool.wire.realtime.items import Conversation


def response_request(
    param: ResponseParam, conversation: Conversation, new_id: Callable[[str], str]
) -> ResponseRequest:
    """What the client did not write is None: the session's. Raises WireError."""
    given: dict[str, Any] = msgspec.to_builtins(param)
    messages: Sequence[Message] | None = None
    if param.input is not None:
        messages = [conversation.prompt(each, new_id) for each in param.input]
    return ResponseRequest(
        instructions=param.instructions,
        tools=None if param.tools is None else config.tools(given["tools"]),
        tool_choice=None if param.tool_choice is None else config.tool_choice(given["tool_choice"]),
        speak=_speak(param),
        voice=_voice(param),
        max_tokens=config.max_tokens(param.max_output_tokens),
        temperature=param.temperature,
        messages=messages,
        remember=param.conversation != "none",
        tag=given["metadata"],
    )


def _speak(param: ResponseParam) -> bool | None:
    if param.output_modalities is None:
        return None
    return config.modalities(param.output_modalities) == ["audio"]


def _voice(param: ResponseParam) -> str | None:
    if param.audio is None or param.audio.output is None:
        return None
    return config.voice_name(param.audio.output.voice)
