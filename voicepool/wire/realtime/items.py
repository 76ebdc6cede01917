"""Conversation items: as clients write them, as the wire shows them, as the pipeline knows them.

An item on the wire never carries sound (a message must stay below 1 MiB), and a user's audio part
always has the key `transcript`, null or not: clients crash without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from voicepool.engines.base import Message, Role, ToolCall
from voicepool.wire.realtime.client import ItemParam, Part
from voicepool.wire.realtime.errors import (
    WireError,
    duplicate_item,
    invalid_value,
    missing,
    too_large,
    unknown_previous,
)

MAX_ITEM_BYTES = 512 << 10
"""Of one encoded item."""
MAX_ITEMS = 1_000
MAX_CONVERSATION_BYTES = 8 << 20
"""Above either bound the oldest items are forgotten."""

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
    audio: str = ""
    """Base64 of sound that has yet to be transcribed."""


def read_item(param: ItemParam, new_id: Callable[[str], str]) -> Written:
    """Check a client's item; its id is kept, or made by `new_id`. Raises WireError."""
    item_id = param.id or new_id("item")
    if param.type == "message":
        written = _read_message(param, item_id)
    elif param.type == "function_call":
        written = _read_function_call(param, item_id, param.call_id or new_id("call"))
    elif param.type == "function_call_output":
        written = _read_function_call_output(param, item_id)
    else:
        raise invalid_value(
            "Invalid value: items of this type are not supported. Supported values are: "
            "'message', 'function_call', 'function_call_output'.",
            "item.type",
        )
    if len(msgspec.json.encode(written.item)) > MAX_ITEM_BYTES:
        raise too_large(f"The item's text is larger than {MAX_ITEM_BYTES} bytes.", "item")
    return written


def _read_function_call(param: ItemParam, item_id: str, call_id: str) -> Written:
    if param.name is None:
        raise missing("item.name")
    arguments = param.arguments or ""
    message = Message("assistant", "", (ToolCall(call_id, param.name, arguments),))
    return Written(function_call(item_id, "completed", call_id, param.name, arguments), message)


def _read_function_call_output(param: ItemParam, item_id: str) -> Written:
    if param.call_id is None:
        raise missing("item.call_id")
    if param.output is None:
        raise missing("item.output")
    item = {
        "id": item_id,
        "object": "realtime.item",
        "type": "function_call_output",
        "status": "completed",
        "call_id": param.call_id,
        "output": param.output,
    }
    return Written(item, Message("tool", param.output, tool_call_id=param.call_id))


_ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}


def _read_message(param: ItemParam, item_id: str) -> Written:
    if param.role is None:
        raise missing("item.role")
    role = _ROLES.get(param.role)
    if role is None:
        raise invalid_value(
            "Invalid value. Supported values are: 'system', 'user', 'assistant'.", "item.role"
        )
    if param.content is None:
        raise missing("item.content")
    content = [_read_part(part, role, f"item.content[{i}]") for i, part in enumerate(param.content)]
    sounds = [part.audio for part in param.content if part.audio and not part.transcript]
    if len(sounds) > 1 or (sounds and len(param.content) > 1):
        raise invalid_value(
            "An item with audio to transcribe has one content part.", "item.content"
        )
    if sounds and role != "user":
        raise missing("item.content[0].transcript")
    text = "\n".join(part.text or part.transcript or "" for part in param.content)
    status = "incomplete" if param.status == "incomplete" else "completed"
    return Written(
        _message(item_id, role, content, status), Message(role, text), sounds[0] if sounds else ""
    )


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
    if part.type in ("output_audio", "audio") and role == "assistant":
        return {"type": "output_audio", "transcript": part.transcript or ""}
    raise invalid_value(f"Content of this type is not supported in a {role} message.", where)


# --- the conversation ------------------------------------------------------------------------


@dataclass(slots=True)
class Entry:
    item: Item
    message: Message
    """The item as a prompt: it has the words even where the client wants no transcripts."""
    size: int = 0


class Conversation:
    """The items that the client knows, in order, bounded in number and size."""

    def __init__(self, max_items: int = MAX_ITEMS, max_bytes: int = MAX_CONVERSATION_BYTES) -> None:
        self._entries: dict[str, Entry] = {}
        self._order: list[str] = []
        self._bytes = 0
        self._max_items = max_items
        self._max_bytes = max_bytes

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._entries

    def get(self, item_id: str) -> Entry | None:
        return self._entries.get(item_id)

    def check(self, item_id: str, after: str | None) -> None:
        """Raises WireError where `add` would have no place for the item."""
        if item_id in self._entries:
            raise duplicate_item(item_id)
        if after not in (None, "root") and after not in self._entries:
            raise unknown_previous(str(after))

    def add(self, item: Item, message: Message, after: str | None) -> str | None:
        """Put an item after `after` ("root": first; None or unknown: last); the id before it."""
        item_id = str(item["id"])
        place = len(self._order)
        if after == "root":
            place = 0
        elif after in self._entries and after != self._order[-1]:
            place = self._order.index(after) + 1
        previous = self._order[place - 1] if place else None
        self._order.insert(place, item_id)
        self._entries[item_id] = entry = Entry(item, message)
        self.resize(entry)
        return previous

    def resize(self, entry: Entry) -> None:
        """Count the entry anew after its item or message has changed."""
        self._bytes -= entry.size
        entry.size = len(entry.message.content) + len(msgspec.json.encode(entry.item))
        self._bytes += entry.size

    def remove(self, item_id: str) -> None:
        """Raises KeyError where there is no such item."""
        self._bytes -= self._entries.pop(item_id).size
        self._order.remove(item_id)

    def overflow(self) -> list[str]:
        """The oldest items that have to go, as long as the rest is too much; not yet removed.

        The newest one always stays: it may be the one that is being answered.
        """
        count, size = len(self._order), self._bytes
        doomed: list[str] = []
        for item_id in self._order[:-1]:
            if count <= self._max_items and size <= self._max_bytes:
                break
            doomed.append(item_id)
            count -= 1
            size -= self._entries[item_id].size
        return doomed

    def prompt(self, param: ItemParam, new_id: Callable[[str], str]) -> Message:
        """One message of a response's own `input`: written out, or a reference to an item here.

        Raises WireError."""
        if param.type == "item_reference":
            entry = self._entries.get(param.id or "")
            if entry is None:
                raise WireError(
                    "invalid_value", "The item that is referred to does not exist.", "input"
                )
            return entry.message
        written = read_item(param, new_id)
        if written.audio:
            raise invalid_value(
                "Audio in a response's input needs its transcript, or an item_reference to an "
                "item that was created before.",
                "response.input",
            )
        return written.message
