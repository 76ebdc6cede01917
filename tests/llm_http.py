"""A small HTTP/1.1 server for stand-ins of language model servers: h11 over asyncio, in a thread.

Real sockets, chunked streams, connections that break when told to. As in a Go or an ASGI server,
a handler is cancelled when its client hangs up.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import h11

DEADLINE = 20.0
"""Seconds that a test waits for something to happen in a server."""


class Exchange:
    """One request and the answer to it."""

    def __init__(self, connection: _Connection, request: h11.Request, body: bytes) -> None:
        self._connection = connection
        self.method = request.method.decode()
        self.path = request.target.decode().partition("?")[0]
        self.headers = {name.decode(): value.decode() for name, value in request.headers}
        self.raw_body = body

    @property
    def body(self) -> dict[str, Any]:
        """The request's JSON object, {} where it has none."""
        return dict(json.loads(self.raw_body)) if self.raw_body else {}

    def reply(self, answer: object, status: int = 200) -> None:
        """The whole answer, as JSON."""
        data = json.dumps(answer).encode()
        headers = [("content-type", "application/json"), ("content-length", str(len(data)))]
        self._connection.send(h11.Response(status_code=status, headers=headers))
        self._connection.send(h11.Data(data=data))
        self._connection.send(h11.EndOfMessage())

    def begin(self, content_type: str) -> None:
        """Start a chunked answer."""
        headers = [("content-type", content_type), ("transfer-encoding", "chunked")]
        self._connection.send(h11.Response(status_code=200, headers=headers))

    def send(self, data: bytes) -> None:
        """One chunk."""
        self._connection.send(h11.Data(data=data))

    def end(self) -> None:
        self._connection.send(h11.EndOfMessage())

    def reset(self) -> None:
        """Break the connection off with an RST, as a killed server does."""
        self._connection.reset()


class _Connection(asyncio.Protocol):
    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._http = h11.Connection(h11.SERVER)
        self._request: h11.Request | None = None
        self._body = b""
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.connections.add(self)
        self._server.accepted += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        self._http.receive_data(data)
        self._advance()

    def send(self, event: h11.Response | h11.Data | h11.EndOfMessage) -> None:
        data = self._http.send(event)
        if data is not None and not self._transport.is_closing():
            self._transport.write(data)

    def reset(self) -> None:
        sock = self._transport.get_extra_info("socket")
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def _advance(self) -> None:
        while self._task is None:
            event = self._http.next_event()
            if isinstance(event, h11.Request):
                self._request, self._body = event, b""
            elif isinstance(event, h11.Data):
                self._body += event.data
            elif isinstance(event, h11.EndOfMessage):
                self._task = asyncio.create_task(self._answer())
            else:
                return

    async def _answer(self) -> None:
        assert self._request is not None
        try:
            await self._server.handle(Exchange(self, self._request, self._body))
        except asyncio.CancelledError:
            return
        except Exception as fault:  # noqa: BLE001 - shown at the server's end
            self._server.faults.append(fault)
            self.reset()
            return
        self._task = None
        if self._http.our_state is h11.DONE and not self._transport.is_closing():
            self._http.start_next_cycle()
            self._advance()
        else:
            self._transport.close()


class HttpServer:
    """Serves `handle` on loopback while started; may be stopped and started on the same port.

    What handlers note, they note under `changed`, so that tests can wait for it.
    """

    def __init__(self) -> None:
        self.port = 0
        """The one that was bound; kept for the next start."""
        self.changed = threading.Condition()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped = asyncio.Event()
        self._thread: threading.Thread | None = None
        self.connections: set[_Connection] = set()
        self.accepted = 0
        """Connections so far."""
        self.faults: list[Exception] = []
        """What handlers raised; `stop` raises it again."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def handle(self, exchange: Exchange) -> None:
        """Answer one request; cancelled when the client hangs up."""
        raise NotImplementedError

    def start(self, port: int | None = None) -> Self:
        bound: threading.Event = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(self.port if port is None else port, bound)),
            daemon=True,
        )
        self._thread.start()
        assert bound.wait(DEADLINE), "the port cannot be bound"
        return self

    def stop(self) -> None:
        """Break off all connections and close the port, as a killed server does."""
        if self._thread is not None:
            self.call(self._stopped.set)
            self._thread.join(DEADLINE)
            assert not self._thread.is_alive()
            self._thread = None
        if self.faults:
            raise self.faults[0]

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self.stop()

    def call(self, function: Callable[[], object]) -> None:
        """Run `function` in the server's loop, soon."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(function)

    def wait(self, condition: Callable[[], bool], what: str = "it never happened") -> None:
        """Block until `condition`, which reads what handlers note, is true."""
        with self.changed:
            assert self.changed.wait_for(condition, DEADLINE), what

    async def until(self, condition: Callable[[], bool], what: str = "it never happened") -> None:
        """`wait` for tests with a loop of their own."""
        await asyncio.to_thread(self.wait, condition, what)

    async def _serve(self, port: int, bound: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        listener = await self._loop.create_server(lambda: _Connection(self), "127.0.0.1", port)
        self.port = listener.sockets[0].getsockname()[1]
        bound.set()
        await self._stopped.wait()
        listener.close()
        for connection in list(self.connections):
            connection.reset()
        await listener.wait_closed()
