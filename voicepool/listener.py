"""The listening socket: made, accepted from, and left alone while descriptors are short."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Callable
from typing import Final, Protocol

from voicepool.errors import ConfigError
from voicepool.logs import FloodGuard
from voicepool.newcomers import DoorRules

log = logging.getLogger("voicepool.frontdoor")

BACKLOG: Final = 4096
ACCEPTS_PER_WAKEUP: Final = 64
REARM_SECONDS: Final = 0.25
"""How soon a listener that ran out of descriptors tries again, if none came back before."""

OUT_OF_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

Address = tuple[str, int]
Admit = Callable[[socket.socket, Address], None]
"""Takes a client's socket, non-blocking, nothing read from it, and the client's address."""


class Doorway(Protocol):
    """Where clients come in: `Acceptor`, or `tlsdoor.TlsDoor` for those who speak TLS."""

    @property
    def pid(self) -> int | None:
        """Of the process that works for it, until it has been reaped; None where there is none."""

    restarts: int
    """How often that process had to be started again."""

    def open(self, admit: Admit) -> None:
        """Begin to accept. Raises OSError."""

    def rearm(self) -> None:
        """A descriptor may have come back."""

    def renew(self, rules: DoorRules) -> None:
        """From now on these, where it keeps them itself."""

    def leave(self) -> None:
        """Close the listener and leave who stands in its queue to whoever else has it open."""

    @property
    def deserted(self) -> bool:
        """Whether it has been left, and nobody whom it let in is still on the way to `admit`."""

    async def shut(self, patience: float) -> None:
        """Take in who stands in the accept queue, then close the listener. Nothing, once left."""

    async def close(self) -> None:
        """Let go of everything; nobody whom it let in is there any more."""


class Acceptor:
    """Accepts from a listening socket, and owns it."""

    pid = None
    restarts = 0

    def __init__(
        self, listener: socket.socket, on_rested: Callable[[], None] | None = None
    ) -> None:
        """`on_rested` is called when it has rested for lack of descriptors; None: it goes on."""
        self._listener = listener
        self._on_rested = on_rested or self.rearm
        self._flood = FloodGuard(log)
        self._loop = asyncio.get_running_loop()
        self._armed = False
        self._resting: asyncio.TimerHandle | None = None
        self._admit: Admit | None = None

    def open(self, admit: Admit) -> None:
        self._admit = admit
        self._arm()

    def rearm(self) -> None:
        if not self._armed and self._admit is not None and self._listener.fileno() >= 0:
            self._arm()

    def renew(self, rules: DoorRules) -> None:
        """Lets in everybody."""

    def leave(self) -> None:
        self._disarm()
        self._listener.close()

    @property
    def deserted(self) -> bool:
        """Nobody is on the way for longer than a call."""
        return self._listener.fileno() < 0

    async def shut(self, patience: float = 0.0) -> None:
        """Takes no time: whoever is in the queue has connected already."""
        self.take_in()

    def take_in(self) -> None:
        """As `shut`."""
        if self._listener.fileno() < 0:
            return
        if self._admit is None:
            self._listener.close()  # it never came to opening
            return
        # Out of descriptors: the kernel cuts off those that are left.
        with contextlib.suppress(OSError):
            for _ in range(BACKLOG):
                if not self._accept_one():
                    break
        # Only now: whoever was let go meanwhile has armed it again.
        self._disarm()
        self._listener.close()

    async def close(self) -> None:
        self._disarm()
        self._listener.close()

    def _accept(self) -> None:
        try:
            for _ in range(ACCEPTS_PER_WAKEUP):
                if not self._accept_one():
                    return
        except OSError as error:
            self.rest(error)

    def rest(self, shortage: OSError) -> None:
        """Accept nobody for a while: there is no descriptor left. Else it would spin, being
        readable for as long as somebody waits."""
        self._flood.warning("out of file descriptors", error=shortage.strerror)
        self._disarm()
        if self._resting is None:
            self._resting = self._loop.call_later(REARM_SECONDS, self._rested)

    def _rested(self) -> None:
        self._resting = None
        self._on_rested()

    def _accept_one(self) -> bool:
        """False when nobody waits. Raises OSError when this process has no descriptor left."""
        assert self._admit is not None
        try:
            sock, address = self._listener.accept()
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in OUT_OF_DESCRIPTORS:
                raise
            return True  # that visitor left before it was accepted
        sock.setblocking(False)
        self._admit(sock, (str(address[0]), int(address[1])))
        return True

    def _arm(self) -> None:
        self._armed = True
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def _disarm(self) -> None:
        if self._armed:
            self._armed = False
            self._loop.remove_reader(self._listener.fileno())


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket. Raises OSError, and ConfigError where `host` is no address."""
    bare = host.strip("[]")  # as in a URL, and as the socket unit has it
    try:
        found = socket.getaddrinfo(bare, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
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
        listener.bind(address)
        prepare(listener)
    except BaseException:
        listener.close()
        raise
    return listener


def prepare(listener: socket.socket) -> None:
    """Let a bound socket, or one that listens already, listen as ours do. Raises OSError."""
    # Callers speak first: woken with their head there, not before it, one wake-up does. Who is
    # silent for a second is accepted all the same, and then has to meet the head's deadline.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 1)
    listener.listen(BACKLOG)
    listener.setblocking(False)
