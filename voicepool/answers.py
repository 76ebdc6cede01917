"""The HTTP answers that the supervisor gives itself, as bytes. Pure.

Every refusal has a JSON body in the shape that OpenAI clients read: error.message says what is
wrong and what to do, error.code is for programs.
"""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import formatdate
from http import HTTPStatus

import msgspec


def respond(
    status: int, body: object, headers: Mapping[str, str] | None = None, *, head: bool = False
) -> bytes:
    """A complete response that closes the connection. `body` becomes JSON; with `head`, only its
    length is told (the answer to HEAD)."""
    payload = msgspec.json.encode(body) + b"\n"
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        f"Date: {formatdate(usegmt=True)}",
        "Content-Type: application/json",
        f"Content-Length: {len(payload)}",
        "Cache-Control: no-store",
        "Connection: close",
        *(f"{name}: {value}" for name, value in (headers or {}).items()),
    ]
    start = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
    return start if head else start + payload


def error_body(message: str, code: str, kind: str = "invalid_request_error") -> object:
    """The JSON of a refusal."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def refuse(
    status: int,
    message: str,
    code: str,
    headers: Mapping[str, str] | None = None,
    *,
    head: bool = False,
) -> bytes:
    """A refusal. 5xx are ours (`server_error`), the rest the client's (`invalid_request_error`)."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return respond(status, error_body(message, code, kind), headers, head=head)
