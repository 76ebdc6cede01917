"""What a response asks of the engines: its request over the session's settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from voicepool.engines.base import ChatRequest, Message
from voicepool.events import PipelineSettings, ResponseRequest
from voicepool.generation import Voice

T = TypeVar("T")

Asked = tuple[ChatRequest, Voice | None]
"""What the language model is asked, and how its reply is spoken: all that a reply depends on."""


def asked(settings: PipelineSettings, request: ResponseRequest, said: Sequence[Message]) -> Asked:
    """All that a response asks, after what was `said`."""
    return chat_request(settings, request, said), voice(settings, request)


def chat_request(
    settings: PipelineSettings, request: ResponseRequest, said: Sequence[Message]
) -> ChatRequest:
    """What the language model is asked, after what was `said`."""
    instructions = _given(request.instructions, settings.instructions)
    system = [Message("system", instructions)] if instructions else []
    most = _given(request.max_tokens, settings.max_tokens)
    return ChatRequest(
        messages=(*system, *said),
        tools=tuple(_given(request.tools, settings.tools)),
        tool_choice=_given(request.tool_choice, settings.tool_choice),
        max_tokens=None if most == "inf" else most,
        temperature=_given(request.temperature, settings.temperature),
    )


def voice(settings: PipelineSettings, request: ResponseRequest) -> Voice | None:
    """How the reply is spoken; None: not at all."""
    if not _given(request.speak, settings.speak):
        return None
    return Voice(_given(request.voice, settings.voice), settings.speed)


def settled(settings: PipelineSettings, request: ResponseRequest) -> ResponseRequest:
    """The request with what a client is told of its response decided: `settings` may change."""
    return replace(
        request,
        speak=_given(request.speak, settings.speak),
        voice=_given(request.voice, settings.voice),
        max_tokens=_given(request.max_tokens, settings.max_tokens) or "inf",
    )


def _given(value: T | None, default: T) -> T:
    return default if value is None else value
