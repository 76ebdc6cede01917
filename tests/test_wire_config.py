"""What session.update means for the echo and for the pipeline (golden: session_update.txt)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.realtime import Wire
from voicepool.engines.base import Tool
from voicepool.events import PipelineSettings, TurnSettings
from voicepool.patience import EAGERNESS
from voicepool.wire.actions import Configure
from voicepool.wire.realtime.config import MAX_CONFIG_BYTES


@pytest.fixture
def wire() -> Wire:
    wire = Wire(voice="en-us", instructions="Be kind.")
    wire.open()
    return wire


def updated(wire: Wire, **session: Any) -> dict[str, Any]:
    (event,) = wire.say("session.update", session=session)
    assert event["type"] == "session.updated", event
    session_object: dict[str, Any] = event["session"]
    return session_object


def settings(wire: Wire) -> PipelineSettings:
    configured = wire.actions[-1]
    assert isinstance(configured, Configure)
    assert configured.settings == wire.protocol.settings
    return configured.settings


def test_the_defaults(wire: Wire) -> None:
    assert wire.protocol.settings == PipelineSettings(instructions="Be kind.", voice="en-us")


def test_absent_is_unchanged(wire: Wire) -> None:
    first = updated(wire, instructions="One.", audio={"output": {"speed": 1.5}})
    assert updated(wire) == first
    assert settings(wire).speed == 1.5


def test_null_clears(wire: Wire) -> None:
    updated(wire, instructions="x", tools=[{"type": "function", "name": "f"}], tracing="auto")
    cleared = updated(wire, instructions=None, tools=None, tracing=None)
    assert (cleared["instructions"], cleared["tools"], cleared["tracing"]) == ("", [], None)


def test_turn_detection_is_replaced_and_filled_with_defaults(wire: Wire) -> None:
    updated(wire, audio={"input": {"turn_detection": {"type": "server_vad", "threshold": 0.9}}})
    assert settings(wire).turns == TurnSettings(threshold=0.9)
    detection = {"type": "server_vad", "silence_duration_ms": 200, "create_response": False}
    updated(wire, audio={"input": {"turn_detection": detection}})
    assert settings(wire).turns == TurnSettings(silence_duration_ms=200, create_response=False)
    updated(wire, audio={"input": {"turn_detection": None}})
    assert settings(wire).turns is None


def test_semantic_vad_is_echoed_and_waits_by_its_eagerness(wire: Wire) -> None:
    detection = {"type": "semantic_vad", "interrupt_response": False}
    echo = updated(wire, audio={"input": {"turn_detection": detection}})
    assert echo["audio"]["input"]["turn_detection"] == {
        "type": "semantic_vad",
        "eagerness": "auto",
        "create_response": True,
        "interrupt_response": False,
    }
    assert settings(wire).turns == TurnSettings(
        interrupt_response=False, patience=EAGERNESS["medium"]
    )


def test_tools_and_what_is_not_called_here(wire: Wire) -> None:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
    weather = {"type": "function", "name": "weather", "parameters": parameters}
    docs = {"type": "mcp", "server_label": "docs", "authorization": "secret", "headers": {}}
    echo = updated(wire, tools=[weather, docs], tool_choice={"type": "function", "name": "weather"})
    assert echo["tools"] == [weather, {"type": "mcp", "server_label": "docs"}]
    assert settings(wire).tools == (Tool("weather", "", parameters),)
    assert settings(wire).tool_choice == "weather"
    updated(wire, tool_choice={"type": "mcp", "server_label": "docs"})
    assert settings(wire).tool_choice == "auto"


def test_transcription_echoes_only_what_was_sent(wire: Wire) -> None:
    given = {"model": "whisper-1", "language": "en", "prompt": "names"}
    echo = updated(wire, audio={"input": {"transcription": given}})
    assert echo["audio"]["input"]["transcription"] == given
    assert (settings(wire).language, settings(wire).prompt) == ("en", "names")


def test_voice_and_text(wire: Wire) -> None:
    echo = updated(wire, audio={"output": {"voice": {"id": "voice_1"}}}, output_modalities=["text"])
    assert echo["audio"]["output"]["voice"] == "voice_1"
    assert (settings(wire).voice, settings(wire).speak) == ("voice_1", False)
    echo = updated(wire, audio={"output": {"voice": None}}, output_modalities=["text", "audio"])
    assert (echo["audio"]["output"]["voice"], echo["output_modalities"]) == ("en-us", ["audio"])


def test_max_output_tokens(wire: Wire) -> None:
    updated(wire, max_output_tokens=40)
    assert settings(wire).max_tokens == 40
    updated(wire, max_output_tokens="inf")
    assert settings(wire).max_tokens is None


def test_a_wrong_update_changes_nothing(wire: Wire) -> None:
    before = updated(wire)
    (error,) = wire.say("session.update", session={"instructions": "x", "max_output_tokens": 0})
    assert error["error"]["param"] == "session.max_output_tokens"
    assert updated(wire) == before


def test_the_client_cannot_change_what_is_the_servers(wire: Wire) -> None:
    before = updated(wire)
    assert updated(wire, id="mine", object="x", expires_at=0, unheard_of={"a": 1}) == before


@pytest.mark.parametrize("character", ["x", "\x01", "é"])
def test_a_session_too_large_to_echo_is_refused(wire: Wire, character: str) -> None:
    text = character * (MAX_CONFIG_BYTES // 2)
    tools = [{"type": "function", "name": f"f{i}", "description": text} for i in range(2)]
    told = wire.protocol.receive(
        json.dumps({"type": "session.update", "session": {"tools": tools}}, ensure_ascii=False)
    )
    (error,) = wire.take(told)
    assert error["type"] == "error"
    assert wire.protocol.settings.tools == ()


def test_a_schema_nested_too_deeply_is_refused(wire: Wire) -> None:
    schema: dict[str, Any] = {}
    for _ in range(200):
        schema = {"items": schema}
    tool = {"type": "function", "name": "f", "parameters": schema}
    (error,) = wire.say("session.update", session={"tools": [tool]})
    assert "deep" in error["error"]["message"]
