"""The supervisor's end of the GPU probe, see `nvml.py`: ask it, lose patience, start another."""

from __future__ import annotations

import asyncio
import random
from typing import Final

from voicepool.backoff import Backoff
from voicepool.errors import IpcError
from voicepool.forker import child_environment
from voicepool.helper import Helper
from voicepool.ipc import Look, Sight

PATIENCE: Final = 10.0
"""How long an answer of a running server's probe may take, in seconds."""
FIRST_PATIENCE: Final = 60.0
"""How long the first one may: without persistence mode the driver has to bring every GPU up, which
takes seconds for each."""
GOODBYE: Final = 2.0
"""How long one that was killed may take to end before it is left to the kernel, which cannot end a
process while a driver holds it."""
BACKOFF_BASE: Final = 0.5
BACKOFF_CAP: Final = 30.0
RENEWAL: Final = 5.0
"""A probe that misses GPUs is replaced once it is so old: only a new one would see them return."""


def _start() -> Helper[Sight]:
    """Raises OSError where no process can be started."""
    return Helper("voicepool.nvml", Sight, child_environment())


class GpuProbe:
    """Asks for one Sight at a time; owns the process that answers."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._backoff = Backoff(BACKOFF_BASE, BACKOFF_CAP, random.Random())
        self._process: Helper[Sight] | None = None
        self._born = 0.0
        self._last = Sight(error="not looked yet")

    @property
    def pid(self) -> int | None:
        """Of the process, until it has been reaped."""
        return self._process.pid if self._process else None

    async def look(self, patience: float = PATIENCE) -> Sight:
        """What there is to see now; a Sight with an error where that cannot be told.

        Returns within `patience` seconds and little more. While a probe is failing it is not asked
        each time: its last word stands.
        """
        now = self._loop.time()
        if self._process is not None and self._process.killed:
            if not self._process.ended(0):
                return Sight(error=self._last.error or "the NVIDIA driver holds the GPU probe")
            self._bury(self._process)
        if self._process is None and self._backoff.waits(now):
            return self._last
        try:
            self._last = await self._ask(patience)
        except TimeoutError:
            self._last = Sight(error=f"the NVIDIA driver has not answered for {patience:.0f} s")
        except OSError as error:
            self._last = Sight(error=f"the GPUs cannot be looked at: {error.strerror or error}")
        except IpcError as error:
            self._last = Sight(error=str(error))
        if self._last.error:
            self._backoff.failed(now, self._loop.time())
            await self._dismiss()
        else:
            self._backoff.succeeded()
            if self._last.lost and self._loop.time() - self._born > RENEWAL:
                await self._dismiss()
        return self._last

    async def _ask(self, patience: float) -> Sight:
        async with asyncio.timeout(patience):
            if self._process is None:
                self._process = _start()
                self._born = self._loop.time()
            channel = self._process.channel
            channel.send(Look())
            await self._readable(channel.fileno())
            received = channel.receive()
        if received is None:
            raise IpcError("the GPU probe has died")
        return received[0]

    async def _readable(self, fd: int) -> None:
        ready = asyncio.Event()
        self._loop.add_reader(fd, ready.set)
        try:
            await ready.wait()
        finally:
            self._loop.remove_reader(fd)

    async def _dismiss(self) -> None:
        """End the process. One that the kernel cannot end yet stays ours, and no other is started
        beside it."""
        if self._process is None:
            return
        self._process.kill()
        try:
            async with asyncio.timeout(GOODBYE):
                await self._readable(self._process.pidfd)
        except TimeoutError:
            return
        self._bury(self._process)

    def _bury(self, process: Helper[Sight]) -> None:
        process.close()
        self._process = None

    async def close(self) -> None:
        """End the process; not while `look` is waiting. Returns within seconds."""
        await self._dismiss()


def survey(patience: float = FIRST_PATIENCE) -> Sight:
    """One look without an event loop; blocks for at most `patience` seconds or little more.

    Raises nothing: a Sight with an error instead.
    """
    try:
        process = _start()
    except OSError as error:
        return Sight(error=f"the GPUs cannot be looked at: {error.strerror}")
    try:
        process.channel.socket.settimeout(patience)
        process.channel.send(Look())
        received = process.channel.receive()
    except (OSError, IpcError):
        received = None
    process.kill()
    if process.ended(patience):
        process.close()
    return received[0] if received else Sight(error="the GPU probe did not answer")
