"""The echo app where OpenAI's clients call, with calls that can be set up beforehand."""

from __future__ import annotations

import json

from websockets.asyncio.server import ServerConnection

from tests.apps.echo import Echo
from voicepool.app import Preview, caller
from voicepool.errors import PresetError


class Plain(Echo):
    """Has no presets."""

    paths = ("/v1/realtime", "/realtime")


class Presetting(Plain):
    def preset(self, session: bytes, form: str) -> Preview:
        given = json.loads(session)
        if given.get("instructions") == "!fault":
            raise KeyError("what a client has sent")
        if given.get("instructions") == "!refuse":
            raise PresetError("No.", "no", "session.instructions")
        return Preview(b"stored " + session, json.dumps({"form": form}).encode())

    async def serve(self, websocket: ServerConnection) -> None:
        await websocket.send(caller.get().session)
        await super().serve(websocket)
