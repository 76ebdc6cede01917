"""Runs a server to be measured: `python -m benchmarks.launch pool SETTINGS | bare`.

A pool gets its settings as JSON, for port 0 has no meaning for users; progress comes out as JSON
lines. Both announce their address in the first line that says "serving".
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from dataclasses import replace

import msgspec
from websockets.asyncio.server import serve

from benchmarks.apps import greet
from voicepool import logs
from voicepool.config import Settings
from voicepool.listener import BACKLOG
from voicepool.progress import Progress
from voicepool.serving import supervise
from voicepool.supervisor import Supervisor


def announce(supervisor: Supervisor, progress: Progress) -> None:
    _say(progress.stage, supervisor.url.partition("://")[2], progress.detail)


def _say(stage: str, address: str, detail: str = "") -> None:
    print(json.dumps({"stage": stage, "address": address, "detail": detail}), flush=True)


async def bare() -> None:
    """The plainest server there is, set up like a worker's, for all callers in one process."""
    # asyncio's own backlog of 100 would lose callers of a burst for a second.
    async with serve(greet, "127.0.0.1", 0, compression=None, backlog=BACKLOG) as server:
        host, port = next(iter(server.sockets)).getsockname()[:2]
        _say("serving", f"{host}:{port}")
        await server.serve_forever()


def main() -> None:
    if sys.argv[1] == "bare":
        asyncio.run(bare())
        return
    settings = msgspec.convert(json.loads(sys.argv[2]), Settings)
    settings = replace(settings, inspectable=True)  # what a process takes is read in /proc
    logs.configure("debug", "json")  # `Pool.until` hears of workers there
    logging.getLogger("voicepool.pool").setLevel(logging.INFO)  # several lines a call, for nobody
    sys.exit(asyncio.run(supervise(settings, announce)))


if __name__ == "__main__":
    main()
