"""The front door: accept, peek at the request head without consuming it, and route.

    FrontDoor     the listener; every connection becomes a Visitor
    Heads         visitors whose request head is not complete yet
    Farewells     visitors that got their answer and are let go politely
    HangupWatch   callers who wait: only their hanging up is noticed, their bytes stay unread

A visitor's socket has one owner at any time: one of these, or whoever `on_visitor` gave it to.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import select
import socket
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from voicepool.answers import FileAnswer, refuse
from voicepool.errors import ConfigError
from voicepool.request import MAX_HEAD, BadRequest, Head, parse_head

log = logging.getLogger("voicepool.frontdoor")

BACKLOG: Final = 4096
ACCEPTS_PER_WAKEUP: Final = 64
REARM_SECONDS: Final = 0.25
"""How soon a listener that ran out of descriptors tries again, if none came back before."""
FAREWELL_SECONDS: Final = 5.0
"""How long an answered visitor may take nothing of the answer, or stay after it."""
FAREWELL_LIMIT: Final = 300.0
"""The longest that sending an answer may take, however steadily it goes."""
UNSENT_BYTES: Final = 64 << 10
"""What the kernel may hold of an answer beyond what is under way, so that each such piece that
goes out is seen as progress, and a slow reader of a large file costs no more memory."""
MAX_FAREWELLS: Final = 256
FAREWELL_BYTES: Final = 4 << 20
"""What a visitor may still send after its answer before it is cut off."""

_OUT_OF_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Visitor:
    """One accepted connection that nothing has been read from."""

    __slots__ = ("address", "head", "peeked", "sock")

    def __init__(self, sock: socket.socket, address: tuple[str, int]) -> None:
        self.sock = sock
        self.address = address
        self.peeked = b""
        """What the last peek saw."""
        self.head: Head | None = None

    def fileno(self) -> int:
        return self.sock.fileno()

    def peek(self) -> bool:
        """Look at what is there; whether there is more than last time. Raises OSError, also
        BlockingIOError when there is nothing at all."""
        before = len(self.peeked)
        self.peeked = self.sock.recv(MAX_HEAD, socket.MSG_PEEK)
        return len(self.peeked) > before

    def still_there(self) -> bool:
        """Whether the untouched head can still be read by somebody else."""
        try:
            return self.sock.recv(MAX_HEAD, socket.MSG_PEEK).startswith(self.peeked)
        except OSError:
            return False


class FrontDoor:
    """The listening socket and everybody who came in by it and has not been given away."""

    def __init__(
        self,
        listener: socket.socket,
        on_visitor: Callable[[Visitor], None],
        *,
        head_timeout: float,
        max_heads: int,
    ) -> None:
        """`on_visitor` gets each visitor whose head is complete, and owns it from then on."""
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self.farewells = Farewells(self._loop, self._rearm)
        self._heads = Heads(
            self._loop, on_visitor, self.farewells, timeout=head_timeout, most=max_heads
        )
        self._armed = False

    @property
    def heads(self) -> int:
        """Visitors whose head is incomplete."""
        return len(self._heads)

    def open(self) -> None:
        """Begin to accept."""
        self._armed = True
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def close(self) -> None:
        """Take in who stands in the accept queue, then close the listener.

        They reach `on_visitor` if their head is there already; the others are cut off.
        """
        # Out of descriptors: the kernel cuts off those that are left.
        with contextlib.suppress(OSError):
            for _ in range(BACKLOG):
                if not self._accept_one():
                    break
        # Only now: whoever was let go meanwhile has armed it again.
        self._disarm()
        self._heads.close()
        self._listener.close()

    def _accept(self) -> None:
        try:
            for _ in range(ACCEPTS_PER_WAKEUP):
                if not self._accept_one():
                    return
        except OSError as error:
            # Readable for as long as somebody waits: polling it on would spin.
            log.warning("out of file descriptors", extra={"error": error.strerror})
            self._disarm()
            self._loop.call_later(REARM_SECONDS, self._rearm)

    def _accept_one(self) -> bool:
        """False when nobody waits. Raises OSError when this process has no descriptor left."""
        try:
            sock, address = self._listener.accept()
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in _OUT_OF_DESCRIPTORS:
                raise
            return True  # that visitor left before it was accepted
        sock.setblocking(False)
        self._heads.add(Visitor(sock, (str(address[0]), int(address[1]))))
        return True

    def _disarm(self) -> None:
        if self._armed:
            self._armed = False
            self._loop.remove_reader(self._listener.fileno())

    def _rearm(self) -> None:
        """A descriptor may have come back."""
        if not self._armed and self._listener.fileno() >= 0:
            self.open()


class Heads:
    """Visitors whose request head is incomplete, oldest first: one timer serves them all."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_complete: Callable[[Visitor], None],
        farewells: Farewells,
        *,
        timeout: float,
        most: int,
    ) -> None:
        self._loop = loop
        self._on_complete = on_complete
        self._farewells = farewells
        self._timeout = timeout
        self._most = most
        self._deadlines: OrderedDict[Visitor, float] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._deadlines)

    def add(self, visitor: Visitor) -> None:
        """Look at the head, now and whenever there is more of it."""
        if self._look(visitor):
            return
        if len(self._deadlines) >= self._most:
            oldest = next(iter(self._deadlines))
            self._give_up(oldest, 503, "too many requests are incomplete", "overloaded")
        self._deadlines[visitor] = self._loop.time() + self._timeout
        self._loop.add_reader(visitor.fileno(), self._on_readable, visitor)
        if self._timer is None:
            self._schedule()

    def close(self) -> None:
        """Cut off everybody."""
        if self._timer is not None:
            self._timer.cancel()
        for visitor in list(self._deadlines):
            self._forget(visitor)
            visitor.sock.close()

    def _look(self, visitor: Visitor) -> bool:
        """Peek; True when the visitor has been passed on, answered or closed."""
        first = not visitor.peeked
        try:
            grown = visitor.peek()
        except BlockingIOError:
            return False
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
        if first or len(visitor.peeked) >= MAX_HEAD or _has_end(visitor.peeked):
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
        self._deadlines.pop(visitor, None)
        # Whoever reads it next must not wait for more bytes than there are.
        with contextlib.suppress(OSError):
            visitor.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        self._on_complete(visitor)

    def _on_readable(self, visitor: Visitor) -> None:
        self._loop.remove_reader(visitor.fileno())
        if self._look(visitor):
            self._deadlines.pop(visitor, None)
        else:
            self._loop.add_reader(visitor.fileno(), self._on_readable, visitor)

    def _give_up(self, visitor: Visitor, status: int, message: str, code: str) -> None:
        self._forget(visitor)
        self._farewells.answer(visitor, refuse(status, message, code))

    def _forget(self, visitor: Visitor) -> None:
        del self._deadlines[visitor]
        self._loop.remove_reader(visitor.fileno())

    def _schedule(self) -> None:
        oldest = next(iter(self._deadlines.values()), None)
        self._timer = None if oldest is None else self._loop.call_at(oldest, self._expire)

    def _expire(self) -> None:
        now = self._loop.time()
        while self._deadlines:
            visitor, deadline = next(iter(self._deadlines.items()))
            if deadline > now:
                break
            self._give_up(visitor, 408, "the request head did not arrive in time", "timeout")
        self._schedule()


@dataclass(slots=True)
class _Leaving:
    """One who leaves: first the answer goes out, then what still comes in is dropped."""

    unsent: memoryview
    deadline: float
    """When to lose patience, unless something happens before."""
    limit: float
    """When to stop sending whatever happens."""
    file: FileAnswer | None
    sent: int = 0
    """Bytes of the file."""
    patience: int = FAREWELL_BYTES
    """Bytes that may still come in."""

    def send(self, sock: socket.socket) -> bool:
        """Send what the socket takes; whether that was the last of it. Raises OSError."""
        if self.unsent:
            self.unsent = self.unsent[sock.send(self.unsent) :]
            return not self.unsent and self.file is None
        assert self.file is not None
        left = self.file.size - self.sent
        count = os.sendfile(sock.fileno(), self.file.fd, self.sent, min(left, UNSENT_BYTES))
        if count == 0 and left:
            raise OSError(errno.EIO, "the file has become shorter")
        self.sent += count
        return count == left


class Farewells:
    """Answered visitors: their remaining bytes are read and dropped until they close.

    Closing a socket with unread bytes sends RST, which can destroy the answer on its way.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_closed: Callable[[], None]) -> None:
        self._loop = loop
        self._on_closed = on_closed
        self._leaving: OrderedDict[socket.socket, _Leaving] = OrderedDict()
        """Soonest deadline first."""
        self._timer: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()

    def answer(self, visitor: Visitor, response: bytes | FileAnswer) -> None:
        """Send `response` and let the visitor go; owns its socket from now on. Never raises.

        A visitor who has sent nothing at all gets nothing: browsers open connections in advance
        and would take what comes before their request for the answer to it.
        """
        if len(self._leaving) >= MAX_FAREWELLS:
            self._let_go(next(iter(self._leaving)))
        sock = visitor.sock
        file = response if isinstance(response, FileAnswer) else None
        beginning = response if isinstance(response, bytes) else response.start
        limit = self._loop.time() + FAREWELL_LIMIT
        self._leaving[sock] = _Leaving(memoryview(beginning), self._deadline(), limit, file)
        if self._timer is None:
            self._schedule()
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
            if file is not None:
                with contextlib.suppress(OSError):  # it need not be TCP: a relay has a socket pair
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
            sock.recv(MAX_HEAD)
        except OSError:
            self._let_go(sock)
        else:
            self._send(sock)

    async def close(self, patience: float) -> None:
        """Give those that are left `patience` seconds to read their answers, then close them."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while self._leaving:
                    self._changed.clear()
                    await self._changed.wait()
        if self._timer is not None:
            self._timer.cancel()
        for sock in list(self._leaving):
            self._let_go(sock)

    def _send(self, sock: socket.socket) -> None:
        leaving = self._leaving[sock]
        try:
            done = leaving.send(sock)
            if not done and self._loop.time() > leaving.limit:
                raise TimeoutError
            if not done:
                self._loop.add_writer(sock.fileno(), self._send, sock)
                self._renew(sock)
                return
            sock.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            self._loop.add_writer(sock.fileno(), self._send, sock)
            return
        except OSError:
            self._let_go(sock)
            return
        self._loop.remove_writer(sock.fileno())
        self._loop.add_reader(sock.fileno(), self._discard, sock)
        self._renew(sock)

    def _renew(self, sock: socket.socket) -> None:
        self._leaving[sock].deadline = self._deadline()
        self._leaving.move_to_end(sock)

    def _discard(self, sock: socket.socket) -> None:
        leaving = self._leaving[sock]
        try:
            dropped = len(sock.recv(65536))
        except BlockingIOError:
            return
        except OSError:
            dropped = 0
        leaving.patience -= dropped
        if dropped == 0 or leaving.patience < 0:
            self._let_go(sock)

    def _let_go(self, sock: socket.socket) -> None:
        leaving = self._leaving.pop(sock)
        self._loop.remove_reader(sock.fileno())
        self._loop.remove_writer(sock.fileno())
        sock.close()
        if leaving.file is not None:
            os.close(leaving.file.fd)
        self._changed.set()
        self._on_closed()

    def _deadline(self) -> float:
        return self._loop.time() + FAREWELL_SECONDS

    def _schedule(self) -> None:
        soonest = next(iter(self._leaving.values()), None)
        self._timer = (
            None if soonest is None else self._loop.call_at(soonest.deadline, self._expire)
        )

    def _expire(self) -> None:
        now = self._loop.time()
        while self._leaving:
            sock, leaving = next(iter(self._leaving.items()))
            if leaving.deadline > now:
                break
            self._let_go(sock)
        self._schedule()


class HangupWatch:
    """Watches sockets for hang-up alone: their bytes belong to the worker that will read them.

    asyncio cannot leave input out of what it polls for, so this is an epoll of its own, which is
    itself polled by the event loop.
    """

    def __init__(self, on_hangup: Callable[[int], None]) -> None:
        """`on_hangup(fd)` is called once; the fd is no longer watched by then."""
        self._epoll = select.epoll()
        self._watched: set[int] = set()
        self._on_hangup = on_hangup
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._epoll.fileno(), self._poll)

    def watch(self, fd: int) -> None:
        """HUP and ERR are always reported; RDHUP is the peer's half-close."""
        self._epoll.register(fd, select.EPOLLRDHUP)
        self._watched.add(fd)

    def forget(self, fd: int) -> None:
        """Stop watching; a descriptor that is not watched is fine."""
        if fd in self._watched:
            self._watched.remove(fd)
            self._epoll.unregister(fd)

    def close(self) -> None:
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def _poll(self) -> None:
        for fd, _ in self._epoll.poll(0):
            # What one hang-up causes may have closed another socket of this batch.
            if fd in self._watched:
                self.forget(fd)
                self._on_hangup(fd)


def _has_end(data: bytes) -> bool:
    """Whether an empty line can be in there, with or without carriage returns (RFC 9112, 2.2)."""
    return b"\n\r\n" in data or b"\n\n" in data


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket. Raises OSError, and ConfigError where `host` is no address."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise ConfigError(f"host = {host!r} cannot be resolved: {error.strerror}") from error
    # Of a name with addresses of both families, "localhost" above all, clients always try IPv4.
    family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    # With IPPROTO_TCP said, asyncio sets TCP_NODELAY on what is accepted here.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # Callers speak first: woken with their head there, not before it, one wake-up does. Who is
        # silent for a second is accepted all the same, and then has to meet the head's deadline.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener
