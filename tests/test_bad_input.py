"""Bad input on a running server: each sender gets a clear answer, and nobody else notices.

In every test a well-behaved caller talks before, during and after, and at the end the server has
the descriptors and processes that it began with. What the speech app's protocol refuses is tested
with it; bad settings and ports in use as users meet them with the command.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, ConnectionClosedError
from websockets.frames import Frame, Opcode
from websockets.sync.client import ClientConnection

from tests.pools import PoolServer, hello
from tests.rawhttp import KEY, Answer, exchange, parse, read_all, upgrade

Start = Callable[..., PoolServer]

MEBIBYTE = 1 << 20
NOISE = random.Random(1).randbytes(1 << 16)
RESET = b"\1\0\0\0\0\0\0\0"
"""SO_LINGER that makes close send RST."""
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PoolServer]:
    server = PoolServer(tmp_path_factory.mktemp("runtime"), workers=3, head_timeout=2.0)
    server.stage("serving")
    yield server
    server.close()


@contextlib.contextmanager
def undisturbed(server: PoolServer) -> Iterator[ClientConnection]:
    """A caller whose call goes on whatever happens beside it; then all is as it was."""
    server.until_idle()
    descriptors, family = server.fds(), len(server.family())
    with server.call() as caller:
        hello(caller)
        echoes(caller, "before")
        yield caller
        echoes(caller, "after")
        with server.call() as another:
            hello(another)
            echoes(another, "a new call")
    server.until_idle()
    server.until(
        lambda: server.fds() <= descriptors and len(server.family()) <= family,
        f"had {descriptors} descriptors and {family} processes again",
    )


def echoes(caller: ClientConnection, text: str) -> None:
    caller.send(text)
    assert caller.recv(timeout=60) == text


def spoken(payload: bytes = b"hi") -> bytes:
    """A client's frame."""
    return Frame(Opcode.TEXT, payload).serialize(mask=True)


def called(server: PoolServer, *more: bytes) -> socket.socket:
    """A raw connection that is in a call, after the app's first message."""
    client = server.socket()
    client.sendall(upgrade() + b"".join(more))
    data = b""
    while b'"random"' not in data:
        piece = client.recv(65536)
        assert piece
        data += piece
    assert data.startswith(b"HTTP/1.1 101 ")
    return client


# --- requests that are none ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "status"),
    [
        pytest.param(b"\0" * 1000, 400, id="zeros"),
        pytest.param(NOISE, 400, id="noise"),
        pytest.param(b"hello\r\n\r\n", 400, id="words"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + NOISE, 400, id="TLS"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, id="HTTP/2"),
        pytest.param(spoken() * 100, 400, id="frames without a handshake"),
        pytest.param(b"x" * MEBIBYTE, 431, id="1 MiB line"),
        pytest.param(GET + b"X: y\r\n" * (MEBIBYTE // 6), 431, id="1 MiB of headers"),
        pytest.param(GET + b"X: " + b"y" * MEBIBYTE + b"\r\n\r\n", 431, id="1 MiB header"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", 400, id="no host"),
        pytest.param(GET + b"Host: localhost\r\n\r\n", 400, id="two hosts"),
        pytest.param(GET.replace(b"\r\n", b"\n") + b"\n", 400, id="bare LF"),
        pytest.param(GET + b"X: a\r\n folded\r\n\r\n", 400, id="folded"),
        pytest.param(GET + b"Transfer-Encoding: gzip\r\n\r\n", 501, id="transfer encoding"),
        pytest.param(upgrade(b"/nowhere"), 404, id="wrong path"),
        pytest.param(upgrade().replace(b"GET", b"POST"), 426, id="wrong method"),
        pytest.param(upgrade(b"/echo", b"Content-Length: 5") + b"hello", 400, id="body"),
    ],
)
def test_garbage_for_a_request(server: PoolServer, data: bytes, status: int) -> None:
    with undisturbed(server), server.socket() as client:
        answer = exchange(client, data)
        assert answer.status == status
        assert answer.error["type"] == "invalid_request_error" if status < 500 else True
        assert len(answer.body) < 1000


def test_two_thousand_heads_that_never_end(start_pool: Start) -> None:
    """Slowloris: they hold no worker, keep nobody out, and the oldest are told to go."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 8192:
        pytest.skip("2,000 connections need more file descriptors than the hard limit allows")
    resource.setrlimit(resource.RLIMIT_NOFILE, (8192, hard))
    server = start_pool(workers=3, head_timeout=3600, max_heads=500)
    clients: list[socket.socket] = []
    try:
        with undisturbed(server) as caller:
            for number in range(2000):
                clients.append(server.socket())
                clients[-1].sendall(upgrade()[: 20 + number % 50])
                if number % 400 == 0:
                    echoes(caller, "meanwhile")
            server.until_status(lambda s: s["pool"]["incomplete_heads"] == 500, "kept 500 heads")
            for client in clients[:1500]:
                assert parse(read_all(client)).error["code"] == "overloaded"
            for client in clients[1500:]:
                client.sendall(b"\r\nX: y")
            with server.call() as another:
                hello(another)
            # The server forgets them when they leave.
            for client in clients:
                client.close()
    finally:
        for client in clients:
            client.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_heads_that_come_one_byte_at_a_time(server: PoolServer) -> None:
    with undisturbed(server), ThreadPoolExecutor(20) as threads:

        def drip(_: int) -> Answer:
            with server.socket() as client:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for byte in GET + b"\r\n":
                    client.send(bytes([byte]))
                return parse(read_all(client))

        assert {answer.status for answer in threads.map(drip, range(20))} <= {404, 408}


# --- handshakes that only the worker refuses -------------------------------------------------


@pytest.mark.parametrize(
    ("data", "status", "said"),
    [
        (upgrade().replace(KEY, b"!!"), 400, b"Sec-WebSocket-Key"),
        (upgrade().replace(b"Sec-WebSocket-Key: " + KEY + b"\r\n", b""), 400, b"missing"),
        (upgrade(b"/echo", b"Sec-WebSocket-Key: " + KEY), 400, b"multiple"),
        (upgrade().replace(b"Version: 13", b"Version: 8"), 400, b"Sec-WebSocket-Version"),
        (upgrade().replace(b"HTTP/1.1", b"HTTP/1.0"), 505, b"unsupported HTTP version"),
        (upgrade(b"/echo", b"X: " + b"x" * 9000), 431, b"no more than 8192 bytes"),
        (upgrade(b"/echo", *[b"X: y"] * 200), 431, b"no more than 128 headers"),
        (upgrade(b"/echo", b"Sec-WebSocket-Protocol: ,;"), 400, b"Sec-WebSocket-Protocol"),
    ],
)
def test_handshake_that_is_no_websocket(
    server: PoolServer, data: bytes, status: int, said: bytes
) -> None:
    with undisturbed(server), server.socket() as client:
        answer = exchange(client, data)
        assert answer.status == status
        assert said in answer.body


def test_bytes_after_the_handshake_that_are_no_frames(server: PoolServer) -> None:
    with undisturbed(server), server.socket() as client:
        client.sendall(upgrade() + b"\xff" * 1000)
        # A close frame with 1002, or the end of the connection, but no echo and no silence.
        with contextlib.suppress(ConnectionResetError):
            assert b'"random"' not in read_all(client)


# --- frames ----------------------------------------------------------------------------------


def test_message_that_is_too_large(server: PoolServer) -> None:
    with undisturbed(server), server.call() as client:
        hello(client)
        client.send(b"x" * MEBIBYTE)
        assert client.recv(timeout=60) == b"x" * MEBIBYTE
        with contextlib.suppress(ConnectionClosed):
            client.send(b"x" * (MEBIBYTE + 1))
        with pytest.raises(ConnectionClosedError) as closed:
            client.recv(timeout=60)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        pytest.param(b"\x81\x02hi", 1002, id="not masked"),
        pytest.param(b"\xf1" + spoken()[1:], 1002, id="reserved bits"),
        pytest.param(b"\x83" + spoken()[1:], 1002, id="reserved opcode"),
        pytest.param(b"\x80" + spoken()[1:], 1002, id="continues nothing"),
        pytest.param(spoken(b"\xff\xfe"), 1007, id="not UTF-8"),
        pytest.param(b"\x89\xfe\x01\x00" + bytes(260), 1002, id="long ping"),
        pytest.param(b"\x82\xff" + b"\x7f" + b"\xff" * 7 + bytes(4), 1009, id="8 EiB promised"),
    ],
)
def test_frames_that_break_the_protocol(server: PoolServer, frames: bytes, code: int) -> None:
    with undisturbed(server), called(server) as client:
        client.sendall(frames)
        assert client.recv(2, socket.MSG_WAITALL)[0] == 0x88
        assert int.from_bytes(client.recv(2, socket.MSG_WAITALL), "big") == code


# --- clients that vanish ---------------------------------------------------------------------


def connect(server: PoolServer) -> socket.socket:
    return server.socket()


def begin(server: PoolServer) -> socket.socket:
    client = server.socket()
    client.sendall(upgrade()[:50])
    return client


def ask(server: PoolServer) -> socket.socket:
    client = server.socket()
    client.sendall(GET + b"\r\n")
    return client


def shake(server: PoolServer) -> socket.socket:
    """Does not wait for the handshake's answer."""
    client = server.socket()
    client.sendall(upgrade())
    return client


def talk(server: PoolServer) -> socket.socket:
    return called(server, spoken())


def half_a_frame(server: PoolServer) -> socket.socket:
    client = called(server)
    client.sendall(spoken(b"x" * 100)[:50])
    return client


def half_a_message(server: PoolServer) -> socket.socket:
    client = called(server)
    client.sendall(b"\x01" + spoken()[1:])
    return client


def say_goodbye(server: PoolServer) -> socket.socket:
    client = called(server)
    client.sendall(b"\x88\x80\0\0\0\0")
    return client


def close(client: socket.socket) -> None:
    client.close()


def half_close(client: socket.socket) -> None:
    """The other half goes once the server has given up its own."""
    client.shutdown(socket.SHUT_WR)
    with contextlib.suppress(ConnectionResetError):
        read_all(client)
    client.close()


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    client.close()


@pytest.mark.parametrize("leave", [close, half_close, reset])
@pytest.mark.parametrize(
    "step", [connect, begin, ask, shake, talk, half_a_frame, half_a_message, say_goodbye]
)
def test_client_that_vanishes(
    server: PoolServer,
    step: Callable[[PoolServer], socket.socket],
    leave: Callable[[socket.socket], None],
) -> None:
    with undisturbed(server):
        leave(step(server))


def test_client_that_vanishes_while_it_waits(start_pool: Start) -> None:
    server = start_pool(workers=1, queue_timeout=3600)
    descriptors = server.fds()
    with server.call() as caller:
        hello(caller)
        for leave in (close, half_close, reset):
            client = shake(server)
            server.until_status(lambda s: s["pool"]["waiting"] == 1, "let the caller wait")
            leave(client)
            server.until_status(lambda s: s["pool"]["waiting"] == 0, "noticed the hang-up")
        echoes(caller, "undisturbed")
    server.until_idle()
    server.until(lambda: server.fds() <= descriptors, "closed its descriptors")


def test_hundred_clients_that_vanish_at_once(server: PoolServer) -> None:
    with undisturbed(server):
        clients = [step(server) for step in (connect, begin, ask, shake) * 25]
        for number, client in enumerate(clients):
            (close, reset)[number % 2](client)


# --- clients that stay -----------------------------------------------------------------------


def test_client_that_never_reads(server: PoolServer) -> None:
    """The echo cannot get rid of its answers, so it stops reading, and memory stays bounded."""
    with undisturbed(server), called(server) as client:
        client.settimeout(1.0)
        frame = spoken(b"x" * (MEBIBYTE // 2))

        def flood() -> None:
            for _ in range(200):
                client.sendall(frame)

        # 100 MiB never fit: it is held up before.
        with pytest.raises(TimeoutError):
            flood()
        with server.call() as another:
            hello(another)
            echoes(another, "meanwhile")
        reset(client)


def test_client_that_never_reads_an_answer(server: PoolServer) -> None:
    with undisturbed(server), contextlib.ExitStack() as stack:
        for _ in range(50):
            client = stack.enter_context(server.socket())
            client.sendall(GET + b"\r\n")


@pytest.mark.parametrize(
    "goodbye",
    [
        pytest.param(b"\x88\x80\0\0\0\0", id="closes the WebSocket"),
        pytest.param(b"\x81\x02hi", id="breaks the protocol"),
    ],
)
def test_client_that_is_through_but_keeps_its_connection(
    server: PoolServer, goodbye: bytes
) -> None:
    """The worker does not wait for it: it retires and the pool is whole again.

    The deadline is below the 20 s after which a ping that fails would end it all the same.
    """
    with undisturbed(server) as caller, called(server) as client:
        client.sendall(goodbye)
        server.until_status(lambda s: s["pool"]["callers"] == 1, "ended the call", 15.0)
        server.until_status(lambda s: s["pool"]["states"]["idle"] == 2, "was whole again")
        echoes(caller, "meanwhile")
        # Nothing more comes, and what is sent now goes nowhere.
        with contextlib.suppress(ConnectionResetError):
            read_all(client)


def test_client_that_is_refused_by_the_worker_and_stays(server: PoolServer) -> None:
    with undisturbed(server), server.socket() as client:
        client.sendall(upgrade().replace(KEY, b"!!"))
        server.until_status(lambda s: s["pool"]["states"]["idle"] == 2, "was whole again")
        assert parse(read_all(client)).status == 400


# --- nothing left to work with ---------------------------------------------------------------


def test_status_needs_no_descriptor(server: PoolServer) -> None:
    with undisturbed(server):
        soft, hard = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
        taken = {int(fd) for fd in os.listdir(f"/proc/{server.pid}/fd")}  # noqa: PTH208
        lowest = next(number for number in range(len(taken) + 1) if number not in taken)
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (lowest + 1, hard))
        try:
            # The visitor gets the last one.
            code, body = server.get("/status")
        finally:
            resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (soft, hard))
        assert code == 200
        assert body["pool"]["ready"]


# --- settings that cannot work ---------------------------------------------------------------

ATTEMPT = """
import asyncio, json, os, sys
import msgspec
from voicepool.config import Settings
from voicepool.serving import supervise
before = len(os.listdir("/proc/self/fd"))
try:
    asyncio.run(supervise(msgspec.convert(json.loads(sys.argv[1]), Settings), print))
except Exception as error:
    print(type(error).__name__, error)
print(len(os.listdir("/proc/self/fd")) - before)
"""


def attempt(**settings: object) -> tuple[str, str]:
    """What `supervise` raises with these settings, and how many descriptors stay open."""
    done = subprocess.run(
        [sys.executable, "-c", ATTEMPT, json.dumps(settings)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    error, left = done.stdout.splitlines()
    return error, left


def test_server_that_cannot_start_raises_and_leaves_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        error, left = attempt(port=taken.getsockname()[1], runtime_dir=str(tmp_path))
    assert error.startswith("OSError")
    assert "in use" in error
    assert left == "0"
    error, left = attempt(port=0, host="no such host", runtime_dir=str(tmp_path))
    assert error.startswith("ConfigError host = 'no such host'")
    assert left == "0"
    assert list(tmp_path.iterdir()) == []
    file = tmp_path / "file"
    file.touch()
    error, left = attempt(port=0, runtime_dir=str(file / "voicepool"))
    assert error.startswith("NotADirectoryError")
    assert left == "0"
