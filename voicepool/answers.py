"""The HTTP answers that the supervisor gives itself, as bytes. Pure.

Every refusal has a JSON body in the shape that OpenAI clients read: error.message says what is
wrong and what to do, error.code is for programs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from email.utils import formatdate
from http import HTTPStatus

import msgspec


@dataclass(frozen=True, slots=True)
class FileAnswer:
    """A response whose body is a file: `start`, then `size` bytes of `fd` from its beginning.

    Whoever holds it owns the descriptor.
    """

    start: bytes
    fd: int
    size: int


class Rejection(bytes):
    """A complete response that says no. What is made of it by way of bytes is plain bytes."""

    status: int
    code: str
    """What it is counted as: `error.code` of its body, as a rule."""

    @classmethod
    def of(cls, response: bytes, status: int, code: str) -> Rejection:
        rejection = cls(response)
        rejection.status, rejection.code = status, code
        return rejection


def start(status: int, headers: Mapping[str, str]) -> bytes:
    """Status line and headers, up to the empty line, of a response that closes the connection."""
    lines = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        f"Date: {formatdate(usegmt=True)}",
        "Connection: close",
        *(f"{name}: {value}" for name, value in headers.items()),
    )
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


def respond(
    status: int, body: object, headers: Mapping[str, str] | None = None, *, head: bool = False
) -> bytes:
    """A complete response that closes the connection. `body` becomes JSON; with `head`, only its
    length is told (the answer to HEAD)."""
    payload = msgspec.json.encode(body) + b"\n"
    return respond_as("application/json", payload, status, headers, head=head)


def respond_as(
    content_type: str,
    payload: bytes,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    *,
    head: bool = False,
) -> bytes:
    """As `respond`, with a body of that type."""
    standard = {
        "Content-Type": content_type,
        "Content-Length": str(len(payload)),
        "Cache-Control": "no-store",
    }
    beginning = start(status, {**standard, **(headers or {})})
    return beginning if head else beginning + payload


def error_body(
    message: str, code: str, kind: str = "invalid_request_error", param: str | None = None
) -> object:
    """The JSON of a refusal. `param`: which part of the request is wrong."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def with_headers(response: bytes | FileAnswer, headers: Mapping[str, str]) -> bytes | FileAnswer:
    """The same response with more headers."""
    beginning = response.start if isinstance(response, FileAnswer) else response
    status, line_end, rest = beginning.partition(b"\r\n")
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    beginning = status + line_end + lines.encode("latin-1") + rest
    if isinstance(response, FileAnswer):
        return replace(response, start=beginning)
    if isinstance(response, Rejection):
        return Rejection.of(beginning, response.status, response.code)
    return beginning


def refuse(
    status: int,
    message: str,
    code: str,
    headers: Mapping[str, str] | None = None,
    *,
    head: bool = False,
) -> Rejection:
    """A refusal. 5xx are ours (`server_error`), the rest the client's (`invalid_request_error`)."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    response = respond(status, error_body(message, code, kind), headers, head=head)
    return Rejection.of(response, status, code)
