"""Visitors: connections that somebody waits at, with a request that is not answered yet."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Final, NamedTuple

from voicepool.listener import Address
from voicepool.proxied import HeaderReader
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


class Visitor:
    """One accepted connection that nothing has been read from but a PROXY header."""

    __slots__ = ("address", "announced", "head", "peeked", "sock")

    def __init__(
        self, sock: socket.socket, address: Address, announced: HeaderReader | None = None
    ) -> None:
        """`announced`: a PROXY header will say who it is; until then `address` is the proxy's."""
        self.sock = sock
        self.address = address
        self.announced = announced
        self.peeked = b""
        """What the last peek saw."""
        self.head: Head | None = None

    def fileno(self) -> int:
        return self.sock.fileno()

    def learn_address(self) -> bool:
        """Whether it is known for whom the connection is. Raises as `HeaderReader.read`."""
        if self.announced is not None:
            header = self.announced.read()
            if header is None:
                return False
            self.announced = None
            self.address = header.source or self.address
        return True

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
