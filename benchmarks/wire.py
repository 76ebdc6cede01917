"""A WebSocket client of raw sockets: nearly all the time it measures is the server's.

It knows just what the benchmarks need of RFC 6455: an opening handshake with headers such as an
SDK sends, unfragmented frames, no masking to speak of (the key is 0).
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

DEADLINE = 60.0
"""Generous: reached only by what is broken."""

TEXT, BINARY, _CLOSE, PING, _PONG = 1, 2, 8, 9, 10
_HEAD = (
    "GET {path} HTTP/1.1\r\n"
    "Host: {host}:{port}\r\n"
    "Upgrade: websocket\r\n"
    "Connection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    "Sec-WebSocket-Version: 13\r\n"
    "User-Agent: benchmarks\r\n"
    "Authorization: Bearer 0123456789abcdef0123456789abcdef\r\n\r\n"
)


def request(address: tuple[str, int], path: str) -> bytes:
    """The opening handshake."""
    return _HEAD.format(path=path, host=address[0], port=address[1]).encode()


def frame(opcode: int, payload: bytes) -> bytes:
    """One client frame, masked with the key 0."""
    length = len(payload)
    if length < 126:
        size = bytes([0x80 | length])
    elif length < 1 << 16:
        size = struct.pack("!BH", 0x80 | 126, length)
    else:
        size = struct.pack("!BQ", 0x80 | 127, length)
    return bytes([0x80 | opcode]) + size + bytes(4) + payload


GOODBYE = frame(_CLOSE, struct.pack("!H", 1000))


class Call:
    """One connection that has been upgraded and has got its first message."""

    def __init__(
        self,
        address: tuple[str, int],
        path: str = "/call",
        context: ssl.SSLContext | None = None,
    ) -> None:
        """`context`: over TLS. Raises OSError, and EOFError or RuntimeError where the server has no
        first message."""
        self._buffer = bytearray()
        began = time.perf_counter()
        self.sock = socket.create_connection(address, DEADLINE)
        try:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if context is not None:
                self.sock = context.wrap_socket(self.sock, server_hostname=address[0])
            self.sock.sendall(request(address, path))
            self._upgraded()
            self.first = self.receive()
        except BaseException:
            self.sock.close()
            raise
        self.seconds = time.perf_counter() - began
        """From connect to the first message."""

    def _upgraded(self) -> None:
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            self._more()
        if not self._buffer.startswith(b"HTTP/1.1 101"):
            raise RuntimeError(f"refused: {bytes(self._buffer[:80])!r}")
        del self._buffer[: end + 4]

    def _more(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise EOFError("the server hung up")
        self._buffer += data

    def receive(self) -> bytes:
        """The next message. A ping on the way is answered, or the server would hang up."""
        opcode, payload = self._frame()
        while opcode == PING:
            self.sock.sendall(frame(_PONG, payload))
            opcode, payload = self._frame()
        return payload

    def _frame(self) -> tuple[int, bytes]:
        while (size := message_size(self._buffer)) is None or len(self._buffer) < size:
            self._more()
        start = 4 if self._buffer[1] == 126 else 2
        opcode, payload = self._buffer[0] & 0x0F, bytes(self._buffer[start:size])
        del self._buffer[:size]
        return opcode, payload

    def send(self, payload: bytes) -> None:
        """One binary message."""
        self.sock.sendall(frame(BINARY, payload))

    def close(self) -> None:
        """Say goodbye, and read until the server has closed."""
        with contextlib.suppress(OSError):
            self.sock.sendall(GOODBYE)
            while self.sock.recv(65536):
                pass
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def message_size(data: bytes | bytearray) -> int | None:
    """Bytes of the server's frame at the start of `data`, header included; None: cannot tell yet.

    Raises RuntimeError on a frame of 64 KiB or more, which no benchmark's server sends.
    """
    if len(data) < 2:
        return None
    length = data[1]
    if length == 127:
        raise RuntimeError("the frame is too long for this client")
    if length < 126:
        return 2 + length
    return None if len(data) < 4 else 4 + int.from_bytes(data[2:4], "big")


def burst(address: tuple[str, int], count: int, path: str = "/call") -> list[float]:
    """`count` callers at the same moment: for each the seconds from the burst's begin to its first
    message. They all hang up once the last one has it. Raises like `Call`."""
    hello = request(address, path)
    began = time.perf_counter()
    callers = [_dial(address) for _ in range(count)]
    try:
        taken = _await_first(callers, hello, began)
    finally:
        _hang_up(callers)
    return taken


def _dial(address: tuple[str, int]) -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with contextlib.suppress(BlockingIOError):
        sock.connect(address)
    return sock


def _await_first(callers: Sequence[socket.socket], hello: bytes, began: float) -> list[float]:
    poller = select.epoll()
    waiting = {sock.fileno(): (sock, bytearray()) for sock in callers}
    for fd in waiting:
        poller.register(fd, select.EPOLLOUT)
    taken: list[float] = []
    with contextlib.closing(poller):
        while waiting:
            ready = poller.poll(DEADLINE)
            if not ready:
                raise TimeoutError(f"{len(waiting)} callers got no answer")
            for fd, event in ready:
                sock, seen = waiting[fd]
                if event & select.EPOLLOUT:
                    sock.sendall(hello)
                    poller.modify(fd, select.EPOLLIN)
                    continue
                data = sock.recv(65536)
                if not data:
                    raise EOFError("the server hung up")
                seen += data
                if _has_first(seen):
                    taken.append(time.perf_counter() - began)
                    poller.unregister(fd)
                    del waiting[fd]
    return taken


def _has_first(seen: bytearray) -> bool:
    end = seen.find(b"\r\n\r\n") + 4
    if end < 4:
        return False
    if not seen.startswith(b"HTTP/1.1 101"):
        raise RuntimeError(f"refused: {bytes(seen[:80])!r}")
    size = message_size(seen[end:])
    return size is not None and len(seen) >= end + size


def _hang_up(callers: Sequence[socket.socket]) -> None:
    for sock in callers:
        with contextlib.suppress(OSError):
            sock.setblocking(True)
            sock.settimeout(DEADLINE)
            sock.sendall(GOODBYE)
    for sock in callers:
        with contextlib.suppress(OSError):
            while sock.recv(65536):
                pass
        sock.close()
