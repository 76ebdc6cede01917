"""voicepool.asking: every field of a request over the session's settings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from voicepool import asking
from voicepool.engines.base import ChatRequest, Message, Tool
from voicepool.events import PipelineSettings, ResponseRequest
from voicepool.generation import Voice

SAID = [Message("user", "hello")]
SETTINGS = PipelineSettings(
    instructions="Be kind.",
    tools=(Tool("look"),),
    tool_choice="required",
    voice="anna",
    speed=1.25,
    max_tokens=9,
    temperature=0.5,
)
FROM_SETTINGS = ChatRequest(
    messages=(Message("system", "Be kind."), *SAID),
    tools=(Tool("look"),),
    tool_choice="required",
    max_tokens=9,
    temperature=0.5,
)


def test_what_a_request_leaves_open_comes_from_the_settings() -> None:
    asked = asking.asked(SETTINGS, ResponseRequest(), SAID)
    assert asked == (FROM_SETTINGS, Voice("anna", 1.25))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"instructions": "Be brief."}, {"messages": (Message("system", "Be brief."), *SAID)}),
        ({"instructions": ""}, {"messages": tuple(SAID)}),
        ({"tools": []}, {"tools": ()}),
        ({"tool_choice": "none"}, {"tool_choice": "none"}),
        ({"max_tokens": 1}, {"max_tokens": 1}),
        ({"temperature": 0.0}, {"temperature": 0.0}),
        ({"tag": {"a": 1}, "remember": False}, {}),
    ],
)
def test_a_request_goes_before_the_settings(given: dict[str, Any], wanted: dict[str, Any]) -> None:
    chat, voice = asking.asked(SETTINGS, ResponseRequest(**given), SAID)
    assert chat == replace(FROM_SETTINGS, **wanted)
    assert voice == Voice("anna", 1.25)


@pytest.mark.parametrize(
    ("settings", "request_", "voice"),
    [
        (SETTINGS, ResponseRequest(voice="bert"), Voice("bert", 1.25)),
        (SETTINGS, ResponseRequest(speak=False, voice="bert"), None),
        (replace(SETTINGS, speak=False), ResponseRequest(), None),
        (replace(SETTINGS, speak=False), ResponseRequest(speak=True), Voice("anna", 1.25)),
    ],
)
def test_how_it_is_spoken(
    settings: PipelineSettings, request_: ResponseRequest, voice: Voice | None
) -> None:
    assert asking.asked(settings, request_, SAID)[1] == voice
