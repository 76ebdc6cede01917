"""A language model server that is not one's friend: it is not followed, and has an end.

Both client libraries, against servers that speak HTTP and nothing more.
"""

from __future__ import annotations

import contextlib
import gzip
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.certificates import Authority
from tests.chatting import ClosableModel, closing, ollama_model, say
from voicepool.engines import openai_chat
from voicepool.engines.chat import bounds, retrying
from voicepool.engines.chat.bounds import Bounds, TooMuch
from voicepool.errors import EngineError

Answer = Callable[[socket.socket], None]


class Hostile:
    """Answers every request with what `answer` sends."""

    def __init__(self, answer: Answer, tls: ssl.SSLContext | None = None) -> None:
        self._answer = answer
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.requests = 0
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with client, contextlib.suppress(OSError):
                    if self._tls is not None:
                        client = self._tls.wrap_socket(client, server_side=True)
                    self._read_request(client)
                    self.requests += 1
                    self._answer(client)
                    client.shutdown(socket.SHUT_WR)
                    client.recv(1)

    def _read_request(self, client: socket.socket) -> None:
        client.settimeout(20)
        data = b""
        while b"\r\n\r\n" not in data:
            data += client.recv(65536) or b"\r\n\r\n"
        head, _, body = data.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or b"0")
        while len(body) < length and (piece := client.recv(65536)):
            body += piece

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(20)
        self._listener.close()
        assert not self._thread.is_alive()


@contextlib.contextmanager
def hostile(answer: Answer, tls: ssl.SSLContext | None = None) -> Iterator[Hostile]:
    server = Hostile(answer, tls)
    try:
        yield server
    finally:
        server.close()


def openai_model(url: str) -> ClosableModel:
    model = openai_chat.create({"base_url": f"{url}/v1", "model": "qwen", "timeout": 1.0})
    model.load("host")
    return model


CLIENTS: dict[str, Callable[[str], ClosableModel]] = {
    "ollama": lambda url: ollama_model(url, timeout=1.0),
    "openai": openai_model,
}
HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/event-stream\r\n"


@pytest.fixture(params=CLIENTS)
def client(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], ClosableModel]:
    monkeypatch.setattr(retrying, "CALL_PATIENCE", 0.0)
    return CLIENTS[request.param]


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_redirects_are_not_followed(
    client: Callable[[str], ClosableModel], status: int
) -> None:
    with hostile(lambda sock: sock.sendall(HEAD + b"\r\n")) as elsewhere:

        def redirect(sock: socket.socket) -> None:
            sock.sendall(
                b"HTTP/1.1 %d Elsewhere\r\nLocation: %s/v1/chat/completions\r\n"
                b"Connection: close\r\nContent-Length: 0\r\n\r\n" % (status, elsewhere.url.encode())
            )

        with hostile(redirect) as server:
            async with closing(client(server.url)) as model:
                with pytest.raises(EngineError, match="redirects"):
                    await say(model, "Hello?")
        assert elsewhere.requests == 0


def line_without_end(sock: socket.socket) -> None:
    sock.sendall(HEAD + b"\r\ndata: ")
    while True:
        sock.sendall(b" " * 65536)


def lines_without_end(sock: socket.socket) -> None:
    sock.sendall(HEAD + b"\r\n")
    while True:
        sock.sendall(b": \n" * 20_000)


def error_without_end(sock: socket.socket) -> None:
    sock.sendall(b"HTTP/1.1 500 Oops\r\nConnection: close\r\n\r\n")
    while True:
        sock.sendall(b"no\n" * 20_000)


def drip(sock: socket.socket) -> None:
    sock.sendall(HEAD + b"\r\n")
    stop = threading.Event()
    while not stop.wait(0.05):
        sock.sendall(b" ")


def packed(sock: socket.socket) -> None:
    body = gzip.compress(bytes(1 << 20))
    sock.sendall(HEAD + b"Content-Encoding: gzip\r\n\r\n" + body)


@pytest.mark.parametrize("answer", [line_without_end, lines_without_end, drip, packed])
async def test_answers_have_an_end(
    client: Callable[[str], ClosableModel], answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "LONGEST_ANSWER", 2 << 20)
    with hostile(answer) as server:
        async with closing(client(server.url)) as model:
            with pytest.raises(EngineError, match="sent what is not"):
                await say(model, "Hello?")


async def test_errors_have_an_end(
    client: Callable[[str], ClosableModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "LONGEST_ANSWER", 2 << 20)
    with hostile(error_without_end) as server:
        async with closing(client(server.url)) as model:
            with pytest.raises(EngineError, match=r"does not answer|sent what is not"):
                await say(model, "Hello?")


@given(st.lists(st.binary(max_size=40).map(lambda text: text.replace(b"x", b"\n"))))
def test_a_line_is_counted_alike_in_any_pieces(pieces: list[bytes]) -> None:
    limit = bounds.LONGEST_LINE
    counted = Bounds(1.0, 0.0)
    for piece in pieces:
        counted.count(piece, 0.0)
    unfinished = len(b"".join(pieces).rpartition(b"\n")[2])
    counted.count(bytes(limit - unfinished), 0.0)
    with pytest.raises(TooMuch):
        counted.count(bytes(1), 0.0)


async def test_who_poses_as_the_server_hears_nothing(
    client: Callable[[str], ClosableModel], tmp_path: Path
) -> None:
    """Its certificate is of an authority that nobody trusts."""
    files = Authority(tmp_path).issue()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(files.cert, files.key)
    with hostile(lambda sock: sock.sendall(HEAD + b"\r\n"), tls) as server:
        async with closing(client(server.url.replace("http:", "https:"))) as model:
            with pytest.raises(EngineError, match="does not answer"):
                await say(model, "Hello?")
        assert server.requests == 0
