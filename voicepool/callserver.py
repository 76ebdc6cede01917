"""A worker's WebSocket server: the public `websockets.serve` on an inbox.

Rehearsals and the one call take the same way through it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import DATA_OPCODES, CloseCode, Frame
from websockets.protocol import Event, State
from websockets.typing import Subprotocol

from voicepool.app import Negotiating
from voicepool.hangups import HangupWatch
from voicepool.inbox import Inbox

REHEARSALS = 3
"""Fake callers before the real one: the first sessions of a process pay for cold code paths."""
LINGER_SECONDS = 2.0
"""How long a caller may take to finish the closing handshake and close TCP."""
HANDSHAKE_SECONDS = 10.0
PING_SECONDS = 20.0
"""Between pings; a caller from whom nothing has come by the next one is gone."""
MAX_QUEUED_MESSAGES = 4
"""Messages read ahead of the app; times the largest message, what a hostile caller can occupy."""
MAX_MESSAGE_SIZE = 1 << 20
"""Where neither the app nor the settings say otherwise."""


def preload() -> None:
    """In the zygote: warm the code that every worker runs for its caller.

    Plays a whole fake session through a WebSocket server in this process, so that modules are
    imported and CPython's inline caches filled before the fork, once for all workers.
    """

    async def play() -> None:
        inbox = Inbox()
        server = await start_server(_echo, inbox)
        for _ in range(REHEARSALS):
            await _hang_up_after_echo(await inbox.dial("/"))
        server.close()
        await server.wait_closed()

    asyncio.run(play())


async def _echo(websocket: ServerConnection) -> None:
    async for message in websocket:
        await websocket.send(message)


async def _hang_up_after_echo(client: ClientConnection) -> None:
    async with client:
        await client.send(bytes(1024))
        await client.recv()


class Connection(ServerConnection):
    """Tells when its TCP connection is gone, whether or not a handshake ever happened.

    Once the WebSocket is over, by the client's goodbye or by its fault, TCP has LINGER_SECONDS to
    follow: websockets would wait for the client, and the app with it, until the next ping fails.
    The same holds once the client has closed its side of TCP: while the app is slow to take what
    came before, nobody reads on to where that shows.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lost = asyncio.Event()
        self.used = self.loop.time()
        """When a message last came or went, on the loop's clock. Pings and pongs are none."""
        self._received = 0
        self._lingers = False
        self._hangups = HangupWatch(lambda _: self._linger())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._hangups.watch(transport.get_extra_info("socket").fileno())

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        super().data_received(data)
        if self.protocol.close_expected():
            self._linger()

    def process_event(self, event: Event) -> None:
        if isinstance(event, Frame) and event.opcode in DATA_OPCODES:
            self.used = self.loop.time()
        super().process_event(event)

    async def send(self, *args: Any, **kwargs: Any) -> None:
        await super().send(*args, **kwargs)
        self.used = self.loop.time()

    async def outlast(self, limit: float) -> None:
        """Wait until no message has come or gone for `limit` seconds; not while it is closing."""
        while True:
            left = self.used + limit - self.loop.time()
            if left <= 0 and self.state is State.OPEN:
                return
            # A caller who has said goodbye gets LINGER_SECONDS, and nobody has to be told then.
            await asyncio.sleep(left if left > 0 else LINGER_SECONDS)

    async def keep_alive(self) -> None:
        """Ping for ever; closes the connection of a caller who is gone.

        Not left to websockets, which asks for the pong: it lies unread behind what the app is slow
        to take, and a caller who sends an hour of sound at once would be cut off for it.
        """
        with contextlib.suppress(ConnectionClosed):
            await asyncio.sleep(PING_SECONDS)
            while True:
                await self.ping()
                # Reading stops only after something has come: it cannot have stopped meanwhile.
                reading, received = self.transport.is_reading(), self._received
                await asyncio.sleep(PING_SECONDS)
                if reading and self._received == received:
                    await self.close(CloseCode.INTERNAL_ERROR, "no answer to a ping")

    def _linger(self) -> None:
        if not self._lingers:
            self._lingers = True
            asyncio.get_running_loop().call_later(LINGER_SECONDS, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._hangups.close()
        super().connection_lost(exc)
        self.lost.set()


async def start_server(
    handler: Callable[[ServerConnection], Awaitable[None]],
    inbox: Inbox,
    app: object = None,
    create_connection: Callable[..., Connection] = Connection,
    max_message_size: int | None = None,
) -> Server:
    """The one way in which a worker's WebSocket server is made, rehearsal and call alike."""
    known: Sequence[str] = app.subprotocols if isinstance(app, Negotiating) else ()

    def choose(_: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
        # A client that offers none of ours is served without: websockets would turn it away.
        return next((Subprotocol(name) for name in known if name in offered), None)

    async def handle(websocket: ServerConnection) -> None:
        keeping_alive = asyncio.create_task(cast(Connection, websocket).keep_alive())
        try:
            await handler(websocket)
        finally:
            keeping_alive.cancel()

    return await serve(
        handle,
        sock=inbox,
        # Typed as a class there; any callable that makes a connection serves.
        create_connection=cast(type[ServerConnection], create_connection),
        compression=None,
        select_subprotocol=choose,
        max_size=largest_message(app, max_message_size),
        max_queue=MAX_QUEUED_MESSAGES,
        open_timeout=HANDSHAKE_SECONDS,
        close_timeout=LINGER_SECONDS,
        ping_interval=None,
        logger=_silent,
    )


def largest_message(app: object, setting: int | None) -> int:
    """The most bytes that a caller's message may have. What an app says of itself is what it is
    made for: the setting only lowers that."""
    if isinstance(app, Negotiating):
        return min(app.max_message_size, setting or app.max_message_size)
    return setting or MAX_MESSAGE_SIZE


_silent = logging.getLogger("voicepool.worker.websockets")
_silent.setLevel(logging.CRITICAL)
"""websockets would log a traceback for every client that breaks a handshake off."""
