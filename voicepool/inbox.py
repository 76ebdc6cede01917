"""A listening socket whose connections are handed to it: `websockets.serve(sock=Inbox())`.

This keeps the worker on the public interface of websockets and asyncio: the event loop polls the
inbox like any listener and calls its `accept()`.
"""

from __future__ import annotations

import asyncio
import collections
import socket
from typing import Any

from websockets.asyncio.client import ClientConnection, connect


class Inbox(socket.socket):
    """Owns what was delivered until `accept` hands it out; not for several threads."""

    def __init__(self) -> None:
        inner, self._bell = socket.socketpair()
        self._bell.setblocking(False)
        self._delivered: collections.deque[socket.socket] = collections.deque()
        super().__init__(fileno=inner.detach())
        self.setblocking(False)

    def deliver(self, connection: socket.socket) -> None:
        """Let the server accept `connection`, a connected stream socket."""
        connection.setblocking(False)
        self._delivered.append(connection)
        self._bell.send(b"\0")

    def listen(self, backlog: int = 0) -> None:
        """Called by the event loop; there is nothing to do."""

    def accept(self) -> tuple[socket.socket, Any]:
        """The next delivered socket. Raises BlockingIOError when there is none."""
        self.recv(1)
        connection = self._delivered.popleft()
        try:
            return connection, connection.getpeername()
        except OSError:
            # It was reset meanwhile; the transport finds out on its first read.
            return connection, None

    def close(self) -> None:
        self._bell.close()
        for connection in self._delivered:
            connection.close()
        super().close()

    async def dial(self, path: str, **options: Any) -> ClientConnection:
        """A WebSocket client that is connected to the server behind this inbox.

        The caller closes it.
        """
        ours, theirs = socket.socketpair()
        self.deliver(theirs)
        ours.setblocking(False)
        try:
            async with asyncio.timeout(30):
                return await connect(f"ws://localhost{path}", sock=ours, proxy=None, **options)
        except BaseException:
            ours.close()
            raise
