"""Farewells: visitors get their answers, and are let go politely."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import os
import socket
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from voicepool.answers import FileAnswer, Rejection
from voicepool.request import MAX_HEAD
from voicepool.visitor import Visitor

OnRefused = Callable[[int, str], None]
"""Told of a refusal's status and code."""
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

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_closed: Callable[[], None],
        on_refused: OnRefused | None = None,
    ) -> None:
        self._loop = loop
        self._on_closed = on_closed
        self._on_refused = on_refused
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
                _limit_unsent(sock)
            self._read_request(visitor)
        except OSError:
            self._let_go(sock)
        else:
            # Here and nowhere else, so that whoever refuses need not think of it.
            if self._on_refused is not None and isinstance(response, Rejection):
                self._on_refused(response.status, response.code)
            self._send(sock)

    def _read_request(self, visitor: Visitor) -> None:
        """Take what was only peeked at. Raises OSError, also where nothing was ever sent."""
        try:
            visitor.sock.recv(MAX_HEAD)
        except BlockingIOError:
            if not visitor.peeked:
                raise  # else somebody has read it already, to get at the body

    def see_off(self, sock: socket.socket) -> None:
        """As `answer`, for one who has got all that he is to get. Never raises."""
        if len(self._leaving) >= MAX_FAREWELLS:
            self._let_go(next(iter(self._leaving)))
        self._leaving[sock] = _Leaving(memoryview(b""), self._deadline(), math.inf, None)
        if self._timer is None:
            self._schedule()
        self._shut(sock)

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
        except BlockingIOError:
            self._loop.add_writer(sock.fileno(), self._send, sock)
        except OSError:
            self._let_go(sock)
        else:
            self._loop.remove_writer(sock.fileno())
            self._shut(sock)

    def _shut(self, sock: socket.socket) -> None:
        """Say that there is no more, and wait for the other side to say so too."""
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._let_go(sock)
            return
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


def _limit_unsent(sock: socket.socket) -> None:
    """So that what goes out is seen in pieces of UNSENT_BYTES. Raises OSError."""
    if sock.family == socket.AF_UNIX:  # a relay's, which has such a limit towards its client
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNSENT_BYTES // 2)  # doubled there
    else:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
