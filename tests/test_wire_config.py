"""What session.update means for the echo and for the pipeline (golden: session_update.txt)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.realtime.realtime_transcription_session_create_response import (
    RealtimeTranscriptionSessionCreateResponse,
)

from tests.realtime import BETA_MODELS, MODELS, Wire
from voicepool.engines.base import Tool
from voicepool.events import PipelineSettings, SpeechStarted, TurnSettings
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


def test_a_model_of_null_is_the_first_one_again(wire: Wire) -> None:
    first = wire.sent[0]["session"]["model"]
    assert updated(wire, model="other")["model"] == "other"
    assert updated(wire, model=None)["model"] == first


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


# --- what is kept for clients that look for it -----------------------------------------------


def test_every_documented_field_comes_back_as_it_was_written(wire: Wire) -> None:
    given = {
        "type": "realtime",
        "model": "gpt-realtime",
        "tracing": {"workflow_name": "w", "group_id": "g", "metadata": {"a": 1}},
        "truncation": {
            "type": "retention_ratio",
            "retention_ratio": 0.8,
            "token_limits": {"post_instructions": 1000},
        },
        "prompt": {
            "id": "p",
            "version": "2",
            "variables": {
                "name": "x",
                "text": {"type": "input_text", "text": "y"},
                "image": {"type": "input_image", "detail": "auto", "image_url": "https://e.org/i"},
                "file": {"type": "input_file", "file_id": "f"},
            },
        },
        "include": ["item.input_audio_transcription.logprobs"],
        "reasoning": {"effort": "high"},
        "parallel_tool_calls": False,
        "tools": [
            {
                "type": "mcp",
                "server_label": "docs",
                "allowed_tools": {"tool_names": ["find"]},
                "require_approval": {"never": {"read_only": True}},
            },
            {"type": "mcp", "server_label": "b", "require_approval": "always"},
        ],
    }
    echo = updated(wire, **given)
    assert {name: echo[name] for name in given} == given


def test_no_key_that_the_client_did_not_write(wire: Wire) -> None:
    """Pipecat stops at one that it does not know."""
    audio = {"input": {"transcription": {}, "noise_reduction": {"type": "far_field"}}}
    heard = updated(wire, audio=audio)["audio"]["input"]
    assert (heard["transcription"], heard["noise_reduction"]) == ({}, {"type": "far_field"})


def test_turn_detection_of_type_none_is_null(wire: Wire) -> None:
    echo = updated(wire, audio={"input": {"turn_detection": {"type": "none"}}})
    assert echo["audio"]["input"]["turn_detection"] is None
    assert settings(wire).turns is None


def test_hints_for_the_recogniser(wire: Wire) -> None:
    given = {"languages": ["de"], "keywords": ["Voicepool", "Twilio"], "prompt": "Names:"}
    updated(wire, audio={"input": {"transcription": given}})
    assert settings(wire).prompt == "Names: Voicepool Twilio"
    assert settings(wire).language == "de"
    updated(wire, audio={"input": {"transcription": {"languages": ["de", "en"]}}})
    assert settings(wire).language is None


def test_temperature_is_honoured_and_not_echoed(wire: Wire) -> None:
    assert "temperature" not in updated(wire, temperature=0.3)
    assert settings(wire).temperature == 0.3


# --- formats ---------------------------------------------------------------------------------

RATES = pytest.mark.parametrize("rate", [8_000, 16_000, 48_000])


def test_formats_are_independent(wire: Wire) -> None:
    audio = updated(wire, audio={"input": {"format": {"type": "audio/pcmu"}}})["audio"]
    assert audio["input"]["format"] == {"type": "audio/pcmu"}
    assert audio["output"]["format"] == {"type": "audio/pcm", "rate": 24_000}
    audio = updated(wire, audio={"output": {"format": {"type": "audio/pcma", "rate": 8_000}}})
    assert audio["audio"]["input"]["format"] == {"type": "audio/pcmu"}
    assert audio["audio"]["output"]["format"] == {"type": "audio/pcma"}
    audio = updated(wire, audio={"input": {"format": None}})["audio"]
    assert audio["input"]["format"] == {"type": "audio/pcm", "rate": 24_000}
    assert audio["output"]["format"] == {"type": "audio/pcma"}


@RATES
def test_another_rate_is_echoed_to_who_asked_for_it(wire: Wire, rate: int) -> None:
    asked = {"type": "audio/pcm", "rate": rate}
    assert updated(wire, audio={"output": {"format": asked}})["audio"]["output"]["format"] == asked
    assert wire.protocol.output_rate("none yet") == rate


# --- transcription sessions ------------------------------------------------------------------


def test_a_transcription_session_has_what_hearing_takes() -> None:
    wire = Wire(type="transcription", model="m")
    (created,) = wire.open()
    RealtimeTranscriptionSessionCreateResponse.model_validate(created["session"], strict=True)
    assert created["session"] == {
        "type": "transcription",
        "object": "realtime.transcription_session",
        "id": "sess_1",
        "expires_at": 1_790_000_000,
        "include": None,
        "audio": {
            "input": {
                "format": {"type": "audio/pcm", "rate": 24_000},
                "transcription": {"model": "m"},
                "noise_reduction": None,
                "turn_detection": {
                    "type": "server_vad",
                    "threshold": 0.5,
                    "prefix_padding_ms": 300,
                    "silence_duration_ms": 500,
                },
            }
        },
    }
    assert wire.protocol.settings.turns == TurnSettings(create_response=False)


def test_a_transcription_session_is_never_answered(wire: Wire) -> None:
    detection = {"type": "server_vad", "idle_timeout_ms": 5_000, "create_response": True}
    audio = {"input": {"transcription": None, "turn_detection": detection}}
    echo = updated(wire, type="transcription", audio=audio)
    assert echo["audio"]["input"]["transcription"] == {"model": "voicepool"}
    assert settings(wire).turns == TurnSettings(create_response=False)
    (error,) = wire.say("response.create", event_id="e")
    assert "no responses" in error["error"]["message"]


def test_the_type_may_change_until_the_conversation_begins(wire: Wire) -> None:
    assert updated(wire, type="transcription")["type"] == "transcription"
    assert updated(wire, instructions="x")["type"] == "transcription"
    assert updated(wire, type="realtime")["instructions"] == "x"
    wire.hear(SpeechStarted("item_u", 0))
    (error,) = wire.say("session.update", session={"type": "transcription"})
    assert error["error"]["param"] == "session.type"
    assert updated(wire, type="realtime")["type"] == "realtime"


def test_the_type_stays_settled_once_nothing_is_left_of_the_conversation(wire: Wire) -> None:
    item = {"type": "message", "role": "user", "content": []}
    wire.say("conversation.item.create", item={**item, "id": "item_1"})
    wire.say("conversation.item.delete", item_id="item_1")
    (error,) = wire.say("session.update", session={"type": "transcription"})
    assert error["error"]["param"] == "session.type"


def test_the_type_is_settled_by_a_response_that_is_yet_to_begin(wire: Wire) -> None:
    wire.say("response.create", response={"conversation": "none"})
    (error,) = wire.say("session.update", session={"type": "transcription"})
    assert error["error"]["param"] == "session.type"


# --- what a client secret holds --------------------------------------------------------------


def test_a_secrets_session_is_there_from_the_start() -> None:
    session = b'{"type":"realtime","instructions":"Be kind.","audio":{"output":{"speed":1.2}}}'
    wire = Wire(session=session)
    (created,) = wire.open()
    assert created["session"]["instructions"] == "Be kind."
    assert wire.protocol.settings.speed == 1.2


def test_a_secrets_transcription_session() -> None:
    (created,) = Wire(session=b'{"type":"transcription"}').open()
    assert created["session"]["object"] == "realtime.transcription_session"


@pytest.mark.parametrize("session", [b"[]", b"{", b'{"instructions":5}', b"\xff", b"}{"])
def test_a_secrets_session_that_is_none_is_told_and_does_not_matter(session: bytes) -> None:
    wire = Wire(session=session)
    created, error = wire.open()
    assert created["session"]["instructions"] == ""
    assert error["type"] == "error"


def test_the_handshake_chooses_the_dialect_whatever_the_secret_was_made_with() -> None:
    wire = Wire(session=b'{"type":"realtime","instructions":"x"}', is_beta=True)
    (created,) = wire.open()
    assert (created["session"]["instructions"], created["session"]["modalities"]) == (
        "x",
        ["audio", "text"],
    )


# --- the beta dialect ------------------------------------------------------------------------


def test_the_shape_of_the_first_updates_chooses_the_dialect(wire: Wire) -> None:
    assert "audio" in updated(wire, instructions="neither")
    wire.models = BETA_MODELS
    assert "modalities" in updated(wire, voice="x")
    assert "modalities" in updated(wire, instructions="neither")
    wire.models = MODELS
    assert "audio" in updated(wire, type="realtime")


def test_the_dialect_is_settled_once_the_conversation_has_begun(wire: Wire) -> None:
    wire.hear(SpeechStarted("item_u", 0))
    assert updated(wire, voice="ignored, as unknown fields are")["audio"]["output"] == {
        "format": {"type": "audio/pcm", "rate": 24_000},
        "voice": "en-us",
        "speed": 1.0,
    }
