"""The front door behind proxies that speak the PROXY protocol, on real sockets."""

from __future__ import annotations

import asyncio
import select
import socket

import pytest

from tests.doors import Build, House, house, nothing_goes_wrong_or_stays_open, read_all, until
from tests.proxying import LOCAL, TCP4, UNSPEC, addresses, binary, header, line
from tests.rawhttp import Answer, parse, upgrade
from voicepool.frontdoor import Visitor
from voicepool.newcomers import DoorRules
from voicepool.proxyheader import MAX_HEADER, MAX_LINE

__all__ = ["house", "nothing_goes_wrong_or_stays_open"]

PROXY, STRANGER = "127.0.0.1", "127.0.0.2"
CLIENT = ("203.0.113.9", 4321)
REQUEST = upgrade() + b"first frame"
VERSIONS = pytest.mark.parametrize("version", [1, 2])


@pytest.fixture
async def behind(house: Build) -> House:
    return house(proxies=(PROXY,), address_heads=2)


async def untouched(visitor: Visitor) -> bytes:
    """What somebody reads who has the visitor's socket now; the visitor is gone then."""
    assert visitor.still_there()
    assert visitor.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1
    async with asyncio.timeout(20):
        data = await asyncio.get_running_loop().sock_recv(visitor.sock, 65536)
    assert not visitor.still_there()
    visitor.sock.close()
    return data


async def answered(client: socket.socket) -> Answer:
    return parse(await read_all(client))


# --- the header is taken off, and nothing else -------------------------------------------------


@VERSIONS
@pytest.mark.parametrize("host", ["203.0.113.9", "2001:db8::9"])
async def test_the_header_s_client_is_the_visitor(behind: House, version: int, host: str) -> None:
    behind.connect(header(version, host, 4321) + REQUEST)
    visitor = await behind.visitor()
    assert visitor.address == (host, 4321)
    assert await untouched(visitor) == REQUEST


@VERSIONS
async def test_byte_by_byte(behind: House, version: int) -> None:
    client = behind.connect()
    sent = header(version, *CLIENT) + REQUEST
    for at in range(len(sent) - len(b"first frame")):
        client.send(sent[at : at + 1])
        await asyncio.sleep(0)
    visitor = await behind.visitor()
    client.send(b"first frame")
    await until(lambda: visitor.peek() and visitor.peeked == REQUEST)
    assert visitor.address == CLIENT
    assert await untouched(visitor) == REQUEST


@VERSIONS
async def test_cut_anywhere(behind: House, version: int) -> None:
    sent = header(version, *CLIENT) + REQUEST
    for cut in range(1, len(sent) - len(b"first frame"), 7 if version == 1 else 1):
        client = behind.connect(sent[:cut])
        await behind.heads(1)
        client.send(sent[cut:])
        visitor = await behind.visitor()
        assert visitor.address == CLIENT
        assert await untouched(visitor) == REQUEST
        assert behind.door.heads == 0


@pytest.mark.parametrize(
    "sent",
    [
        b"PROXY UNKNOWN\r\n",
        binary(UNSPEC, command=LOCAL),
        binary(TCP4, addresses(*CLIENT), command=LOCAL),
        binary(UNSPEC),
    ],
)
async def test_who_connects_for_itself_has_its_own_address(behind: House, sent: bytes) -> None:
    client = behind.connect(sent + REQUEST)
    visitor = await behind.visitor()
    assert visitor.address == client.getsockname()
    assert await untouched(visitor) == REQUEST


async def test_a_check_that_only_connects(behind: House) -> None:
    """As HAProxy's, of TCP alone, with and without a header."""
    for sent in (b"", binary(UNSPEC, command=LOCAL)):
        client = behind.connect(sent)
        client.shutdown(socket.SHUT_WR)
        assert await read_all(client) == b""
    await behind.heads(0)
    assert behind.visitors.empty()


# --- who may send one --------------------------------------------------------------------------


@VERSIONS
async def test_nobody_else_is_listened_to(behind: House, version: int) -> None:
    stranger = behind.connect(header(version, *CLIENT) + REQUEST, own=STRANGER)
    with pytest.raises(ConnectionResetError):
        await read_all(stranger)
    assert behind.visitors.empty()


async def test_without_the_protocol_a_header_is_no_request(house: Build) -> None:
    served = house()
    for version in (1, 2):
        answer = await answered(served.connect(header(version, *CLIENT) + REQUEST))
        assert (answer.status, answer.error["code"]) == (400, "bad_request")


async def test_a_reload_may_change_who(behind: House) -> None:
    behind.door.renew(DoorRules((STRANGER,), 2))
    with pytest.raises(ConnectionResetError):
        await read_all(behind.connect(header(1, *CLIENT) + REQUEST))
    behind.connect(header(1, *CLIENT) + REQUEST, own=STRANGER)
    visitor = await behind.visitor()
    assert visitor.address == CLIENT
    visitor.sock.close()


# --- hostile and slow ones ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        REQUEST,
        b"\x16\x03\x01\x02\x00",
        b"PROXY TCP4 1.2.3.4 \r\n" + REQUEST,
        b"PROXY UNKNOWN" + b"x" * MAX_LINE,
        binary(TCP4, b"short") + REQUEST,
        binary(TCP4, addresses(*CLIENT), tlvs=bytes(MAX_HEADER)) + REQUEST,
        binary(TCP4, addresses(*CLIENT), command=0x2F) + REQUEST,
    ],
)
async def test_what_is_no_header_is_told_so(behind: House, sent: bytes) -> None:
    answer = await answered(behind.connect(sent))
    assert (answer.status, answer.error["code"]) == (400, "bad_proxy_header")
    assert "send-proxy-v2" in answer.error["message"]
    assert behind.visitors.empty()


async def test_a_second_header_is_no_request(behind: House) -> None:
    answer = await answered(behind.connect(2 * header(1, *CLIENT) + REQUEST))
    assert (answer.status, answer.error["code"]) == (400, "bad_request")


@VERSIONS
async def test_half_a_header_and_a_close(behind: House, version: int) -> None:
    client = behind.connect(header(version, *CLIENT)[:9])
    await behind.heads(1)
    client.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionResetError):
        await read_all(client)
    await behind.heads(0)


@VERSIONS
async def test_a_header_has_to_come_in_time(house: Build, version: int) -> None:
    served = house(proxies=(PROXY,), head_timeout=0.1)
    whole, half, nothing = (
        served.connect(sent)
        for sent in (header(version, *CLIENT), header(version, *CLIENT)[:9], b"")
    )
    assert await read_all(whole) == b""
    assert (await answered(half)).error["code"] == "timeout"
    assert await read_all(nothing) == b""
    assert served.door.heads == 0


@VERSIONS
async def test_half_a_header_wakes_nobody(behind: House, version: int) -> None:
    client = behind.connect(header(version, *CLIENT)[:9])
    await behind.heads(1)
    poll = select.poll()
    poll.register(behind.door._heads._incomplete.oldest.fileno(), select.POLLIN)
    assert poll.poll(0) == []
    client.send(b"x")
    assert poll.poll(20_000) != []


async def test_half_headers_are_among_those_of_which_the_oldest_goes(house: Build) -> None:
    served = house(proxies=(PROXY,), max_heads=2)
    oldest = served.connect(line(*CLIENT)[:9])
    await served.heads(1)
    served.connect(line(*CLIENT) + b"GET")
    await served.heads(2)
    served.connect(line(*CLIENT)[:9])
    assert (await answered(oldest)).error["code"] == "overloaded"
    assert served.door.heads == 2


async def test_visitors_whose_proxy_resets_are_forgotten(behind: House) -> None:
    for sent in (header(2, *CLIENT)[:20], header(2, *CLIENT), header(2, *CLIENT) + b"GET"):
        client = behind.connect(sent)
        await behind.heads(1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        await behind.heads(0)


# --- incomplete heads of one address -----------------------------------------------------------


async def test_one_address_crowds_out_itself_and_nobody_else(behind: House) -> None:
    other = behind.connect(line("198.51.100.1", 1) + b"GET")
    await behind.heads(1)
    mine = []
    for count in (2, 3):
        mine.append(behind.connect(line(*CLIENT) + b"GET"))
        await behind.heads(count)
    behind.connect(line(*CLIENT) + b"GET")
    answer = await answered(mine[0])
    assert (answer.status, answer.error["code"]) == (429, "too_many_heads_from_address")
    assert answer.headers["retry-after"] == "1"
    assert behind.door.heads == 3
    for client in (other, mine[1]):
        client.send(REQUEST[3:])
        (await behind.visitor()).sock.close()


async def test_complete_heads_make_room(behind: House) -> None:
    for _ in range(5):
        clients = [behind.connect(line(*CLIENT) + b"GET") for _ in range(2)]
        await behind.heads(2)
        for client in clients:
            client.send(REQUEST[3:])
            (await behind.visitor()).sock.close()


async def test_an_address_that_stands_for_many_is_not_held_to_it(house: Build) -> None:
    served = house(address_heads=1)
    for count in range(1, 6):
        served.connect(b"GET")
        await served.heads(count)
