"""The request head of a caller, understood but not consumed. Pure; h11 does the parsing.

Sources: RFC 9112 (HTTP/1.1), RFC 6455 section 4.2.1 (the WebSocket opening handshake).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import h11

MAX_HEAD: Final = 16 * 1024
"""Bytes of a request head that are looked at; a longer one is answered with 431."""
MAX_BODY: Final = 64 * 1024
"""Bytes of a request body; a longer one is answered with 413."""

_ABSOLUTE: Final = re.compile(r"https?://[^/]+", re.IGNORECASE)
"""What precedes the path in absolute form, which servers must accept (RFC 9112, 3.2.2)."""


class BadRequest(Exception):
    """Not an HTTP/1.1 request head, or one that is not acceptable; `status` says which."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def path_of(target: str) -> str:
    """A request target without its query, and without scheme and authority in absolute form."""
    path = target.partition("?")[0]
    if absolute := _ABSOLUTE.match(path):
        return path[absolute.end() :] or "/"
    return path


@dataclass(frozen=True, slots=True)
class Head:
    """A complete request head. Header names are lower case, values as sent (latin-1)."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]

    @property
    def path(self) -> str:
        """See `path_of`."""
        return path_of(self.target)

    @property
    def query(self) -> str:
        """What follows the target's question mark, "" where there is none."""
        return self.target.partition("?")[2]

    def all(self, name: str) -> Iterator[str]:
        """The values of every header of that name, in order."""
        return (value for key, value in self.headers if key == name)

    def get(self, name: str) -> str | None:
        """The value of the only header of that name; None where there is none, or several."""
        values = list(self.all(name))
        return values[0] if len(values) == 1 else None

    def tokens(self, name: str) -> list[str]:
        """The comma-separated elements of all headers of that name."""
        return [token.strip() for value in self.all(name) for token in value.split(",")]

    @property
    def has_body(self) -> bool:
        """Whether a body follows; some devices say that theirs is 0 bytes long."""
        lengths = any(value != "0" for value in self.all("content-length"))
        return lengths or any(True for _ in self.all("transfer-encoding"))

    @property
    def upgrades(self) -> bool:
        """Whether this asks for a WebSocket."""
        return (
            self.method == "GET"
            and any(token.lower() == "websocket" for token in self.tokens("upgrade"))
            and any(token.lower() == "upgrade" for token in self.tokens("connection"))
        )


def parse_head(data: bytes) -> Head | None:
    """The head at the start of `data`, None while it is incomplete. Raises BadRequest.

    Only the first MAX_HEAD bytes count, so that it does not matter how many have come at once.
    """
    if not data:
        return None  # h11 takes no bytes for the end of the connection
    if data[0] >= 0x80:
        # h11 would wait for the end of the line.
        raise BadRequest(400, "this is not HTTP/1.1: a method is ASCII")
    data = data[:MAX_HEAD]
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD - 1)
    try:
        parser.receive_data(data)
        event = parser.next_event()
    except h11.RemoteProtocolError as error:
        if error.error_status_hint == 431:
            raise BadRequest(431, f"the request head is longer than {MAX_HEAD} bytes") from error
        message = f"this is not HTTP/1.1: {str(error)[:200]}"
        raise BadRequest(error.error_status_hint, message) from error
    if event is h11.NEED_DATA:
        return None
    if not isinstance(event, h11.Request):
        raise BadRequest(400, "this is not an HTTP/1.1 request")
    _check_lines(data[: len(data) - len(parser.trailing_data[0])])
    return Head(
        method=event.method.decode("ascii"),
        target=event.target.decode("ascii"),
        headers=tuple(
            (name.decode("ascii"), value.decode("latin-1")) for name, value in event.headers
        ),
    )


def _check_lines(head: bytes) -> None:
    """Refuse what h11 lets pass but the worker's parser does not: there must be one meaning."""
    if b"\n" in head.replace(b"\r\n", b""):
        raise BadRequest(400, "the lines of a request head must end with CR and LF")
    if b"\n " in head or b"\n\t" in head:
        raise BadRequest(400, "header lines must not be folded")
