"""One client's TLS connection, and the two-way pump between it and its socket pair.

Nothing grows: each direction reads on only when what it read last has gone out. Half-closes are
passed on; a side that has vanished ends the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Final

from voicepool import foreign

CHUNK: Final = 64 << 10
"""What is read at once from a worker."""
FROM_CLIENT: Final = 8 << 10
"""What is read at once from a client. If nothing but changes of keys comes, 15 us each, that takes
5 ms: so long other calls wait, whatever a client does."""
MAX_UNSENT: Final = 256 << 10
"""What may wait for a client that is still read from. Beyond a chunk of the worker's this can only
be TLS's answers to what the client keeps asking of TLS itself."""
STALL_SECONDS: Final = 30.0
"""How long a client may take for a chunk. Whoever reads as slowly has lost the thread of its call,
and nobody would notice that its worker is gone: that is not read from meanwhile."""


class Tls:
    """The server's side of TLS over a non-blocking socket, which it does not own.

    Every method may raise OSError, which ssl.SSLError is: then the connection is beyond use.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self.sock = sock
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._in, self._out, server_side=True)
        self._unsent = memoryview(b"")
        """Ciphertext on its way."""
        self.ended = False
        """Whether the client has said, or TCP has, that nothing more will come."""

    def handshake(self) -> bool:
        """Go on with what has come; whether the handshake is complete."""
        self._pull()
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            return False
        finally:
            self.flush()  # an alert too, which says why there will be no connection
        return True

    def receive(self) -> bytes:
        """What the client has said, all of it that is there or a good part; see `ended`."""
        self._pull()
        return self.pending()

    def pending(self) -> bytes:
        """As `receive`, without looking at the socket."""
        pieces: list[bytes] = []
        try:
            while piece := self._ssl.read(FROM_CLIENT):
                pieces.append(piece)
                if not self._in.pending and not self._ssl.pending():
                    return piece if len(pieces) == 1 else b"".join(pieces)
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        return b"".join(pieces)

    def write(self, data: bytes) -> None:
        """Encrypt; `flush` sends."""
        left = memoryview(data)
        while left:  # a record takes 16 KiB
            left = left[self._ssl.write(left) :]

    def say_goodbye(self) -> None:
        """The close_notify; `flush` sends it. Never raises."""
        with contextlib.suppress(ssl.SSLError):  # it would also read the client's own
            self._ssl.unwrap()

    def flush(self) -> bool:
        """Send what is encrypted; whether all of it went."""
        if not self._unsent:
            if not self._out.pending:
                return True
            self._unsent = memoryview(self._out.read())
        with contextlib.suppress(BlockingIOError):
            self._unsent = self._unsent[self.sock.send(self._unsent) :]
        return not self.unsent

    @property
    def unsent(self) -> int:
        """Bytes that the client has not taken."""
        return len(self._unsent) + self._out.pending

    def _pull(self) -> None:
        with contextlib.suppress(BlockingIOError):
            if data := self.sock.recv(FROM_CLIENT):
                self._in.write(data)
            else:
                self._in.write_eof()


class Pump:
    """Carries bytes between a client and the other end of its socket pair.

    Owns both sockets until it calls `on_end(pump, sock)`, once: with the client's socket, all said
    and done, which must still be let go politely; or with None where it has been closed.
    """

    def __init__(
        self,
        tls: Tls,
        local: socket.socket,
        on_end: Callable[[Pump, socket.socket | None], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._tls = tls
        self._local = local
        self._on_end = on_end
        self._inbound = memoryview(b"")
        """From the client, not yet taken by the pair."""
        self._readers: set[int] = set()
        self._writers: set[int] = set()
        self._stalled: asyncio.TimerHandle | None = None
        self._goodbye = False
        """Whether there is nobody behind the pair any more."""
        self._over = False

    def start(self) -> None:
        """Begin. What the client has said may be with TLS already."""
        self._listen_to_worker()
        self._guarded(lambda: self._to_worker(self._tls.pending()))

    # -- client → worker

    def _client_readable(self) -> None:
        self._guarded(lambda: self._to_worker(self._tls.receive()))

    def _to_worker(self, data: bytes) -> None:
        self._inbound = memoryview(data)
        self._feed_worker()

    def _feed_worker(self) -> None:
        """Raises OSError where the client is gone."""
        client = self._tls.sock.fileno()
        if not self._taken_by_worker():
            self._forget_reader(client)
            return
        if not self._tls.flush():  # TLS has answers of its own to what comes in
            self._wait_for_client()
        if self._tls.ended:
            self._forget_reader(client)
            with contextlib.suppress(OSError):
                self._local.shutdown(socket.SHUT_WR)
        elif self._tls.unsent > MAX_UNSENT:
            self._forget_reader(client)
        elif not self._goodbye:
            self._add_reader(client, self._client_readable)

    def _taken_by_worker(self) -> bool:
        """Whether all that has come from the client has gone on."""
        local = self._local.fileno()
        try:
            while self._inbound:
                self._inbound = self._inbound[self._local.send(self._inbound) :]
        except BlockingIOError:
            self._add_writer(local, self._worker_writable)
            return False
        except OSError:
            # Nobody is behind the pair. What he has said to the end is still to be read from it.
            self._inbound = memoryview(b"")
            self._forget_writer(local)
            return False
        self._forget_writer(local)
        return True

    def _worker_writable(self) -> None:
        self._guarded(self._feed_worker)

    # -- worker → client

    def _worker_readable(self) -> None:
        try:
            data = foreign.read(self._local, CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # killed with something of the client's unread: an end like any other
        self._guarded(lambda: self._to_client(data))

    def _to_client(self, data: bytes) -> None:
        if data:
            self._tls.write(data)
        else:
            self._leave_worker()
        self._feed_client()

    def _leave_worker(self) -> None:
        self._goodbye = True
        for fd in (self._local.fileno(), self._tls.sock.fileno()):
            self._forget_reader(fd)
        self._forget_writer(self._local.fileno())
        foreign.abandon(self._local)
        self._tls.say_goodbye()

    def _feed_client(self) -> None:
        """Raises OSError where the client is gone."""
        if not self._tls.flush():
            self._wait_for_client()
            return
        self._forget_writer(self._tls.sock.fileno())
        self._patience_restored()
        if self._goodbye:
            self._end(self._tls.sock)
            return
        self._listen_to_worker()
        if not self._inbound and not self._tls.ended:
            self._add_reader(self._tls.sock.fileno(), self._client_readable)

    def _wait_for_client(self) -> None:
        """It takes no more: until it does, the worker is not read from."""
        if not self._goodbye:
            self._forget_reader(self._local.fileno())
        self._add_writer(self._tls.sock.fileno(), self._client_writable)
        if self._stalled is None:
            self._stalled = self._loop.call_later(STALL_SECONDS, self.abort)

    def _client_writable(self) -> None:
        self._guarded(self._feed_client)

    def _patience_restored(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    # -- the end

    def abort(self) -> None:
        """End both sides at once."""
        if not self._over:
            self._end(None)

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except OSError:
            self.abort()  # reset, or not TLS any more

    def _end(self, sock: socket.socket | None) -> None:
        self._over = True
        self._patience_restored()
        for fd in list(self._readers):
            self._forget_reader(fd)
        for fd in list(self._writers):
            self._forget_writer(fd)
        foreign.abandon(self._local)
        if sock is None:
            self._tls.sock.close()
        self._on_end(self, sock)

    # -- the event loop, which is bothered only with changes

    def _listen_to_worker(self) -> None:
        self._add_reader(self._local.fileno(), self._worker_readable)

    def _add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        if fd not in self._readers:
            self._readers.add(fd)
            self._loop.add_reader(fd, callback)

    def _forget_reader(self, fd: int) -> None:
        if fd in self._readers:
            self._readers.remove(fd)
            self._loop.remove_reader(fd)

    def _add_writer(self, fd: int, callback: Callable[[], None]) -> None:
        if fd not in self._writers:
            self._writers.add(fd)
            self._loop.add_writer(fd, callback)

    def _forget_writer(self, fd: int) -> None:
        if fd in self._writers:
            self._writers.remove(fd)
            self._loop.remove_writer(fd)
