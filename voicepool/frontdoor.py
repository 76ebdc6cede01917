"""The front door: accept, peek at the request head without consuming it, and route.

    FrontDoor     the doorway; every connection becomes a Visitor (`visitor.py`)
    Heads         visitors whose request head is not complete yet
    Farewells     visitors that got their answer and are let go politely (`farewells.py`)

A visitor's socket has one owner at any time: one of these, or whoever `on_visitor` gave it to.
Where proxies speak the PROXY protocol, its header is in front of the head; that one is consumed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from typing import Final

from voicepool.answers import Rejection, refuse
from voicepool.countdown import Countdown
from voicepool.farewells import Farewells, OnRefused
from voicepool.listener import Address, Doorway
from voicepool.logs import FloodGuard
from voicepool.newcomers import DoorRules, Newcomers
from voicepool.proxied import HeaderReader
from voicepool.proxyheader import BadHeader
from voicepool.request import MAX_HEAD, BadRequest, parse_head
from voicepool.visitor import CROWDED, OVERLOADED, TIMEOUT, Refusal, Visitor

__all__ = [
    "CROWD",
    "CROWDED",
    "NO_HEADER",
    "OVERLOADED",
    "STRANGER",
    "TIMEOUT",
    "Farewells",
    "FrontDoor",
    "Refusal",
    "Visitor",
    "has_end",
    "refuse_header",
]

log = logging.getLogger("voicepool.frontdoor")

CROWD: Final = "too many incomplete requests of one address"
NO_HEADER: Final = "connection refused: no PROXY header"
STRANGER: Final = "connection refused: not from a trusted proxy"
"""What the log says; also of those who come by TLS."""


class FrontDoor:
    """Where clients come in, and everybody who came in and has not been given away."""

    def __init__(
        self,
        doorway: Doorway,
        on_visitor: Callable[[Visitor], None],
        *,
        head_timeout: float,
        max_heads: int,
        rules: DoorRules | None = None,
        proxy_protocol: bool = False,
        on_refused: OnRefused | None = None,
    ) -> None:
        """`on_visitor` gets each visitor whose head is complete, and owns it from then on;
        `on_refused` is told of every refusal that is sent.

        `proxy_protocol`: connections come from trusted proxies alone, and begin with its header.
        """
        self.doorway = doorway
        loop = asyncio.get_running_loop()
        self.farewells = Farewells(loop, doorway.rearm, on_refused)
        self._proxy_protocol = proxy_protocol
        self._newcomers: Newcomers[Visitor] = Newcomers(
            rules or DoorRules(), proxy_protocol=proxy_protocol
        )
        self._flood = FloodGuard(log)
        self._heads = Heads(
            loop,
            on_visitor,
            self.farewells,
            self._newcomers,
            timeout=head_timeout,
            most=max_heads,
        )

    @property
    def heads(self) -> int:
        """Visitors whose head is incomplete."""
        return len(self._heads)

    @property
    def deserted(self) -> bool:
        """Whether it has been left, and nobody who came before that is still on the way in."""
        return self.doorway.deserted and not self._heads

    def open(self) -> None:
        """Begin to accept."""
        self.doorway.open(self._admit)

    def renew(self, rules: DoorRules) -> None:
        """From now on these."""
        self._newcomers.renew(rules)
        self.doorway.renew(rules)

    def _admit(self, sock: socket.socket, address: Address) -> None:
        if self._newcomers.may_connect(address[0]):
            announced = HeaderReader(sock) if self._proxy_protocol else None
            self._heads.add(Visitor(sock, address, announced))
        else:
            sock.close()
            self._flood.warning(STRANGER, address=address[0])

    def leave(self) -> None:
        """Let nobody in any more, and leave those in the accept queue to the next server, which
        has the same listener."""
        self.doorway.leave()

    async def shut(self, patience: float) -> None:
        """Take in who stands in the accept queue, then close the listener.

        They reach `on_visitor` if their head is there within `patience` seconds where it takes a
        handshake to see it, else at once; the others are cut off.
        """
        await self.doorway.shut(patience)
        self._heads.close()

    async def close(self, patience: float) -> None:
        """Once shut: see off who is left, for at most so many seconds."""
        await self.farewells.close(patience)
        await self.doorway.close()


class Heads:
    """Visitors whose request head is incomplete, oldest first: one timer serves them all."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_complete: Callable[[Visitor], None],
        farewells: Farewells,
        newcomers: Newcomers[Visitor],
        *,
        timeout: float,
        most: int,
    ) -> None:
        self._loop = loop
        self._on_complete = on_complete
        self._farewells = farewells
        self._newcomers = newcomers
        self._most = most
        self._flood = FloodGuard(log)
        self._incomplete: Countdown[Visitor] = Countdown(
            loop, timeout, lambda visitor: self._give_up(visitor, TIMEOUT)
        )

    def __len__(self) -> int:
        return len(self._incomplete)

    def add(self, visitor: Visitor) -> None:
        """Look at the head, now and whenever there is more of it."""
        if self._look(visitor):
            return
        if len(self._incomplete) >= self._most:
            self._give_up(self._incomplete.oldest, OVERLOADED)
        self._incomplete.add(visitor)
        self._await_more(visitor)

    def close(self) -> None:
        """Cut off everybody."""
        for visitor in self._incomplete.clear():
            self._forget(visitor)
            visitor.sock.close()

    def _await_more(self, visitor: Visitor) -> None:
        self._loop.add_reader(visitor.fileno(), self._on_readable, visitor)
        if visitor.announced is not None:
            return
        oldest = self._newcomers.add(visitor, visitor.address[0])
        if oldest is not None:
            self._flood.info(CROWD, address=visitor.address[0])
            self._give_up(oldest, CROWDED)

    def _look(self, visitor: Visitor) -> bool:
        """Peek; True when the visitor has been passed on, answered or closed."""
        first = not visitor.peeked
        try:
            if not visitor.learn_address():
                return False
            grown = visitor.peek()
        except BlockingIOError:
            return False
        except BadHeader as error:
            self._flood.warning(NO_HEADER, address=visitor.address[0], error=str(error))
            self._farewells.answer(visitor, refuse_header(error))
            return True
        except OSError:
            visitor.sock.close()
            return True
        if not grown:
            # Readable without growth: it has closed its side before the head was complete.
            if visitor.peeked:
                message = "the connection was closed before the request head was complete"
                self._farewells.answer(visitor, refuse(400, message, "bad_request"))
            else:
                visitor.sock.close()
            return True
        # While there is no empty line, only the first look can tell anything new: that this is
        # no HTTP at all. Parsing on every byte would cost the square of the head's length.
        if first or len(visitor.peeked) >= MAX_HEAD or has_end(visitor.peeked):
            try:
                visitor.head = parse_head(visitor.peeked)
            except BadRequest as error:
                self._farewells.answer(visitor, refuse(error.status, error.message, "bad_request"))
                return True
            if visitor.head is not None:
                self._pass_on(visitor)
                return True
        # Or the kernel would report the same bytes again and again.
        visitor.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, len(visitor.peeked) + 1)
        return False

    def _pass_on(self, visitor: Visitor) -> None:
        self._discard(visitor)
        # Whoever reads it next must not wait for more bytes than there are.
        with contextlib.suppress(OSError):
            visitor.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        self._on_complete(visitor)

    def _on_readable(self, visitor: Visitor) -> None:
        self._loop.remove_reader(visitor.fileno())
        if self._look(visitor):
            self._discard(visitor)
        else:
            self._await_more(visitor)

    def _give_up(self, visitor: Visitor, refusal: Refusal) -> None:
        self._forget(visitor)
        self._farewells.answer(visitor, refuse(*refusal))

    def _forget(self, visitor: Visitor) -> None:
        self._discard(visitor)
        self._loop.remove_reader(visitor.fileno())

    def _discard(self, visitor: Visitor) -> None:
        self._incomplete.discard(visitor)
        self._newcomers.discard(visitor)


def refuse_header(error: BadHeader) -> Rejection:
    """The answer to a trusted proxy that sends no PROXY header, or a wrong one."""
    message = (
        f"connections to this server must begin with a PROXY header, which is wrong here: {error}; "
        "have the proxy send it (HAProxy: send-proxy-v2), or turn proxy_protocol off"
    )
    return refuse(400, message, "bad_proxy_header")


def has_end(data: bytes) -> bool:
    """Whether an empty line can be in there, with or without carriage returns (RFC 9112, 2.2)."""
    return b"\n\r\n" in data or b"\n\n" in data
