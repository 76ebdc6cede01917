"""The client events of the OpenAI Realtime GA dialect, and how a text becomes one of them.

Every byte is hostile. msgspec bounds nesting, refuses NaN, numbers beyond 64 bits, lone surrogates
and invalid UTF-8; this module bounds how many objects a message can make us build. Unknown fields
are ignored, as the service does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from voicepool.wire.realtime.errors import WireError, invalid_json, invalid_value, missing
from voicepool.wire.realtime.patch import (
    AudioOutput,
    MaxTokens,
    Modalities,
    Name,
    SessionPatch,
    Temperature,
    ToolChoice,
    Tools,
    Whole,
)

MAX_MESSAGE_BYTES = 22 << 20
"""Room for the 15 MiB of sound that one append may carry, in base64, and its envelope."""
MAX_PLAIN_BYTES = 1 << 20
"""Of a message that carries no sound."""
MAX_STRUCTURE = 20_000
"""Brackets and commas in a message above MAX_PLAIN_BYTES: base64 has none, so a real one has few,
while 20 MiB of `[],[],` would become a gigabyte of Python objects."""
MAX_EVENT_ID = 512

ItemId = Annotated[str, Meta(min_length=1, max_length=128)]
Milliseconds = Annotated[Whole, Meta(ge=0, le=86_400_000)]


# --- items and responses ---------------------------------------------------------------------


class Part(Struct):
    type: str
    text: str | None = None
    audio: str | None = None
    transcript: str | None = None
    image_url: str | None = None
    detail: Literal["auto", "low", "high"] | None = None


class McpListed(Struct, omit_defaults=True):
    """A tool that an MCP server has."""

    name: str
    input_schema: Any
    description: str | None = None
    annotations: dict[str, Any] | None = None


class McpProtocolError(Struct, tag_field="type", tag="protocol_error"):
    code: int
    message: str


class McpHttpError(Struct, tag_field="type", tag="http_error"):
    code: int
    message: str


class McpExecutionError(Struct, tag_field="type", tag="tool_execution_error"):
    message: str


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
    # Of MCP items.
    server_label: str | None = None
    tools: list[McpListed] | None = None
    approval_request_id: str | None = None
    approve: bool | None = None
    reason: str | None = None
    error: McpProtocolError | McpHttpError | McpExecutionError | None = None


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
    temperature: Temperature | None = None
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

Decoders = Mapping[str, msgspec.json.Decoder[Any]]
EVENTS: Decoders = {
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
"""By type; the decoder of each makes a ClientEvent."""
_CARRY_MEDIA = {"input_audio_buffer.append", "conversation.item.create", "response.create"}


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


def read_event(envelope: Envelope, text: str | bytes, events: Decoders = EVENTS) -> Any:
    """The event in `text`, made by one of the decoders. Raises WireError where it is not one that a
    client may send."""
    if envelope.type is None:
        raise missing("type")
    decoder = events.get(envelope.type) if isinstance(envelope.type, str) else None
    if decoder is None:
        raise _unknown_type(envelope.type, events)
    if len(text) > MAX_PLAIN_BYTES and envelope.type not in _CARRY_MEDIA:
        raise invalid_value(f"'{envelope.type}' events are limited to {MAX_PLAIN_BYTES} bytes.")
    return _decode(decoder, text)


def _structure(text: str | bytes) -> int:
    if isinstance(text, str):
        return text.count("{") + text.count("[") + text.count(",")
    return text.count(b"{") + text.count(b"[") + text.count(b",")


def _unknown_type(given: object, events: Decoders) -> WireError:
    supported = ", ".join(f"'{name}'" for name in events)
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


_MISSING = re.compile(r"Object missing required field `(?P<name>[^`]*)`")


def _explain(text: str) -> WireError:
    """msgspec's complaint in the service's terms: "<what> - at `$.<path>`", or "`key` in `$...`".

    The last "at" is msgspec's: <what> may quote what the client sent, all 22 MiB of it."""
    what, at, where = text.rpartition(" - at `")
    if not at:
        what, where = text, ""
    path = where.removeprefix("key` in `").removesuffix("`").removeprefix("$").removeprefix(".")
    if found := _MISSING.fullmatch(what):
        return missing(f"{path}.{found['name']}" if path else found["name"])
    return invalid_value(f"{what[:300]}.", path[:200] or None)
