"""A worker's WebSocket server, on its own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.server import ServerConnection
from websockets.frames import CloseCode
from websockets.typing import DataLike

from tests.rawhttp import upgrade
from voicepool import callserver
from voicepool.callserver import Connection, start_server
from voicepool.inbox import Inbox

BEFORE_A_PING = 15.0
"""It is found out later by the first ping, after 20 s."""


async def test_caller_who_has_left_is_noticed_although_nobody_reads() -> None:
    noticed = asyncio.Event()

    async def never_read(websocket: ServerConnection) -> None:
        await websocket.wait_closed()
        noticed.set()

    inbox = Inbox()
    server = await start_server(never_read, inbox)
    theirs, ours = socket.socketpair()
    inbox.deliver(theirs)
    reader, writer = await asyncio.open_connection(sock=ours)
    writer.write(upgrade(b"/"))
    assert b"101" in await reader.readline()
    writer.write(b"\x82\x84\0\0\0\0abcd" * 10_000)  # more than is read ahead
    await writer.drain()
    writer.close()
    async with asyncio.timeout(BEFORE_A_PING):
        await noticed.wait()
    server.close()
    await server.wait_closed()


class Observed(Connection):
    """Says when nobody reads it any more, and when it has sent a few pings."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.unread, self.pinged = asyncio.Event(), asyncio.Event()
        self._pings = 0

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self.transport.is_reading():
            self.unread.set()

    async def ping(self, data: DataLike | None = None) -> Awaitable[float]:
        self._pings += 1
        if self._pings > 5:
            self.pinged.set()
        return await super().ping(data)


async def test_a_caller_whose_pongs_nobody_reads_is_not_taken_for_dead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    messages = 10_000

    async def read_late(websocket: ServerConnection) -> None:
        assert isinstance(websocket, Observed)
        await websocket.unread.wait()
        monkeypatch.setattr(callserver, "PING_SECONDS", 0.01)
        keeping_alive = asyncio.create_task(websocket.keep_alive())
        await websocket.pinged.wait()
        keeping_alive.cancel()
        for _ in range(messages):
            await websocket.recv()
        await websocket.send("all")

    inbox = Inbox()
    server = await start_server(read_late, inbox, create_connection=Observed)
    async with asyncio.timeout(BEFORE_A_PING), await inbox.dial("/", ping_interval=None) as client:
        flood = asyncio.create_task(_send(client, messages))
        assert await client.recv() == "all"
        await flood
    server.close()
    await server.wait_closed()


async def _send(client: ClientConnection, messages: int) -> None:
    for _ in range(messages):
        await client.send(bytes(1_000))


async def test_a_caller_who_answers_no_ping_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callserver, "PING_SECONDS", 0.02)
    monkeypatch.setattr(callserver, "LINGER_SECONDS", 0.02)
    closed: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()

    async def wait(websocket: ServerConnection) -> None:
        await websocket.wait_closed()
        closed.set_result(websocket.close_code)

    inbox = Inbox()
    server = await start_server(wait, inbox)
    theirs, ours = socket.socketpair()
    inbox.deliver(theirs)
    _, writer = await asyncio.open_connection(sock=ours)
    writer.write(upgrade(b"/"))
    async with asyncio.timeout(BEFORE_A_PING):
        assert await closed == CloseCode.ABNORMAL_CLOSURE
    writer.close()
    server.close()
    await server.wait_closed()
