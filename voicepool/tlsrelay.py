"""The TLS relay: a process that does the handshakes and the encryption, and decides nothing else.

    Relay      accepts, and takes each client as far as a complete request head (`arrival.py`)
    Pump       then carries bytes between the client and a socket pair (`tlspump.py`)

The supervisor gets the other end of the pair and treats it like any client's socket: routes, keys,
waiting and the hand-off to a worker are the same with TLS and without. A process of its own, so
that handshakes hold up nobody's hand-off, and so that the private key stays out of the others.

The head is awaited here because only here can one wait for it: SO_RCVLOWAT, which lets the front
door sleep through half a head on TCP, is not looked at by poll on a socket pair.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import sys
from collections import Counter, deque
from typing import Final

from voicepool import ipc, linux, logs
from voicepool.answers import refuse
from voicepool.arrival import Arrival, PlainText
from voicepool.config import wants_color
from voicepool.countdown import Countdown
from voicepool.errors import ConfigError, IpcError
from voicepool.frontdoor import (
    CROWD,
    CROWDED,
    NO_HEADER,
    OVERLOADED,
    STRANGER,
    TIMEOUT,
    Farewells,
    Refusal,
    Visitor,
    refuse_header,
)
from voicepool.listener import Acceptor, Address
from voicepool.logs import FloodGuard
from voicepool.newcomers import DoorRules, Newcomers
from voicepool.proxied import HeaderReader
from voicepool.proxyheader import BadHeader
from voicepool.tlsfiles import Certificate
from voicepool.tlspump import CHUNK, Pump

log = logging.getLogger("voicepool.tlsrelay")

STEPS_PER_TURN: Final = 2
"""Handshakes taken a step further per turn of the event loop: one takes a millisecond where the
key is RSA, and the sound of calls shall not wait for a crowd at the door."""
GOODBYE_SECONDS: Final = 1.0
"""What clients have to take the last bytes when the server is going down."""
TELL_SECONDS: Final = 0.5
"""How long refusals are counted until the supervisor is told of them together: a flood of clients
shall make no flood of messages."""
BUSY: Final = Refusal(503, "the server is overloaded; try again in a moment", "overloaded")
PLAIN: Final = Refusal(400, "this server speaks TLS: use https:// or wss://", "tls_required")


class Relay:
    """Made and run on the running event loop. Owns the channel, the listener and all clients."""

    def __init__(
        self,
        channel: ipc.Channel[ipc.ToRelay],
        listener: socket.socket,
        certificate: Certificate,
        *,
        head_timeout: float,
        max_heads: int,
        rules: DoorRules,
        proxy_protocol: bool,
        tell_refusals: bool,
    ) -> None:
        self._channel = channel
        self._proxy_protocol = proxy_protocol
        self._newcomers: Newcomers[Arrival] = Newcomers(rules, proxy_protocol=proxy_protocol)
        self._certificate = certificate
        self._most = max_heads
        self._loop = asyncio.get_running_loop()
        self._acceptor = Acceptor(listener, self._rearm_soon)
        self._farewells = Farewells(self._loop, self._rearm_soon, self._refused)
        self._tell_refusals = tell_refusals
        self._refusals: Counter[tuple[int, str]] = Counter()
        """Those that the supervisor does not know of yet. Codes are words of ours, and few."""
        self._arrivals: Countdown[Arrival] = Countdown(
            self._loop,
            head_timeout,
            lambda late: self._give_up(late, BUSY if late in self._complete else TIMEOUT),
        )
        self._ready: deque[Arrival] = deque()
        """Those that something has come from; each is in here once at most."""
        self._complete: deque[Arrival] = deque()
        """Those that wait for the supervisor, which is busy, or for descriptors."""
        self._pumps: set[Pump] = set()
        self._shutting = False
        self._rearming = False
        self._flood = FloodGuard(log)
        self._news = asyncio.Event()
        self._released = asyncio.Event()

    async def run(self) -> None:
        """Serve until the supervisor closes its side, then let the last bytes go out."""
        self._loop.add_reader(self._channel.fileno(), self._read)
        self._acceptor.open(self._admit)
        await self._released.wait()
        await self._acceptor.close()
        for arrival in self._arrivals.clear():
            self._forget(arrival)
            arrival.sock.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE_SECONDS):
                while self._pumps:
                    self._news.clear()
                    await self._news.wait()
        for pump in list(self._pumps):
            pump.abort()
        await self._farewells.close(GOODBYE_SECONDS)

    def _read(self) -> None:
        """What the supervisor says: Renew, Shut, Leave, or nothing more."""
        try:
            received = self._channel.receive()
        except BlockingIOError:
            return
        except ConnectionResetError:
            received = None
        if received is None:
            self._loop.remove_reader(self._channel.fileno())
            self._released.set()
        elif isinstance(renew := received[0], ipc.Renew):
            self._newcomers.renew(DoorRules(renew.trusted_proxies, renew.address_heads))
            if renew.log_level:
                logging.getLogger(logs.ROOT).setLevel(renew.log_level.upper())
        else:
            if isinstance(received[0], ipc.Leave):
                self._acceptor.leave()
            self._acceptor.take_in()
            self._shutting = True
            self._tell_if_done()

    def _tell_if_done(self) -> None:
        if self._shutting and not self._arrivals:
            self._tell_of_refusals()
            with contextlib.suppress(OSError):
                self._channel.socket.shutdown(socket.SHUT_WR)

    # -- arriving

    def _admit(self, sock: socket.socket, address: Address) -> None:
        if not self._newcomers.may_connect(address[0]):
            sock.close()
            self._flood.warning(STRANGER, address=address[0])
            return
        if len(self._arrivals) >= self._most:
            self._give_up(self._arrivals.oldest, OVERLOADED)
        # What goes out second must not wait until the first has been acknowledged.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Or whoever sends sees nothing go out for as long as a third of the kernel's buffer, which
        # grows to megabytes, takes a slow client: longer than farewells wait.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, CHUNK)
        arrival = Arrival(sock, address, HeaderReader(sock) if self._proxy_protocol else None)
        self._arrivals.add(arrival)
        self._await_more(arrival)

    def _await_more(self, arrival: Arrival) -> None:
        if arrival.secure:
            # Nothing is sent now that could carry the acknowledgement, and a client that obeys
            # Nagle (RFC 896) keeps its head back until there is one: 40 ms otherwise.
            arrival.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        self._loop.add_reader(arrival.sock.fileno(), self._on_readable, arrival)
        if arrival.announced is None and (
            oldest := self._newcomers.add(arrival, arrival.address[0])
        ):
            self._flood.info(CROWD, address=arrival.address[0])
            self._give_up(oldest, CROWDED)

    def _on_readable(self, arrival: Arrival) -> None:
        self._loop.remove_reader(arrival.sock.fileno())
        if not self._ready:
            self._loop.call_soon(self._work)
        self._ready.append(arrival)

    def _work(self) -> None:
        """Take the next few a step further."""
        for _ in range(min(STEPS_PER_TURN, len(self._ready))):
            arrival = self._ready.popleft()
            if arrival in self._arrivals:
                self._advance(arrival)
        if self._ready:
            self._loop.call_soon(self._work)

    def _advance(self, arrival: Arrival) -> None:
        try:
            complete = arrival.advance(self._context())
        except BlockingIOError:
            complete = False
        except PlainText:
            self._answer_plainly(arrival, refuse(*PLAIN))
            return
        except BadHeader as error:
            self._flood.warning(NO_HEADER, address=arrival.address[0], error=str(error))
            self._answer_plainly(arrival, refuse_header(error))
            return
        except OSError as error:
            reason = getattr(error, "reason", None) or error.strerror
            self._flood.log(logging.DEBUG, "TLS handshake failed", reason=reason)
            self._leave(arrival)
            arrival.sock.close()
            self._rearm_soon()
            return
        if not complete:
            self._await_more(arrival)
            return
        self._newcomers.discard(arrival)
        if self._complete or not self._hand_over(arrival):
            self._complete.append(arrival)

    def _answer_plainly(self, arrival: Arrival, answer: bytes) -> None:
        """Without TLS: nothing of it has been said yet."""
        self._leave(arrival)
        self._farewells.answer(Visitor(arrival.sock, arrival.address), answer)

    def _context(self) -> ssl.SSLContext:
        try:
            if self._certificate.refresh():
                log.info("certificate read anew")
                for line in self._certificate.advice:
                    log.warning("advice", extra={"advice": line})
        except ConfigError as error:
            log.warning("the changed certificate is not used", extra={"error": str(error)})
        return self._certificate.context

    # -- on to the supervisor

    def _hand_over(self, arrival: Arrival) -> bool:
        """Pass the client on; False where that must be tried again."""
        assert arrival.tls is not None
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            self._acceptor.rest(error)
            return False
        with theirs:
            for end in (ours, theirs):
                end.setblocking(False)
            try:
                ours.send(arrival.head)  # an empty pair takes far more than a head
                self._channel.send(ipc.Arrived(*arrival.address), [theirs.fileno()])
            except BlockingIOError:
                ours.close()
                self._loop.add_writer(self._channel.fileno(), self._hand_over_the_rest)
                return False
            except OSError:
                # Too many descriptors on their way, or the supervisor is gone and we go too.
                ours.close()
                self._give_up(arrival, BUSY)
                return True
        self._leave(arrival)
        pump = Pump(arrival.tls, ours, self._pump_ended)
        self._pumps.add(pump)
        pump.start()
        return True

    def _hand_over_the_rest(self) -> None:
        """Those who have waited, and then let others in: who is here already comes first."""
        self._loop.remove_writer(self._channel.fileno())
        while self._complete:
            arrival = self._complete[0]
            if arrival in self._arrivals and not self._hand_over(arrival):
                return
            self._complete.popleft()
        self._acceptor.rearm()

    def _rearm_soon(self) -> None:
        """A descriptor may have come back."""
        if not self._rearming:
            self._rearming = True
            self._loop.call_soon(self._rearm)

    def _rearm(self) -> None:
        self._rearming = False
        self._hand_over_the_rest()

    # -- leaving

    def _give_up(self, arrival: Arrival, refusal: Refusal) -> None:
        """Refuse one whose head is not there, if it has said anything that could be answered."""
        self._leave(arrival)
        if arrival.tls is None or not arrival.head:
            arrival.sock.close()
            self._rearm_soon()
            return
        try:
            arrival.tls.write(refuse(*refusal))
            arrival.tls.say_goodbye()
            arrival.tls.flush()  # nothing else is in its way
        except OSError:
            arrival.sock.close()
            self._rearm_soon()
        else:
            self._refused(refusal.status, refusal.code)
            self._farewells.see_off(arrival.sock)

    def _refused(self, status: int, code: str) -> None:
        """Somebody was answered so."""
        if self._tell_refusals:
            if not self._refusals:
                self._loop.call_later(TELL_SECONDS, self._tell_of_refusals)
            self._refusals[status, code] += 1

    def _tell_of_refusals(self) -> None:
        try:
            for (status, code), count in list(self._refusals.items()):
                self._channel.send(ipc.Refused(status, code, count))
                del self._refusals[status, code]
        except BlockingIOError:  # the supervisor is busy
            self._loop.call_later(TELL_SECONDS, self._tell_of_refusals)
        except OSError:
            self._refusals.clear()  # it is told no more, for it is gone, or this relay has shut

    def _leave(self, arrival: Arrival) -> None:
        self._arrivals.discard(arrival)
        self._forget(arrival)
        self._tell_if_done()

    def _forget(self, arrival: Arrival) -> None:
        self._newcomers.discard(arrival)
        self._loop.remove_reader(arrival.sock.fileno())

    def _pump_ended(self, pump: Pump, sock: socket.socket | None) -> None:
        self._pumps.discard(pump)
        self._news.set()
        if sock is None:
            self._rearm_soon()
        else:
            self._farewells.see_off(sock)


async def serve(channel: ipc.Channel[ipc.ToRelay]) -> None:
    """Be told what to do, and do it. Raises ConfigError where the certificate is no good now."""
    received = channel.receive()
    if received is None:
        return
    message, fds = received
    if not isinstance(message, ipc.Listen):
        raise IpcError(f"the relay did not expect {type(message).__name__}")
    listener = socket.socket(fileno=fds[0])
    if not message.inspectable:
        linux.hide_memory()  # it has the private key
    style = logs.style(message.log_format)
    logs.configure(message.log_level, style, color=wants_color(sys.stderr, os.environ))
    channel.socket.setblocking(False)
    relay = Relay(
        channel,
        listener,
        Certificate(message.cert, message.key),
        head_timeout=message.head_timeout,
        max_heads=message.max_heads,
        rules=DoorRules(message.trusted_proxies, message.address_heads),
        proxy_protocol=message.proxy_protocol,
        tell_refusals=message.tell_refusals,
    )
    log.info("TLS relay ready", extra={"pid": os.getpid()})
    await relay.run()


def main() -> None:
    """`python -m voicepool.tlsrelay LIFELINE`: the control socket is standard input."""
    linux.name_process("vp-tls-relay")
    linux.arm_lifeline(int(sys.argv[1]))
    sock = socket.socket(fileno=0)
    sock.setblocking(True)
    with ipc.Channel[ipc.ToRelay](sock, ipc.ToRelay) as channel:
        try:
            asyncio.run(serve(channel))
        except ConfigError as error:
            log.error("TLS relay cannot start", extra={"error": str(error)})  # noqa: TRY400
            sys.exit(1)


if __name__ == "__main__":
    main()
