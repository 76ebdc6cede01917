"""Apps that count and time what they do, in rehearsals as in calls."""

from __future__ import annotations

import asyncio

from websockets.asyncio.server import ServerConnection

from tests.apps.echo import Echo
from voicepool import app


class Reporting(Echo):
    """Takes a number of turns from its caller, in a thread of their own."""

    async def serve(self, websocket: ServerConnection) -> None:
        app.count("responses.completed")
        app.took("voice_to_voice", 0.5)
        async for message in websocket:
            await asyncio.to_thread(_turns, int(message))
            await websocket.send("counted")


def _turns(count: int) -> None:
    for _ in range(count):
        app.count("turns")
        app.took("stt", 0.125)


class Misreporting(Echo):
    async def serve(self, websocket: ServerConnection) -> None:
        app.count("what was said")
