"""Any bytes in any pieces at the front door, over real sockets; scripts/fuzz runs it for longer.

What the door does must be what its parsers say of all the bytes at once, however they came: hand
the visitor on with its request untouched, refuse it, or wait; each exactly once. Afterwards the
next client is served and no descriptor is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from tests.doors import House, until
from tests.fuzzing import FUZZING
from tests.pools import PoolServer
from tests.proxying import LOCAL, SIGNATURE, UNSPEC, binary, header, tlv
from tests.rawhttp import parse, upgrade
from voicepool.newcomers import DoorRules
from voicepool.proxyheader import BadHeader, parse_header
from voicepool.request import BadRequest, parse_head

GOOD = upgrade()
PROXY = "127.0.0.1"
RESET = b"\1\0\0\0\0\0\0\0"
"""SO_LINGER that makes close send RST."""

REQUESTS = [
    GOOD,
    GOOD + b"\x81\x05hello",
    upgrade(b"/v1/realtime?model=x", b"X-Forwarded-For: 203.0.113.7, 127.0.0.1"),
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc",
    b"GET / HTTP/1.1\r\n" + b"X-Filler: yes\r\n" * 1200 + b"\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]
HEADERS = [
    header(1, "203.0.113.9"),
    header(2, "203.0.113.9"),
    header(1, "2001:db8::9"),
    header(2, "2001:db8::9"),
    b"PROXY UNKNOWN\r\n",
    binary(UNSPEC, command=LOCAL),
    binary(UNSPEC, tlvs=tlv(0x04, bytes(300))),
]
TOKENS = [b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b"\xff", b"\r\n\r\n", b"PROXY ", SIGNATURE]
OFTEN_NONE = st.lists(
    st.tuples(
        st.sampled_from(["replace", "insert", "delete", "repeat", "cut"]),
        st.floats(0, 1),
        st.integers(1, 12),
        st.sampled_from(TOKENS) | st.binary(min_size=1, max_size=3),
    ),
    max_size=3,
)
"""Mutations: what, where as a share of the length, how much, with what."""
ENDINGS = st.sampled_from(["stay", "half", "close", "reset"])
CUTS = st.lists(st.floats(0, 1), max_size=6)


def mutated(data: bytes, mutations: list[tuple[str, float, int, bytes]]) -> bytes:
    for kind, share, count, token in mutations:
        at = int(share * len(data))
        match kind:
            case "replace":
                data = data[:at] + token + data[at + len(token) :]
            case "insert":
                data = data[:at] + token + data[at:]
            case "delete":
                data = data[:at] + data[at + count :]
            case "repeat":
                data = data[: at + count] + data[at:]
            case "cut":
                data = data[:at]
    return data or b"\0"


def pieces(data: bytes, cuts: list[float]) -> list[bytes]:
    places = sorted({0, len(data), *(int(cut * len(data)) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(places)]


@dataclass(frozen=True)
class Verdict:
    """What the parsers say of all the bytes."""

    kind: Literal["handed on", "refused", "awaited"]
    status: int = 0
    address: tuple[str, int] | None = None
    begins: int = 0
    """Where the request does."""


def verdict(data: bytes, *, proxied: bool) -> Verdict:
    address, begins = None, 0
    if proxied:
        try:
            found = parse_header(data)
        except BadHeader:
            return Verdict("refused", 400)
        if found is None:
            return Verdict("awaited")
        address, begins = found.source, found.length
    try:
        head = parse_head(data[begins:])
    except BadRequest as error:
        return Verdict("refused", error.status)
    return Verdict("handed on" if head else "awaited", 0, address, begins)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


class Street:
    """Two doors, one of them behind a proxy, and an event loop that goes on from case to case."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self.troubles: list[dict[str, Any]] = []
        self._houses = self.run(self._build())
        self._empty = descriptors()

    def run(self, case: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(case)

    async def _build(self) -> dict[bool, House]:
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: self.troubles.append(context)
        )
        houses = {}
        for proxied in (False, True):
            rules = DoorRules((PROXY,), 8)
            houses[proxied] = House("127.0.0.1", 3600, 16, rules, proxied)
            houses[proxied].door.open()
        return houses

    async def case(self, data: bytes, cuts: list[float], ending: str, *, proxied: bool) -> None:
        house, expected = self._houses[proxied], verdict(data, proxied=proxied)
        event(f"{expected.kind}, {ending}")
        client = house.connect()
        for piece in pieces(data, cuts):
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                client.send(piece)
            for _ in range(3):
                await asyncio.sleep(0)
        if ending == "half":
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_WR)
        elif ending == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        if ending in ("close", "reset"):
            client.close()
        await self._outcome(house, client, data, expected, ending)
        client.close()
        await self._next_one(house, proxied=proxied)

    async def _outcome(
        self, house: House, client: socket.socket, data: bytes, expected: Verdict, ending: str
    ) -> None:
        if ending == "reset":
            return  # it may have been seen before the reset, or not
        if expected.kind == "handed on":
            visitor = await house.visitor()
            sent = await asyncio.get_running_loop().sock_recv(visitor.sock, 1 << 20)
            assert sent == data[expected.begins :]
            if expected.address is not None:
                assert visitor.address == expected.address
            visitor.sock.close()
        elif expected.kind == "refused" and ending != "close":
            assert parse(await _read(client)).status == expected.status
        elif expected.kind == "awaited" and ending == "stay":
            await house.heads(1)
        elif expected.kind == "awaited" and ending == "half":
            answer = await _read(client)
            assert not answer or parse(answer).status == 400

    async def _next_one(self, house: House, *, proxied: bool) -> None:
        """The next client is served; nothing of the last one is left, and it came out once."""
        await house.heads(0)
        client = house.connect(header(2, "198.51.100.1", 7) * proxied + GOOD)
        async with asyncio.timeout(20):
            while True:
                visitor = await house.visitors.get()
                ours = client.getsockname()
                mine = visitor.address == (("198.51.100.1", 7) if proxied else ours)
                visitor.sock.close()
                if mine:
                    break
        client.close()
        assert house.visitors.empty()
        await until(lambda: descriptors() == self._empty)
        assert self.troubles == []

    async def _close(self) -> None:
        for house in self._houses.values():
            await house.close()

    def close(self) -> None:
        self.run(self._close())
        self._runner.close()


async def _read(client: socket.socket) -> bytes:
    """What came before the end, which may be a reset."""
    loop, data = asyncio.get_running_loop(), b""
    with contextlib.suppress(ConnectionResetError):
        async with asyncio.timeout(20):
            while piece := await loop.sock_recv(client, 65536):
                data += piece
    return data


@pytest.fixture(scope="module")
def street() -> Iterator[Street]:
    made = Street()
    yield made
    made.close()


@FUZZING
@given(st.sampled_from(REQUESTS), OFTEN_NONE, CUTS, ENDINGS)
def test_request_heads(
    street: Street,
    request_bytes: bytes,
    mutations: list[tuple[str, float, int, bytes]],
    cuts: list[float],
    ending: str,
) -> None:
    data = mutated(request_bytes, mutations)
    street.run(street.case(data, cuts, ending, proxied=False))


@FUZZING
@given(st.sampled_from(HEADERS), st.sampled_from(REQUESTS[:4]), OFTEN_NONE, CUTS, ENDINGS)
def test_proxy_headers(
    street: Street,
    proxy_header: bytes,
    request_bytes: bytes,
    mutations: list[tuple[str, float, int, bytes]],
    cuts: list[float],
    ending: str,
) -> None:
    data = mutated(proxy_header, mutations) + request_bytes
    street.run(street.case(data, cuts, ending, proxied=True))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PoolServer]:
    made = PoolServer(
        tmp_path_factory.mktemp("runtime"), trusted_proxies=[PROXY], address_rate=1000
    )
    try:
        made.stage("serving")
        made.until_idle()
        idle = made.fds()
        yield made
        made.until_idle()
        made.until(lambda: made.fds() <= idle, "let go of everybody")
    finally:
        made.close()


@settings(FUZZING, max_examples=max(20, FUZZING.max_examples // 4))
@given(st.sampled_from(REQUESTS[1:]), OFTEN_NONE, CUTS)
def test_a_whole_server(
    server: PoolServer,
    request_bytes: bytes,
    mutations: list[tuple[str, float, int, bytes]],
    cuts: list[float],
) -> None:
    data = mutated(request_bytes, mutations)
    with server.socket() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):  # refused before all of it was sent
            for piece in pieces(data, cuts):
                client.sendall(piece)
            client.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while client.recv(65536):
                pass
    assert server.get("/healthz") == (200, {"status": "alive"})
