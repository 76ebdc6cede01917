"""Clients of the TLS relay who are on their way in: PROXY header, handshake, request head."""

from __future__ import annotations

import socket
import ssl
from typing import Final

from voicepool.frontdoor import has_end
from voicepool.listener import Address
from voicepool.proxied import Announced, HeaderReader
from voicepool.request import MAX_HEAD
from voicepool.tlspump import Tls

_HANDSHAKE_RECORD: Final = 22
"""The first byte of a TLS connection (RFC 8446, 5.1)."""


class Arrival(Announced):
    """A client on its way to a complete request head."""

    def __init__(
        self, sock: socket.socket, address: Address, announced: HeaderReader | None = None
    ) -> None:
        super().__init__(sock, address, announced)
        self.tls: Tls | None = None
        """None until it has said something."""
        self.secure = False
        """Whether the handshake is complete."""
        self.head = b""
        """What it has said, to the empty line and perhaps beyond."""

    def advance(self, context: ssl.SSLContext) -> bool:
        """Go on with what has come; whether the head is as complete as it will be.

        Raises OSError, and PlainText where the client does not try to speak TLS, and BadHeader.
        """
        if not self.learn_address():
            return False
        if self.tls is None:
            first = self.sock.recv(1, socket.MSG_PEEK)
            if not first:
                raise ConnectionResetError
            if first[0] != _HANDSHAKE_RECORD:
                raise PlainText
            self.tls = Tls(self.sock, context)
        if not self.secure:
            self.secure = self.tls.handshake()
            if not self.secure:
                return False
            self.head = self.tls.pending()
        else:
            self.head += self.tls.receive()
            if not self.tls.flush():
                raise ConnectionResetError  # it asks much of TLS itself, and takes no answer
        if self.tls.ended and not self.head:
            raise ConnectionResetError
        return self.tls.ended or len(self.head) >= MAX_HEAD or has_end(self.head)


class PlainText(Exception):
    """A client does not speak TLS."""
