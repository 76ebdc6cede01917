"""A client of the Realtime protocol that costs little, so that many fit beside the server."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from tests.soak.site import KEY, PATH, Site, Sound
from tests.speech import silence
from voicepool.audio import to_pcm16
from voicepool.wire.realtime.audio import RATE

PATIENCE: Final = 60.0
"""Seconds until something that was to come counts as missing."""
OPEN_PATIENCE: Final = 40.0
"""Above the server's queue_timeout, its deadlines for stopped workers, and what is slow here."""
PIECE_SECONDS: Final = 0.04
_SILENCE: Final = base64.b64encode(to_pcm16(silence(PIECE_SECONDS * RATE / 16000))).decode()


class Event(msgspec.Struct):
    """A server event: what of it the soak looks at."""

    type: str
    response: dict[str, Any] | None = None
    response_id: str | None = None
    error: dict[str, Any] | None = None


class Refused(Exception):
    """503, by the book."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class BrokenOff(Exception):
    """The connection ended, and it was not the caller who ended it."""

    def __init__(self, port: int, opened: bool, why: str) -> None:
        super().__init__(why)
        self.port = port
        self.opened = opened


class Wrong(Exception):
    """The server did what it should not."""

    def __init__(self, why: str, opened: bool = True) -> None:
        super().__init__(why)
        self.opened = opened


def refusal(status: int, retry_after: str | None, body: bytes) -> str:
    """The reason of a 503. Raises Wrong where the answer is none, or lacks its advice."""
    try:
        reason = str(json.loads(body)["error"]["code"]) if status == 503 else ""
    except (ValueError, KeyError, TypeError):
        reason = ""
    if not reason or not (retry_after or "").isdigit():
        raise Wrong(f"was answered {status}, Retry-After {retry_after}: {body[:200]!r}", False)
    return reason


class Client:
    """One call that has been opened."""

    def __init__(self, websocket: ClientConnection, port: int) -> None:
        self.websocket = websocket
        self.port = port
        self.vanished = False
        """The caller has broken the connection off."""
        self.events: list[tuple[float, Event]] = []
        self._news = asyncio.Event()
        self._over = False

    async def read(self) -> None:
        decoder = msgspec.json.Decoder(Event)
        with contextlib.suppress(ConnectionClosed):
            async for message in self.websocket:
                self.events.append((time.monotonic(), decoder.decode(message)))
                self._news.set()
        self._over = True
        self._news.set()

    async def send(self, kind: str, **fields: Any) -> None:
        try:
            await self.websocket.send(json.dumps({"type": kind, **fields}))
        except ConnectionClosed as closed:
            raise self.broken() from closed

    async def until(self, *kinds: str, since: int) -> tuple[float, Event]:
        """When the first event of these types came, from number `since` on, and it.

        Raises BrokenOff, and Wrong where it never comes.
        """
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    for at, event in self.events[since:]:
                        if event.type in kinds:
                            return at, event
                        since += 1
                    if self._over:
                        raise self.broken()
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            told = [event.type for _, event in self.events[-5:]]
            raise Wrong(f"no {' or '.join(kinds)} within {PATIENCE:.0f} s, after {told}") from None

    def broken(self) -> BrokenOff:
        websocket = self.websocket
        return BrokenOff(
            self.port, True, f"closed: {websocket.close_code} {websocket.close_reason}"
        )

    async def type_in(self, text: str) -> None:
        part = {"type": "input_text", "text": text}
        item = {"type": "message", "role": "user", "content": [part]}
        await self.send("conversation.item.create", item=item)
        await self.send("response.create")

    def vanish(self) -> None:
        """Break the TCP connection off, without a closing handshake."""
        self.vanished = True
        self.websocket.transport.abort()

    @asynccontextmanager
    async def microphone(self, sound: Sound) -> AsyncIterator[asyncio.Future[float]]:
        """Sends the sound, and silence after it, in real time for as long as the block lasts; a
        future of when the words ended (time.monotonic)."""
        ended: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        sending = asyncio.create_task(self._speak(sound, ended))
        try:
            yield ended
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            ended.cancel()

    async def _speak(self, sound: Sound, ended: asyncio.Future[float]) -> None:
        began = time.monotonic()
        number = 0
        while True:
            await asyncio.sleep(began + number * PIECE_SECONDS - time.monotonic())
            piece = sound.pieces[number] if number < len(sound.pieces) else _SILENCE
            await self.send("input_audio_buffer.append", audio=piece)
            if number == sound.words_end:
                ended.set_result(time.monotonic())
            number += 1


@asynccontextmanager
async def calling(site: Site) -> AsyncIterator[Client]:
    """A call, from connect to the closing handshake. Raises Refused, BrokenOff and Wrong."""
    loop = asyncio.get_running_loop()
    began = time.monotonic()
    sock = socket.socket()
    sock.setblocking(False)
    try:
        await loop.sock_connect(sock, site.address)
        port: int = sock.getsockname()[1]
        websocket = await _open(sock, port, site.trust)
    except BaseException:
        sock.close()
        raise
    client = Client(websocket, port)
    reading = asyncio.create_task(client.read())
    try:
        at, _ = await client.until("session.created", since=0)
        site.sample(site.connects, began, at)
        yield client
    finally:
        await websocket.close()
        await reading
    if websocket.close_code != 1000 and not client.vanished:
        raise client.broken()


async def _open(sock: socket.socket, port: int, trust: ssl.SSLContext | None) -> ClientConnection:
    host, server_port = sock.getpeername()
    scheme = "wss" if trust else "ws"
    try:
        return await connect(
            f"{scheme}://{host}:{server_port}{PATH}",
            sock=sock,
            ssl=trust,
            proxy=None,
            compression=None,
            additional_headers={"Authorization": f"Bearer {KEY}"},
            max_size=None,
            # A bounded queue that nobody reads any more would hold up the closing handshake.
            max_queue=None,
            open_timeout=OPEN_PATIENCE,
        )
    except InvalidStatus as error:
        response = error.response
        after = response.headers.get("Retry-After")
        raise Refused(refusal(response.status_code, after, bytes(response.body or b""))) from error
    except TimeoutError as error:
        raise Wrong(f"no answer within {OPEN_PATIENCE:.0f} s", False) from error
    except (InvalidHandshake, EOFError, OSError) as error:
        raise BrokenOff(port, False, f"in the handshake: {type(error).__name__}") from error
