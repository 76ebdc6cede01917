"""A worker's WebSocket server, on its own."""

from __future__ import annotations

import asyncio
import socket

from websockets.asyncio.server import ServerConnection

from tests.rawhttp import upgrade
from voicepool.callserver import start_server
from voicepool.inbox import Inbox

BEFORE_A_PING = 15.0
"""websockets would find out by its first ping, after 20 s."""


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
