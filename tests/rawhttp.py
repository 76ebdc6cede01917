"""HTTP as bytes on a socket, for tests that send what no client library would."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from typing import Any

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="


def upgrade(path: bytes = b"/echo", *lines: bytes) -> bytes:
    """A WebSocket's opening handshake, with more header lines."""
    standard = (
        b"Host: localhost",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Key: " + KEY,
        b"Sec-WebSocket-Version: 13",
    )
    return b"\r\n".join((b"GET " + path + b" HTTP/1.1", *standard, *lines, b"", b""))


def read_all(sock: socket.socket) -> bytes:
    """Until the server closes; a reset raises."""
    data = b""
    while piece := sock.recv(65536):
        data += piece
    return data


@dataclass(frozen=True)
class Answer:
    """One whole HTTP response."""

    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        """What a refusal says, checked for the shape that OpenAI clients read."""
        error = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]
        return error


def parse(data: bytes) -> Answer:
    """The response that `data` is, from its status line to the last byte of its body."""
    head, _, body = data.partition(b"\r\n\r\n")
    start, *lines = head.decode("latin-1").split("\r\n")
    version, status, _ = start.split(" ", 2)
    assert version == "HTTP/1.1"
    headers = {name.lower(): value.strip() for name, value in (x.split(":", 1) for x in lines)}
    return Answer(int(status), headers, body)


def exchange(sock: socket.socket, request: bytes) -> Answer:
    """Send `request` and read until the server closes."""
    sock.sendall(request)
    return parse(read_all(sock))
