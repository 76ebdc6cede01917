"""A helper process: a module of ours that runs beside the supervisor and talks to it.

It gets its end of the control socket as standard input and its life-line (`linux.arm_lifeline`) as
a number on its command line.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, Generic

from voicepool import ipc, linux
from voicepool.ipc import In


class Helper(Generic[In]):
    """Owns one such process, its control socket and its life-line."""

    def __init__(self, module: str, incoming: Any, env: Mapping[str, str] | None = None) -> None:
        """Start `python -m module`. `incoming` is the union of messages that it may send; `env`
        its environment, None: as ours. Raises OSError where no process can be started."""
        with contextlib.ExitStack() as undo:
            ours, theirs = ipc.Channel.pair()
            undo.callback(theirs.close)
            failed = undo.enter_context(contextlib.ExitStack())
            failed.callback(ours.close)
            lifeline_read, self._lifeline = os.pipe2(os.O_CLOEXEC)
            undo.callback(os.close, lifeline_read)
            failed.callback(os.close, self._lifeline)
            # Its own session: what a terminal sends is for the supervisor.
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, str(lifeline_read)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                pass_fds=[lifeline_read],
                start_new_session=True,
                env=env,
            )
            self.pidfd = os.pidfd_open(self._process.pid)
            failed.pop_all()
        self.channel: ipc.Channel[In] = ipc.Channel(ours, incoming)
        self.killed = False

    @property
    def pid(self) -> int:
        pid: int = self._process.pid
        return pid

    def ended(self, patience: float) -> bool:
        """Whether it ends within so many seconds; blocks."""
        return bool(select.select([self.pidfd], [], [], patience)[0])

    def kill(self) -> None:
        self.killed = True
        linux.signal_pidfd(self.pidfd, signal.SIGKILL)

    def close(self) -> int:
        """Let go of one that has ended, and reap it; its status, -N for signal N."""
        self.channel.close()
        os.close(self._lifeline)
        os.close(self.pidfd)
        return self._process.wait()
