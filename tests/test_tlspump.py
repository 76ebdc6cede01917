"""The pump between a TLS client and a socket pair, on real sockets in one process."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import select
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest

from tests.certificates import Authority, Files
from voicepool import tlspump
from voicepool.tlsfiles import context_from
from voicepool.tlspump import Pump, Tls

PATIENCE = 30.0
PIECE = 1 << 20


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Authority(tmp_path_factory.mktemp("certificates")).issue()


class Link:
    """A client, the pump, and what stands for a worker."""

    def __init__(self, client: ssl.SSLSocket, tls: Tls) -> None:
        self.client = client
        """Blocking: used in threads."""
        self.worker, ours = socket.socketpair()
        for end in (self.worker, ours):
            end.setblocking(False)
        self.ended: asyncio.Future[socket.socket | None] = (
            asyncio.get_running_loop().create_future()
        )
        self.pump = Pump(tls, ours, lambda _, sock: self.ended.set_result(sock))
        self.pump.start()

    async def close(self) -> None:
        if not self.ended.done():
            self.pump.abort()
        left = await self.ended
        for sock in (self.client, self.worker, left):
            if sock is not None:
                sock.close()


Connect = Callable[[], Awaitable[Link]]


@pytest.fixture
async def connect(files: Files) -> AsyncIterator[Connect]:
    links: list[Link] = []

    async def build() -> Link:
        near, far = socket.socketpair()
        near.settimeout(PATIENCE)
        far.setblocking(False)
        tls = Tls(far, context_from(str(files.cert), str(files.key)))
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(far, readable.set)
        client = asyncio.ensure_future(
            asyncio.to_thread(files.trust.wrap_socket, near, server_hostname="localhost")
        )
        async with asyncio.timeout(PATIENCE):
            while not tls.handshake():
                readable.clear()
                await readable.wait()
            loop.remove_reader(far)
            links.append(Link(await client, tls))
        return links[-1]

    before = os.listdir("/proc/self/fd")  # noqa: PTH208
    yield build
    for link in links:
        await link.close()
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208


async def in_thread(link: Link, work: Callable[[ssl.SSLSocket], bytes | None]) -> bytes | None:
    async with asyncio.timeout(PATIENCE):
        return await asyncio.to_thread(work, link.client)


def read(size: int) -> Callable[[ssl.SSLSocket], bytes]:
    def work(client: ssl.SSLSocket) -> bytes:
        data = bytearray()
        while len(data) < size and (piece := client.recv(65536)):
            data += piece
        return bytes(data)

    return work


def exchange(pieces: Sequence[bytes], size: int) -> Callable[[ssl.SSLSocket], bytes]:
    """Sends and reads at once, in one thread: two may not use one SSL object at the same time."""

    def work(client: ssl.SSLSocket) -> bytes:
        data, out = bytearray(), deque(memoryview(piece) for piece in pieces)
        client.setblocking(False)
        while out or len(data) < size:
            moved = 0
            with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
                if out:
                    moved = client.send(out[0])
                    rest = out.popleft()[moved:]
                    out.extendleft([rest] if rest else [])
            with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
                piece = client.recv(65536)
                if not piece:
                    break
                data += piece
                moved += len(piece)
            if not moved:
                select.select([client], [client] if out else [], [], PATIENCE)
        return bytes(data)

    return work


async def worker_reads(link: Link, size: int) -> bytes:
    loop, data = asyncio.get_running_loop(), bytearray()
    async with asyncio.timeout(PATIENCE):
        while len(data) < size and (piece := await loop.sock_recv(link.worker, 65536)):
            data += piece
    return bytes(data)


async def worker_sends(link: Link, data: bytes) -> None:
    async with asyncio.timeout(PATIENCE):
        await asyncio.get_running_loop().sock_sendall(link.worker, data)


async def test_both_ways_in_pieces_of_any_size(connect: Connect) -> None:
    link, chance = await connect(), random.Random(1)
    up, down = chance.randbytes(PIECE), chance.randbytes(PIECE)
    sizes = [chance.choice((1, 100, 16_384, 16_385, 70_000)) for _ in range(200)]
    ends = [0, *itertools.accumulate(sizes)]
    pieces = [up[a:b] for a, b in itertools.pairwise(ends) if a < PIECE]
    _, heard, told = await asyncio.gather(
        worker_sends(link, down),
        worker_reads(link, PIECE),
        in_thread(link, exchange(pieces, PIECE)),
    )
    assert heard == up
    assert told == down


async def test_a_client_that_does_not_read_can_still_talk(connect: Connect) -> None:
    """Many clients write a whole message before they read: neither may wait for the other."""
    link = await connect()
    down = bytes(4 * PIECE)
    answering = asyncio.ensure_future(worker_sends(link, down))
    up = os.urandom(4 * PIECE)
    talking = asyncio.ensure_future(in_thread(link, lambda client: client.sendall(up)))
    assert await worker_reads(link, len(up)) == up
    await talking
    assert not answering.done()
    assert await in_thread(link, read(len(down))) == down
    await answering


async def test_what_a_worker_has_said_arrives_before_its_end(connect: Connect) -> None:
    link = await connect()
    await in_thread(link, lambda client: client.sendall(b"never read"))
    await worker_sends(link, b"x" * 1000)
    link.worker.close()  # with something unread: its other end is told of a reset
    assert await in_thread(link, read(2000)) == b"x" * 1000
    assert await link.ended is not None


async def test_a_client_that_closes_its_side(connect: Connect) -> None:
    link = await connect()
    await in_thread(link, lambda client: client.sendall(b"last words"))
    socket.socket.shutdown(link.client, socket.SHUT_WR)
    assert await worker_reads(link, 100) == b"last words"
    await worker_sends(link, b"the answer")
    link.worker.close()
    assert await in_thread(link, read(100)) == b"the answer"


async def test_a_client_that_says_goodbye(connect: Connect) -> None:
    link = await connect()

    def say_goodbye(client: ssl.SSLSocket) -> None:
        client.unwrap()

    goodbye = asyncio.ensure_future(in_thread(link, say_goodbye))
    assert await worker_reads(link, 1) == b""
    link.worker.close()
    await goodbye  # it waits for ours


async def test_a_client_that_vanishes(connect: Connect) -> None:
    link = await connect()
    link.client.close()
    assert await worker_reads(link, 1) == b""


async def test_what_is_no_tls_ends_both_sides(connect: Connect) -> None:
    link = await connect()
    with socket.socket(fileno=os.dup(link.client.fileno())) as raw:
        raw.send(b"\x17\x03\x03\x00\x20" + bytes(32))
        assert await worker_reads(link, 1) == b""
    assert await link.ended is None


async def test_a_client_that_takes_nothing_for_long_is_cut_off(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tlspump, "STALL_SECONDS", 0.1)
    link = await connect()
    with pytest.raises(OSError, match=r"Broken pipe|reset"):
        await worker_sends(link, bytes(8 * PIECE))
    assert await link.ended is None
