"""The supervisor's end of one worker: its sockets, its life-line, its pidfd, its caller's socket.

A handle carries out and reports; what should happen is the pool's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final

from voicepool import foreign, ipc, linux
from voicepool.allowance import Allowance
from voicepool.callers import Candidate
from voicepool.errors import IpcError
from voicepool.pool import Reason

log = logging.getLogger("voicepool.supervisor")

DUMP_SECONDS: Final = 0.1
"""What a hung worker gets to write its stacks before it is killed."""

LAST_WORDS_SECONDS: Final = 0.25
"""What a worker with too much memory gets to tell its caller before it is killed."""
MOST_MESSAGES: Final = 500
"""That a worker may send at once; an honest one sends a handful, and a heartbeat now and then."""
MESSAGES_A_SECOND: Final = 50.0
"""And from then on: more would take the supervisor's time from the callers of others."""

_HUNG = frozenset(
    {
        Reason.HELLO_TIMEOUT,
        Reason.WARM_UP_TIMEOUT,
        Reason.ACK_TIMEOUT,
        Reason.HEARTBEAT_TIMEOUT,
        Reason.STOP_TIMEOUT,
    }
)


def note_exit(worker: int, pid: int, status: int) -> None:
    """How a worker ended, for the log; told by whoever has reaped it."""
    # One that went of itself has told of its call.
    level = logging.WARNING if status else logging.DEBUG
    log.log(level, "worker exited", extra={"worker": worker, "pid": pid, "status": status})


class WorkerHandle:
    """Owns everything the supervisor holds of one worker until `close`."""

    def __init__(
        self,
        number: int,
        gpu: str | None,
        tmpdir: Path,
        on_message: Callable[[WorkerHandle, ipc.FromWorker], None],
        on_exit: Callable[[WorkerHandle], None],
    ) -> None:
        """`gpu` is for ipc.Fork. `on_exit` is called once, when the process has ended and its last
        words are heard.

        Raises OSError when this process is out of descriptors or the folder cannot be made.
        """
        self.number = number
        self.gpu = gpu
        self.tmpdir = tmpdir
        self.pid: int | None = None
        self.candidate: Candidate | None = None
        """The caller who was offered to it; holds our copy of the socket until Accepted."""
        self.error = ""
        self.permanent = False
        """What the worker said of why it failed to warm up."""
        self.pss = 0
        """Its share of the host's memory in bytes, as it last measured it."""
        self._on_message = on_message
        self._on_exit = on_exit
        self._loop = asyncio.get_running_loop()
        self._born = self._loop.time()
        self._has_caller = False
        self._pidfd: int | None = None
        self._status: int | None = None
        """The worker's /proc/self/status."""
        self._held = 0
        """The most host bytes that it was seen to hold; 0: nobody has looked."""
        self._read_all = True
        """Whether all that it said has been read when it ends; else it broke the protocol."""
        self._messages = Allowance(MOST_MESSAGES, MESSAGES_A_SECOND)
        self._gone = False
        with contextlib.ExitStack() as undo:
            ours, self._theirs = ipc.Channel.pair()
            undo.callback(ours.close)
            undo.callback(self._theirs.close)
            self._lifeline_read, self._lifeline = os.pipe2(os.O_CLOEXEC)
            undo.callback(os.close, self._lifeline_read)
            undo.callback(os.close, self._lifeline)
            tmpdir.mkdir(mode=0o700)
            undo.pop_all()
        self._channel: ipc.Channel[ipc.FromWorker] = ipc.Channel(ours, ipc.FromWorker)
        self._loop.add_reader(ours.fileno(), self._read)
        self._reading = True

    # -- birth

    @property
    def inheritance(self) -> tuple[int, int]:
        """The descriptors that the worker is to be forked with."""
        return self._theirs.fileno(), self._lifeline_read

    def sent_to_zygote(self) -> None:
        """The zygote has copies now: close ours, so that EOF comes when the worker dies."""
        self._theirs.close()
        if self._lifeline_read >= 0:
            os.close(self._lifeline_read)
            self._lifeline_read = -1

    def adopt(self, pid: int, pidfd: int) -> None:
        """The fork's reply, or the worker's own word where that reply was lost."""
        if self._pidfd is not None or self._gone:
            foreign.discard(pidfd)
            return
        self.pid, self._pidfd = pid, pidfd
        self._loop.add_reader(pidfd, self._exited)

    # -- life

    @property
    def age(self) -> float:
        """Seconds since it was asked for."""
        return self._loop.time() - self._born

    def assign(self, candidate: Candidate) -> None:
        """Pass the caller's socket; a copy stays here until it is acknowledged.

        A worker that is dead already is no error: its end is on its way to us.
        """
        self.candidate = candidate
        with contextlib.suppress(OSError):
            self._channel.send(candidate.assign, [candidate.visitor.fileno()])

    def accepted(self) -> None:
        """The worker owns the caller's socket now."""
        self._has_caller = True
        if self.candidate is not None:
            foreign.hang_up(self.candidate.visitor.sock)
            self.candidate = None

    def credible(self, said: int) -> int:
        """What to believe of a worker's word about its memory: no more than the kernel says. Bytes.

        Else one that somebody has taken over could say that nobody has room beside it.
        """
        if said > self._held and self._status is not None:
            self._held = max(self._held, linux.held_bytes(self._status))
        # Its last words may be heard after its end, when there is nothing to see any more: what was
        # seen before holds, and one that was never looked at has not had a caller yet.
        return min(said, self._held) if self._held else said

    def take_back(self) -> Candidate | None:
        """The caller who was offered in vain."""
        candidate, self.candidate = self.candidate, None
        return candidate

    def stop(self, reason: Reason) -> None:
        """Ask; a worker that does not listen is killed when its deadline has passed."""
        with contextlib.suppress(OSError):
            self._channel.send(ipc.Stop(reason.value))

    def kill(self, reason: Reason) -> None:
        """SIGKILL, with a dump of the stacks first where the worker hangs, and a word to its caller
        first where it has too much memory."""
        if self._pidfd is not None and reason in _HUNG:
            linux.signal_pidfd(self._pidfd, ipc.DUMP_SIGNAL)
            self._loop.call_later(DUMP_SECONDS, self._kill)
        elif self._has_caller and reason in ipc.TOO_BIG:
            self.stop(reason)
            self._loop.call_later(LAST_WORDS_SECONDS, self._kill)
        else:
            self._kill()

    def _kill(self) -> None:
        if self._gone:
            return
        if self._pidfd is not None:
            linux.signal_pidfd(self._pidfd, signal.SIGKILL)
        elif self._lifeline >= 0:
            # No pidfd yet: the fork hangs, or its reply was lost. The kernel ends whoever
            # holds the other end, or will when it arms it.
            os.close(self._lifeline)
            self._lifeline = -1

    # -- what the worker says

    def _read(self) -> None:
        try:
            alive = self._read_one()
        except BlockingIOError:
            return
        except OSError:
            # ECONNRESET: it died with something of ours unread. Its own words may follow.
            return
        except IpcError:
            log.exception("worker broke the control protocol", extra={"worker": self.number})
            alive = False
        if alive:
            return
        self._stop_reading()
        self._read_all = False
        if self._pidfd is not None:
            # It is dying, or it has closed its control socket and is of no more use.
            self._kill()
        else:
            self._finish()

    def _read_one(self) -> bool:
        received = self._channel.receive()
        if received is None:
            return False
        message, fds = received
        if not self._messages.take(self._loop.time()):
            foreign.discard(*fds)
            raise IpcError("a worker floods its control socket")
        if isinstance(message, ipc.Hello):
            self._greet(message, *fds)
        elif isinstance(message, ipc.Failed):
            self.error, self.permanent = message.error, message.permanent
        self._on_message(self, message)
        return True

    def _greet(self, hello: ipc.Hello, pidfd: int, status: int) -> None:
        self.adopt(hello.pid, pidfd)
        if self._status is None and not self._gone:
            self._status = status
        else:
            foreign.discard(status)
        ipc.check_version(hello.version, "worker")

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._channel.fileno())

    # -- death

    def _exited(self) -> None:
        """The pidfd is readable: hear the last words, then report."""
        while self._reading:
            try:
                if not self._read_one():
                    break
            except ConnectionError:
                continue
            except (OSError, IpcError):
                self._read_all = False
                break
        self._finish()

    def _finish(self) -> None:
        if self._gone:
            return
        self._gone = True
        self._stop_reading()
        self._on_exit(self)
        self.close()

    def abandon(self) -> None:
        """There is no process and never will be: let go of everything, report nothing."""
        self._gone = True
        self._stop_reading()
        self.close()

    def close(self) -> None:
        """Release everything; the process is dead."""
        self.sent_to_zygote()
        if self._read_all:
            self._channel.close()
        else:
            self._channel.abandon()
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        if self._status is not None:
            os.close(self._status)
            self._status = None
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            # Ours to reap if its zygote died before it did, or a reload has replaced that.
            if ended := linux.reap(os.P_PIDFD, self._pidfd):
                note_exit(self.number, *ended)
            os.close(self._pidfd)
            self._pidfd = None
        try:
            self.tmpdir.rmdir()
        except OSError:
            # Not empty: a big one must not hold up the loop.
            self._loop.run_in_executor(None, lambda: shutil.rmtree(self.tmpdir, ignore_errors=True))
