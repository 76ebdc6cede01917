"""The session object: what session.update merges into it, its echo, and what the pipeline gets.

Fields are merged one by one: absent is "as before", null is "cleared" or "the default again". The
echo has every documented field resolved, and optional sub-keys only where the client set them:
some clients validate it strictly and stop on a key that they do not know.

A transcription session is a session with fewer fields: it is heard and written down, never
answered. What the others are is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from voicepool.engines.base import Tool
from voicepool.events import PipelineSettings, TurnSettings
from voicepool.patience import EAGERNESS
from voicepool.wire.realtime import patch
from voicepool.wire.realtime.audio import PCM, Format
from voicepool.wire.realtime.errors import invalid_value, too_large
from voicepool.wire.realtime.items import MAX_DEPTH, depth

MAX_CONFIG_BYTES = 512 << 10
"""Of the encoded session object: its echo must stay below 1 MiB, the limit of some clients."""
DEFAULT_MODEL = "voicepool"

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
    type: Literal["realtime", "transcription"] = "realtime"


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """The effective session. `merge` returns a changed copy, or raises and changes nothing."""

    defaults: Defaults
    fields: Mapping[str, Any]
    """The session object of a `realtime` session, whichever the type is."""
    input_format: Format = PCM
    output_format: Format = PCM
    temperature: float | None = None
    """Not of the session object, but honoured."""

    @classmethod
    def initial(cls, defaults: Defaults) -> SessionConfig:
        return cls(defaults, _initial(defaults))

    def merge(self, given: patch.SessionPatch) -> SessionConfig:
        """This session with what is `given` applied. Raises WireError."""
        fields = dict(self.fields)
        for name, value in _written(given).items():
            if name in _CLEARED:
                fields[name] = _CLEARED[name] if value is None else value
        if given.type is not msgspec.UNSET:
            fields["type"] = given.type
        if given.model is not msgspec.UNSET:
            fields["model"] = given.model or self.defaults.model
        if given.output_modalities is not msgspec.UNSET:
            fields["output_modalities"] = modalities(given.output_modalities)
        heard = (given.audio and given.audio.input) or patch.AudioInput()
        spoken = (given.audio and given.audio.output) or patch.AudioOutput()
        merged = SessionConfig(
            self.defaults,
            fields,
            self.input_format if heard.format is msgspec.UNSET else Format.of(heard.format),
            self.output_format if spoken.format is msgspec.UNSET else Format.of(spoken.format),
            self.temperature if given.temperature is msgspec.UNSET else given.temperature,
        )
        fields["audio"] = {
            "input": merged._merge_input(heard),
            "output": merged._merge_output(spoken),
        }
        _check_size(fields)
        return merged

    def _merge_input(self, given: patch.AudioInput) -> dict[str, Any]:
        written = _written(given)
        heard = {**self.fields["audio"]["input"], "format": self.input_format.shown}
        if not isinstance(given.turn_detection, msgspec.UnsetType):
            heard["turn_detection"] = _turn_detection(given.turn_detection)
        for name in ("transcription", "noise_reduction"):
            if name in written:
                heard[name] = written[name]
        return heard

    def _merge_output(self, given: patch.AudioOutput) -> dict[str, Any]:
        spoken = {**self.fields["audio"]["output"], "format": self.output_format.shown}
        if given.voice is not msgspec.UNSET:
            spoken["voice"] = voice_name(given.voice) or self.defaults.voice
        if given.speed is not msgspec.UNSET:
            spoken["speed"] = given.speed or 1.0
        return spoken

    # -- what others ask of it

    @property
    def answers(self) -> bool:
        """Whether there are responses in this session."""
        return bool(self.fields["type"] == "realtime")

    @property
    def shown(self) -> Mapping[str, Any]:
        """The session object as it goes on the wire."""
        return self.fields if self.answers else self._shown_transcription()

    def _shown_transcription(self) -> dict[str, Any]:
        heard = dict(self.fields["audio"]["input"])
        heard["transcription"] = self.transcription
        detection = heard["turn_detection"]
        if detection is not None:
            kept = {name: detection[name] for name in _OF_TRANSCRIPTION if name in detection}
            heard["turn_detection"] = kept
        return {
            "type": "transcription",
            "object": "realtime.transcription_session",
            "id": self.defaults.session_id,
            "expires_at": self.defaults.expires_at,
            "include": self.fields["include"],
            "audio": {"input": heard},
        }

    @property
    def transcription(self) -> dict[str, Any] | None:
        """The transcription settings; None where the client wants no transcripts."""
        found: dict[str, Any] | None = self.fields["audio"]["input"]["transcription"]
        if found is None and not self.answers:
            return {"model": self.fields["model"]}
        return found

    @property
    def live_transcripts(self) -> bool:
        """Whether transcript deltas may come while the caller still speaks."""
        return (self.transcription or {}).get("delay") in ("minimal", "low")

    def pipeline_settings(self) -> PipelineSettings:
        """What this session means for the pipeline."""
        fields, spoken = self.fields, self.fields["audio"]["output"]
        transcription = self.transcription or {}
        detection = fields["audio"]["input"]["turn_detection"]
        return PipelineSettings(
            turns=_turn_settings(detection, answers=self.answers),
            # Always on: an item that a response refers to needs its text, shown or not.
            transcribe=True,
            language=_language(transcription),
            prompt=" ".join([transcription.get("prompt", ""), *transcription.get("keywords", ())]),
            instructions=fields["instructions"],
            tools=tools(fields["tools"]),
            tool_choice=tool_choice(fields["tool_choice"]),
            speak=fields["output_modalities"] == ["audio"],
            voice=spoken["voice"],
            speed=spoken["speed"],
            max_tokens=_most_tokens(fields["max_output_tokens"]),
            temperature=self.temperature,
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
_OF_TRANSCRIPTION = (
    "type",
    "threshold",
    "prefix_padding_ms",
    "silence_duration_ms",
    "eagerness",
)
"""Fields of turn_detection that are about hearing, not about answering."""


def _initial(defaults: Defaults) -> dict[str, Any]:
    return {
        "type": defaults.type,
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
                "format": PCM.shown,
                "transcription": None,
                "noise_reduction": None,
                "turn_detection": _turn_detection(patch.ServerVad()),
            },
            "output": {"format": PCM.shown, "voice": defaults.voice, "speed": 1.0},
        },
    }


def _written(given: msgspec.Struct) -> dict[str, Any]:
    """The fields that the client wrote, null included, as plain JSON values."""
    written: dict[str, Any] = msgspec.to_builtins(given)
    return written


def _check_size(fields: Mapping[str, Any]) -> None:
    if depth(fields) > MAX_DEPTH:
        raise invalid_value(f"The session is nested more than {MAX_DEPTH} deep.", "session")
    if len(msgspec.json.encode(fields)) > MAX_CONFIG_BYTES:
        raise too_large(f"The session is larger than {MAX_CONFIG_BYTES} bytes.", "session")


# --- turn detection --------------------------------------------------------------------------


def _turn_detection(given: patch.Vad | None) -> dict[str, Any] | None:
    """The echo, with the defaults filled in: clients read the resolved booleans."""
    if isinstance(given, patch.ServerVad):
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
    if isinstance(given, patch.SemanticVad):
        return {
            "type": "semantic_vad",
            "eagerness": given.eagerness or "auto",
            "create_response": _or(given.create_response, True),
            "interrupt_response": _or(given.interrupt_response, True),
        }
    return None


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _turn_settings(detection: dict[str, Any] | None, *, answers: bool) -> TurnSettings | None:
    if detection is None:
        return None
    known = {name: value for name, value in detection.items() if name in _TURN_FIELDS}
    if not answers:
        known |= {"idle_timeout_ms": None, "create_response": False}
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


def voice_name(given: str | patch.VoiceId | msgspec.UnsetType | None) -> str | None:
    if isinstance(given, msgspec.UnsetType):
        return None
    return given.id if isinstance(given, patch.VoiceId) else given


def _language(transcription: Mapping[str, Any]) -> str | None:
    """The one that is spoken; several that may be spoken are for the recogniser to tell apart."""
    one: str | None = transcription.get("language")
    several: Sequence[str] = transcription.get("languages", ())
    return one or (several[0] if len(several) == 1 else None)


def _most_tokens(given: int | str) -> int | None:
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
