"""What tests know of the Realtime protocol: the SDK's models, brackets, and a counting id maker."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable
from typing import Any, get_args

from openai.types.beta.realtime import RealtimeServerEvent as BetaServerEvent
from openai.types.realtime import RealtimeServerEvent
from pydantic import BaseModel

from voicepool.wire.actions import Action, InsertItem, Send, TruncateItem
from voicepool.wire.realtime.config import Defaults
from voicepool.wire.realtime.protocol import RealtimeProtocol


def _by_type(union: Any) -> dict[str, type[BaseModel]]:
    return {
        get_args(model.model_fields["type"].annotation)[0]: model
        for model in get_args(get_args(union)[0])
    }


MODELS = _by_type(RealtimeServerEvent)
"""Server event type -> the SDK's model of it."""
BETA_MODELS = _by_type(BetaServerEvent)
"""The same of the beta dialect."""

SERVER_ONLY = {"object", "id", "expires_at"}
"""Fields of the session object that the SDK has in its client's types under another name."""
LARGEST_MESSAGE = 1 << 20
_EXTENSION_RATE = re.compile(r'"rate":(8000|16000|48000)\b')
"""Of PCM, where a client has asked for it: the SDK knows one rate."""


def validate(data: bytes | str, models: dict[str, type[BaseModel]] = MODELS) -> dict[str, Any]:
    """The event in `data`, if the SDK's own model takes it as it stands, with no unknown key."""
    assert len(data) < LARGEST_MESSAGE
    event: dict[str, Any] = json.loads(data)
    known = _EXTENSION_RATE.sub(r'"rate":24000', data if isinstance(data, str) else data.decode())
    if models is BETA_MODELS and "session" in event:
        known = _as_of_openai(event)
    model = models[event["type"]].model_validate_json(known, strict=True)
    unknown = set(_unknown_keys(model)) - SERVER_ONLY
    assert not unknown, f"{event['type']} has keys that the SDK does not know: {unknown}"
    assert event["event_id"]
    return event


def _as_of_openai(event: dict[str, Any]) -> str:
    """The event with what the beta's models list by name: they know OpenAI's models alone, and the
    secret that such a session was made with."""
    session = event["session"]
    known = {**session, "model": "gpt-realtime"} if "model" in session else dict(session)
    transcription = session["input_audio_transcription"]
    if transcription is not None:
        known["input_audio_transcription"] = {**transcription, "model": "whisper-1"}
    if "client_secret" in session:
        assert known.pop("client_secret") is None
        if event["type"] == "transcription_session.updated":
            known["client_secret"] = {"value": "ek", "expires_at": 1}
    return json.dumps({**event, "session": known})


def _unknown_keys(value: object) -> Iterable[str]:
    if isinstance(value, BaseModel):
        yield from value.model_extra or ()
        for name in type(value).model_fields:
            yield from _unknown_keys(getattr(value, name))
    elif isinstance(value, list):
        for each in value:
            yield from _unknown_keys(each)


def counting() -> Callable[[str], str]:
    """Ids such as "event_1", "event_2", counted by prefix."""
    counts: dict[str, itertools.count[int]] = {}
    return lambda prefix: f"{prefix}_{next(counts.setdefault(prefix, itertools.count(1)))}"


class Brackets:
    """Checks that responses and their items open and close as a client relies on."""

    def __init__(self) -> None:
        self.open: dict[str, dict[str, str]] = {}
        """Response id -> its open items, each with the type it was added with."""
        self.closed: set[str] = set()
        self.event_ids: set[str] = set()

    def see(self, event: dict[str, Any]) -> None:
        assert event["event_id"] not in self.event_ids
        self.event_ids.add(event["event_id"])
        kind = event["type"]
        if kind == "response.created":
            response_id = event["response"]["id"]
            assert response_id not in self.open
            self.open[response_id] = {}
        elif kind == "response.done":
            assert self.open.pop(event["response"]["id"]) == {}
            assert event["response"]["status"] != "in_progress"
        elif kind == "response.output_item.added":
            items = self.open[event["response_id"]]
            assert event["item"]["id"] not in items
            items[event["item"]["id"]] = event["item"]["type"]
        elif kind == "response.output_item.done":
            assert event["item"]["status"] in ("completed", "incomplete")
            del self.open[event["response_id"]][event["item"]["id"]]
        elif kind.startswith("response."):
            of = self.open[event["response_id"]][event["item_id"]]
            assert (of == "function_call") == ("function_call" in kind)


class Wire:
    """A protocol whose pipeline agrees to everything, and what it has sent, validated."""

    def __init__(self, *, session: bytes = b"", is_beta: bool = False, **defaults: Any) -> None:
        known = {"session_id": "sess_1", "expires_at": 1_790_000_000, **defaults}
        self.protocol = RealtimeProtocol(
            Defaults(**known), counting(), session=session, is_beta=is_beta
        )
        self.models = BETA_MODELS if is_beta else MODELS
        """Of the dialect that the client should hear."""
        self.brackets = Brackets()
        self.sent: list[dict[str, Any]] = []
        self.actions: list[Action] = []

    def take(self, actions: Iterable[Action]) -> list[dict[str, Any]]:
        """Carry out `actions`; what was sent by it."""
        before = len(self.sent)
        for action in actions:
            if isinstance(action, Send):
                event = validate(action.data, self.models)
                self.brackets.see(event)
                self.sent.append(event)
                continue
            self.actions.append(action)
            if isinstance(action, InsertItem):
                self.take(self.protocol.inserted(action))
            elif isinstance(action, TruncateItem):
                self.take(self.protocol.truncated(action, "what was heard"))
        return self.sent[before:]

    def open(self) -> list[dict[str, Any]]:
        return self.take(self.protocol.open())

    def say(self, type: str, **fields: Any) -> list[dict[str, Any]]:
        """The client sends an event; what the server sends because of it."""
        return self.take(self.protocol.receive(json.dumps({"type": type, **fields})))

    def hear(self, *events: Any) -> list[dict[str, Any]]:
        """The pipeline tells of events; what the server sends because of them."""
        return [sent for event in events for sent in self.take(self.protocol.emit(event))]
