"""What the supervisor believes of a worker, by a real process and the worker's own messages."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

from voicepool import ipc
from voicepool.handles import WorkerHandle

MIB = 1 << 20


class Watched:
    """A process that says of itself what the test wants, and what is believed of it."""

    def __init__(self, folder: Path) -> None:
        self.believed: list[int] = []
        self.gone = asyncio.Event()
        self._heard = asyncio.Event()
        self._process = subprocess.Popen(
            [sys.executable, "-c", "import sys; print(1, flush=True); sys.stdin.read()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()
        handle = WorkerHandle(
            1, None, folder / "worker", self._on_message, lambda _: self.gone.set()
        )
        theirs = socket.socket(fileno=os.dup(handle.inheritance[0]))
        self._channel: ipc.Channel[ipc.ToWorker] = ipc.Channel(theirs, ipc.ToWorker)
        handle.sent_to_zygote()
        pid = self._process.pid
        fds = [os.pidfd_open(pid), os.open(f"/proc/{pid}/status", os.O_RDONLY)]
        self._channel.send(ipc.Hello(ipc.PROTOCOL_VERSION, pid), fds)
        for fd in fds:
            os.close(fd)

    def _on_message(self, handle: WorkerHandle, message: ipc.FromWorker) -> None:
        if isinstance(message, ipc.Ready | ipc.Beat | ipc.Ended):
            self.believed.append(handle.credible(message.private))
            self._heard.set()

    async def says(self, message: ipc.FromWorker) -> None:
        """It is heard while the process lives."""
        self._heard.clear()
        self._channel.send(message)
        await self._heard.wait()

    async def says_and_ends(self, *messages: ipc.FromWorker) -> None:
        """They are heard when there is no process any more."""
        for message in messages:
            self._channel.send(message)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()
        self._channel.close()
        await self.gone.wait()


def test_the_last_words_of_a_worker_are_believed_after_its_end(tmp_path: Path) -> None:
    async def play() -> None:
        async with asyncio.timeout(20):
            worker = Watched(tmp_path)
            await worker.says(ipc.Ready(MIB))
            await worker.says_and_ends(ipc.Beat(MIB), ipc.Ended(2 * MIB, "completed"))
            assert worker.believed == [MIB, MIB, 2 * MIB]

    asyncio.run(play())


def test_a_worker_that_ends_as_it_gets_ready_does_not_make_workers_cost_nothing(
    tmp_path: Path,
) -> None:
    async def play() -> None:
        async with asyncio.timeout(20):
            worker = Watched(tmp_path)
            await worker.says_and_ends(ipc.Ready(3 * MIB))
            assert worker.believed == [3 * MIB]

    asyncio.run(play())


def test_no_lie_is_believed_beyond_what_was_ever_seen_not_even_after_the_end(
    tmp_path: Path,
) -> None:
    async def play() -> None:
        async with asyncio.timeout(20):
            worker = Watched(tmp_path)
            await worker.says(ipc.Beat(1 << 45))
            await worker.says_and_ends(ipc.Ended(1 << 45, "completed"))
            first, last = worker.believed
            assert MIB < first == last < 1 << 40

    asyncio.run(play())
