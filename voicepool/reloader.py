"""HUP: settings and code are read anew while callers are served.

A reload is a transaction. The settings are read and checked, and a zygote that runs the code as it
is installed now preloads with them, beside the one that serves. Only when it is ready does
anything change: then the settings are in force, the old zygote goes, and the pool replaces idle
workers one by one. Whatever fails before that changes nothing, and says why.

Every reload does all of it. To find out whether something is new would mean to know every file
that the engines, their libraries and an app of the user's own consist of.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Final, TypeVar

from voicepool import keysfile
from voicepool.config import Settings
from voicepool.errors import ConfigError, EngineUnavailable
from voicepool.forker import Forker
from voicepool.handles import WorkerHandle
from voicepool.logs import ROOT
from voicepool.pages import Pages
from voicepool.reload import Plan, plan

if TYPE_CHECKING:
    from voicepool.supervisor import Supervisor

log = logging.getLogger("voicepool.supervisor")

T = TypeVar("T")
Reread = Callable[[], Settings]
"""Reads the settings, and the keys, from where the start took them. May block; raises
ConfigError."""
READING_SECONDS: Final = 30.0
"""How long that may take: a file on a network mount that is gone is never read."""


async def read_in_time(reader: Callable[[], T], deadline: float = READING_SECONDS) -> T:
    """What `reader` brings, which looks at files. Raises what it raises, and ConfigError when it
    takes more than `deadline` seconds.

    In a thread of its own, which nobody waits for: that of an executor would keep a server that is
    told to stop from ending.
    """
    found: Future[T] = Future()
    found.set_running_or_notify_cancel()  # so that whoever gives up leaves it as it is

    def read() -> None:
        try:
            found.set_result(reader())
        except Exception as error:  # noqa: BLE001 - for whoever waits
            found.set_exception(error)

    threading.Thread(target=read, name="vp-settings", daemon=True).start()
    try:
        async with asyncio.timeout(deadline):
            return await asyncio.wrap_future(found)
    except TimeoutError:
        raise ConfigError(
            f"the settings could not be read within {deadline:g} s: see whether the disk or mount "
            "that they are on answers"
        ) from None


class Trial:
    """Whether a new zygote comes up: what its forker tells until it has the server's ear."""

    def __init__(self) -> None:
        self.ready = asyncio.Event()
        self.paths: list[str] = []
        self.private = 0
        self.error = ""

    def zygote_ready(self, paths: list[str], private: int) -> None:
        self.paths, self.private = paths, private
        self.ready.set()

    def zygote_failed(self, error: str, *, permanent: bool) -> None:
        self.error = error

    def fork_failed(self, handle: WorkerHandle, error: str, *, permanent: bool) -> None:
        raise AssertionError("nothing was forked")

    def reaped(self, worker: int, pid: int, status: int) -> None:
        raise AssertionError("nothing was forked")


class Reloader:
    """Carries out one reload after another. `run` it in a task."""

    def __init__(self, supervisor: Supervisor, reread: Reread | None, started: Settings) -> None:
        """`reread` None: the server was given its settings and has nowhere to look. `started`: as
        the start has read them."""
        self._supervisor = supervisor
        self._started = started
        self._reread = reread
        self._wanted = asyncio.Event()
        self.forkers: set[Forker] = set()
        """Those whose zygotes are ours to reap besides the server's own."""
        self.count = 0
        """Reloads that were carried out."""
        self.refusals = 0
        """Reloads that were not."""
        self.error = ""
        """Why the last one was not."""

    def request(self) -> None:
        """As soon as may be; during a reload, one more after it."""
        self._wanted.set()

    async def run(self) -> None:
        """Reload whenever it is requested, for ever. A cancelled reload leaves no process."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            await self._reload()

    async def _reload(self) -> None:
        supervisor = self._supervisor
        log.info("reload begins")
        supervisor.link.reloading()
        self.error = ""
        try:
            change = await self._plan()
            await self._carry_out(change)
        except (ConfigError, EngineUnavailable) as error:
            self.error = str(error).replace("\n", "; ")
        except OSError as error:
            self.error = f"no zygote can be started: {error.strerror}"
        except Exception:
            log.exception("reload failed")
            self.error = "a fault of voicepool's own: see the log"
        if self.error:
            self.refusals += 1
            log.error("reload refused, nothing has changed", extra={"error": self.error})
        supervisor.link.reloaded(self.error)

    async def _plan(self) -> Plan:
        if self._reread is None:
            raise ConfigError("the settings of this server came from no file that could be read")
        fresh = await read_in_time(self._reread)
        change = plan(self._supervisor.settings, self._started, fresh)
        self._supervisor.probe.check(change.settings)
        return change

    async def _carry_out(self, change: Plan) -> None:
        """Raises ConfigError and OSError; then nothing has changed."""
        pages = Pages(change.settings.static)
        advice = await read_in_time(lambda: keysfile.advice(change.settings))
        forker, trial = await self._bring_up(change.settings)
        old = self._supervisor.renew(change.settings, pages, forker, trial.paths, trial.private)
        self.forkers.discard(forker)
        logging.getLogger(ROOT).setLevel(change.settings.log_level.upper())
        self.count += 1
        for name in change.fixed:
            log.warning("setting needs a restart", extra={"setting": name})
        for line in advice:
            log.warning("advice", extra={"advice": line})
        log.info("reloaded", extra={"changed": ", ".join(change.changed)})
        await self._retire(old)

    async def _bring_up(self, settings: Settings) -> tuple[Forker, Trial]:
        """A forker whose zygote is ready. Raises ConfigError, OSError."""
        trial = Trial()
        forker = Forker(settings, self._supervisor.runtime_dir, trial)
        self.forkers.add(forker)
        try:
            forker.start()
            await forker.settled(trial.ready)
            if not trial.ready.is_set():
                raise ConfigError(trial.error or "the new zygote died: see the log")
        except BaseException:
            await self._retire(forker)
            raise
        return forker, trial

    async def _retire(self, forker: Forker) -> None:
        self.forkers.add(forker)
        await forker.retire()
        self.forkers.discard(forker)
