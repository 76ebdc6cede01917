"""The supervisor's side of the zygote: start it, ask it for forks, start another when it dies.

Calls in progress never notice the death of a zygote. Forks that were asked for wait for the next
one, unless the old one may have carried them out: those are found by their control sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
import socket
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

import msgspec

from voicepool import ipc, linux
from voicepool.config import CLIENT_KEY, SPECS, Settings
from voicepool.errors import IpcError
from voicepool.handles import WorkerHandle

log = logging.getLogger("voicepool.supervisor")

BACKOFF_BASE: Final = 0.25
BACKOFF_CAP: Final = 30.0
PRELOAD_SECONDS: Final = 600.0
GOODBYE_SECONDS: Final = 2.0
ANSWER_SECONDS: Final = 5.0
"""How long a question may stay unanswered: a fork of gigabytes comes first."""
MAX_QUESTIONS: Final = 64
"""Unanswered ones at a time."""

_ONE_THREAD = {
    # Thread pools of these libraries do not survive a fork, and one thread a worker is fastest.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


def child_environment() -> dict[str, str]:
    """The zygote's and its workers'. They never check keys, so they shall not know them."""
    secret = {CLIENT_KEY, *(spec.env for spec in SPECS.values() if spec.secret)}
    inherited = {k: v for k, v in os.environ.items() if k not in secret}
    return {**inherited, **_ONE_THREAD}


class ForkerEvents(Protocol):
    """What the owner of a Forker is told."""

    def zygote_ready(self, paths: list[str], private: int) -> None:
        """It has preloaded, to `private` host bytes; forks asked for are on their way."""

    def zygote_failed(self, error: str, *, permanent: bool) -> None:
        """It could not preload. `permanent`: it will not be tried again."""

    def fork_failed(self, handle: WorkerHandle, error: str, *, permanent: bool) -> None:
        """There is no process; the handle is released."""

    def reaped(self, worker: int, pid: int, status: int) -> None:
        """How a worker ended, for the log."""


@dataclass(frozen=True, slots=True)
class _Question:
    session: bytes
    form: str
    on_answer: Callable[[ipc.Preview | None], None]


class Forker:
    """Owns the zygote process and its control socket."""

    def __init__(self, settings: Settings, runtime_dir: Path, events: ForkerEvents) -> None:
        self.events = events
        self._settings = settings
        self._runtime_dir = runtime_dir
        self._loop = asyncio.get_running_loop()
        self._rng = random.Random()
        self._failures = 0
        self._wanted: OrderedDict[int, WorkerHandle] = OrderedDict()
        """Forks that no zygote has been asked for yet."""
        self._asked: OrderedDict[int, WorkerHandle] = OrderedDict()
        """Forks that the living zygote has been asked for and has not answered."""
        self._ready = False
        self._failed = False
        """Whether the living zygote has said why it cannot preload."""
        self._closing = False
        self._broken = ""
        """Why no zygote will come up before the configuration has changed."""
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: ipc.Channel[ipc.FromZygote] | None = None
        self._lifeline = -1
        self._pidfd = -1
        self._timer: asyncio.TimerHandle | None = None
        self._gone = asyncio.Event()
        self._gone.set()
        self._questions: OrderedDict[int, _Question] = OrderedDict()
        """Those that are to be answered, oldest first."""
        self._question = 0
        """The newest one's number."""
        self._open_question: int | None = None
        """The one that the zygote has; no second goes out before its answer, or they would fill
        the socket and hold up forks."""
        self.restarts = -1

    @property
    def pid(self) -> int | None:
        """The living zygote's, None between two of them."""
        return self._process.pid if self._process else None

    @property
    def alive(self) -> bool:
        """Whether there is a zygote, or will be, or none can be before the settings change."""
        return self._process is not None or bool(self._broken) or self._timer is not None

    # -- life of the zygote

    def start(self) -> None:
        """Launch a zygote. Raises OSError."""
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as undo:
            ours, control = ipc.Channel.pair()
            undo.callback(ours.close)
            theirs.callback(control.close)
            lifeline_read, lifeline = os.pipe2(os.O_CLOEXEC)
            undo.callback(os.close, lifeline)
            theirs.callback(os.close, lifeline_read)
            process = subprocess.Popen(
                [sys.executable, "-m", "voicepool.zygote", str(control.fileno())],
                pass_fds=[control.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env=child_environment(),
            )
            undo.callback(process.wait)
            undo.callback(process.kill)
            pidfd = os.pidfd_open(process.pid)
            undo.callback(os.close, pidfd)
            channel: ipc.Channel[ipc.FromZygote] = ipc.Channel(ours, ipc.FromZygote)
            channel.send(self._configure(), [lifeline_read])
            undo.pop_all()
        self._process, self._pidfd = process, pidfd
        self._channel, self._lifeline = channel, lifeline
        self._gone.clear()
        self._failed = False
        self.restarts += 1
        self._loop.add_reader(ours.fileno(), self._read)
        self._loop.add_reader(self._pidfd, self._exited)
        self._set_timer(PRELOAD_SECONDS, self._hung)

    def _configure(self) -> ipc.Configure:
        settings = msgspec.to_builtins(replace(self._settings, keys=()))
        return ipc.Configure(
            version=ipc.PROTOCOL_VERSION,
            app=self._settings.app,
            settings=settings,
            runtime_dir=str(self._runtime_dir),
        )

    def _set_timer(self, seconds: float, callback: object) -> None:
        self._stop_timer()
        self._timer = self._loop.call_later(seconds, callback)  # type: ignore[arg-type]

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _hung(self) -> None:
        self._timer = None
        log.error("zygote hangs", extra={"pid": self.pid})
        self._kill()
        if not self._ready:
            self._failed = True  # or it would be said that it died, and of what it may have
            late = f"what all workers share was not loaded within {PRELOAD_SECONDS:g} s"
            self.events.zygote_failed(f"{late}: see the log", permanent=False)

    def _kill(self) -> None:
        if self._pidfd >= 0:
            linux.signal_pidfd(self._pidfd, signal.SIGKILL)

    def _exited(self) -> None:
        """The zygote's pidfd is readable."""
        process, channel = self._process, self._channel
        assert process is not None
        assert channel is not None
        while self._read():
            pass
        self._loop.remove_reader(channel.fileno())
        self._loop.remove_reader(self._pidfd)
        channel.close()
        os.close(self._pidfd)
        os.close(self._lifeline)
        status = process.wait()
        self._process, self._channel, self._pidfd, self._lifeline = None, None, -1, -1
        mute = not self._ready and not self._failed
        self._ready = False
        # What it has forked without telling us lives on and will say so itself; for the rest the
        # descriptors died with it, and the handles see EOF.
        self._asked.clear()
        self._open_question = None
        self._stop_timer()
        for number in list(self._questions):
            self._answer(number, None)
        self._gone.set()
        if self._closing or self._broken:
            return
        self._failures += 1
        delay = min(BACKOFF_CAP, BACKOFF_BASE * 2 ** (self._failures - 1))
        delay *= self._rng.uniform(0.5, 1.0)
        log.warning("zygote died", extra={"status": status, "restart_in": round(delay, 3)})
        self._set_timer(delay, self._restart)
        if mute:
            self.events.zygote_failed(_died(status), permanent=False)

    def _restart(self) -> None:
        self._timer = None
        try:
            self.start()
        except OSError as error:
            self._failures += 1
            log.error("zygote cannot be started", extra={"error": error.strerror})  # noqa: TRY400
            delay = min(BACKOFF_CAP, BACKOFF_BASE * 2 ** (self._failures - 1))
            self._set_timer(delay, self._restart)

    async def close(self) -> None:
        """End the zygote; the workers are gone already. Returns within seconds."""
        self._closing = True
        self._stop_timer()
        if self._channel is None:
            return
        self._loop.remove_reader(self._channel.fileno())
        self._channel.socket.shutdown(socket.SHUT_RDWR)
        if not self._ready:
            self._kill()
        try:
            async with asyncio.timeout(GOODBYE_SECONDS):
                await self._gone.wait()
        except TimeoutError:
            self._kill()
            await self._gone.wait()

    # -- changing over to another

    async def settled(self, ready: asyncio.Event) -> None:
        """Wait until `ready` is set, by whoever gets our events, or the zygote has ended."""
        waits = [asyncio.ensure_future(event.wait()) for event in (ready, self._gone)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def hand_over(self, successor: Forker) -> None:
        """Let another serve the forks that no zygote has been asked for, and answer what has not
        been answered; `retire` comes next."""
        self._closing = True
        while self._wanted:
            _, handle = self._wanted.popitem(last=False)
            successor.fork(handle)
        while self._questions:
            _, question = self._questions.popitem(last=False)
            successor.preset(question.session, question.form, question.on_answer)

    async def retire(self) -> None:
        """End the zygote and leave everything to others: its workers live on as our children.

        Not by closing its socket, as `close` does: it would take the server for dead, and remove
        the runtime directory.
        """
        self._closing = True
        self._stop_timer()
        self._kill()
        await self._gone.wait()

    # -- forks

    def fork(self, handle: WorkerHandle) -> None:
        """Ask for a worker, now or as soon as there is a zygote."""
        self._wanted[handle.number] = handle
        self._ask()
        self._despair()

    def forget(self, handle: WorkerHandle) -> bool:
        """Whether the fork had not been asked for yet; then it will not be."""
        return self._wanted.pop(handle.number, None) is not None

    def _despair(self) -> None:
        """No zygote will ever come again: say so to whoever waits for a fork."""
        while self._broken and self._wanted:
            _, handle = self._wanted.popitem(last=False)
            handle.abandon()
            self.events.fork_failed(handle, self._broken, permanent=True)

    def _ask(self) -> None:
        while self._ready and self._wanted and self._channel is not None:
            number, handle = self._wanted.popitem(last=False)
            request = ipc.Fork(number, handle.gpu, str(handle.tmpdir))
            try:
                self._channel.send(request, handle.inheritance)
            except OSError:
                # It is dying, or hangs with a full socket; either ends in `_exited`.
                self._wanted[number] = handle
                self._wanted.move_to_end(number, last=False)
                return
            handle.sent_to_zygote()
            if not self._asked:
                self._set_timer(self._settings.hello_timeout, self._hung)
            self._asked[number] = handle

    def _answered(self, worker: int) -> WorkerHandle | None:
        handle = self._asked.pop(worker, None)
        if self._asked:
            self._set_timer(self._settings.hello_timeout, self._hung)
        else:
            self._stop_timer()
        return handle

    # -- questions

    def preset(
        self, session: bytes, form: str, on_answer: Callable[[ipc.Preview | None], None]
    ) -> None:
        """Ask what a call would begin with. `on_answer` gets None where nobody can tell now."""
        if not self._ready or len(self._questions) >= MAX_QUESTIONS:
            on_answer(None)
            return
        self._question += 1
        self._questions[self._question] = _Question(session, form, on_answer)
        self._loop.call_later(ANSWER_SECONDS, self._answer, self._question, None)
        self._ask_next()

    def _ask_next(self) -> None:
        if self._open_question is not None or not self._questions or self._channel is None:
            return
        number, question = next(iter(self._questions.items()))
        try:
            self._channel.send(ipc.Preset(number, question.session, question.form))
        except OSError:
            return  # as for forks: it ends in `_exited`, or the question in time
        self._open_question = number

    def _answer(self, number: int, preview: ipc.Preview | None) -> None:
        if question := self._questions.pop(number, None):
            question.on_answer(preview)

    # -- what the zygote says

    def _read(self) -> bool:
        """Take one message; False when there is none."""
        assert self._channel is not None
        try:
            received = self._channel.receive()
            if received is None:
                self._loop.remove_reader(self._channel.fileno())
                return False
            self._dispatch(*received)
        except (BlockingIOError, ConnectionError):
            return False
        except ipc.FdsLost as error:
            # We are out of them, and that is no fault of the zygote's, which takes long to replace.
            # Only a Forked has any, and they come in turn. The worker will say itself who it is.
            log.warning("reply to a fork lost", extra={"error": str(error)})
            if self._asked:
                self._answered(next(iter(self._asked)))
        except IpcError:
            log.exception("zygote broke the control protocol")
            self._kill()
            return False
        return True

    def _dispatch(self, message: ipc.FromZygote, fds: list[int]) -> None:
        match message:
            case ipc.ZygoteReady() | ipc.ZygoteFailed() if self._closing:
                pass  # too late to matter
            case ipc.ZygoteReady():
                ipc.check_version(message.version, "zygote")
                self._ready = True
                self._failures = 0
                self._stop_timer()
                self.events.zygote_ready(message.paths, message.private)
                self._ask()
            case ipc.ZygoteFailed():
                self._failed = True
                self._broken = message.error if message.permanent else ""
                self.events.zygote_failed(message.error, permanent=message.permanent)
                self._despair()
            case ipc.Forked():
                handle = self._answered(message.worker)
                if handle is None:
                    os.close(fds[0])
                else:
                    handle.adopt(message.pid, fds[0])
            case ipc.ForkFailed():
                handle = self._answered(message.worker)
                if handle is not None:
                    handle.abandon()
                    self.events.fork_failed(handle, message.error, permanent=message.permanent)
            case ipc.Preview():
                self._open_question = None
                self._answer(message.question, message)
                self._ask_next()
            case ipc.Reaped():
                self.events.reaped(message.worker, message.pid, message.status)


def _died(status: int) -> str:
    """What is said of a zygote that did not say itself why it ends; `status` as Popen has it."""
    how = f"signal {-status}" if status < 0 else f"exit status {status}"
    why = ", as where memory is short" if status == -signal.SIGKILL else ""
    return f"the zygote died while it loaded what all workers share ({how}{why}): see the log"
