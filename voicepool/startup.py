"""`voicepool start`: what the person at the terminal is told while the server comes up."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import voicepool
from voicepool import logs
from voicepool.addresses import with_port
from voicepool.agentcheck import AgentPortTaken
from voicepool.config import CLIENT_URL, Settings
from voicepool.logs import escape
from voicepool.quantities import format_duration
from voicepool.reception import CALL_PATH
from voicepool.remedies import from_folder, python

if TYPE_CHECKING:
    from voicepool.engines.registry import Choice
    from voicepool.progress import Progress
    from voicepool.supervisor import Supervisor

EXAMPLE = Path("examples/hello.wav")


class Announcer:
    """Prints how far the server is, and the banner once it serves."""

    def __init__(self, stream: TextIO, choice: Choice | None, *, live: bool = False) -> None:
        """`choice` is None where an app of the user's own is hosted.

        `live`: a terminal, which the logs go to as well. The count of warm workers grows in place
        there, and says what their "worker ready" would, so the log begins with the banner.
        """
        self._stream = stream
        self._choice = choice
        self._live = live
        self._level = logs.hold() if live else None

    def __call__(self, supervisor: Supervisor, progress: Progress) -> None:
        if progress.stage not in ("preloading", "warming") and self._level is not None:
            logs.release(self._level)
            self._level = None
        match progress.stage:
            case "preloading":
                self._say(f"voicepool {voicepool.__version__}: loading {self._what(supervisor)}")
            case "warming":
                self._count(f"warming up: {progress.warm} of {progress.target} workers ready")
            case "trouble":
                self._say(f"trouble: {escape(progress.detail)}")
            case "serving":
                self._say(banner(supervisor, progress, self._choice))
            case "draining":
                self._say_draining(supervisor)
            case "stopped":
                self._say("stopped")

    def _say_draining(self, supervisor: Supervisor) -> None:
        callers = supervisor.pool.snapshot().callers
        if callers:
            calls = "1 call has" if callers == 1 else f"{callers} calls have"
            left = format_duration(supervisor.settings.drain_timeout)
            self._say(f"no new calls; {calls} {left} to finish (Ctrl-C again: end them now)")

    def _what(self, supervisor: Supervisor) -> str:
        if self._choice is None:
            return f"the app {supervisor.settings.app}"
        return f"the {self._choice.profile} engines"

    def _count(self, text: str) -> None:
        if self._live:
            # The cursor waits at the left, so that a log line covers this one.
            self._write(f"\r\x1b[K{text}\r")
        else:
            self._say(text)

    def _say(self, text: str) -> None:
        self._write(("\r\x1b[K" if self._live else "") + text + "\n")

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            # Nobody reads it any more: a terminal was closed, a pipe has ended. Calls go on, and
            # what is still in the buffer must not fail at exit.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def banner(supervisor: Supervisor, progress: Progress, choice: Choice | None) -> str:
    """What a user needs to know of a server that has come up."""
    settings, paths = supervisor.settings, sorted(supervisor.reception.paths or ())
    path = CALL_PATH if CALL_PATH in paths else next(iter(paths), "")
    rows = {"address": supervisor.url + path}
    if supervisor.reception.has_page:
        rows["page"] = from_here(supervisor.url).replace("ws", "http", 1) + "/"
    if choice is None:
        rows["app"] = settings.app
    else:
        rows["profile"] = f"{choice.profile} ({choice.why})"
        rows["engines"] = ", ".join(f"{stage} {name}" for stage, name in choice.engines.items())
    calls = "1 call" if settings.max_connections == 1 else f"{settings.max_connections} calls"
    rows["workers"] = f"{progress.warm} of {progress.target} warm, up to {calls} at once"
    if progress.detail:
        rows["note"] = escape(progress.detail)
    if path == CALL_PATH:
        rows["try"] = next_command(from_here(supervisor.url), sys.argv[0])
    lines = (f"  {name:8}  {value}" for name, value in rows.items())
    return "\n".join(("ready", *lines))


def from_here(url: str) -> str:
    """The address of a server for whoever sits at its machine. One that listens on all addresses
    is at no particular one; browsers do not take 0.0.0.0 for this machine, and give pages from
    there no microphone."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


def next_command(url: str, program: str) -> str:
    """What to type next, so that it works where it is typed."""
    known = shutil.which("voicepool")
    name = "voicepool" if known and Path(known).samefile(program) else _spelled(Path(program))
    sound = EXAMPLE if EXAMPLE.exists() else Path("FILE.wav")
    return f"{name} talk {sound}" + ("" if url == CLIENT_URL else f" --url {url}")


def _spelled(program: Path) -> str:
    if program.name == "__main__.py":
        return f"{python()} -m voicepool"
    return from_folder(program)


def cannot_start(error: OSError, settings: Settings) -> str:
    """Why the server could not start, in one line with the remedy."""
    if error.filename is not None:
        return (
            f"runtime_dir: {error.filename}: {error.strerror}; "
            "name a folder that can be written, or leave it unset"
        )
    agent = isinstance(error, AgentPortTaken)
    port, flag = (settings.agent_port, "agent-port") if agent else (settings.port, "port")
    address = with_port(settings.host, port)
    remedies = {
        errno.EADDRINUSE: f"is taken by another program; stop it, or choose another --{flag}",
        errno.EACCES: f"needs privileges that this user has not; choose a --{flag} above 1023",
        errno.EADDRNOTAVAIL: "is no address of this machine; choose another --host",
    }
    bare = settings.host.strip("[]")
    if bare.lower().startswith("fe80:") and "%" not in bare:
        remedies[errno.EINVAL] = (
            f"is an address within one link only: say which, as --host {bare}%eth0"
        )
    if error.errno in remedies:
        return f"{address} {remedies[error.errno]}"
    return f"cannot listen on {address}: {error.strerror or error}"
