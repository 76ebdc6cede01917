"""The OpenAI Realtime protocol of one call, without I/O.

A `wire.codec.Codec`. It keeps what the client has been told: the session object, the items in their
order, and the responses that are open. It thinks in the GA dialect; where a client speaks the beta
one, `beta` reads what it says and rewrites what it is told.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from voicepool import errors as refusals
from voicepool import events
from voicepool.engines.base import Message
from voicepool.wire import actions
from voicepool.wire.actions import Action, Send
from voicepool.wire.codec import ClientFault
from voicepool.wire.realtime import audio, beta, client, errors, items
from voicepool.wire.realtime.config import Defaults, SessionConfig
from voicepool.wire.realtime.conversation import Conversation
from voicepool.wire.realtime.errors import WireError
from voicepool.wire.realtime.replies import Replies
from voicepool.wire.realtime.requests import RequestReader
from voicepool.wire.realtime.responses import Event, begin, item_event
from voicepool.wire.realtime.transcripts import Transcripts


class RealtimeProtocol:
    """One call's state on the wire. `new_id("event")` makes an id such as "event_x1"; the
    pipeline makes its own for turns, for responses and for what they put out.

    `session`: JSON of the session object that the client's secret was made with, b"" for none.
    `is_beta`: the client asked for the beta dialect at the handshake.
    """

    def __init__(
        self,
        defaults: Defaults,
        new_id: Callable[[str], str],
        *,
        session: bytes = b"",
        is_beta: bool = False,
    ) -> None:
        self._new_id = new_id
        self._config = SessionConfig.initial(defaults)
        self._conversation_id = new_id("conv")
        self._conversation = Conversation()
        self._transcripts = Transcripts()
        self._replies = Replies(self._conversation)
        self._requests = RequestReader(self._conversation, new_id)
        self._is_beta = False
        self._begun = False
        """Whether there has ever been more than a session."""
        self._greeting: list[Action] = []
        if session:
            self._adopt(b'{"type":"session.update","session":%b}' % session)
        self._is_beta = self._is_beta or is_beta

    def _adopt(self, update: bytes) -> None:
        """Begin with what the secret holds; a mistake in it is told once the session is open."""
        try:
            envelope = client.open_envelope(update)
            event = self._read(envelope, update)
            if isinstance(event, client.SessionUpdate):
                self._config = self._config.merge(event.session)
        except WireError as error:
            self._greeting = self._error(error, None)

    @property
    def settings(self) -> events.PipelineSettings:
        """What the session object now means for the pipeline."""
        return self._config.pipeline_settings()

    def open(self) -> list[Action]:
        """The first event of a session."""
        return [*self._tell(self._session("created")), *self._greeting]

    # -- what the client says

    def receive(self, message: str | bytes) -> list[Action]:
        """Take one message; those that are not text mean nothing here."""
        if isinstance(message, bytes):
            return []
        event_id = None
        try:
            envelope = client.open_envelope(message)
            event_id = envelope.event_id
            return self._obey(self._read(envelope, message), event_id)
        except WireError as error:
            return self._error(error, event_id)

    def _read(self, envelope: client.Envelope, text: str | bytes) -> client.ClientEvent:
        if not self._begun:  # later, the client has been told things that the other cannot say
            self._is_beta = beta.is_meant(envelope, text, self._is_beta)
        read = beta.read_event if self._is_beta else client.read_event
        event: client.ClientEvent = read(envelope, text)
        return event

    def _obey(self, event: client.ClientEvent, event_id: str | None) -> list[Action]:
        match event:
            case client.BufferAppend():
                return [actions.AppendAudio(self._clip(event.audio, "audio"), event_id)]
            case client.BufferCommit():
                return [actions.Commit(event_id)]
            case client.BufferClear():
                return [actions.Clear(), *self._tell({"type": "input_audio_buffer.cleared"})]
            case client.SessionUpdate():
                return self._update(event)
            case client.ItemCreate():
                return self._create_item(event, event_id)
            case client.ItemRetrieve():
                return self._retrieve_item(event.item_id)
            case client.ItemDelete():
                return self._delete_item(event.item_id)
            case client.ItemTruncate():
                return self._truncate_item(event, event_id)
            case client.ResponseCreate():
                if not self._config.answers:
                    raise errors.no_responses()
                param = event.response or client.ResponseParam()
                self._begun = True
                return [self._requests.read(param, self._config.input_format, event_id)]
            case client.ResponseCancel():
                return [actions.Cancel(event.response_id, event_id)]

    def _update(self, event: client.SessionUpdate) -> list[Action]:
        merged = self._config.merge(event.session)
        if merged.answers != self._config.answers and self._begun:
            raise errors.type_is_settled()
        self._config = merged
        return [actions.Configure(self.settings), *self._tell(self._session("updated"))]

    def _clip(self, sound: str, param: str) -> audio.EncodedClip:
        clip = audio.EncodedClip(sound, self._config.input_format, param)
        clip.check()
        return clip

    def _create_item(self, event: client.ItemCreate, event_id: str | None) -> list[Action]:
        written, after = items.read_item(event.item, self._new_id), event.previous_item_id
        # A turn has been given its id at speech_started, long before it is an item.
        if written.item["id"] in self._transcripts:
            raise errors.duplicate_item(written.item["id"])
        self._conversation.check(written.item["id"], after)
        clip = self._clip(written.audio, "item.content[0].audio") if written.audio else None
        return [actions.InsertItem(written.item, written.message, after, event_id, clip)]

    def _retrieve_item(self, item_id: str) -> list[Action]:
        entry = self._conversation.get(item_id)
        if entry is None:
            raise errors.unknown_item("retriev", item_id)
        return self._tell({"type": "conversation.item.retrieved", "item": entry.item})

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
        return self._error(errors.refusal(action, error), getattr(action, "event_id", None))

    def inserted(self, action: actions.InsertItem) -> list[Action]:
        """The item has its place; what its sound says comes as a FinalTranscript."""
        self._begun = True
        if action.clip is not None:
            self._transcripts.item_added(action.item_id)
        previous = self._conversation.add(action.item, action.message, action.after)
        return [*self._tell(*_item_events(action.item, previous)), *self._forget()]

    def truncated(self, action: actions.TruncateItem, text: str) -> list[Action]:
        """The words that are left of the item are `text`."""
        # A client that cancels and truncates at once is quicker than the end of the reply.
        self._replies.cut(action.item_id, text)
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
        return self._tell(truncated)

    # -- what the pipeline says of the caller

    def output_rate(self, response_id: str) -> int:
        """Samples per second of what `emit` takes of that response."""
        response = self._replies.get(response_id)
        return (response.format if response else self._config.output_format).rate

    def emit(self, event: events.PipelineEvent) -> list[Action]:
        """Take one event of the pipeline."""
        self._begun = True
        match event:
            case events.SpeechStarted():
                self._transcripts.expect(event.item_id)
                return self._buffer("speech_started", event.item_id, audio_start_ms=event.start_ms)
            case events.SpeechStopped():
                return self._buffer("speech_stopped", event.item_id, audio_end_ms=event.end_ms)
            case events.IdleTimeout():
                self._transcripts.expect(event.item_id)
                times = {"audio_start_ms": event.start_ms, "audio_end_ms": event.end_ms}
                return self._buffer("timeout_triggered", event.item_id, **times)
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
                begun = begin(event, self._config, self._conversation_id)
                return self._tell(*self._replies.begin(begun))
            case events.ResponseAudio():
                return self._tell(*self._replies.tell(event), audio_of=event.item_id)
            case _:
                return [*self._tell(*self._replies.tell(event)), *self._forget()]

    def _buffer(self, kind: str, item_id: str, **more: Any) -> list[Action]:
        return self._tell({"type": f"input_audio_buffer.{kind}", **more, "item_id": item_id})

    def _commit(self, event: events.TurnCommitted) -> list[Action]:
        if event.item_id in self._conversation:
            return []
        item = items.user_audio(event.item_id)
        previous = self._conversation.add_told(item, Message("user", ""), event.previous_id)
        self._transcripts.item_added(event.item_id)
        return [
            *self._buffer("committed", event.item_id, previous_item_id=previous),
            *self._tell(*_item_events(item, previous)),
            *self._delta(event.item_id),
            *self._forget(),
        ]

    def _delta(self, item_id: str) -> list[Action]:
        if self._config.transcription is None:
            return []
        delta = self._transcripts.delta(item_id, live=self._config.live_transcripts)
        return self._tell(_transcription("delta", item_id, delta=delta)) if delta else []

    def _transcribed(self, event: events.FinalTranscript) -> list[Action]:
        self._transcripts.heard(event.item_id, event.text)
        entry = self._conversation.get(event.item_id)
        told = self._delta(event.item_id) if entry else []
        self._transcripts.close(event.item_id)
        if entry is None or not items.is_heard(entry.item):
            return []  # deleted meanwhile
        entry.message = Message("user", event.text)
        if self._config.transcription is not None:
            entry.item["content"] = [{"type": "input_audio", "transcript": event.text}]
            usage = {"type": "duration", "seconds": event.seconds}
            told += self._tell(
                _transcription("completed", event.item_id, transcript=event.text, usage=usage)
            )
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
        return self._tell(_transcription("failed", event.item_id, error=error))

    # -- forgetting

    def _drop(self, item_id: str) -> list[Action]:
        self._conversation.remove(item_id)
        deleted = {"type": "conversation.item.deleted", "item_id": item_id}
        return [actions.DeleteItem(item_id), *self._tell(deleted)]

    def _forget(self) -> list[Action]:
        """Delete the oldest items of a conversation that has outgrown its bounds, and say so."""
        return [
            action for item_id in self._conversation.overflow() for action in self._drop(item_id)
        ]

    # -- sending

    def expire(self, limit: float) -> list[Action]:
        """The call is closed next, for it has lasted `limit` seconds."""
        expired = errors.session_expired(limit)
        return [*self._error(expired, None), actions.HangUp(expired.message)]

    def idle(self, limit: float) -> list[Action]:
        """The call is closed next, for nobody has used it for `limit` seconds."""
        return [*self._error(errors.session_idle(limit), None), actions.HangUp("idle_limit")]

    def _session(self, kind: str) -> Event:
        return {"type": f"session.{kind}", "session": self._config.shown}

    def _error(self, error: WireError, event_id: str | None) -> list[Action]:
        told = {
            "type": error.type,
            "code": error.code,
            "message": error.message,
            "param": error.param,
            "event_id": event_id,
        }
        return self._tell({"type": "error", "error": told})

    def _tell(self, *made: Event, audio_of: str = "") -> list[Action]:
        told: list[Action] = []
        for event in made:
            known = beta.told(event, self._config) if self._is_beta else event
            if known is not None:
                numbered = {**known, "event_id": self._new_id("event")}
                told.append(Send(msgspec.json.encode(numbered), audio_of))
        return told


def _item_events(item: items.Item, previous: str | None) -> list[Event]:
    return [item_event(kind, item, previous) for kind in ("added", "done")]


def _transcription(kind: str, item_id: str, **more: Any) -> Event:
    return {
        "type": f"conversation.item.input_audio_transcription.{kind}",
        "item_id": item_id,
        "content_index": 0,
        **more,
    }
