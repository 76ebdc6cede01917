"""What a session sends: a queue bounded in bytes, one writer, and a deadline for slow readers.

HIGH_WATER   above it the pipeline's events wait, and with them the synthesiser
HARD_LIMIT   above it the client's messages wait too: it asks for more than it reads
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from websockets.asyncio.server import ServerConnection

HIGH_WATER = 128 << 10
"""About 2 s of sound. Answers to the client's own messages are not held up by it, so that a client
that reads at the pace of speech can still interrupt."""
HARD_LIMIT = 4 << 20
WRITE_DEADLINE = 20.0
"""Seconds for one message to reach the socket's buffer; the client has read nothing meanwhile."""


class ClientTooSlow(Exception):
    """The client did not read for WRITE_DEADLINE seconds."""


@dataclass(frozen=True, slots=True)
class _Outgoing:
    data: bytes
    audio_of: str
    on_sent: Callable[[], None] | None


class Sender:
    """The messages on their way to one client, in the order in which they were put."""

    def __init__(self, websocket: ServerConnection, write_deadline: float = WRITE_DEADLINE) -> None:
        self._websocket = websocket
        self._write_deadline = write_deadline
        self._queue: deque[_Outgoing] = deque()
        self._arrived = asyncio.Event()
        self._left = asyncio.Event()
        self.pending = 0
        """Bytes that are waiting to be written."""
        self.sent = 0
        """Messages that were written."""

    def put(
        self, data: bytes, audio_of: str = "", on_sent: Callable[[], None] | None = None
    ) -> None:
        """Queue a text message; `audio_of` marks sound of that item, see `drop_audio`. `on_sent` is
        called when the socket has it."""
        self._queue.append(_Outgoing(data, audio_of, on_sent))
        self.pending += len(data)
        self._arrived.set()

    def drop_audio(self, item_id: str) -> None:
        """Forget sound that was not written yet: its reply has been interrupted."""
        kept = deque(each for each in self._queue if each.audio_of != item_id)
        self.pending -= sum(len(each.data) for each in self._queue if each.audio_of == item_id)
        self._queue = kept
        self._left.set()

    async def room(self, limit: int) -> None:
        """Wait until at most `limit` bytes are pending."""
        while self.pending > limit:
            self._left.clear()
            await self._left.wait()

    async def run(self) -> None:
        """Write until cancelled. Raises ClientTooSlow, ConnectionClosed."""
        while True:
            while self._queue:
                await self._write(self._queue.popleft())
            self._arrived.clear()
            await self._arrived.wait()

    async def _write(self, message: _Outgoing) -> None:
        try:
            async with asyncio.timeout(self._write_deadline):
                await self._websocket.send(message.data, text=True)
        except TimeoutError:
            raise ClientTooSlow from None
        self.pending -= len(message.data)
        self.sent += 1
        if message.on_sent is not None:
            message.on_sent()
        self._left.set()
