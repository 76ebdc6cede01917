"""An app whose caller has taken its worker over: it runs the Python that he sends.

What an attacker can do who got code to run in an engine, without the engine.
"""

from __future__ import annotations

import ast
import json
import os
import socket
from pathlib import Path
from typing import Any

from websockets.asyncio.server import ServerConnection

from voicepool import ipc


class Taken:
    paths = ("/echo",)

    def preload(self) -> None: ...

    def load(self, device: str) -> None: ...

    def warm_up(self) -> None: ...

    async def serve(self, websocket: ServerConnection) -> None:
        loot: dict[str, Any] = {"control": None, "ipc": ipc, "os": os, "Path": Path}
        async for code in websocket:
            assert isinstance(code, str)
            loot["control"] = loot["control"] or find_control()
            try:
                answer = _run(code, loot)
            except Exception as error:  # noqa: BLE001 - the attacker wants to know
                answer = f"{type(error).__name__}: {error}"
            await websocket.send(json.dumps(answer, default=str))


def find_control() -> ipc.Channel[Any]:
    """Another descriptor of this worker's control socket."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        try:
            sock = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            continue
        if (sock.family, sock.type) == (socket.AF_UNIX, socket.SOCK_SEQPACKET):
            return ipc.Channel(sock, ipc.ToWorker)
        sock.close()
    raise LookupError("no control socket")


def _run(code: str, names: dict[str, Any]) -> Any:
    """Run statements; the value of the last one, if it is an expression."""
    *statements, last = ast.parse(code).body
    if not isinstance(last, ast.Expr):
        statements.append(last)
    exec(compile(ast.Module(statements, []), "attack", "exec"), names)
    if isinstance(last, ast.Expr):
        return eval(compile(ast.Expression(last.value), "attack", "eval"), names)
    return None
