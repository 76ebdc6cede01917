"""Apps that fail where and when a test says, to show what the pool makes of it.

What they should do is in the environment, which every process of a test's server inherits.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

from websockets.asyncio.server import ServerConnection

from tests.apps.echo import Echo
from voicepool import ipc
from voicepool.errors import ConfigError, EngineUnavailable


class FailsToWarm(Echo):
    """Until the file that TROUBLE names exists."""

    def warm_up(self) -> None:
        if not Path(os.environ["TROUBLE"]).exists():
            raise RuntimeError("the model is cold")


class CannotServe(Echo):
    """As an app whose author forgot to write `async def`, or to test it."""

    async def serve(self, websocket: ServerConnection) -> None:
        raise TypeError("this pipeline takes no sockets")


class LacksModel(Echo):
    def load(self, device: str) -> None:
        raise EngineUnavailable("model tiny.bin is missing; fetch it with: make tiny.bin")


class LosesModel(Echo):
    """Once the file that TROUBLE names exists."""

    def load(self, device: str) -> None:
        if Path(os.environ["TROUBLE"]).exists():
            raise EngineUnavailable("model tiny.bin is missing; fetch it with: make tiny.bin")


class Misconfigured(Echo):
    def preload(self) -> None:
        raise ConfigError("llm.temperature = 9: must be from 0 to 2")


class MisconfiguredLater(Echo):
    """Once the file that TROUBLE names exists."""

    def preload(self) -> None:
        if Path(os.environ["TROUBLE"]).exists():
            raise ConfigError("llm.temperature = 9: must be from 0 to 2")


class LeavesThread(Echo):
    def preload(self) -> None:
        threading.Thread(target=threading.Event().wait, daemon=True).start()


class ExitsInPreload(Echo):
    """As libraries do whose download fails; the second attempt goes well."""

    def preload(self) -> None:
        flag = Path(os.environ["TROUBLE"])
        if not flag.exists():
            flag.touch()
            raise SystemExit("download failed")


class DiesInPreload(Echo):
    """As by the kernel's hand where memory is short, until the file that TROUBLE names exists."""

    def preload(self) -> None:
        if not Path(os.environ["TROUBLE"]).exists():
            os.kill(os.getpid(), signal.SIGKILL)


class HangsInPreload(Echo):
    """In C code that holds the GIL, so that no handler of Python's ever runs."""

    def preload(self) -> None:
        Path(os.environ["TROUBLE"]).touch()
        ctypes.PyDLL(None).sleep(3600)


class HangsInSecondPreload(Echo):
    def preload(self) -> None:
        flag = Path(os.environ["TROUBLE"])
        if flag.exists():
            ctypes.PyDLL(None).sleep(3600)
        flag.touch()


class HangsInWarmUp(Echo):
    """Until the file that TROUBLE names exists."""

    def warm_up(self) -> None:
        if not Path(os.environ["TROUBLE"]).exists():
            signal.pause() if threading.current_thread() is threading.main_thread() else (
                threading.Event().wait()
            )


class TellsPriority(Echo):
    """Says under which niceness and scheduling policy it was warmed up and serves."""

    def warm_up(self) -> None:
        self.warmed = _priority()

    async def serve(self, websocket: ServerConnection) -> None:
        await websocket.send(json.dumps({"warmed": self.warmed, "serving": _priority()}))


def _priority() -> list[int]:
    me = threading.get_native_id()
    return [os.getpriority(os.PRIO_PROCESS, me), os.sched_getscheduler(me)]


class ZygoteDiesMute(Echo):
    """The first zygote dies between a fork and its reply: the supervisor never hears of it."""

    def preload(self) -> None:
        flag = Path(os.environ["TROUBLE"])
        send = ipc.Channel.send

        def die_mute(channel: ipc.Channel[Any], message: ipc.Message, fds: Any = ()) -> None:
            if isinstance(message, ipc.Forked) and message.worker == 3 and not flag.exists():
                flag.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            send(channel, message, fds)

        ipc.Channel.send = die_mute  # type: ignore[method-assign, assignment]
