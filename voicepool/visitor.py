"""Visitors: connections that somebody waits at, with a request that is not answered yet."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Final, NamedTuple

from voicepool.listener import Address
from voicepool.proxied import Announced, HeaderReader
from voicepool.request import MAX_HEAD, Head


class Refusal(NamedTuple):
    """What `answers.refuse` takes."""

    status: int
    message: str
    code: str
    headers: Mapping[str, str] | None = None


TIMEOUT: Final = Refusal(408, "the request head did not arrive in time", "timeout")
OVERLOADED: Final = Refusal(503, "too many requests are incomplete", "overloaded")
CROWDED: Final = Refusal(
    429,
    "too many requests from your address are incomplete; complete one before you begin the next",
    "too_many_heads_from_address",
    {"Retry-After": "1"},
)


class Visitor(Announced):
    """One accepted connection that nothing has been read from but a PROXY header."""

    __slots__ = ("head", "peeked")

    def __init__(
        self, sock: socket.socket, address: Address, announced: HeaderReader | None = None
    ) -> None:
        super().__init__(sock, address, announced)
        self.peeked = b""
        """What the last peek saw."""
        self.head: Head | None = None

    def fileno(self) -> int:
        return self.sock.fileno()

    def peek(self) -> bool:
        """Look at what is there; whether there is more than last time. Raises OSError, also
        BlockingIOError when there is nothing at all."""
        before = len(self.peeked)
        self.peeked = self.sock.recv(MAX_HEAD, socket.MSG_PEEK)
        return len(self.peeked) > before

    def still_there(self) -> bool:
        """Whether the untouched head can still be read by somebody else."""
        try:
            return self.sock.recv(MAX_HEAD, socket.MSG_PEEK).startswith(self.peeked)
        except OSError:
            return False
