"""The OpenAI Realtime protocol (GA dialect) of one call, without I/O.

A `wire.codec.Codec`. It keeps what the client has been told: the session object, the items in their
order, and the responses that are open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from voicepool import errors as refusals
from voicepool import events
from voicepool.engines.base import Message
from voicepool.wire import actions
from voicepool.wire.actions import Action, Send
from voicepool.wire.codec import ClientFault
from voicepool.wire.realtime import audio, client, errors, items
from voicepool.wire.realtime.config import RATE, Defaults, SessionConfig
from voicepool.wire.realtime.errors import WireError
from voicepool.wire.realtime.requests import response_request
from voicepool.wire.realtime.responses import Event, Response, item_event, resource
from voicepool.wire.realtime.transcripts import Transcripts


class RealtimeProtocol:
    """One call's state on the wire. `new_id("event")` makes an id such as "event_x1"; the
    pipeline makes its own for turns, for responses and for what they put out."""

    def __init__(self, defaults: Defaults, new_id: Callable[[str], str]) -> None:
        self._new_id = new_id
        self._config = SessionConfig(defaults)
        self._conversation_id = new_id("conv")
        self._conversation = items.Conversation()
        self._transcripts = Transcripts()
        self._responses: dict[str, Response] = {}

    @property
    def settings(self) -> events.PipelineSettings:
        """What the session object now means for the pipeline."""
        return self._config.pipeline_settings()

    def open(self) -> list[Action]:
        """The first event of a session."""
        return [self._send({"type": "session.created", "session": self._config.fields})]

    # -- what the client says

    def receive(self, message: str | bytes) -> list[Action]:
        """Take one message; those that are not text mean nothing here."""
        if isinstance(message, bytes):
            return []
        event_id = None
        try:
            envelope = client.open_envelope(message)
            event_id = envelope.event_id
            return self._obey(client.read_event(envelope, message), event_id)
        except WireError as error:
            return [self._error(error, event_id)]

    def _obey(self, event: client.ClientEvent, event_id: str | None) -> list[Action]:
        match event:
            case client.BufferAppend():
                audio.check(event.audio, "audio")
                return [actions.AppendAudio(audio.EncodedClip(event.audio, "audio"), event_id)]
            case client.BufferCommit():
                return [actions.Commit(event_id)]
            case client.BufferClear():
                return [actions.Clear(), self._send({"type": "input_audio_buffer.cleared"})]
            case client.SessionUpdate():
                return self._update(event.session)
            case client.ItemCreate():
                return self._create_item(event, event_id)
            case client.ItemRetrieve():
                return self._retrieve_item(event.item_id)
            case client.ItemDelete():
                return self._delete_item(event.item_id)
            case client.ItemTruncate():
                return self._truncate_item(event, event_id)
            case client.ResponseCreate():
                param = event.response or client.ResponseParam()
                request = response_request(param, self._conversation, self._new_id)
                return [actions.Respond(request, event_id)]
            case client.ResponseCancel():
                return [actions.Cancel(event.response_id, event_id)]

    def _update(self, patch: client.SessionPatch) -> list[Action]:
        self._config = self._config.merge(patch)
        return [
            actions.Configure(self.settings),
            self._send({"type": "session.updated", "session": self._config.fields}),
        ]

    def _create_item(self, event: client.ItemCreate, event_id: str | None) -> list[Action]:
        written, after = items.read_item(event.item, self._new_id), event.previous_item_id
        # A turn has been given its id at speech_started, long before it is an item.
        if written.item["id"] in self._transcripts:
            raise errors.duplicate_item(written.item["id"])
        self._conversation.check(written.item["id"], after)
        clip = None
        if written.audio:
            audio.check(written.audio, "item.content[0].audio")
            clip = audio.EncodedClip(written.audio, "item.content[0].audio")
        return [actions.InsertItem(written.item, written.message, after, event_id, clip)]

    def _retrieve_item(self, item_id: str) -> list[Action]:
        entry = self._conversation.get(item_id)
        if entry is None:
            raise errors.unknown_item("retriev", item_id)
        return [self._send({"type": "conversation.item.retrieved", "item": entry.item})]

    def _delete_item(self, item_id: str) -> list[Action]:
        if item_id not in self._conversation:
            raise errors.unknown_item("delet", item_id)
        return self._drop(item_id)

    def _truncate_item(self, event: client.ItemTruncate, event_id: str | None) -> list[Action]:
        entry = self._conversation.get(event.item_id)
        if entry is None:
            raise errors.unknown_item("truncat", event.item_id)
        if not items.is_spoken(entry.item):
            raise errors.invalid_value("Only an assistant's audio can be truncated.", "item_id")
        if event.content_index != 0:
            raise errors.invalid_value("The item has no content at this index.", "content_index")
        return [actions.TruncateItem(event.item_id, int(event.audio_end_ms), event_id)]

    # -- how the pipeline took an action

    def refuse(self, action: Action, error: refusals.PipelineError | ClientFault) -> list[Action]:
        """The action was not carried out."""
        return [self._error(_on_the_wire(action, error), getattr(action, "event_id", None))]

    def inserted(self, action: actions.InsertItem) -> list[Action]:
        """The item has its place; what its sound says comes as a FinalTranscript."""
        if action.clip is not None:
            self._transcripts.item_added(action.item_id)
        return [*self._add(action.item, action.message, action.after), *self._forget()]

    def truncated(self, action: actions.TruncateItem, text: str) -> list[Action]:
        """The words that are left of the item are `text`."""
        entry = self._conversation.get(action.item_id)
        if entry is not None and entry.item["content"]:
            entry.item["content"] = [{"type": "output_audio", "transcript": text}]
            entry.message = items.message_of(entry.item)
            self._conversation.resize(entry)
        truncated = {
            "type": "conversation.item.truncated",
            "item_id": action.item_id,
            "content_index": 0,
            "audio_end_ms": action.audio_end_ms,
        }
        return [self._send(truncated)]

    # -- what the pipeline says of the caller

    def output_rate(self, response_id: str) -> int:
        """Samples per second of what `emit` takes of that response."""
        return RATE

    def emit(self, event: events.PipelineEvent) -> list[Action]:
        """Take one event of the pipeline."""
        match event:
            case events.SpeechStarted():
                self._transcripts.expect(event.item_id)
                return [
                    self._buffer("speech_started", event.item_id, audio_start_ms=event.start_ms)
                ]
            case events.SpeechStopped():
                return [self._buffer("speech_stopped", event.item_id, audio_end_ms=event.end_ms)]
            case events.IdleTimeout():
                self._transcripts.expect(event.item_id)
                times = {"audio_start_ms": event.start_ms, "audio_end_ms": event.end_ms}
                return [self._buffer("timeout_triggered", event.item_id, **times)]
            case events.TurnCommitted():
                return self._commit(event)
            case events.PartialTranscript():
                self._transcripts.heard(event.item_id, event.text)
                return self._delta(event.item_id)
            case events.FinalTranscript():
                return self._transcribed(event)
            case events.TranscriptFailed():
                return self._transcript_failed(event)
            case events.Interrupted():
                return []  # speech_started, just before it, is how the wire says it
            case events.Forgotten():
                return []  # nothing here asks for it
            case events.ResponseStarted():
                return self._start_response(event)
            case _:
                return self._respond(event)

    def _buffer(self, kind: str, item_id: str, **more: Any) -> Send:
        return self._send({"type": f"input_audio_buffer.{kind}", **more, "item_id": item_id})

    def _commit(self, event: events.TurnCommitted) -> list[Action]:
        if event.item_id in self._conversation:
            return []
        item = items.user_audio(event.item_id)
        previous = self._conversation.add(item, Message("user", ""), _after(event.previous_id))
        self._transcripts.item_added(event.item_id)
        return [
            self._buffer("committed", event.item_id, previous_item_id=previous),
            *self._item_events(item, previous),
            *self._delta(event.item_id),
            *self._forget(),
        ]

    def _delta(self, item_id: str) -> list[Action]:
        if self._config.transcription is None:
            return []
        delta = self._transcripts.delta(item_id, live=self._config.live_transcripts)
        return [self._send(_transcription("delta", item_id, delta=delta))] if delta else []

    def _transcribed(self, event: events.FinalTranscript) -> list[Action]:
        entry = self._conversation.get(event.item_id)
        if entry is None or not items.is_heard(entry.item):
            return []
        self._transcripts.heard(event.item_id, event.text)
        told = self._delta(event.item_id)
        self._transcripts.close(event.item_id)
        entry.message = Message("user", event.text)
        if self._config.transcription is not None:
            entry.item["content"] = [{"type": "input_audio", "transcript": event.text}]
            usage = {"type": "duration", "seconds": event.seconds}
            completed = _transcription(
                "completed", event.item_id, transcript=event.text, usage=usage
            )
            told.append(self._send(completed))
        self._conversation.resize(entry)
        return [*told, *self._forget()]

    def _transcript_failed(self, event: events.TranscriptFailed) -> list[Action]:
        self._transcripts.close(event.item_id)
        if self._config.transcription is None or event.item_id not in self._conversation:
            return []
        error = {
            "type": "server_error",
            "code": "transcription_failed",
            "message": event.message or "The audio could not be transcribed.",
        }
        return [self._send(_transcription("failed", event.item_id, error=error))]

    # -- what the pipeline says of its replies

    def _start_response(self, event: events.ResponseStarted) -> list[Action]:
        if event.response_id in self._responses:
            return []
        made = resource(event, self._config.fields, self._conversation_id)
        self._responses[event.response_id] = Response(made, event.request.remember)
        return [self._send({"type": "response.created", "response": made})]

    def _respond(self, event: _OfResponse) -> list[Action]:
        response = self._responses.get(event.response_id)
        if response is None:
            return []
        match event:
            case events.ResponseText():
                return self._send_all(response.say(event.item_id, event.delta))
            case events.ResponseAudio():
                return self._send_all(response.sound(event), audio_of=event.item_id)
            case events.ToolCallArguments():
                return self._send_all(response.argue(event.item_id, event.delta))
            case events.MessageStarted() | events.ToolCallStarted():
                return self._start_output(response, event)
            case events.MessageDone():
                return self._end_output(
                    response.end_message(event.item_id, complete=event.complete)
                )
            case events.ToolCallDone():
                return self._end_output(response.end_call(event.item_id, event.arguments))
            case events.ResponseDone():
                del self._responses[event.response_id]
                return self._end_output([*response.close_items(), response.end(event)])

    def _start_output(
        self, response: Response, event: events.MessageStarted | events.ToolCallStarted
    ) -> list[Action]:
        if event.item_id in self._conversation or event.item_id in response.open:
            return []
        if isinstance(event, events.MessageStarted):
            item = items.assistant(event.item_id, "in_progress", [])
        else:
            item = items.function_call(event.item_id, "in_progress", event.call_id, event.name, "")
        previous = None
        if response.remember:
            message = Message("assistant", "")
            previous = self._conversation.add(item, message, _after(event.previous_id))
        if isinstance(event, events.MessageStarted):
            started = response.start_message(
                item, event.output_index, previous, spoken=event.spoken
            )
        else:
            started = response.start_call(item, event.output_index, previous)
        return [*self._send_all(started), *self._forget()]

    def _end_output(self, ended: list[Event]) -> list[Action]:
        for event in ended:
            if event["type"] == "conversation.item.done":
                entry = self._conversation.get(event["item"]["id"])
                if entry is not None:
                    entry.message = items.message_of(entry.item)
                    self._conversation.resize(entry)
        return [*self._send_all(ended), *self._forget()]

    # -- items

    def _add(self, item: items.Item, message: Message, after: str | None) -> list[Action]:
        return self._item_events(item, self._conversation.add(item, message, after))

    def _item_events(self, item: items.Item, previous: str | None) -> list[Action]:
        return [self._send(item_event(kind, item, previous)) for kind in ("added", "done")]

    def _drop(self, item_id: str) -> list[Action]:
        self._conversation.remove(item_id)
        deleted = {"type": "conversation.item.deleted", "item_id": item_id}
        return [actions.DeleteItem(item_id), self._send(deleted)]

    def _forget(self) -> list[Action]:
        """Delete the oldest items of a conversation that has outgrown its bounds, and say so."""
        return [
            action for item_id in self._conversation.overflow() for action in self._drop(item_id)
        ]

    # -- sending

    def expire(self, limit: float) -> list[Action]:
        """The call is closed next, for it has lasted `limit` seconds."""
        return [self._error(errors.session_expired(limit / 60), None)]

    def _error(self, error: WireError, event_id: str | None) -> Send:
        told = {
            "type": error.type,
            "code": error.code,
            "message": error.message,
            "param": error.param,
            "event_id": event_id,
        }
        return self._send({"type": "error", "error": told})

    def _send_all(self, made: Iterable[Event], audio_of: str = "") -> list[Action]:
        return [self._send(event, audio_of) for event in made]

    def _send(self, event: Event, audio_of: str = "") -> Send:
        numbered = {**event, "event_id": self._new_id("event")}
        return Send(msgspec.json.encode(numbered), audio_of)


_OfResponse = (
    events.MessageStarted
    | events.ResponseText
    | events.ResponseAudio
    | events.MessageDone
    | events.ToolCallStarted
    | events.ToolCallArguments
    | events.ToolCallDone
    | events.ResponseDone
)


def _on_the_wire(action: Action, error: refusals.PipelineError | ClientFault) -> WireError:
    match error:
        case WireError():
            return error
        case refusals.BufferTooSmall():
            return errors.commit_empty(error.milliseconds)
        case refusals.ResponseActive():
            return errors.response_active(error.response_id)
        case refusals.NothingToCancel():
            return errors.no_active_response()
        case refusals.DuplicateItem():
            return errors.duplicate_item(error.item_id)
        case refusals.UnknownItem() if isinstance(action, actions.TruncateItem):
            return errors.unknown_item("truncat", error.item_id)
        case refusals.UnknownItem():
            return errors.unknown_previous(error.item_id)
        case _:
            return WireError("server_error", str(error), type="server_error")


def _after(previous_id: str | None) -> str:
    """Where an item of the pipeline's goes. The first one is first, though by the time that its
    event comes the client may have put items after it."""
    return "root" if previous_id is None else previous_id


def _transcription(kind: str, item_id: str, **more: Any) -> Event:
    return {
        "type": f"conversation.item.input_audio_transcription.{kind}",
        "item_id": item_id,
        "content_index": 0,
        **more,
    }
