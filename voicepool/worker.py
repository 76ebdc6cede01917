"""A worker: one forked process that warms up, serves one caller, and exits.

    main()      settle into a process of one's own, then run the event loop
    Worker      load → warm up → rehearse → Ready → one Assign → serve → Ended → exit

The supervisor hears of every step over the control socket; see `ipc.py` for the messages.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import socket
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from voicepool import figures, ipc, linux
from voicepool.app import App, Attentive, Caller, CallOver, Rehearsing, caller
from voicepool.callserver import (
    LINGER_SECONDS,
    REHEARSALS,
    Connection,
    largest_message,
    start_server,
)
from voicepool.config import Settings
from voicepool.errors import ConfigError, EngineError, EngineUnavailable
from voicepool.inbox import Inbox
from voicepool.settling import settle

log = logging.getLogger("voicepool.worker")

REHEARSAL_SECONDS = 60.0
MAX_REASON = 30
"""Characters of a close reason: however many bytes each has, they fit into the frame."""
CALL_LIMIT, IDLE_LIMIT, MESSAGE_SIZE = "call_limit", "idle_limit", "message_size"
FOOTPRINT_EVERY = 5
"""Heartbeats between two measurements of memory, which walks the page tables."""


@dataclass(frozen=True, slots=True)
class Place:
    """Which worker this is, and what it was given."""

    number: int
    gpu: str | None
    """As in ipc.Fork."""
    tmpdir: str

    @property
    def device(self) -> str:
        """For the app: the one GPU that it sees is always its first."""
        return "cuda:0" if self.gpu else "host"


def describe(error: BaseException) -> str:
    """One line for people about why an app failed to start."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, ConfigError | EngineUnavailable):
        return text
    if isinstance(error, EngineError):
        # An engine keeps a library's own words back, as they may quote a caller. Here is none yet.
        cause = " ".join(str(error.__cause__ or "").split())
        return (f"{text} ({cause})" if cause and cause not in text else text)[:500]
    return f"{type(error).__name__}: {text}"[:500]


# --- the process -----------------------------------------------------------------------------


def main(app: App, control: socket.socket, lifeline: int, place: Place, settings: Settings) -> int:
    """Run the worker to its end in a freshly forked process; the exit status.

    Owns `control` and `lifeline`, which stays open as long as the process lives.
    """
    settle(lifeline, place.number, place.tmpdir, place.gpu)
    channel: ipc.Channel[ipc.ToWorker] = ipc.Channel(control, ipc.ToWorker)
    hello = ipc.Hello(ipc.PROTOCOL_VERSION, os.getpid())
    fds = [os.pidfd_open(os.getpid()), linux.open_status()]
    try:
        channel.send(hello, fds)
    finally:
        for fd in fds:
            os.close(fd)
    # Not asyncio.run: it would join threads of the app that may never end. The caller _exits.
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop.run_until_complete(Worker(app, channel, place, settings, loop).run())


# --- the worker ------------------------------------------------------------------------------


class Worker:
    """One worker's life on its event loop; made and run on that loop."""

    def __init__(
        self,
        app: App,
        channel: ipc.Channel[ipc.ToWorker],
        place: Place,
        settings: Settings,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.app = app
        self.channel = channel
        self.place = place
        self.settings = settings
        self.inbox = Inbox()
        self._loop = loop
        self._footprint = linux.Footprint()
        self._figures = figures.Recorder()
        self._caller: Caller | None = None
        self._assigned: asyncio.Future[Caller] = loop.create_future()
        self._connected: asyncio.Future[Connection] = loop.create_future()
        self._handled: asyncio.Future[str] = loop.create_future()
        self._stopped: asyncio.Future[str] = loop.create_future()
        self._handler: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._limit = ""
        """The limit that has ended the call, by its name."""
        self._rehearsal_error: Exception | None = None

    async def run(self) -> int:
        """From the first load to the end of the one call; the exit status."""
        self._loop.add_reader(self.channel.fileno(), self._on_control)
        # Not `async with`: its exit waits for callers, and this process has deadlines of its own.
        most = self.settings.max_message_size
        await start_server(self._handle, self.inbox, self.app, self._make_connection, most)
        warm = self._loop.create_task(self._become_ready())
        await self._first(warm, self._stopped)
        if not warm.done():
            return 0
        if error := warm.exception():
            return self._fail(error)
        beats = self._loop.create_task(self._beat())
        await self._first(self._assigned, self._stopped)
        if self._assigned.done():
            outcome = await self._serve_call()
            self._measure()
            used = self._footprint
            told = self._figures.take()
            self._send(ipc.Ended(used.private, outcome, self._limit, used.pss, told))
        beats.cancel()
        return 0

    async def _first(self, *futures: asyncio.Future[Any]) -> None:
        await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)

    # -- warming

    async def _become_ready(self) -> None:
        with linux.low_priority():
            await self._in_thread(self._load_and_warm)
            async with asyncio.timeout(REHEARSAL_SECONDS):
                await self._rehearse()
        linux.trim_heap()  # a third of what warming up has touched, for as long as it is idle
        self._measure()
        self._send(ipc.Ready(self._footprint.private, self._footprint.pss))

    def _load_and_warm(self) -> None:
        self.app.load(self.place.device)
        self.app.warm_up()

    async def _rehearse(self) -> None:
        for count in range(REHEARSALS):
            async with await self.inbox.dial(self.app.paths[0]) as client:
                # One whole fake call, where the app has one to play; the others warm the server.
                if count == 0 and isinstance(self.app, Rehearsing):
                    await self.app.rehearse(client)
            if self._rehearsal_error is not None:
                raise self._rehearsal_error

    def _fail(self, error: BaseException) -> int:
        permanent = isinstance(error, ConfigError | EngineUnavailable | ImportError)
        if not permanent:
            log.error("warm-up failed", exc_info=error, extra={"worker": self.place.number})
        self._send(ipc.Failed(describe(error), permanent))
        return 1

    async def _in_thread(self, function: Callable[[], None]) -> None:
        """Run `function` in a daemon thread: unlike an executor's it is never joined at exit."""
        done: asyncio.Future[None] = self._loop.create_future()

        def finish(error: BaseException | None) -> None:
            if done.done():
                return
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        def run() -> None:
            error: BaseException | None = None
            try:
                function()
            # Libraries raise SystemExit when a download fails.
            except BaseException as caught:  # noqa: BLE001
                error = caught
            if isinstance(error, StopIteration | SystemExit | KeyboardInterrupt):
                error = RuntimeError(f"{type(error).__name__}: {error}")
            self._loop.call_soon_threadsafe(finish, error)

        threading.Thread(target=run, name="warm-up", daemon=True).start()
        await done

    # -- the control socket

    def _on_control(self) -> None:
        try:
            received = self.channel.receive()
        except BlockingIOError:
            return
        except ConnectionResetError:
            received = None
        except ipc.FdsLost:
            # Without an acknowledgement the supervisor gives its copy to another worker.
            log.error("out of file descriptors", extra={"worker": self.place.number})  # noqa: TRY400
            os._exit(1)
        if received is None:
            os._exit(0)
        message, fds = received
        if isinstance(message, ipc.Assign):
            self._take(message, fds[0])
        elif not self._stopped.done():
            self._stopped.set_result(message.reason)

    def _take(self, assign: ipc.Assign, fd: int) -> None:
        connection = socket.socket(fileno=fd)
        self._caller = Caller(
            assign.connection, assign.host, assign.port, assign.identity, assign.session
        )
        try:
            self.channel.send(ipc.Accepted(assign.connection))
        except OSError:
            # Unheard, so the supervisor will give its copy to another: it must stay unread.
            os._exit(1)
        self.inbox.deliver(connection)
        self._assigned.set_result(self._caller)

    def _send(self, message: ipc.FromWorker) -> bool:
        """Whether it is on its way."""
        # A supervisor that is gone is noticed on the reading side; one that does not read for so
        # long that the socket is full learns the rest from this process's end.
        try:
            self.channel.send(message)
        except (BlockingIOError, BrokenPipeError, ConnectionResetError):
            return False
        return True

    async def _beat(self) -> None:
        for count in itertools.count(1):
            await asyncio.sleep(self.settings.heartbeat_interval)
            if count % FOOTPRINT_EVERY == 0:
                await self._in_thread(self._measure)
            told, used = self._figures.take(), self._footprint
            sent = self._send(ipc.Beat(used.private, used.pss, told))
            if told is not None and not sent:
                self._figures.restore(told)

    def _measure(self) -> None:
        self._footprint = linux.footprint()

    # -- the call

    def _make_connection(self, *args: Any, **kwargs: Any) -> Connection:
        try:
            connection = Connection(*args, **kwargs)
        except OSError as error:
            # Out of descriptors. asyncio drops the caller without a word: nobody is left to serve.
            if self._caller is not None:
                self._connected.set_exception(error)
            raise
        if self._caller is not None:
            self._connected.set_result(connection)
        return connection

    async def _handle(self, websocket: ServerConnection) -> None:
        if self._caller is None:
            await self._take_part(websocket)
            return
        caller.set(self._caller)
        figures.recorder.set(self._figures)
        self._handler = asyncio.current_task()
        outcome = "failed"
        try:
            outcome = await self._talk(websocket)
        finally:
            self._handled.set_result(outcome)

    async def _take_part(self, websocket: ServerConnection) -> None:
        """Serve a fake caller; an app that cannot do that is not ready for a real one."""
        caller.set(Caller(0, "", 0, ""))
        try:
            await self.app.serve(websocket)
        except ConnectionClosed:
            pass
        except Exception as error:
            self._rehearsal_error = error
            raise

    async def _talk(self, websocket: ServerConnection) -> str:
        """Let the app talk to the caller, and close as is due; the outcome."""
        try:
            await self.app.serve(websocket)
        except ConnectionClosed:
            return "stopped" if self._stopped.done() else "completed"
        except CallOver as over:
            self._limit = str(over)[:MAX_REASON]
            await websocket.close(CloseCode.GOING_AWAY, self._limit)
            return "stopped"
        except asyncio.CancelledError:
            if not self._stopped.done():
                raise
            await websocket.close(CloseCode.GOING_AWAY, self._stopped.result())
            return "stopped"
        except Exception as error:  # noqa: BLE001
            # The message may hold what the caller said; type and place are enough to find it.
            frames = "".join(traceback.format_tb(error.__traceback__))
            log.error(  # noqa: TRY400
                "app failed", extra=self._fields(error=type(error).__name__, frames=frames)
            )
            await websocket.close(CloseCode.INTERNAL_ERROR, "the server failed")
            return "failed"
        return "completed"

    async def _serve_call(self) -> str:
        """Until the caller's TCP connection is gone, by itself or by our hand; the outcome."""
        began = self._loop.time()
        connection = await self._connected
        lost = self._loop.create_task(connection.lost.wait())
        idle = self._loop.create_task(self._outlast(connection))
        await self._first(lost, self._handled, self._stopped, idle)
        if not (lost.done() or self._handled.done() or self._stopped.done()):
            self._limit = IDLE_LIMIT
            self._stopped.set_result(IDLE_LIMIT)
        idle.cancel()
        if self._handler is not None and self._stopped.done():
            self._end(connection, self._handler, self._stopped.result())
        ends: set[asyncio.Future[Any]] = {lost}
        if self._handler is not None:
            ends.add(self._handled)
        # Told to stop, the app may first put its things in order; the supervisor's patience with
        # both together is stop_timeout.
        patience = LINGER_SECONDS
        if self._stopped.done():
            patience = max(patience, 0.8 * self.settings.stop_timeout)
        await asyncio.wait(ends, timeout=patience)
        if not lost.done():
            # It has said goodbye, or should have, and keeps the connection open all the same.
            connection.transport.abort()
        outcome = self._handled.result() if self._handled.done() else "failed"
        seconds = round(self._loop.time() - began, 3)
        closed = connection.protocol.close_sent
        if closed is not None and closed.code == CloseCode.MESSAGE_TOO_BIG:
            self._limit = MESSAGE_SIZE
        exceeded = self._exceeded()
        log.info("call ended", extra=self._fields(outcome=outcome, seconds=seconds, **exceeded))
        return outcome

    async def _outlast(self, connection: Connection) -> None:
        """Wait until nobody uses the call any more; for ever where the app finds that out itself,
        or nobody wants to know."""
        limit = self.settings.idle_limit
        if not limit or isinstance(self.app, Attentive):
            await asyncio.Event().wait()
        await connection.outlast(limit)

    def _end(self, connection: Connection, handler: asyncio.Task[None], reason: str) -> None:
        """End the call for `reason`, which rides along for an app that wants to tell its caller."""
        if reason in ipc.TOO_BIG:
            self._closing = self._loop.create_task(
                connection.close(CloseCode.INTERNAL_ERROR, reason)
            )
        else:
            handler.cancel(reason)

    def _exceeded(self) -> dict[str, object]:
        """The limit that has ended the call and how much it allows, for the log."""
        allowed = {
            CALL_LIMIT: self.settings.call_limit,
            IDLE_LIMIT: self.settings.idle_limit,
            MESSAGE_SIZE: largest_message(self.app, self.settings.max_message_size),
        }
        name = self._limit or (self._stopped.result() if self._stopped.done() else "")
        return {"limit": name, "allowed": allowed[name]} if name in allowed else {}

    def _fields(self, **more: object) -> dict[str, object]:
        fields: dict[str, object] = {"worker": self.place.number, "connection": None}
        if self._caller is not None:
            fields["connection"] = self._caller.connection
            if self._caller.identity:
                fields["identity"] = self._caller.identity
        return {**fields, **more}
