"""What a client can do wrong on `/v1/realtime`: the `error` event's codes and messages.

Real clients match on some of these codes, and on how some messages begin; those are kept as the
OpenAI service words them. docs/protocol.md lists them for users.
"""

from __future__ import annotations

from typing import Literal

from voicepool import errors
from voicepool.wire.actions import Action, TruncateItem
from voicepool.wire.codec import ClientFault

ErrorType = Literal["invalid_request_error", "server_error"]


class WireError(ClientFault):
    """A client's mistake. The session answers with an `error` event and goes on."""

    def __init__(
        self,
        code: str,
        message: str,
        param: str | None = None,
        type: ErrorType = "invalid_request_error",
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.type: ErrorType = type


def invalid_value(message: str, param: str | None = None) -> WireError:
    return WireError("invalid_value", message, param)


def missing(param: str) -> WireError:
    return WireError("missing_required_parameter", f"Missing required parameter: '{param}'.", param)


def invalid_json(message: str) -> WireError:
    return WireError("invalid_json", message)


def too_large(message: str, param: str | None = None) -> WireError:
    return WireError("string_above_max_length", message, param)


def commit_empty(milliseconds: float) -> WireError:
    return WireError(
        "input_audio_buffer_commit_empty",
        "Error committing input audio buffer: buffer too small. Expected at least 100ms of audio, "
        f"but buffer only has {milliseconds:.2f}ms of audio.",
    )


def no_active_response() -> WireError:
    return WireError("response_cancel_not_active", "Cancellation failed: no active response found")


def response_active(response_id: str) -> WireError:
    return WireError(
        "conversation_already_has_active_response",
        f"Conversation already has an active response in progress: {response_id}. "
        "Wait until the response is finished before creating a new one.",
    )


def unknown_item(verb: Literal["retriev", "delet", "truncat"], item_id: str) -> WireError:
    """`verb` without its ending: code and message take different ones."""
    return WireError(
        f"item_{verb}e_invalid_item_id",
        f"Error {verb}ing item: the item with id '{item_id}' does not exist.",
        "item_id",
    )


def duplicate_item(item_id: str) -> WireError:
    return WireError(
        "item_create_duplicate_item_id",
        f"Error adding item: the item with id '{item_id}' already exists in the conversation.",
        "item.id",
    )


def unknown_previous(item_id: str) -> WireError:
    return WireError(
        "item_create_invalid_previous_item_id",
        f"Error adding item: the previous item with id '{item_id}' does not exist.",
        "previous_item_id",
    )


def session_expired(limit: float) -> WireError:
    """`limit` in seconds, here and below."""
    return WireError(
        "session_expired", f"Your session hit the maximum duration of {_in_words(limit)}."
    )


def session_idle(limit: float) -> WireError:
    """The code is that of the longest duration: there is no other that clients know."""
    return WireError("session_expired", f"Your session was idle for {_in_words(limit)}.")


def _in_words(seconds: float) -> str:
    amount, unit = (seconds, "second") if seconds % 60 else (seconds / 60, "minute")
    return f"{amount:g} {unit}" if amount == 1 else f"{amount:g} {unit}s"


def no_responses() -> WireError:
    return invalid_value("A transcription session makes no responses.", "type")


def type_is_settled() -> WireError:
    return invalid_value(
        "The type of a session cannot be changed once its conversation has begun.", "session.type"
    )


def refusal(action: Action, error: errors.PipelineError | ClientFault) -> WireError:
    """What a client is told of an action that was not carried out."""
    match error:
        case WireError():
            return error
        case errors.BufferTooSmall():
            return commit_empty(error.milliseconds)
        case errors.ResponseActive():
            return response_active(error.response_id)
        case errors.NothingToCancel():
            return no_active_response()
        case errors.DuplicateItem():
            return duplicate_item(error.item_id)
        case errors.UnknownItem() if isinstance(action, TruncateItem):
            return unknown_item("truncat", error.item_id)
        case errors.UnknownItem():
            return unknown_previous(error.item_id)
        case _:
            return WireError("server_error", str(error), type="server_error")
