"""What clients of OpenAI's Realtime protocol ask over HTTP besides calling, and the answers. Pure.

Sources: `openai.types.realtime.client_secret_create_params` and `..._response`, of the beta dialect
`openai.types.beta.realtime.session_create_params`; the API reference on models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Raw, Struct

from voicepool.answers import refuse, respond
from voicepool.request import Head

MODELS: Final = "/v1/models"
MODEL: Final = "voicepool"
"""The one model that is listed; calls may name any."""

GA: Final = "realtime"
FORMS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "/v1/realtime/client_secrets": GA,
        "/v1/realtime/sessions": "session",
        "/v1/realtime/transcription_sessions": "transcription_session",
    }
)
"""The form of the session (`app.Presetting`) by the path that makes a client secret for it."""

LIFETIME: Final = 600
"""Of a client secret in seconds, where none is asked for; as OpenAI's."""


class BadOrder(Exception):
    """A request for a client secret cannot be understood."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True, slots=True)
class Order:
    """What a request for a client secret asks for."""

    session: bytes
    """A JSON object."""
    seconds: int


class _ExpiresAfter(Struct):
    anchor: Literal["created_at"] = "created_at"
    seconds: Annotated[int, Meta(ge=10, le=7200)] | None = None


class _Body(Struct):
    expires_after: _ExpiresAfter | None = None
    session: Raw = Raw(b"null")


class _FlatSecret(Struct):
    expires_after: _ExpiresAfter | None = None


class _FlatBody(Struct):
    """In the beta dialect the session is the body."""

    client_secret: _FlatSecret | None = None


def read_order(form: str, body: bytes) -> Order:
    """What is asked for; everything in it is optional. Raises BadOrder."""
    body = body.strip() or b"{}"
    try:
        if form == GA:
            asked = msgspec.json.decode(body, type=_Body)
            session, after = bytes(asked.session).strip(), asked.expires_after
        else:
            flat = msgspec.json.decode(body, type=_FlatBody).client_secret
            session, after = body, flat.expires_after if flat else None
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        param = where.strip("`.") or None
        raise BadOrder(f"{what[:300]}.", param and param[:200]) from error
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BadOrder("We could not parse the JSON body of your request.") from error
    session = b"{}" if session == b"null" else session
    if not session.startswith(b"{"):
        raise BadOrder("Expected an object.", "session")
    return Order(session, (after and after.seconds) or LIFETIME)


def secret_made(form: str, secret: str, expires_at: int, shown: bytes) -> bytes:
    """The answer to an order. `shown`: the session as JSON."""
    if form == GA:
        body: object = {"value": secret, "expires_at": expires_at, "session": Raw(shown)}
    else:
        session: dict[str, Any] = msgspec.json.decode(shown)
        body = {**session, "client_secret": {"value": secret, "expires_at": expires_at}}
    return respond(200, body)


def models(head: Head, created: int) -> bytes:
    """The answer to GET and HEAD of MODELS and what is below it. `created`: Unix seconds."""
    is_head = head.method == "HEAD"
    model = {"id": MODEL, "object": "model", "created": created, "owned_by": "voicepool"}
    name = head.path.removeprefix(MODELS).removeprefix("/")
    if head.path == MODELS:
        return respond(200, {"object": "list", "data": [model]}, head=is_head)
    if name == MODEL:
        return respond(200, model, head=is_head)
    return refuse(
        404,
        f"there is no model {name[:200]!a}; {MODELS} lists what there is",
        "model_not_found",
        head=is_head,
    )
