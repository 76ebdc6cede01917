"""The PROXY protocol on a socket: the header is taken off it, and not a byte more.

Announced       a connection of which a header may say for whom it is
HeaderReader    awaits that header
"""

from __future__ import annotations

import socket

from voicepool.listener import Address
from voicepool.proxyheader import MAX_HEADER, ProxyHeader, parse_header


class Announced:
    """An accepted connection, and whose it is."""

    __slots__ = ("address", "announced", "sock")

    def __init__(
        self, sock: socket.socket, address: Address, announced: HeaderReader | None = None
    ) -> None:
        """`announced`: a PROXY header will say who it is; until then `address` is the proxy's."""
        self.sock = sock
        self.address = address
        self.announced = announced

    def learn_address(self) -> bool:
        """Whether it is known for whom the connection is. Raises as `HeaderReader.read`."""
        if self.announced is not None:
            header = self.announced.read()
            if header is None:
                return False
            self.announced = None
            self.address = header.source or self.address
        return True


class HeaderReader:
    """Awaits the header of one connection."""

    __slots__ = ("_seen", "_sock")

    def __init__(self, sock: socket.socket) -> None:
        """`sock` is TCP's and non-blocking."""
        self._sock = sock
        self._seen = 0

    def read(self) -> ProxyHeader | None:
        """The header, once all of it is there; then it is read, and what follows it is not. None
        before; then the socket is readable only when there is more.

        Raises BadHeader; BlockingIOError where nothing has come; other OSError where the peer is
        gone.
        """
        data = self._sock.recv(MAX_HEADER, socket.MSG_PEEK)
        if len(data) <= self._seen:
            raise ConnectionResetError  # readable without growth: it has closed its side
        header = parse_header(data)
        if header is None:
            self._seen = len(data)
            self._wait_for(len(data) + 1)
        else:
            self._sock.recv(header.length)
            self._wait_for(1)
        return header

    def _wait_for(self, count: int) -> None:
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
