"""Responses on the wire: brackets of events, always closed, in the order that clients rely on.

    response.created
      response.output_item.added, conversation.item.added, response.content_part.added
        response.output_audio_transcript.delta / response.output_audio.delta ...
      ....done for each of them, conversation.item.done, response.output_item.done
    response.done

What a pipeline says of a response or an item that is not open is dropped, so that no client ever
sees a delta outside its brackets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from voicepool import events
from voicepool.wire.realtime import items
from voicepool.wire.realtime.audio import Format
from voicepool.wire.realtime.config import SessionConfig

MAX_DELTA_CHARS = 16_000
MAX_TEXT_BYTES = 512 << 10
"""Of a response's text in its closing events, so that response.done stays below 1 MiB. The deltas
have carried what is cut there."""

Event = dict[str, Any]
"""A server event without its event_id; "type" comes first."""


@dataclass(slots=True)
class _Message:
    item: items.Item
    output_index: int
    previous_id: str | None
    spoken: bool
    text: list[str] = field(default_factory=list)
    left: str | None = None
    """What a truncation has left of it, before it was done."""


@dataclass(slots=True)
class _Call:
    item: items.Item
    output_index: int
    previous_id: str | None


@dataclass(slots=True)
class Response:
    """One response in the making."""

    resource: dict[str, Any]
    """The response object of response.created and response.done."""
    remember: bool
    """Whether its items enter the conversation."""
    format: Format
    """Of its sound."""
    open: dict[str, _Message | _Call] = field(default_factory=dict)
    room: int = MAX_TEXT_BYTES

    @property
    def id(self) -> str:
        return str(self.resource["id"])

    def _event(self, kind: str, item_id: str, index: int, **more: Any) -> Event:
        return {
            "type": f"response.{kind}",
            "response_id": self.id,
            "item_id": item_id,
            "output_index": index,
            **more,
        }

    def _item_event(self, kind: str, part: _Message | _Call) -> Event:
        return {
            "type": f"response.output_item.{kind}",
            "response_id": self.id,
            "output_index": part.output_index,
            "item": part.item,
        }

    def _cut(self, text: str) -> str:
        """`text`, or what of it the closing events have room for."""
        if _encoded(text) > self.room:
            # A character takes at most 6 bytes when encoded.
            text = text[: self.room // 6]
        self.room = max(0, self.room - _encoded(text))
        return text

    # -- messages

    def start_message(
        self, item: items.Item, index: int, previous_id: str | None, *, spoken: bool
    ) -> list[Event]:
        message = _Message(item, index, previous_id, spoken)
        part = {"type": "audio", "transcript": ""} if spoken else {"type": "text", "text": ""}
        return [*self._start_item(message), self._part_event("added", message, part)]

    def _part_event(self, kind: str, message: _Message, part: dict[str, Any]) -> Event:
        return self._event(
            f"content_part.{kind}",
            message.item["id"],
            message.output_index,
            content_index=0,
            part=part,
        )

    def say(self, item_id: str, text: str) -> list[Event]:
        message = self.open.get(item_id)
        if not isinstance(message, _Message) or not text:
            return []
        message.text.append(text)
        kind = "output_audio_transcript.delta" if message.spoken else "output_text.delta"
        return [
            self._event(kind, item_id, message.output_index, content_index=0, delta=delta)
            for delta in _pieces(text, MAX_DELTA_CHARS)
        ]

    def sound(self, event: events.ResponseAudio) -> list[Event]:
        """Raises ValueError where the sound is not at the format's rate."""
        if event.rate != self.format.rate:
            raise ValueError(
                f"the wire takes {self.format.rate} samples a second, not {event.rate}"
            )
        message = self.open.get(event.item_id)
        if not isinstance(message, _Message) or not message.spoken:
            return []
        index = message.output_index
        return [
            self._event("output_audio.delta", event.item_id, index, content_index=0, delta=delta)
            for delta in self.format.deltas(event.samples)
        ]

    def cut(self, item_id: str, left: str) -> None:
        """No more than this is `left` of a spoken message that is still open."""
        message = self.open.get(item_id)
        if isinstance(message, _Message) and message.spoken:
            message.left = left

    def end_message(self, item_id: str, *, complete: bool) -> list[Event]:
        message = self.open.get(item_id)
        if not isinstance(message, _Message):
            return []
        del self.open[item_id]
        text, index = self._cut("".join(message.text)), message.output_index
        message.item["status"] = "completed" if complete else "incomplete"
        if message.spoken:
            heard = text if message.left is None else message.left[: len(text)]
            message.item["content"] = [{"type": "output_audio", "transcript": heard}]
            part = {"type": "audio", "transcript": text}
            done = [
                self._event("output_audio.done", item_id, index, content_index=0),
                self._event(
                    "output_audio_transcript.done", item_id, index, content_index=0, transcript=text
                ),
            ]
        else:
            message.item["content"] = [{"type": "output_text", "text": text}]
            part = {"type": "text", "text": text}
            done = [self._event("output_text.done", item_id, index, content_index=0, text=text)]
        return [*done, self._part_event("done", message, part), *self._end_item(message)]

    # -- tool calls

    def start_call(self, item: items.Item, index: int, previous_id: str | None) -> list[Event]:
        return self._start_item(_Call(item, index, previous_id))

    def argue(self, item_id: str, text: str) -> list[Event]:
        call = self.open.get(item_id)
        if not isinstance(call, _Call) or not text:
            return []
        kind, call_id = "function_call_arguments.delta", call.item["call_id"]
        return [
            self._event(kind, item_id, call.output_index, call_id=call_id, delta=delta)
            for delta in _pieces(text, MAX_DELTA_CHARS)
        ]

    def end_call(self, item_id: str, arguments: str) -> list[Event]:
        call = self.open.get(item_id)
        if not isinstance(call, _Call):
            return []
        del self.open[item_id]
        call.item["arguments"] = self._cut(arguments)
        call.item["status"] = "completed"
        done = self._event(
            "function_call_arguments.done",
            item_id,
            call.output_index,
            call_id=call.item["call_id"],
            name=call.item["name"],
            arguments=call.item["arguments"],
        )
        return [done, *self._end_item(call)]

    def _give_up_call(self, item_id: str, call: _Call) -> list[Event]:
        del self.open[item_id]
        call.item["status"] = "incomplete"
        return self._end_item(call)

    def _start_item(self, part: _Message | _Call) -> list[Event]:
        self.open[part.item["id"]] = part
        added = [self._item_event("added", part)]
        if self.remember:
            added.append(item_event("added", part.item, part.previous_id))
        return added

    def _end_item(self, part: _Message | _Call) -> list[Event]:
        self.resource["output"].append(part.item)
        done = [item_event("done", part.item, part.previous_id)] if self.remember else []
        return [*done, self._item_event("done", part)]

    # -- the end

    def close_items(self) -> list[Event]:
        """End what is still open, in its order, as cut short."""
        closing: list[Event] = []
        for item_id, part in list(self.open.items()):
            if isinstance(part, _Message):
                closing += self.end_message(item_id, complete=False)
            else:
                closing += self._give_up_call(item_id, part)
        return closing

    def end(self, event: events.ResponseDone) -> Event:
        self.resource["status"] = event.status
        self.resource["status_details"] = _details(event)
        self.resource["usage"] = _usage(event)
        return {"type": "response.done", "response": self.resource}


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a client asked of a response that the pipeline knows nothing of: its request's tag."""

    metadata: dict[str, str] | None = None
    format: Format | None = None
    """None: the session's."""


def begin(event: events.ResponseStarted, config: SessionConfig, conversation_id: str) -> Response:
    """A response that begins under the session as it is now."""
    request, session = event.request, config.fields
    wishes = request.tag if isinstance(request.tag, Wishes) else Wishes()
    chosen = wishes.format or config.output_format
    voice = request.voice or session["audio"]["output"]["voice"]
    made = {
        "object": "realtime.response",
        "id": event.response_id,
        "status": "in_progress",
        "status_details": None,
        "output": [],
        "conversation_id": conversation_id if request.remember else None,
        "output_modalities": _modalities(request.speak, session),
        "max_output_tokens": request.max_tokens or session["max_output_tokens"],
        "audio": {"output": {"format": chosen.shown, "voice": voice}},
        "usage": None,
        "metadata": wishes.metadata,
    }
    return Response(made, request.remember, chosen)


def _modalities(speak: bool | None, session: Mapping[str, Any]) -> list[str]:
    if speak is None:
        kept: list[str] = session["output_modalities"]
        return kept
    return ["audio"] if speak else ["text"]


def item_event(kind: str, item: items.Item, previous_id: str | None) -> Event:
    """conversation.item.added or .done."""
    return {"type": f"conversation.item.{kind}", "previous_item_id": previous_id, "item": item}


def _encoded(text: str) -> int:
    return len(msgspec.json.encode(text))


def _pieces(text: str, size: int) -> Iterator[str]:
    return (text[start : start + size] for start in range(0, len(text), size))


_REASONS = {
    "cancelled": ("turn_detected", "client_cancelled"),
    "incomplete": ("max_output_tokens", "content_filter"),
}
"""Those that the specification has, by status."""


def _details(event: events.ResponseDone) -> dict[str, Any]:
    details: dict[str, Any] = {"type": event.status}
    if event.status == "failed":
        details["error"] = {
            "type": "server_error",
            "code": f"{event.reason or 'server'}_failed",
            "message": event.message or "The response could not be made.",
        }
    elif event.reason in _REASONS.get(event.status, ()):
        details["reason"] = event.reason
    return details


def _usage(event: events.ResponseDone) -> dict[str, Any]:
    """A cascade's language model reads and writes text only; sound is not counted in tokens."""
    return {
        "total_tokens": event.input_tokens + event.output_tokens,
        "input_tokens": event.input_tokens,
        "output_tokens": event.output_tokens,
        "input_token_details": {
            "text_tokens": event.input_tokens,
            "audio_tokens": 0,
            "cached_tokens": 0,
        },
        "output_token_details": {"text_tokens": event.output_tokens, "audio_tokens": 0},
    }
