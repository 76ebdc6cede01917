"""Request bodies: read without waiting for them, in time, and only so much. h11 does the parsing.

Source: RFC 9112 (message body length), RFC 9110 section 10.1.1 (Expect).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import h11

from voicepool.countdown import Countdown
from voicepool.frontdoor import OVERLOADED, Refusal, Visitor
from voicepool.request import MAX_BODY, MAX_HEAD

TIMEOUT: Final = Refusal(408, "the request body did not arrive in time", "timeout")
TOO_LARGE: Final = Refusal(
    413,
    f"the request body is longer than {MAX_BODY} bytes",
    "request_too_large",
)
CUT_OFF: Final = Refusal(
    400,
    "the connection was closed before the request body was complete",
    "bad_request",
)
NOT_HTTP: Final = Refusal(400, "the request body is not what its head says", "bad_request")
_CHUNK: Final = 64 << 10


class _Request:
    """A visitor whose request is being read."""

    def __init__(self, visitor: Visitor, on_body: Callable[[Visitor, bytes], None]) -> None:
        self.visitor = visitor
        self.on_body = on_body
        self.parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self.body = bytearray()
        self.complete = False
        """Whether there is nothing more to read. Not h11's state: that says so only where the
        client does not offer to change protocols, as some do with every request (h2c)."""

    def advance(self) -> Refusal | None:
        """Read on; why it must be refused, if so. Raises BlockingIOError and other OSError."""
        data = self.visitor.sock.recv(_CHUNK)
        try:
            self.parser.receive_data(data)
            while isinstance(event := self.parser.next_event(), h11.Request | h11.Data):
                if isinstance(event, h11.Data):
                    self.body += event.data
                if len(self.body) > MAX_BODY:
                    return TOO_LARGE
        except h11.RemoteProtocolError:
            return NOT_HTTP if data else CUT_OFF
        self.complete = isinstance(event, h11.EndOfMessage)
        if self.parser.they_are_waiting_for_100_continue:
            go_on = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
            self.visitor.sock.send(self.parser.send(go_on) or b"")
        return None


class Bodies:
    """Visitors whose request body is incomplete, oldest first."""

    def __init__(
        self,
        refuse: Callable[[Visitor, Refusal], None],
        *,
        timeout: float,
        most: int,
    ) -> None:
        """`refuse` owns the visitor from then on."""
        self._loop = asyncio.get_running_loop()
        self._refuse = refuse
        self._most = most
        self._incomplete: Countdown[_Request] = Countdown(
            self._loop, timeout, lambda request: self._give_up(request, TIMEOUT)
        )

    def __len__(self) -> int:
        return len(self._incomplete)

    def read(self, visitor: Visitor, on_body: Callable[[Visitor, bytes], None]) -> None:
        """Read the whole request of one whose head has been peeked at; owns the visitor until
        `on_body(visitor, body)`, and for ever where the request is refused."""
        head = visitor.head
        assert head is not None
        if any(int(value) > MAX_BODY for value in head.all("content-length")):
            self._refuse(visitor, TOO_LARGE)  # before it is told to go on
            return
        if len(self._incomplete) >= self._most:
            self._give_up(self._incomplete.oldest, OVERLOADED)
        request = _Request(visitor, on_body)
        self._incomplete.add(request)
        self._loop.add_reader(visitor.fileno(), self._on_readable, request)

    def close(self) -> None:
        """Cut off everybody."""
        for request in self._incomplete.clear():
            self._loop.remove_reader(request.visitor.fileno())
            request.visitor.sock.close()

    def _on_readable(self, request: _Request) -> None:
        try:
            refusal = request.advance()
        except BlockingIOError:
            return
        except OSError:
            self._forget(request)
            request.visitor.sock.close()
            return
        if refusal is not None:
            self._give_up(request, refusal)
        elif request.complete:
            self._forget(request)
            request.on_body(request.visitor, bytes(request.body))

    def _give_up(self, request: _Request, refusal: Refusal) -> None:
        self._forget(request)
        self._refuse(request.visitor, refusal)

    def _forget(self, request: _Request) -> None:
        self._incomplete.discard(request)
        self._loop.remove_reader(request.visitor.fileno())
