"""The beta dialect: other names and flatter objects for the same protocol.

A client's events are read into those of the GA dialect, and the server's are rewritten as they go
out; all that happens between is one protocol. OpenAI retired this dialect in 2026, but frameworks
and their users still speak it. Its names are those of `openai.types.beta.realtime`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from voicepool.wire.realtime import client, patch
from voicepool.wire.realtime.config import SessionConfig
from voicepool.wire.realtime.errors import invalid_value
from voicepool.wire.realtime.responses import Event

HEADER = ("OpenAI-Beta", "realtime=v1")
SUBPROTOCOL = "openai-beta.realtime-v1"
"""Either asks for this dialect at the handshake."""


# --- inward ----------------------------------------------------------------------------------

_Pcm16 = Literal["pcm16", "g711_ulaw", "g711_alaw"]
_FORMATS: Mapping[str, patch.Format] = {
    "pcm16": patch.Pcm(),
    "g711_ulaw": patch.Pcmu(),
    "g711_alaw": patch.Pcma(),
}


class Session(Struct):
    """A session.update's or transcription_session.update's."""

    model: str | UnsetType | None = UNSET
    modalities: patch.Modalities | UnsetType | None = UNSET
    instructions: str | UnsetType | None = UNSET
    voice: patch.Name | UnsetType | None = UNSET
    speed: Annotated[float, Meta(ge=0.25, le=1.5)] | UnsetType | None = UNSET
    input_audio_format: _Pcm16 | UnsetType | None = UNSET
    output_audio_format: _Pcm16 | UnsetType | None = UNSET
    input_audio_transcription: patch.Transcription | UnsetType | None = UNSET
    input_audio_noise_reduction: patch.NoiseReduction | UnsetType | None = UNSET
    turn_detection: patch.Vad | UnsetType | None = UNSET
    tools: patch.Tools | UnsetType | None = UNSET
    tool_choice: patch.ToolChoice | UnsetType | None = UNSET
    temperature: patch.Temperature | UnsetType | None = UNSET
    max_response_output_tokens: patch.MaxTokens | UnsetType | None = UNSET
    tracing: Literal["auto"] | patch.Tracing | UnsetType | None = UNSET
    include: list[Literal["item.input_audio_transcription.logprobs"]] | UnsetType | None = UNSET

    def ga(self, type: Literal["realtime", "transcription"] | UnsetType) -> patch.SessionPatch:
        """The same of a GA session."""
        heard = patch.AudioInput(
            format=_format(self.input_audio_format),
            transcription=self.input_audio_transcription,
            noise_reduction=self.input_audio_noise_reduction,
            turn_detection=self.turn_detection,
        )
        spoken = patch.AudioOutput(
            format=_format(self.output_audio_format), voice=self.voice, speed=self.speed
        )
        return patch.SessionPatch(
            type=type,
            model=self.model,
            output_modalities=self.modalities,
            instructions=self.instructions,
            tools=self.tools,
            tool_choice=self.tool_choice,
            max_output_tokens=self.max_response_output_tokens,
            temperature=self.temperature,
            audio=patch.Audio(heard, spoken),
            tracing=self.tracing,
            include=self.include,
        )


_FLAT = frozenset(Session.__struct_fields__) - frozenset(patch.SessionPatch.__struct_fields__)
"""What only a session of this dialect has."""


class SessionUpdate(Struct):
    session: Session

    def ga(self) -> client.ClientEvent:
        return client.SessionUpdate(self.session.ga(UNSET))


class TranscriptionUpdate(Struct):
    session: Session

    def ga(self) -> client.ClientEvent:
        return client.SessionUpdate(self.session.ga("transcription"))


class ItemCreate(client.ItemCreate):
    def ga(self) -> client.ClientEvent:
        _check(self.item)
        return client.ItemCreate(self.item, self.previous_item_id)


class ResponseParam(Struct):
    modalities: patch.Modalities | None = None
    instructions: str | None = None
    voice: patch.Name | None = None
    output_audio_format: _Pcm16 | None = None
    tools: patch.Tools | None = None
    tool_choice: patch.ToolChoice | None = None
    temperature: patch.Temperature | None = None
    max_response_output_tokens: patch.MaxTokens | None = None
    max_output_tokens: patch.MaxTokens | None = None
    """How some clients name it here."""
    metadata: client.Metadata | None = None
    conversation: str | None = None
    input: Annotated[list[client.ItemParam], Meta(max_length=256)] | None = None

    def ga(self) -> client.ResponseParam:
        for item in self.input or ():
            _check(item)
        spoken = patch.AudioOutput(
            format=_FORMATS[self.output_audio_format] if self.output_audio_format else UNSET,
            voice=self.voice,
        )
        return client.ResponseParam(
            instructions=self.instructions,
            output_modalities=self.modalities,
            audio=client.ResponseAudio(spoken),
            tools=self.tools,
            tool_choice=self.tool_choice,
            max_output_tokens=self.max_response_output_tokens or self.max_output_tokens,
            temperature=self.temperature,
            metadata=self.metadata,
            conversation=self.conversation,
            input=self.input,
        )


class ResponseCreate(Struct):
    response: ResponseParam | None = None

    def ga(self) -> client.ClientEvent:
        return client.ResponseCreate(self.response.ga() if self.response else None)


_Own = SessionUpdate | TranscriptionUpdate | ItemCreate | ResponseCreate
_EVENTS: client.Decoders = {
    **client.EVENTS,
    "session.update": msgspec.json.Decoder(SessionUpdate),
    "transcription_session.update": msgspec.json.Decoder(TranscriptionUpdate),
    "conversation.item.create": msgspec.json.Decoder(ItemCreate),
    "response.create": msgspec.json.Decoder(ResponseCreate),
}


def read_event(envelope: client.Envelope, text: str | bytes) -> client.ClientEvent:
    """As `client.read_event`."""
    event = client.read_event(envelope, text, _EVENTS)
    return event.ga() if isinstance(event, _Own) else event


class _Shape(Struct):
    session: dict[str, msgspec.Raw]


_SHAPE = msgspec.json.Decoder(_Shape)


def is_meant(envelope: client.Envelope, text: str | bytes, before: bool) -> bool:
    """Whether a client that spoke this dialect `before`, or not, does from this event on.

    A session that is flat is of this dialect, one with a `type` is not, others tell nothing.
    """
    if envelope.type == "transcription_session.update":
        return True
    if envelope.type != "session.update":
        return before
    try:
        session = _SHAPE.decode(text).session
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return before  # reading it will tell
    if "type" in session:
        return False
    return before or not _FLAT.isdisjoint(session)


def _format(name: str | UnsetType | None) -> patch.Format | UnsetType | None:
    return _FORMATS[name] if isinstance(name, str) else name


def _check(item: client.ItemParam) -> None:
    """What cannot be shown to a client of this dialect is not taken from it."""
    if item.type.startswith("mcp_") or any(
        part.type == "input_image" for part in item.content or ()
    ):
        raise invalid_value("The beta dialect has no MCP items and no images.", "item.type")


# --- outward ---------------------------------------------------------------------------------

_NAMES: Mapping[str, str] = {
    "conversation.item.added": "conversation.item.created",
    **{
        f"response.output_{kind}.{step}": f"response.{kind}.{step}"
        for kind in ("text", "audio", "audio_transcript")
        for step in ("delta", "done")
    },
}
_UNKNOWN = frozenset({"conversation.item.done", "input_audio_buffer.timeout_triggered"})
"""What clients of this dialect are not told."""
_FORMAT_NAMES: Mapping[str, str] = {
    "audio/pcm": "pcm16",
    "audio/pcmu": "g711_ulaw",
    "audio/pcma": "g711_alaw",
}
TEMPERATURE = 0.8
"""The dialect's default, shown where the client has not set one; the model's own is used then."""


def told(event: Event, config: SessionConfig) -> Event | None:
    """The event as a client of this dialect hears it; None where it does not."""
    kind = event["type"]
    if kind in _UNKNOWN:
        return None
    changed: Event = {**event, "type": _NAMES.get(kind, kind)}
    if "session" in event:
        changed["session"] = shown(config)
        if kind == "session.updated" and not config.answers:
            changed["type"] = "transcription_session.updated"
    if "item" in event:
        changed["item"] = _item(event["item"])
    if "response" in event:
        changed["response"] = _response(event["response"], config)
    if kind == "response.function_call_arguments.done":
        del changed["name"]
    return changed


def shown(config: SessionConfig) -> dict[str, Any]:
    """The session object."""
    fields, heard = config.fields, config.fields["audio"]["input"]
    spoken, detection = fields["audio"]["output"], heard["turn_detection"]
    common = {
        "id": fields["id"],
        "object": "realtime.session" if config.answers else "realtime.transcription_session",
        "expires_at": fields["expires_at"],
        "input_audio_format": _FORMAT_NAMES[heard["format"]["type"]],
        "input_audio_transcription": _only(config.transcription, ("model", "language", "prompt")),
    }
    if not config.answers:
        return {
            **common,
            "client_secret": None,
            "turn_detection": _only(
                detection, ("type", "threshold", "prefix_padding_ms", "silence_duration_ms")
            ),
        }
    choice = fields["tool_choice"]
    return {
        **common,
        "model": fields["model"],
        "modalities": _modalities(fields["output_modalities"]),
        "instructions": fields["instructions"],
        "voice": spoken["voice"],
        "speed": spoken["speed"],
        "output_audio_format": _FORMAT_NAMES[spoken["format"]["type"]],
        "input_audio_noise_reduction": _only(heard["noise_reduction"], ("type",)),
        "turn_detection": detection
        and {name: value for name, value in detection.items() if name != "idle_timeout_ms"},
        "tools": [tool for tool in fields["tools"] if tool["type"] == "function"],
        "tool_choice": choice if isinstance(choice, str) else choice.get("name", "auto"),
        "temperature": TEMPERATURE if config.temperature is None else config.temperature,
        "max_response_output_tokens": fields["max_output_tokens"],
        "tracing": fields["tracing"],
    }


def _response(resource: Mapping[str, Any], config: SessionConfig) -> dict[str, Any]:
    spoken = resource["audio"]["output"]
    return {
        **{name: value for name, value in resource.items() if name not in _OF_GA},
        "output": [_item(item) for item in resource["output"]],
        "modalities": _modalities(resource["output_modalities"]),
        "voice": spoken["voice"],
        "output_audio_format": _FORMAT_NAMES[spoken["format"]["type"]],
        "temperature": TEMPERATURE if config.temperature is None else config.temperature,
    }


_OF_GA = ("audio", "output_modalities", "output")


def _item(item: Mapping[str, Any]) -> dict[str, Any]:
    if "content" not in item:
        return dict(item)
    parts = [{**part, "type": part["type"].removeprefix("output_")} for part in item["content"]]
    return {**item, "content": parts}


def _modalities(of_ga: list[str]) -> list[str]:
    return ["audio", "text"] if of_ga == ["audio"] else of_ga


def _only(value: Mapping[str, Any] | None, names: tuple[str, ...]) -> dict[str, Any] | None:
    if value is None:
        return None
    return {name: value[name] for name in names if name in value}
