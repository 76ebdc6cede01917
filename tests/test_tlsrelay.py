"""Clients on their way to a complete request head and to the supervisor, on real sockets in one
process."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.certificates import Authority
from voicepool import ipc
from voicepool.arrival import Arrival
from voicepool.listener import listen
from voicepool.newcomers import DoorRules
from voicepool.tlsfiles import Certificate
from voicepool.tlspump import FROM_CLIENT
from voicepool.tlsrelay import Relay

PATIENCE = 30.0


@pytest.fixture
def met(tmp_path: Path) -> Iterator[tuple[ssl.SSLSocket, Arrival]]:
    """A client and its arrival, the handshake done and nothing said."""
    files = Authority(tmp_path).issue()
    near, far = socket.socketpair()
    for end in (near, far):
        end.settimeout(PATIENCE)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(files.cert, files.key)
    arrival = Arrival(far, ("", 0))
    with ThreadPoolExecutor(1) as pool, far:
        wrapping = pool.submit(files.trust.wrap_socket, near, server_hostname="localhost")
        while not arrival.secure:
            assert not arrival.advance(server)
        with wrapping.result(PATIENCE) as client:
            far.setblocking(False)
            yield client, arrival


def test_one_step_takes_only_so_much(met: tuple[ssl.SSLSocket, Arrival]) -> None:
    """What a client can make of its bytes, such as hundreds of new keys, others must wait for."""
    client, arrival = met
    for _ in range(4):
        client.sendall(b"x" * 4000)
    arrival.advance(client.context)
    assert 0 < len(arrival.head) <= FROM_CLIENT


def test_who_takes_no_answers_of_tls_is_not_waited_for(met: tuple[ssl.SSLSocket, Arrival]) -> None:
    client, arrival = met
    assert arrival.tls is not None
    arrival.tls.write(bytes(16 << 20))
    client.sendall(b"x")
    with pytest.raises(ConnectionResetError):
        arrival.advance(client.context)


async def next_arrival(supervisor: ipc.Channel[ipc.FromRelay]) -> socket.socket:
    """Read what the relay says until it hands somebody over."""
    loop = asyncio.get_running_loop()
    while True:
        readable = asyncio.Event()
        loop.add_reader(supervisor.fileno(), readable.set)
        await readable.wait()
        loop.remove_reader(supervisor.fileno())
        received = supervisor.receive()
        assert received is not None
        if isinstance(received[0], ipc.Arrived):
            return socket.socket(fileno=received[1][0])


async def test_lets_in_others_once_a_busy_supervisor_has_taken_those_who_waited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was out of descriptors, and when it had some again the supervisor was busy."""
    files = Authority(tmp_path).issue()
    listener = listen("127.0.0.1", 0)
    address = listener.getsockname()
    make_pair = socket.socketpair
    shortages, tried_again = [errno.EMFILE], asyncio.Event()

    def pair() -> tuple[socket.socket, socket.socket]:
        if shortages:
            number = shortages.pop()
            raise OSError(number, os.strerror(number))
        tried_again.set()
        return make_pair()

    async def ask() -> asyncio.StreamWriter:
        _, writer = await asyncio.open_connection(
            *address, ssl=files.trust, server_hostname="localhost"
        )
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        return writer

    ours, theirs = ipc.Channel.pair()
    channel: ipc.Channel[ipc.ToRelay] = ipc.Channel(theirs, ipc.ToRelay)
    supervisor: ipc.Channel[ipc.FromRelay] = ipc.Channel(ours, ipc.FromRelay)
    relay = Relay(
        channel,
        listener,
        Certificate(str(files.cert), str(files.key)),
        head_timeout=3600.0,
        max_heads=10,
        rules=DoorRules(),
        proxy_protocol=False,
        tell_refusals=True,
    )
    with contextlib.suppress(BlockingIOError):
        while True:
            channel.send(ipc.Refused(503, "overloaded", 1))
    running = asyncio.create_task(relay.run())
    monkeypatch.setattr(socket, "socketpair", pair)
    async with asyncio.timeout(PATIENCE):
        clients = [await ask()]
        await tried_again.wait()
        callers = [await next_arrival(supervisor)]  # who stay: that one leaves helps as well
        clients.append(await ask())
        callers.append(await next_arrival(supervisor))
    for client, caller in zip(clients, callers, strict=True):
        client.transport.abort()
        caller.close()
    supervisor.close()
    await running
    channel.close()
