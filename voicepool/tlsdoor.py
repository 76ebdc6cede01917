"""The supervisor's end of the TLS relay, see `tlsrelay.py`: start it, take in the clients that it
lets in, start another when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from voicepool import ipc
from voicepool.backoff import Backoff
from voicepool.config import Settings
from voicepool.errors import IpcError
from voicepool.forker import child_environment
from voicepool.helper import Helper
from voicepool.ipc import FdsLost, FromRelay, Refused
from voicepool.listener import REARM_SECONDS, Admit
from voicepool.logs import FloodGuard
from voicepool.newcomers import DoorRules
from voicepool.rules import door_rules

log = logging.getLogger("voicepool.supervisor")

BACKOFF_BASE: Final = 0.25
BACKOFF_CAP: Final = 30.0
ARRIVALS_PER_WAKEUP: Final = 64
GOODBYE_SECONDS: Final = 3.0
"""What a relay has to let the last bytes go out and end."""

OnRelayRefused = Callable[[int, str, int], None]
"""Told of refusals: their status, their code, and how many there were."""


@dataclass(slots=True)
class _Running:
    helper: Helper[FromRelay]
    born: float


class TlsDoor:
    """Owns the listening socket and the relay; a `listener.Doorway`.

    When a relay dies, the calls that it carried end, and nothing else: new clients wait in the
    accept queue until there is another.
    """

    def __init__(
        self, listener: socket.socket, settings: Settings, on_refused: OnRelayRefused
    ) -> None:
        """`on_refused` is told of what the relay has refused itself."""
        self._on_refused = on_refused
        self._listener = listener
        self._settings = settings
        self._rules = door_rules(settings)
        self._loop = asyncio.get_running_loop()
        self._flood = FloodGuard(log)
        self._backoff = Backoff(BACKOFF_BASE, BACKOFF_CAP, random.Random())
        self._running: _Running | None = None
        self._reading = False
        self._admit: Admit | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False
        self._silent = asyncio.Event()
        """Set while no relay will let anybody in any more."""
        self._gone = asyncio.Event()
        self._gone.set()
        self.restarts = -1

    @property
    def pid(self) -> int | None:
        """The relay's, until it has been reaped."""
        return self._running.helper.pid if self._running else None

    # -- life of the relay

    def open(self, admit: Admit) -> None:
        self._admit = admit
        self._start()

    def _start(self) -> None:
        """Raises OSError."""
        settings = self._settings
        helper: Helper[FromRelay] = Helper("voicepool.tlsrelay", FromRelay, child_environment())
        listen = ipc.Listen(
            cert=settings.tls_cert,
            key=settings.tls_key,
            head_timeout=settings.head_timeout,
            max_heads=settings.max_heads,
            log_level=self._rules.log_level,
            log_format=settings.log_format,
            proxy_protocol=settings.proxy_protocol,
            trusted_proxies=self._rules.trusted_proxies,
            address_heads=self._rules.address_heads,
            inspectable=settings.inspectable,
            tell_refusals=True,
        )
        with contextlib.suppress(OSError):  # it has died already: `_exited` comes next
            helper.channel.send(listen, [self._listener.fileno()])
        self._running = _Running(helper, self._loop.time())
        self.restarts += 1
        self._silent.clear()
        self._gone.clear()
        self._loop.add_reader(helper.pidfd, self._exited)
        self._read_on()

    def _exited(self) -> None:
        """The relay's pidfd is readable."""
        assert self._running is not None
        helper, born = self._running.helper, self._running.born
        while self._reading and self._read_one():
            pass
        self._stop_reading()
        self._silent.set()
        self._loop.remove_reader(helper.pidfd)
        self._running = None
        status = helper.close()
        self._gone.set()
        if self._closing:
            return
        now = self._loop.time()
        if now - born > BACKOFF_CAP:
            self._backoff.succeeded()
        self._retry(born, now, "TLS relay died", status=status)

    def _retry(self, began: float, now: float, message: str, **fields: object) -> None:
        self._backoff.failed(began, now)
        until = self._backoff.until or now
        log.warning(message, extra={**fields, "restart_in": round(until - now, 3)})
        self._timer = self._loop.call_at(until, self._restart)

    def _restart(self) -> None:
        began = self._loop.time()
        try:
            self._start()
        except OSError as error:
            self._retry(began, self._loop.time(), "no TLS relay can start", error=error.strerror)

    def renew(self, rules: DoorRules) -> None:
        self._rules = rules
        if self._running is not None:
            with contextlib.suppress(OSError):  # it is full or dead, and the next one will know
                self._running.helper.channel.send(
                    ipc.Renew(rules.trusted_proxies, rules.address_heads, rules.log_level)
                )

    def leave(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._closing = True
        if self._running is not None:
            with contextlib.suppress(OSError):
                self._running.helper.channel.send(ipc.Leave())
        self._listener.close()

    @property
    def deserted(self) -> bool:
        return self._closing and (self._running is None or self._silent.is_set())

    async def shut(self, patience: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._closing = True
        if self._running is not None:
            with contextlib.suppress(OSError, TimeoutError):
                if self._listener.fileno() >= 0:
                    self._running.helper.channel.send(ipc.Shut())
                async with asyncio.timeout(patience):
                    await self._silent.wait()
        self._stop_reading()
        self._admit = None
        self._listener.close()

    async def close(self) -> None:
        self._listener.close()
        if self._running is None:
            return
        helper = self._running.helper
        with contextlib.suppress(OSError):
            helper.channel.socket.shutdown(socket.SHUT_WR)
        try:
            async with asyncio.timeout(GOODBYE_SECONDS):
                await self._gone.wait()
        except TimeoutError:
            helper.kill()
            await self._gone.wait()

    # -- whom it lets in

    def rearm(self) -> None:
        """A descriptor may have come back."""
        if not self._reading and self._running is not None and self._admit is not None:
            self._read_on()

    def _read_on(self) -> None:
        assert self._running is not None
        self._reading = True
        self._loop.add_reader(self._running.helper.channel.fileno(), self._read)

    def _stop_reading(self) -> None:
        if self._reading and self._running is not None:
            self._reading = False
            self._loop.remove_reader(self._running.helper.channel.fileno())

    def _rest(self, shortage: str | None) -> None:
        self._flood.warning("out of file descriptors", error=shortage)
        self._stop_reading()
        self._loop.call_later(REARM_SECONDS, self.rearm)

    def _read(self) -> None:
        for _ in range(ARRIVALS_PER_WAKEUP):
            if not self._read_one():
                return

    def _read_one(self) -> bool:
        """Take in one message, a client as a rule; False when there is none, or no descriptor for
        one."""
        assert self._running is not None
        assert self._admit is not None
        channel = self._running.helper.channel
        try:
            # The kernel would drop what it has no number for, and the client with it.
            os.close(os.dup(channel.fileno()))
        except OSError as error:
            self._rest(error.strerror)
            return False
        try:
            received = channel.receive()
        except BlockingIOError:
            return False
        except FdsLost as error:
            self._rest(str(error))  # a thread was quicker: this one client is lost, and no other
            return False
        except (OSError, IpcError) as error:
            log.warning("TLS relay broke off", extra={"error": str(error)})
            self._running.helper.kill()
            received = None
        if received is None:
            self._stop_reading()
            self._silent.set()
            return False
        message, fds = received
        if isinstance(message, Refused):
            self._on_refused(message.status, message.code, message.count)
            return True
        sock = socket.socket(fileno=fds[0])
        sock.setblocking(False)
        self._admit(sock, (message.host, message.port))
        return True
