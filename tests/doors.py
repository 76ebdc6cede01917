"""Front doors on real sockets, with clients before them."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from voicepool.frontdoor import FrontDoor, Visitor
from voicepool.listener import Acceptor, listen
from voicepool.newcomers import DoorRules

PATIENCE = 20.0
"""Seconds after which a test that waits has failed."""


@pytest.fixture(autouse=True)
async def nothing_goes_wrong_or_stays_open() -> AsyncIterator[None]:
    """No exception in a callback of the loop, no descriptor left."""
    loop = asyncio.get_running_loop()
    troubles: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: troubles.append(context))
    before = os.listdir("/proc/self/fd")  # noqa: PTH208
    yield
    assert troubles == []
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208


class House:
    """A front door whose visitors wait in a queue for the test to take them."""

    def __init__(
        self, host: str, head_timeout: float, max_heads: int, rules: DoorRules, proxied: bool
    ) -> None:
        self.visitors: asyncio.Queue[Visitor] = asyncio.Queue()
        self.listener = listen(host, 0)
        self.address = self.listener.getsockname()[:2]
        self.door = FrontDoor(
            Acceptor(self.listener),
            self.visitors.put_nowait,
            head_timeout=head_timeout,
            max_heads=max_heads,
            rules=rules,
            proxy_protocol=proxied,
        )
        self._clients: list[socket.socket] = []

    def connect(self, data: bytes = b"", *, own: str = "") -> socket.socket:
        """A client that has connected and sent `data`; the door has not had the time to look.
        `own`: the address that it comes from."""
        source = (own, 0) if own else None
        client = socket.create_connection(self.address, source_address=source)
        client.setblocking(False)
        if data:
            client.send(data)
        self._clients.append(client)
        return client

    async def visitor(self) -> Visitor:
        async with asyncio.timeout(PATIENCE):
            return await self.visitors.get()

    async def heads(self, count: int) -> None:
        """Wait until so many heads are incomplete."""
        await until(lambda: self.door.heads == count)

    async def close(self) -> None:
        await self.door.shut(0)
        await self.door.close(0)
        while not self.visitors.empty():
            self.visitors.get_nowait().sock.close()
        for client in self._clients:
            client.close()


@pytest.fixture
async def house() -> AsyncIterator[Callable[..., House]]:
    houses: list[House] = []

    def build(
        host: str = "127.0.0.1",
        head_timeout: float = 3600,
        max_heads: int = 100,
        *,
        proxies: tuple[str, ...] = (),
        address_heads: int = 0,
    ) -> House:
        """`proxies`: speak the PROXY protocol."""
        rules = DoorRules(proxies, address_heads)
        houses.append(House(host, head_timeout, max_heads, rules, bool(proxies)))
        houses[-1].door.open()
        return houses[-1]

    yield build
    for each in houses:
        await each.close()


Build = Callable[..., House]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - sockets have no event for what the door knows
            await asyncio.sleep(0)


async def read_all(sock: socket.socket) -> bytes:
    loop, data = asyncio.get_running_loop(), b""
    async with asyncio.timeout(PATIENCE):
        while piece := await loop.sock_recv(sock, 65536):
            data += piece
    return data
