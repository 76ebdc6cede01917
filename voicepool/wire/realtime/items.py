"""Conversation items: as clients write them, as the wire shows them, as the pipeline knows them.

An item on the wire never carries sound (a message must stay below 1 MiB), and a user's audio part
always has the key `transcript`, null or not: clients crash without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from voicepool.engines.base import Message, Role, ToolCall
from voicepool.wire.realtime.client import ItemParam, Part
from voicepool.wire.realtime.errors import (
    invalid_value,
    missing,
    too_large,
)

MAX_ITEM_BYTES = 512 << 10
"""Of one encoded item."""
MAX_IMAGE_CHARS = 256 << 10
"""Of the images that an item is shown with; what is more is left out."""
MAX_DEPTH = 64
"""Of JSON that a client may make us send back."""

Item = dict[str, Any]


# --- what the server writes ------------------------------------------------------------------


def user_audio(item_id: str) -> Item:
    return _message(item_id, "user", [{"type": "input_audio", "transcript": None}])


def assistant(item_id: str, status: str, content: list[dict[str, Any]]) -> Item:
    return _message(item_id, "assistant", content, status)


def function_call(item_id: str, status: str, call_id: str, name: str, arguments: str) -> Item:
    return {
        "id": item_id,
        "object": "realtime.item",
        "type": "function_call",
        "status": status,
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
    }


def is_spoken(item: Item) -> bool:
    """Whether it is an assistant's message in sound, or one whose content is yet to come."""
    if item.get("role") != "assistant":
        return False
    return all(part["type"] == "output_audio" for part in item["content"])


def is_heard(item: Item) -> bool:
    """Whether it is a caller's message in sound."""
    return item.get("role") == "user" and any(
        part["type"] == "input_audio" for part in item["content"]
    )


def message_of(item: Item) -> Message:
    """What a finished item that the server wrote means as a prompt."""
    if item["type"] == "function_call":
        call = ToolCall(item["call_id"], item["name"], item["arguments"])
        return Message("assistant", "", (call,))
    text = "\n".join(part.get("text") or part.get("transcript") or "" for part in item["content"])
    return Message(item["role"], text)


def _message(
    item_id: str, role: str, content: list[dict[str, Any]], status: str = "completed"
) -> Item:
    return {
        "id": item_id,
        "object": "realtime.item",
        "type": "message",
        "status": status,
        "role": role,
        "content": content,
    }


# --- what a client writes --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Written:
    """A client's item, checked."""

    item: Item
    message: Message
    """What it tells the model; without words and calls, nothing."""
    audio: str = ""
    """Base64 of sound that has yet to be transcribed, its first content part."""


def read_item(param: ItemParam, new_id: Callable[[str], str]) -> Written:
    """Check a client's item; its id is kept, or made by `new_id`. Raises WireError."""
    reader = _READERS.get(param.type)
    if reader is None:
        supported = ", ".join(f"'{name}'" for name in _READERS)
        raise invalid_value(
            "Invalid value: items of this type are not supported. Supported values are: "
            f"{supported}.",
            "item.type",
        )
    written = reader(param, param.id or new_id("item"), new_id)
    if depth(written.item) > MAX_DEPTH:
        raise invalid_value(f"The item is nested more than {MAX_DEPTH} deep.", "item")
    if len(msgspec.json.encode(written.item)) > MAX_ITEM_BYTES:
        raise too_large(f"The item's text is larger than {MAX_ITEM_BYTES} bytes.", "item")
    return written


def depth(value: object) -> int:
    """How deeply lists and objects are nested in `value`; 0 for a plain one. Counts no further
    than MAX_DEPTH."""
    level = [value]
    for deep in range(MAX_DEPTH + 1):
        nested = [each for each in level if isinstance(each, Mapping | list)]
        if not nested:
            return deep
        level = [
            inner
            for each in nested
            for inner in (each.values() if isinstance(each, Mapping) else each)
        ]
    return MAX_DEPTH + 1


def _status(param: ItemParam) -> str:
    """Nothing that a client writes is in the making."""
    return "incomplete" if param.status == "incomplete" else "completed"


def _needed(value: str | None, name: str) -> str:
    if value is None:
        raise missing(f"item.{name}")
    return value


def _read_function_call(param: ItemParam, item_id: str, new_id: Callable[[str], str]) -> Written:
    name, arguments = _needed(param.name, "name"), param.arguments or ""
    call_id = param.call_id or new_id("call")
    message = Message("assistant", "", (ToolCall(call_id, name, arguments),))
    return Written(function_call(item_id, _status(param), call_id, name, arguments), message)


def _read_function_call_output(param: ItemParam, item_id: str, _: object) -> Written:
    call_id, output = _needed(param.call_id, "call_id"), _needed(param.output, "output")
    item = {
        "id": item_id,
        "object": "realtime.item",
        "type": "function_call_output",
        "status": _status(param),
        "call_id": call_id,
        "output": output,
    }
    return Written(item, Message("tool", output, tool_call_id=call_id))


def _read_mcp(param: ItemParam, item_id: str, _: object) -> Written:
    """Kept for the client, which has been somewhere where MCP tools were called."""
    given: dict[str, Any] = msgspec.to_builtins(param)
    required, optional = _MCP_FIELDS[param.type]
    item: Item = {"id": item_id, "type": param.type}
    for name in required:
        if given[name] is None:
            raise missing(f"item.{name}")
        item[name] = given[name]
    item.update({name: given[name] for name in optional if given[name] is not None})
    return Written(item, NOTHING)


NOTHING = Message("assistant", "")
"""Of which the model is told nothing."""
_MCP_FIELDS: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "mcp_list_tools": (("server_label", "tools"), ()),
    "mcp_call": (
        ("server_label", "name", "arguments"),
        ("approval_request_id", "output", "error"),
    ),
    "mcp_approval_request": (("server_label", "name", "arguments"), ()),
    "mcp_approval_response": (("approval_request_id", "approve"), ("reason",)),
}
"""What each type must have, and may have."""

_ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}


def _read_message(param: ItemParam, item_id: str, _: object) -> Written:
    role = _ROLES.get(_needed(param.role, "role"))
    if role is None:
        raise invalid_value(
            "Invalid value. Supported values are: 'system', 'user', 'assistant'.", "item.role"
        )
    if param.content is None:
        raise missing("item.content")
    content = [_read_part(part, role, f"item.content[{i}]") for i, part in enumerate(param.content)]
    sounds = [
        part.audio
        for part in param.content
        if part.type in _SOUNDS and part.audio and not part.transcript
    ]
    if len(sounds) > 1 or (sounds and len(param.content) > 1):
        raise invalid_value(
            "An item with audio to transcribe has one content part.", "item.content"
        )
    if sounds and role != "user":
        raise missing("item.content[0].transcript")
    text = "\n".join(map(_words, param.content))
    item = _message(item_id, role, _with_few_images(content), _status(param))
    return Written(item, Message(role, text), sounds[0] if sounds else "")


_SOUNDS = ("input_audio", "output_audio", "audio")


def _read_part(part: Part, role: Role, where: str) -> dict[str, Any]:
    """The part as the wire shows it. Clients differ in what they call an assistant's text."""
    if part.type in ("input_text", "output_text", "text"):
        if part.text is None:
            raise missing(f"{where}.text")
        kind = "output_text" if role == "assistant" else "input_text"
        return {"type": kind, "text": part.text}
    if part.type == "input_audio" and role == "user":
        if part.audio is None and part.transcript is None:
            raise missing(f"{where}.audio")
        return {"type": "input_audio", "transcript": part.transcript}
    if part.type == "input_image" and role == "user":
        shown = {"image_url": part.image_url, "detail": part.detail}
        given = {name: value for name, value in shown.items() if value is not None}
        return {"type": "input_image", **given}
    if part.type in ("output_audio", "audio") and role == "assistant":
        return {"type": "output_audio", "transcript": part.transcript or ""}
    raise invalid_value(f"Content of this type is not supported in a {role} message.", where)


UNSEEN = "(The user sent an image here. You cannot see images.)"
"""What the language model is told instead: it would make something up otherwise."""


def _words(part: Part) -> str:
    return UNSEEN if part.type == "input_image" else part.text or part.transcript or ""


def _with_few_images(content: list[dict[str, Any]]) -> list[dict[str, Any]]:
    room = MAX_IMAGE_CHARS
    for part in content:
        room -= len(part.get("image_url", ""))
        if room < 0:
            part.pop("image_url", None)
    return content


_READERS: dict[str, Callable[[ItemParam, str, Callable[[str], str]], Written]] = {
    "message": _read_message,
    "function_call": _read_function_call,
    "function_call_output": _read_function_call_output,
    **dict.fromkeys(_MCP_FIELDS, _read_mcp),
}
