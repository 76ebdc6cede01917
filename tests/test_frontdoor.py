"""The front door on real sockets: who gets in, who is answered, and who is let go."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.doors import (
    PATIENCE,
    Build,
    House,
    house,
    nothing_goes_wrong_or_stays_open,
    read_all,
    until,
)
from tests.rawhttp import parse, upgrade
from voicepool import farewells as parting
from voicepool.access import Admitted
from voicepool.callers import Candidate, WaitingRoom
from voicepool.errors import ConfigError
from voicepool.frontdoor import Farewells, Visitor
from voicepool.hangups import HangupWatch
from voicepool.listener import Acceptor, listen
from voicepool.request import MAX_HEAD

__all__ = ["house", "nothing_goes_wrong_or_stays_open"]

RESET = b"\1\0\0\0\0\0\0\0"
"""SO_LINGER that makes close send RST."""


# --- listening -------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "0.0.0.0", "::"])
async def test_every_kind_of_address(house: Build, host: str) -> None:
    served = house(host)
    assert served.listener.family == (socket.AF_INET6 if ":" in host else socket.AF_INET)
    client = served.connect(upgrade())
    visitor = await served.visitor()
    assert visitor.address == client.getsockname()[:2]
    visitor.sock.close()


async def test_both_families_of_localhost_by_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever order the resolver prefers, a client that tries 127.0.0.1 finds the server."""
    both = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    with listen("localhost", 0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


async def test_names_and_addresses_that_are_none() -> None:
    with pytest.raises(ConfigError, match="'no such host' cannot be resolved"):
        listen("no such host", 0)
    with pytest.raises(OSError, match="assign requested address"):
        listen("192.0.2.1", 0)


async def test_port_in_use() -> None:
    with listen("127.0.0.1", 0) as listener, pytest.raises(OSError, match="in use"):
        listen("127.0.0.1", listener.getsockname()[1])


def test_a_burst_of_callers_fits_into_the_accept_queue() -> None:
    with listen("127.0.0.1", 0) as listener:
        told = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
    (room,) = struct.unpack_from("I", told, 28)  # tcpi_sacked, which is that of a listener
    assert room == min(4096, int(Path("/proc/sys/net/core/somaxconn").read_text()))


# --- heads -----------------------------------------------------------------------------------


async def test_visitor_comes_with_everything_unread(house: Build) -> None:
    served = house()
    sent = upgrade() + b"first frame"
    client = served.connect()
    for at in range(len(sent) - len(b"first frame")):
        client.send(sent[at : at + 1])
        await asyncio.sleep(0)
    client.send(b"first frame")
    visitor = await served.visitor()
    assert visitor.head is not None
    assert visitor.head.path == "/echo"
    assert visitor.still_there()
    assert served.door.heads == 0
    assert visitor.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1
    assert await asyncio.get_running_loop().sock_recv(visitor.sock, 65536) == sent
    assert not visitor.still_there()
    visitor.sock.close()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00", 400),
        (b"hello\r\n\r\n", 400),
        (b"G" * MAX_HEAD, 431),
        (upgrade()[:-2] + b"X: " + b"x" * (1 << 20), 431),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
    ],
)
async def test_what_is_no_request_is_answered(house: Build, data: bytes, status: int) -> None:
    served = house()
    client = served.connect()
    sender = asyncio.create_task(asyncio.get_running_loop().sock_sendall(client, data))
    answer = parse(await read_all(client))
    assert answer.status == status
    assert answer.error["code"] == "bad_request"
    await sender


async def test_silence_is_answered_by_silence(house: Build) -> None:
    served = house(head_timeout=0.05)
    assert await read_all(served.connect()) == b""
    half = served.connect(b"GET")
    assert parse(await read_all(half)).error["code"] == "timeout"


async def test_visitors_who_leave_are_forgotten(house: Build) -> None:
    served = house()
    leaving = [served.connect(data) for data in (b"", b"GET /", b"", b"GET /")]
    await served.heads(4)
    for client in leaving[2:]:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    for client in leaving:
        client.close()
    await served.heads(0)


async def test_timer_serves_those_that_came_after_the_first_was_gone(house: Build) -> None:
    served = house(head_timeout=0.1)
    first = served.connect(b"G")
    await served.heads(1)
    first.send(upgrade()[1:])
    (await served.visitor()).sock.close()
    for _ in range(3):
        assert parse(await read_all(served.connect(b"GET"))).status == 408
    assert served.door.heads == 0


async def test_evicted_in_the_moment_when_its_head_is_complete(house: Build) -> None:
    """Both are ready in one turn of the loop; whichever comes first, there is one outcome."""
    served = house(max_heads=1)
    for _ in range(50):
        await _race(served, served.connect(upgrade()[:-1]))
        assert served.door.heads == 0


async def _race(served: House, first: socket.socket) -> None:
    await served.heads(1)
    second = served.connect(b"G")
    first.send(b"\n")
    await until(lambda: not served.visitors.empty() or _readable(first))
    if served.visitors.empty():
        assert parse(await read_all(first)).error["code"] == "overloaded"
    else:
        (await served.visitor()).sock.close()
    # Complete the second one too: it must not be taken for the first one.
    second.send(upgrade()[1:])
    visitor = await served.visitor()
    assert visitor.address == second.getsockname()
    visitor.sock.close()


def _readable(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False


async def test_urgent_data_neither_spins_nor_hides_the_head(house: Build) -> None:
    served = house()
    client = served.connect(b"GET / HT")
    await served.heads(1)
    client.send(b"!", socket.MSG_OOB)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        client.send(b"TP/1.1\r\nHost: h\r\n\r\n")
    # The urgent byte is no part of the stream; a visitor or an answer, but never nothing.
    await until(lambda: not served.visitors.empty() or _readable(client))
    assert served.door.heads == 0


# --- closing ---------------------------------------------------------------------------------


async def test_close_takes_in_who_stands_in_the_queue(house: Build) -> None:
    served = house()
    whole, half = served.connect(upgrade()), served.connect(b"GET /")
    await served.door.shut(0)
    visitor = served.visitors.get_nowait()
    assert visitor.address == whole.getsockname()
    visitor.sock.close()
    with contextlib.suppress(ConnectionResetError):
        assert await read_all(half) == b""
    assert served.visitors.empty()


async def test_closed_door_stays_closed(house: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """A visitor who is let go while the door closes must not arm it again."""
    monkeypatch.setattr(parting, "MAX_FAREWELLS", 1)
    served = house()
    clients = [served.connect(b"\0") for _ in range(3)]
    listener = served.listener.fileno()
    await served.door.shut(0)
    assert not asyncio.get_running_loop().remove_reader(listener)
    for client in clients:
        assert parse(await read_all(client)).status == 400


# --- farewells -------------------------------------------------------------------------------


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Visitor, socket.socket]]:
    """A visitor who has asked for something, and the visitor's own end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        accepted, address = listener.accept()
    client.setblocking(False)
    accepted.setblocking(False)
    client.send(b"GET")
    visitor = Visitor(accepted, address)
    await until(lambda: _readable(accepted))
    visitor.peek()
    yield visitor, client
    client.close()
    accepted.close()


@pytest.fixture
async def farewells() -> AsyncIterator[Farewells]:
    farewells = Farewells(asyncio.get_running_loop(), lambda: None)
    yield farewells
    await farewells.close(0)


Pair = tuple[Visitor, socket.socket]


async def test_large_answer_reaches_a_slow_reader_whole(farewells: Farewells, pair: Pair) -> None:
    visitor, client = pair
    answer = os.urandom(1 << 20) * 16
    farewells.answer(visitor, answer)
    # It does not fit into the buffers of the sockets, so most of it has yet to be sent.
    assert await read_all(client) == answer
    client.close()
    await farewells.close(PATIENCE)
    assert visitor.fileno() == -1


async def test_large_answer_to_nobody(
    farewells: Farewells, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parting, "FAREWELL_SECONDS", 0.1)
    visitor, _ = pair
    farewells.answer(visitor, bytes(16 << 20))
    await until(lambda: visitor.fileno() == -1)


async def test_visitor_who_stays_is_let_go(
    farewells: Farewells, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parting, "FAREWELL_SECONDS", 0.1)
    visitor, client = pair
    farewells.answer(visitor, b"bye")
    assert await read_all(client) == b"bye"
    await until(lambda: visitor.fileno() == -1)


async def test_half_closed_visitor_gets_the_answer(farewells: Farewells, pair: Pair) -> None:
    visitor, client = pair
    client.shutdown(socket.SHUT_WR)
    answer = bytes(16 << 20)
    farewells.answer(visitor, answer)
    assert await read_all(client) == answer
    await until(lambda: visitor.fileno() == -1)


async def test_visitor_who_never_stops_sending_is_cut_off(
    farewells: Farewells, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parting, "FAREWELL_SECONDS", 3600.0)
    visitor, client = pair
    farewells.answer(visitor, b"bye")
    loop = asyncio.get_running_loop()
    with pytest.raises(ConnectionError):
        async with asyncio.timeout(PATIENCE):
            await loop.sock_sendall(client, bytes(8 * parting.FAREWELL_BYTES))
    assert visitor.fileno() == -1


async def test_visitor_who_is_gone(farewells: Farewells, pair: Pair) -> None:
    visitor, client = pair
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    client.close()
    farewells.answer(visitor, b"bye")
    await until(lambda: visitor.fileno() == -1)


# --- hang-ups --------------------------------------------------------------------------------


@pytest.fixture
def callers() -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    """(ours, theirs) of callers who wait."""
    pairs = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for _ in range(3):
            theirs = socket.create_connection(listener.getsockname())
            pairs.append((listener.accept()[0], theirs))
    yield pairs
    for pair in pairs:
        for end in pair:
            end.close()


Callers = list[tuple[socket.socket, socket.socket]]


async def test_hangups_are_noticed_and_bytes_are_not(callers: Callers) -> None:
    lost: list[int] = []
    watch = HangupWatch(lost.append)
    fds = [ours.fileno() for ours, _ in callers]
    for fd in fds:
        watch.watch(fd)
    (_, talks), (_, half), (_, reset) = callers
    talks.send(b"hello" * 100)
    half.shutdown(socket.SHUT_WR)
    reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    reset.close()
    await until(lambda: len(lost) == 2)
    assert sorted(lost) == sorted(fds[1:])
    watch.forget(fds[0])
    watch.forget(fds[0])
    watch.close()


async def test_waiting_room_owns_its_callers(callers: Callers) -> None:
    lost: list[int] = []
    room = WaitingRoom(lost.append)
    for number, (ours, _) in enumerate(callers):
        room.add(Candidate(number, Visitor(ours, ("h", number)), "h", Admitted(""), 0.0))
        room.watch(number)
    taken = room.take(0)
    assert taken.assign.port == 0
    for _, theirs in callers[:2]:
        theirs.close()
    await until(lambda: bool(lost))
    # The one that was taken is another's business.
    assert lost == [1]
    assert callers[1][0].fileno() == -1
    assert [number in room for number in range(3)] == [False, False, True]
    room.close()
    assert callers[2][0].fileno() == -1
    assert taken.visitor.fileno() >= 0


async def test_caller_who_is_taken_while_others_hang_up(callers: Callers) -> None:
    """All hang up in one turn of the loop, and losing one makes the shell take another."""
    taken: list[int] = []
    lost: list[int] = []

    def on_lost(number: int) -> None:
        lost.append(number)
        for other in range(3):
            if other in room:
                room.take(other).visitor.sock.close()
                taken.append(other)

    room = WaitingRoom(on_lost)
    for number, (ours, theirs) in enumerate(callers):
        room.add(Candidate(number, Visitor(ours, ("h", number)), "h", Admitted(""), 0.0))
        room.watch(number)
        theirs.close()
    await until(lambda: bool(lost))
    assert len(lost) == 1
    assert sorted(lost + taken) == [0, 1, 2]
    room.close()


async def test_those_who_stay_after_their_answer_are_few(
    callers: Callers, farewells: Farewells, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many come: the one who has been told longest ago goes first."""
    monkeypatch.setattr(parting, "MAX_FAREWELLS", 2)
    for ours, theirs in callers:
        theirs.setblocking(False)
        ours.setblocking(False)
        theirs.send(b"GET")
        await until(lambda ours=ours: _readable(ours))  # type: ignore[misc]
        farewells.answer(Visitor(ours, ("h", 1)), b"bye")
    assert [ours.fileno() == -1 for ours, _ in callers] == [True, False, False]
    for _, theirs in callers:
        assert await read_all(theirs) == b"bye"


async def test_a_lack_of_descriptors_that_lasts_does_not_flood_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    acceptor = Acceptor(listen("127.0.0.1", 0))
    for _ in range(50):
        acceptor.rest(OSError(errno.EMFILE, "Too many open files"))
    await acceptor.close()
    assert len(caplog.records) == 5
    assert vars(caplog.records[0])["error"] == "Too many open files"
