"""A session that is set up before its call, as `POST /v1/realtime/client_secrets` and the two paths
of the beta dialect take it: the same object as in session.update, and judged by the same code.

Source: openai.types.realtime.ClientSecretCreateParams and ClientSecretCreateResponse.
"""

from __future__ import annotations

from typing import Final

import msgspec

from voicepool.errors import PresetError
from voicepool.wire.realtime import beta, client
from voicepool.wire.realtime.config import Defaults, SessionConfig
from voicepool.wire.realtime.errors import WireError
from voicepool.wire.realtime.patch import SessionPatch

GA: Final = "realtime"
_EVENTS: Final = {
    GA: "session.update",
    "session": "session.update",
    "transcription_session": "transcription_session.update",
}
"""The event that says the same, by form."""


def preset(session: bytes, form: str, defaults: Defaults) -> tuple[bytes, bytes]:
    """Both parts of an `app.Preview`, the first for a `RealtimeProtocol`. Raises PresetError."""
    try:
        given = _read(session, form)
        config = SessionConfig.initial(defaults).merge(given)
    except WireError as error:
        raise PresetError(error.message, error.code, error.param) from error
    shown = config.shown if form == GA else beta.shown(config)
    return msgspec.json.encode(given), msgspec.json.encode(shown)


def _read(session: bytes, form: str) -> SessionPatch:
    text = b'{"type":"%s","session":%s}' % (_EVENTS[form].encode(), session)
    envelope = client.open_envelope(text)
    event = client.read_event(envelope, text) if form == GA else beta.read_event(envelope, text)
    assert isinstance(event, client.SessionUpdate)
    if form == GA and event.session.type is msgspec.UNSET:
        event.session.type = "realtime"
    return event.session
