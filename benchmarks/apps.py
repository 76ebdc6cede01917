"""What the workers host while they are measured, and the same handler for the bare server."""

from __future__ import annotations

import asyncio
import os
from typing import Final

import msgspec
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.server import ServerConnection

from voicepool.config import Settings
from voicepool.speech import SpeechApp
from voicepool.speech import create as create_speech

PATH: Final = "/call"
FRAME_SECONDS: Final = 0.02
FRAME: Final = bytes(960)
"""20 ms of 24 kHz PCM16."""


async def greet(websocket: ServerConnection) -> None:
    """A first message at once, then an echo."""
    await websocket.send(b"ready")
    async for message in websocket:
        await websocket.send(message)


class Tiny:
    """Nothing to load: what is left is the pool's own work."""

    paths = (PATH,)

    def preload(self) -> None: ...

    def load(self, device: str) -> None: ...

    def warm_up(self) -> None: ...

    async def serve(self, websocket: ServerConnection) -> None:
        await greet(websocket)


def tiny() -> Tiny:
    return Tiny()


class Paced:
    """Warms up like the speech app, and plays silence to its caller at the pace of speech.

    The warm-up is the real load of a refill; the call's audio comes at known times.
    """

    paths: tuple[str, ...] = (PATH,)

    def __init__(self, speech: SpeechApp) -> None:
        self._speech = speech

    def preload(self) -> None:
        self._speech.preload()

    def load(self, device: str) -> None:
        self._speech.load(device)

    def warm_up(self) -> None:
        self._speech.warm_up()

    async def serve(self, websocket: ServerConnection) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            await websocket.send(FRAME)
            due += FRAME_SECONDS
            await asyncio.sleep(due - loop.time())


class BesideSpeech(Paced):
    """The speech app, and at a path of its own a call whose audio comes at known times."""

    def __init__(self, speech: SpeechApp) -> None:
        super().__init__(speech)
        self.paths = (*speech.paths, PATH)
        self.subprotocols = speech.subprotocols
        self.max_message_size = speech.max_message_size

    async def rehearse(self, client: ClientConnection) -> None:
        await self._speech.rehearse(client)

    async def serve(self, websocket: ServerConnection) -> None:
        if websocket.request is not None and websocket.request.path == PATH:
            await super().serve(websocket)
        else:
            await self._speech.serve(websocket)


SPEECH = "BENCH_SPEECH"
"""Environment name of the settings of Paced's speech, as JSON: a factory is given none."""


def paced() -> Paced:
    return Paced(_speech())


def beside_speech() -> BesideSpeech:
    return BesideSpeech(_speech())


def _speech() -> SpeechApp:
    return create_speech(msgspec.json.decode(os.environ[SPEECH], type=Settings))
