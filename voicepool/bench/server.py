"""The servers that `bench startup` compares: `python -m voicepool.bench.server KIND SETTINGS`.

    cold        a fresh process for every connection, which imports, loads and warms up a pipeline
    prewarmed   one process with warm models, which builds a pipeline for every connection
    pool        voicepool

All speak the same protocol through the same code, and are ready for a caller when that caller has
the session's first event. A line of JSON on stdout says how far a server has come.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from dataclasses import asdict

import msgspec
from websockets.asyncio.server import ServerConnection

from voicepool import logs
from voicepool.callserver import Connection, start_server
from voicepool.engines import registry
from voicepool.inbox import Inbox
from voicepool.progress import Progress
from voicepool.serving import supervise
from voicepool.settings import Settings
from voicepool.speech import SpeechApp, create
from voicepool.supervisor import Supervisor

ADDRESS = ("127.0.0.1", 0)


def build(settings: Settings) -> SpeechApp:
    """A whole pipeline's engines, loaded and warm. Blocks for as long as that takes."""
    choice = registry.resolve_profile(settings.profile, settings.engines)
    app = create(settings)
    app.preload()
    app.load("cuda:0" if choice.profile == "cuda" else "host")
    app.warm_up()
    return app


def _say(stage: str, url: str = "", detail: str = "") -> None:
    print(json.dumps({"stage": stage, "url": url, "detail": detail}), flush=True)


def _listen() -> socket.socket:
    listener = socket.create_server(ADDRESS)
    host, port = listener.getsockname()
    _say("serving", f"ws://{host}:{port}")
    return listener


def cold(settings: str) -> None:
    """Accept, and give each connection a process that has nothing yet."""
    with _listen() as listener:
        while True:
            connection, _ = listener.accept()
            with connection:
                fd = connection.fileno()
                command = [sys.executable, "-m", __spec__.name, "one", settings, str(fd)]
                subprocess.Popen(command, pass_fds=[fd], stdout=subprocess.DEVNULL)


async def one(settings: Settings, fd: int) -> None:
    """The process of one connection of `cold`."""
    app = build(settings)
    inbox = Inbox()
    connected: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()

    def make(*args: object, **kwargs: object) -> Connection:
        connection = Connection(*args, **kwargs)
        connected.set_result(connection)
        return connection

    await start_server(app.serve, inbox, app, make)
    inbox.deliver(socket.socket(fileno=fd))
    await (await connected).lost.wait()


async def prewarmed(settings: Settings) -> None:
    """Load once at the start, as a server does that wants its files and libraries warm; then build
    for every connection what cannot be shared."""
    kept = await asyncio.to_thread(build, settings)
    inbox = Inbox()

    async def handle(websocket: ServerConnection) -> None:
        app = await asyncio.to_thread(build, settings)
        await app.serve(websocket)

    await start_server(handle, inbox, kept)
    loop = asyncio.get_running_loop()
    with _listen() as listener:
        listener.setblocking(False)
        while True:
            connection, _ = await loop.sock_accept(listener)
            inbox.deliver(connection)


def _announce(supervisor: Supervisor, progress: Progress) -> None:
    if progress.stage in ("serving", "trouble"):
        _say(progress.stage, supervisor.url, asdict(progress)["detail"])


def main() -> None:
    kind, text, *rest = sys.argv[1:]
    settings = msgspec.json.decode(text, type=Settings)
    logs.configure("error", "json")
    try:
        if kind == "cold":
            cold(text)
        elif kind == "one":
            asyncio.run(one(settings, int(rest[0])))
        elif kind == "prewarmed":
            asyncio.run(prewarmed(settings))
        else:
            sys.exit(asyncio.run(supervise(settings, _announce)))
    except Exception as error:
        _say("trouble", detail=" ".join(str(error).split()) or type(error).__name__)
        raise
    finally:
        # Threads of engines may never end.
        sys.stdout.flush()
        if kind in ("one", "prewarmed"):
            os._exit(0)


if __name__ == "__main__":
    main()
