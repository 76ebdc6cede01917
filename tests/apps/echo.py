"""A tiny app: says who its worker and its caller are, echoes, and misbehaves on demand.

It hosts most tests of the pool.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import random
import signal
import socket
import tempfile
import time

from websockets.asyncio.server import ServerConnection

from voicepool.app import CallOver, caller

_eaten: list[bytes] = []


class Echo:
    paths = ("/echo", "/other")
    subprotocols = ("realtime",)
    max_message_size = 1 << 20

    def preload(self) -> None: ...

    def load(self, device: str) -> None:
        self.device = device

    def warm_up(self) -> None: ...

    async def serve(self, websocket: ServerConnection) -> None:
        who = caller.get()
        hello = {
            "pid": os.getpid(),
            "caller": [who.connection, who.host, who.port, who.identity],
            "tmpdir": tempfile.gettempdir(),
            "random": random.random(),
        }
        await websocket.send(json.dumps(hello))
        async for message in websocket:
            if isinstance(message, str) and message.startswith("!"):
                await _misbehave(websocket, message)
            else:
                await websocket.send(message)


async def _misbehave(websocket: ServerConnection, order: str) -> None:
    match order.split()[0]:
        case "!die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "!raise":
            raise KeyError(order)
        case "!hang":
            time.sleep(3600)  # noqa: ASYNC251 - the point is to block the loop
        case "!stuck":
            # In C code, with the GIL held: no thread and no handler of Python's ever runs.
            ctypes.PyDLL(None).sleep(3600)
        case "!eat":
            _eaten.append(b"x" * (256 << 20))
        case "!over":
            raise CallOver(order.partition(" ")[2])
        case "!tell":
            # Speaks on and on, whether or not anybody says anything.
            while True:
                await websocket.send("and then")
                await asyncio.sleep(0.05)
        case "!fork":
            # A child of the worker's own that would live on.
            if os.fork() == 0:
                signal.pause()
                os._exit(0)
            await websocket.send("forked")
        case "!litter":
            with tempfile.NamedTemporaryFile(delete=False) as file:
                file.write(b"left behind")
            await websocket.send(file.name)
        case "!fds":
            # Use up every descriptor.
            held = []
            try:
                while True:
                    held.append(socket.socket())
            except OSError:
                for sock in held:
                    sock.close()
            await websocket.send(str(len(held)))


def create() -> Echo:
    return Echo()
