"""The client events of the OpenAI Realtime GA dialect, and how a text becomes one of them.

Every byte is hostile. msgspec bounds nesting, refuses NaN, numbers beyond 64 bits, lone surrogates
and invalid UTF-8; this module bounds how many objects a message can make us build. Unknown fields
are ignored, as the service does.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from voicepool.wire.realtime.errors import WireError, invalid_json, invalid_value, missing

MAX_MESSAGE_BYTES = 22 << 20
"""Room for the 15 MiB of sound that one append may carry, in base64, and its envelope."""
MAX_PLAIN_BYTES = 1 << 20
"""Of a message that carries no sound."""
MAX_STRUCTURE = 20_000
"""Brackets and commas in a message above MAX_PLAIN_BYTES: base64 has none, so a real one has few,
while 20 MiB of `[],[],` would become a gigabyte of Python objects."""
MAX_EVENT_ID = 512

ItemId = Annotated[str, Meta(min_length=1, max_length=128)]
Milliseconds = Annotated[float, Meta(ge=0, le=86_400_000)]
"""Whole in the specification; clients that compute them as floating point send fractions."""
Name = Annotated[str, Meta(min_length=1, max_length=256)]


# --- the session object ----------------------------------------------------------------------


class Pcm(Struct, tag_field="type", tag="audio/pcm"):
    """Signed 16-bit little-endian mono."""

    rate: Literal[24000] | None = None


class ServerVad(Struct, tag_field="type", tag="server_vad"):
    threshold: Annotated[float, Meta(ge=0, le=1)] | None = None
    prefix_padding_ms: Annotated[float, Meta(ge=0, le=5_000)] | None = None
    silence_duration_ms: Annotated[float, Meta(ge=32, le=10_000)] | None = None
    idle_timeout_ms: Annotated[float, Meta(ge=1_000, le=600_000)] | None = None
    create_response: bool | None = None
    interrupt_response: bool | None = None


class SemanticVad(Struct, tag_field="type", tag="semantic_vad"):
    eagerness: Literal["low", "medium", "high", "auto"] | None = None
    create_response: bool | None = None
    interrupt_response: bool | None = None


class Transcription(Struct, omit_defaults=True):
    model: str | None = None
    language: Annotated[str, Meta(max_length=64)] | None = None
    prompt: str | None = None
    delay: Literal["minimal", "low", "medium", "high", "xhigh"] | None = None
    keywords: list[str] | None = None
    languages: list[str] | None = None


class NoiseReduction(Struct, omit_defaults=True):
    type: Literal["near_field", "far_field"] | None = None
    strength: float | None = None


class AudioInput(Struct):
    format: Pcm | UnsetType | None = UNSET
    transcription: Transcription | UnsetType | None = UNSET
    noise_reduction: NoiseReduction | UnsetType | None = UNSET
    turn_detection: ServerVad | SemanticVad | UnsetType | None = UNSET


class VoiceId(Struct):
    id: Name


class AudioOutput(Struct):
    format: Pcm | UnsetType | None = UNSET
    voice: Name | VoiceId | UnsetType | None = UNSET
    speed: Annotated[float, Meta(ge=0.25, le=1.5)] | UnsetType | None = UNSET


class Audio(Struct):
    input: AudioInput | None = None
    output: AudioOutput | None = None


class FunctionTool(Struct, tag_field="type", tag="function", omit_defaults=True):
    name: Annotated[str, Meta(min_length=1, max_length=64)]
    description: str | None = None
    parameters: dict[str, Any] | None = None


class McpTool(Struct, tag_field="type", tag="mcp", omit_defaults=True):
    """Stored, echoed without its secrets, and never called."""

    server_label: str
    server_url: str | None = None
    server_description: str | None = None


class ToolChoiceFunction(Struct, tag_field="type", tag="function"):
    name: Name


class ToolChoiceMcp(Struct, tag_field="type", tag="mcp", omit_defaults=True):
    server_label: str
    name: str | None = None


Modalities = Annotated[list[Literal["audio", "text"]], Meta(min_length=1, max_length=2)]
Tools = Annotated[list[FunctionTool | McpTool], Meta(max_length=512)]
ToolChoice = Literal["none", "auto", "required"] | ToolChoiceFunction | ToolChoiceMcp
MaxTokens = Annotated[int, Meta(ge=1, le=1_000_000)] | Literal["inf"]


class Tracing(Struct, omit_defaults=True):
    workflow_name: str | None = None
    group_id: str | None = None
    metadata: dict[str, Any] | None = None


class TokenLimits(Struct, omit_defaults=True):
    post_instructions: int | None = None


class RetentionRatio(Struct, tag_field="type", tag="retention_ratio", omit_defaults=True):
    retention_ratio: float
    token_limits: TokenLimits | None = None


class Prompt(Struct, omit_defaults=True):
    id: str
    version: str | None = None
    variables: dict[str, str] | None = None


class Reasoning(Struct, omit_defaults=True):
    effort: Literal["minimal", "low", "medium", "high", "xhigh"] | None = None


class SessionPatch(Struct):
    """What a session.update changes; UNSET is "as before", None "cleared"."""

    type: Literal["realtime"] = "realtime"
    model: str | UnsetType | None = UNSET
    output_modalities: Modalities | UnsetType | None = UNSET
    instructions: str | UnsetType | None = UNSET
    tools: Tools | UnsetType | None = UNSET
    tool_choice: ToolChoice | UnsetType | None = UNSET
    max_output_tokens: MaxTokens | UnsetType | None = UNSET
    audio: Audio | None = None
    # Kept and echoed for clients that look for them; they change nothing here.
    tracing: Literal["auto"] | Tracing | UnsetType | None = UNSET
    truncation: Literal["auto", "disabled"] | RetentionRatio | UnsetType | None = UNSET
    prompt: Prompt | UnsetType | None = UNSET
    include: list[Literal["item.input_audio_transcription.logprobs"]] | UnsetType | None = UNSET
    reasoning: Reasoning | UnsetType | None = UNSET
    parallel_tool_calls: bool | UnsetType | None = UNSET


# --- items and responses ---------------------------------------------------------------------


class Part(Struct):
    type: str
    text: str | None = None
    audio: str | None = None
    transcript: str | None = None


class ItemParam(Struct):
    """An item as a client writes it: any of the types, told apart in `items.py`."""

    type: str = "message"
    id: ItemId | None = None
    role: str | None = None
    status: str | None = None
    content: Annotated[list[Part], Meta(max_length=64)] | None = None
    call_id: Name | None = None
    name: Name | None = None
    arguments: str | None = None
    output: str | None = None


Metadata = Annotated[
    dict[
        Annotated[str, Meta(max_length=64)],
        Annotated[str, Meta(max_length=512)],
    ],
    Meta(max_length=16),
]


class ResponseAudio(Struct):
    output: AudioOutput | None = None


class ResponseParam(Struct):
    instructions: str | None = None
    output_modalities: Modalities | None = None
    audio: ResponseAudio | None = None
    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    max_output_tokens: MaxTokens | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    metadata: Metadata | None = None
    conversation: str | None = None
    input: Annotated[list[ItemParam], Meta(max_length=256)] | None = None


# --- the events ------------------------------------------------------------------------------


class SessionUpdate(Struct):
    session: SessionPatch


class BufferAppend(Struct):
    audio: str


class BufferCommit(Struct):
    pass


class BufferClear(Struct):
    pass


class ItemCreate(Struct):
    item: ItemParam
    previous_item_id: ItemId | None = None


class ItemRetrieve(Struct):
    item_id: ItemId


class ItemDelete(Struct):
    item_id: ItemId


class ItemTruncate(Struct):
    item_id: ItemId
    audio_end_ms: Milliseconds
    content_index: int


class ResponseCreate(Struct):
    response: ResponseParam | None = None


class ResponseCancel(Struct):
    response_id: str | None = None


ClientEvent = (
    SessionUpdate
    | BufferAppend
    | BufferCommit
    | BufferClear
    | ItemCreate
    | ItemRetrieve
    | ItemDelete
    | ItemTruncate
    | ResponseCreate
    | ResponseCancel
)

_DECODERS: dict[str, msgspec.json.Decoder[ClientEvent]] = {
    "session.update": msgspec.json.Decoder(SessionUpdate),
    "input_audio_buffer.append": msgspec.json.Decoder(BufferAppend),
    "input_audio_buffer.commit": msgspec.json.Decoder(BufferCommit),
    "input_audio_buffer.clear": msgspec.json.Decoder(BufferClear),
    "conversation.item.create": msgspec.json.Decoder(ItemCreate),
    "conversation.item.retrieve": msgspec.json.Decoder(ItemRetrieve),
    "conversation.item.delete": msgspec.json.Decoder(ItemDelete),
    "conversation.item.truncate": msgspec.json.Decoder(ItemTruncate),
    "response.create": msgspec.json.Decoder(ResponseCreate),
    "response.cancel": msgspec.json.Decoder(ResponseCancel),
}
_CARRY_AUDIO = {"input_audio_buffer.append", "conversation.item.create"}


T = TypeVar("T")


class Envelope(Struct):
    """What all client events share."""

    type: Any = None
    event_id: Any = None


_ENVELOPE = msgspec.json.Decoder(Envelope)


def open_envelope(text: str | bytes) -> Envelope:
    """The type and id of a client event. Raises WireError where `text` is no JSON object."""
    if len(text) > MAX_MESSAGE_BYTES:
        raise invalid_json(f"The event is larger than {MAX_MESSAGE_BYTES} bytes.")
    if len(text) > MAX_PLAIN_BYTES and _structure(text) > MAX_STRUCTURE:
        raise invalid_json("The event is too large for one that carries little audio.")
    envelope = _decode(_ENVELOPE, text)
    if not isinstance(envelope.event_id, str) or len(envelope.event_id) > MAX_EVENT_ID:
        envelope.event_id = None
    return envelope


def read_event(envelope: Envelope, text: str | bytes) -> ClientEvent:
    """The event in `text`. Raises WireError where it is not one that a client may send."""
    if envelope.type is None:
        raise missing("type")
    decoder = _DECODERS.get(envelope.type) if isinstance(envelope.type, str) else None
    if decoder is None:
        raise _unknown_type(envelope.type)
    if len(text) > MAX_PLAIN_BYTES and envelope.type not in _CARRY_AUDIO:
        raise invalid_value(f"'{envelope.type}' events are limited to {MAX_PLAIN_BYTES} bytes.")
    return _decode(decoder, text)


def _structure(text: str | bytes) -> int:
    if isinstance(text, str):
        return text.count("{") + text.count("[") + text.count(",")
    return text.count(b"{") + text.count(b"[") + text.count(b",")


def _unknown_type(given: object) -> WireError:
    supported = ", ".join(f"'{name}'" for name in _DECODERS)
    if given == "output_audio_buffer.clear":
        return invalid_value("'output_audio_buffer.clear' is for WebRTC and SIP only.", "type")
    shown = f"'{given[:64]}'" if isinstance(given, str) else "a value that is no string"
    return invalid_value(f"Invalid value: {shown}. Supported values are: {supported}.", "type")


def _decode(decoder: msgspec.json.Decoder[T], text: str | bytes) -> T:
    try:
        return decoder.decode(text)
    except msgspec.ValidationError as error:
        raise _explain(str(error)) from None
    except RecursionError:
        raise invalid_json("The event is nested too deeply.") from None
    except UnicodeError:
        raise invalid_json("The event is not valid UTF-8.") from None
    except msgspec.DecodeError:
        # msgspec's words for it may quote what the client sent.
        raise invalid_json("We could not parse the JSON body of your event.") from None


_WHERE = re.compile(r"(?P<what>.*?)(?: - at `(?:key in )?\$\.?(?P<path>.*)`)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<name>[^`]*)`")


def _explain(text: str) -> WireError:
    """msgspec's complaint in the service's terms: "<what> - at `$.<path>`"."""
    match = _WHERE.fullmatch(text)
    what, path = (match["what"], match["path"] or "") if match else (text, "")
    if found := _MISSING.fullmatch(what):
        return missing(f"{path}.{found['name']}" if path else found["name"])
    return invalid_value(f"{what[:300]}.", path[:200] or None)
