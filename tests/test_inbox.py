"""The inbox: a listening socket for websockets whose connections are handed to it."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator

import pytest
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import InvalidStatus

from voicepool.inbox import Inbox


@pytest.fixture(autouse=True)
def no_descriptor_leaks() -> Iterator[None]:
    before = os.listdir("/proc/self/fd")  # noqa: PTH208
    yield
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208


async def echo(websocket: ServerConnection) -> None:
    async for message in websocket:
        await websocket.send(message)


@pytest.fixture
async def inbox() -> AsyncIterator[Inbox]:
    """One that a WebSocket server listens on."""
    inbox = Inbox()
    server: Server = await serve(echo, sock=inbox)
    yield inbox
    server.close()
    await server.wait_closed()


async def test_what_is_delivered_is_served(inbox: Inbox) -> None:
    clients = [await inbox.dial("/") for _ in range(3)]
    for number, client in enumerate(clients):
        await client.send(f"from {number}")
    for number, client in enumerate(clients):
        assert await client.recv() == f"from {number}"
        await client.close()


async def test_real_connection_with_bytes_that_nobody_has_read(inbox: Inbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        inbox.deliver(listener.accept()[0])
    # The handshake is refused by websockets: this is an ordinary request.
    reader, writer = await asyncio.open_connection(sock=client)
    assert (await reader.readline()).startswith(b"HTTP/1.1 426 ")
    writer.close()
    await writer.wait_closed()


async def test_connection_that_was_reset_before_it_was_accepted(inbox: Inbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        accepted = listener.accept()[0]
        client.close()
    inbox.deliver(accepted)
    # The server goes on.
    async with await inbox.dial("/") as dialed:
        await dialed.send("still there?")
        assert await dialed.recv() == "still there?"


async def test_dial_that_is_refused_leaves_nothing_open() -> None:
    inbox = Inbox()

    async def refuse(connection: ServerConnection, _: object) -> object:
        return connection.respond(403, "no")

    async with serve(echo, sock=inbox, process_request=refuse):  # type: ignore[arg-type]
        with pytest.raises(InvalidStatus):
            await inbox.dial("/")


def test_accepts_in_order_and_never_blocks() -> None:
    inbox = Inbox()
    pairs = [socket.socketpair() for _ in range(3)]
    for _, theirs in pairs:
        inbox.deliver(theirs)
    accepted = [inbox.accept()[0] for _ in range(3)]
    assert accepted == [theirs for _, theirs in pairs]
    with pytest.raises(BlockingIOError):
        inbox.accept()
    inbox.close()
    for ours, theirs in pairs:
        ours.close()
        theirs.close()


def test_close_closes_what_nobody_accepted() -> None:
    inbox = Inbox()
    ours, theirs = socket.socketpair()
    inbox.deliver(theirs)
    inbox.close()
    assert ours.recv(1) == b""
    ours.close()
