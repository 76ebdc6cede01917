"""A client on its way to a complete request head, on real sockets in one process."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.certificates import Authority
from voicepool.arrival import Arrival
from voicepool.tlspump import FROM_CLIENT

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
