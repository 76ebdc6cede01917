"""The session object: what session.update merges into it, its echo, and what the pipeline gets.

Fields are merged one by one: absent is "as before", null is "cleared" or "the default again". The
echo has every documented field resolved, and optional sub-keys only where the client set them:
some clients validate it strictly and stop on a key that they do not know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from voicepool.engines.base import Tool
from voicepool.events import PipelineSettings, TurnSettings
from voicepool.patience import EAGERNESS
from voicepool.wire.realtime import client
from voicepool.wire.realtime.errors import invalid_value, too_large

RATE = 24_000
"""Samples per second of `audio/pcm`, in and out."""
MAX_CONFIG_BYTES = 512 << 10
"""Of the encoded session object: its echo must stay below 1 MiB, the limit of some clients."""
MAX_DEPTH = 64
"""Of JSON in the session object (a tool's parameters are a schema of any shape)."""
DEFAULT_MODEL = "voicepool"

_PCM: Mapping[str, Any] = {"type": "audio/pcm", "rate": RATE}
_TURNS = TurnSettings()


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a session is before the client has said anything."""

    session_id: str
    expires_at: int
    """Unix seconds at which the server will end the call."""
    model: str = DEFAULT_MODEL
    """Echoed; what answers is what the server was configured with."""
    instructions: str = ""
    voice: str = "default"


class SessionConfig:
    """The effective session object. `merge` returns a changed copy, or raises and changes nothing.

    `fields` is the object as it goes on the wire; nothing else may change it.
    """

    def __init__(self, defaults: Defaults, fields: dict[str, Any] | None = None) -> None:
        self._defaults = defaults
        self.fields = _initial(defaults) if fields is None else fields

    def merge(self, patch: client.SessionPatch) -> SessionConfig:
        """This session with `patch` applied. Raises WireError."""
        fields = dict(self.fields)
        for name, value in _given(patch).items():
            if name in _CLEARED:
                fields[name] = _CLEARED[name] if value is None else value
        if patch.model:
            fields["model"] = patch.model
        if patch.output_modalities is not msgspec.UNSET:
            fields["output_modalities"] = modalities(patch.output_modalities)
        if patch.audio is not None:
            fields["audio"] = self._merge_audio(patch.audio)
        _check_size(fields)
        return SessionConfig(self._defaults, fields)

    def _merge_audio(self, patch: client.Audio) -> dict[str, Any]:
        audio = self.fields["audio"]
        heard, spoken = dict(audio["input"]), dict(audio["output"])
        if patch.input is not None:
            given = _given(patch.input)
            if "turn_detection" in given:
                heard["turn_detection"] = _turn_detection(patch.input.turn_detection)
            for name in ("transcription", "noise_reduction"):
                if name in given:
                    heard[name] = given[name]
        if patch.output is not None:
            if patch.output.voice is not msgspec.UNSET:
                spoken["voice"] = voice_name(patch.output.voice) or self._defaults.voice
            if patch.output.speed is not msgspec.UNSET:
                spoken["speed"] = patch.output.speed or 1.0
        return {"input": heard, "output": spoken}

    # -- what others ask of it

    @property
    def transcription(self) -> dict[str, Any] | None:
        """The transcription settings; None where the client wants no transcripts."""
        found: dict[str, Any] | None = self.fields["audio"]["input"]["transcription"]
        return found

    @property
    def live_transcripts(self) -> bool:
        """Whether transcript deltas may come while the caller still speaks."""
        return (self.transcription or {}).get("delay") in ("minimal", "low")

    def pipeline_settings(self) -> PipelineSettings:
        """What this session means for the pipeline."""
        fields, spoken = self.fields, self.fields["audio"]["output"]
        transcription = self.transcription or {}
        return PipelineSettings(
            turns=_turn_settings(self.fields["audio"]["input"]["turn_detection"]),
            # Always on: an item that a response refers to needs its text, shown or not.
            transcribe=True,
            language=transcription.get("language"),
            prompt=transcription.get("prompt", ""),
            instructions=fields["instructions"],
            tools=tools(fields["tools"]),
            tool_choice=tool_choice(fields["tool_choice"]),
            speak=fields["output_modalities"] == ["audio"],
            voice=spoken["voice"],
            speed=spoken["speed"],
            max_tokens=max_tokens(fields["max_output_tokens"]),
        )


_CLEARED: Mapping[str, Any] = {
    "instructions": "",
    "tools": [],
    "tool_choice": "auto",
    "max_output_tokens": "inf",
    "truncation": "auto",
    "tracing": None,
    "prompt": None,
    "include": None,
    "reasoning": None,
    "parallel_tool_calls": None,
}
"""What null sets a field to. Fields that are not here have rules of their own."""


def _initial(defaults: Defaults) -> dict[str, Any]:
    return {
        "type": "realtime",
        "object": "realtime.session",
        "id": defaults.session_id,
        "model": defaults.model,
        "output_modalities": ["audio"],
        "instructions": defaults.instructions,
        "tools": [],
        "tool_choice": "auto",
        "max_output_tokens": "inf",
        "tracing": None,
        "truncation": "auto",
        "prompt": None,
        "expires_at": defaults.expires_at,
        "include": None,
        "audio": {
            "input": {
                "format": _PCM,
                "transcription": None,
                "noise_reduction": None,
                "turn_detection": _turn_detection(client.ServerVad()),
            },
            "output": {"format": _PCM, "voice": defaults.voice, "speed": 1.0},
        },
    }


def _given(patch: msgspec.Struct) -> dict[str, Any]:
    """The fields that the client wrote, null included, as plain JSON values."""
    given: dict[str, Any] = msgspec.to_builtins(patch)
    return given


def _check_size(fields: dict[str, Any]) -> None:
    if _depth(fields) > MAX_DEPTH:
        raise invalid_value(f"The session is nested more than {MAX_DEPTH} deep.", "session")
    if len(msgspec.json.encode(fields)) > MAX_CONFIG_BYTES:
        raise too_large(f"The session is larger than {MAX_CONFIG_BYTES} bytes.", "session")


def _depth(value: object) -> int:
    """How deeply lists and objects are nested in `value`; 0 for a plain one."""
    depth, level = 0, [value]
    while True:
        inner: list[object] = []
        for each in level:
            if isinstance(each, Mapping):
                inner.extend(each.values())
            elif isinstance(each, list):
                inner.extend(each)
        nested = any(isinstance(each, Mapping | list) for each in level)
        if not nested or depth > MAX_DEPTH:
            return depth
        depth, level = depth + 1, inner


# --- turn detection --------------------------------------------------------------------------


def _turn_detection(
    given: client.ServerVad | client.SemanticVad | msgspec.UnsetType | None,
) -> dict[str, Any] | None:
    """The echo, with the defaults filled in: clients read the resolved booleans."""
    if isinstance(given, client.ServerVad):
        return {
            "type": "server_vad",
            "threshold": _or(given.threshold, _TURNS.threshold),
            "prefix_padding_ms": int(_or(given.prefix_padding_ms, _TURNS.prefix_padding_ms)),
            "silence_duration_ms": int(_or(given.silence_duration_ms, _TURNS.silence_duration_ms)),
            "idle_timeout_ms": None
            if given.idle_timeout_ms is None
            else int(given.idle_timeout_ms),
            "create_response": _or(given.create_response, True),
            "interrupt_response": _or(given.interrupt_response, True),
        }
    if isinstance(given, client.SemanticVad):
        return {
            "type": "semantic_vad",
            "eagerness": given.eagerness or "auto",
            "create_response": _or(given.create_response, True),
            "interrupt_response": _or(given.interrupt_response, True),
        }
    return None


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _turn_settings(detection: dict[str, Any] | None) -> TurnSettings | None:
    if detection is None:
        return None
    known = {name: value for name, value in detection.items() if name in _TURN_FIELDS}
    eagerness = detection.get("eagerness")
    return TurnSettings(**known, patience=EAGERNESS[eagerness] if eagerness else None)


_TURN_FIELDS = frozenset(
    {
        "threshold",
        "prefix_padding_ms",
        "silence_duration_ms",
        "idle_timeout_ms",
        "create_response",
        "interrupt_response",
    }
)
"""Those of server_vad. semantic_vad has no times: what has been said decides."""


# --- wire values to pipeline values, shared with response.create -----------------------------


def modalities(given: Sequence[str] | msgspec.UnsetType | None) -> list[str]:
    """["audio"] or ["text"]; both together are audio, which has its transcript anyway."""
    return ["text"] if given and "audio" not in given else ["audio"]


def voice_name(given: str | client.VoiceId | msgspec.UnsetType | None) -> str | None:
    if isinstance(given, msgspec.UnsetType):
        return None
    return given.id if isinstance(given, client.VoiceId) else given


def max_tokens(given: int | str | None) -> int | None:
    return given if isinstance(given, int) else None


def tools(given: Sequence[Mapping[str, Any]]) -> tuple[Tool, ...]:
    """The functions; other kinds of tools are not called here."""
    return tuple(
        Tool(each["name"], each.get("description", ""), each.get("parameters", {}))
        for each in given
        if each["type"] == "function"
    )


def tool_choice(given: str | Mapping[str, Any]) -> str:
    if isinstance(given, str):
        return given
    return str(given["name"]) if given["type"] == "function" else "auto"
