"""The supervisor's end of the TLS relay, with real relays."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.certificates import Authority, Files
from voicepool.config import Settings
from voicepool.listener import listen
from voicepool.tlsdoor import TlsDoor

PATIENCE = 60.0


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Authority(tmp_path).issue()


class Entrance:
    """A TLS door, and the clients that it has let in."""

    def __init__(self, files: Files) -> None:
        self._trust = files.trust
        listener = listen("127.0.0.1", 0)
        self._address = listener.getsockname()
        cert, key = str(files.cert), str(files.key)
        settings = Settings(tls_cert=cert, tls_key=key, head_timeout=3600.0)
        self.refusals: asyncio.Queue[tuple[int, str, int]] = asyncio.Queue()
        self.door = TlsDoor(listener, settings, lambda *told: self.refusals.put_nowait(told))
        self.admitted: asyncio.Queue[socket.socket] = asyncio.Queue()
        self.door.open(lambda sock, _: self.admitted.put_nowait(sock))

    async def connect(self, said: bytes) -> asyncio.StreamWriter:
        _, writer = await asyncio.open_connection(
            *self._address, ssl=self._trust, server_hostname="localhost"
        )
        writer.write(said)
        await writer.drain()
        return writer

    async def let_in(self) -> None:
        """Somebody comes, and goes."""
        client = await self.connect(b"GET / HTTP/1.1\r\n\r\n")
        (await self.admitted.get()).close()
        client.close()


@pytest.fixture
async def entrance(files: Files) -> AsyncIterator[Entrance]:
    made = Entrance(files)
    async with asyncio.timeout(PATIENCE):
        yield made
        await made.door.shut(0.0)
        await made.door.close()


@pytest.mark.parametrize("leave", [False, True], ids=["shut", "leave"])
async def test_who_is_half_in_is_awaited_also_after_a_relay_has_died(
    entrance: Entrance, leave: bool
) -> None:
    await entrance.let_in()
    assert entrance.door.pid is not None
    os.kill(entrance.door.pid, signal.SIGKILL)
    await entrance.let_in()
    assert entrance.door.restarts == 1
    client = await entrance.connect(b"GET / HTTP/1.1\r\n")
    if leave:
        entrance.door.leave()
    deserted = [entrance.door.deserted]
    shutting = asyncio.ensure_future(entrance.door.shut(PATIENCE))
    await asyncio.sleep(0)  # it has begun
    deserted.append(entrance.door.deserted)
    client.write(b"\r\n")
    await shutting
    deserted.append(entrance.door.deserted)
    assert deserted == [False, False, True]
    entrance.admitted.get_nowait().close()
    client.close()


async def test_shortage_of_descriptors_costs_no_relay(
    entrance: Entrance, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    duplicate = os.dup

    def duplicate_the_last(fd: int) -> int:
        """As if another thread took the number that was free a moment ago."""
        found = duplicate(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (found, limits[1]))
        return found

    await entrance.let_in()
    pid = entrance.door.pid
    client = await entrance.connect(b"GET / HTTP/1.1\r\n")
    monkeypatch.setattr(os, "dup", duplicate_the_last)
    try:
        client.write(b"\r\n")
        await client.wait_closed()
    except ConnectionResetError:
        pass
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        monkeypatch.undo()
    await entrance.let_in()
    assert entrance.door.pid == pid
