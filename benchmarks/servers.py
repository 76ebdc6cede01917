"""The servers under measurement, each in processes of its own."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import IO, Any, Self

from benchmarks.apps import SPEECH
from benchmarks.processes import children
from benchmarks.wire import DEADLINE

_PIPE_BYTES = 1 << 20
"""Log lines of a burst must fit until somebody reads: a full pipe drops them."""
_START_SECONDS = 300.0


class Server:
    """A server process that says in JSON lines on stdout when it serves."""

    def __init__(self, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        """Returns once it serves. Raises RuntimeError if it never does."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.launch", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **(env or {})},
        )
        try:
            self._out = _Lines(self.process.stdout)
            self._err = _Lines(self.process.stderr)
            self.address = self._until_serving()
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self.process.pid

    def _until_serving(self) -> tuple[str, int]:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            self._read(deadline)
            for line in self._out.take():
                if line["stage"] == "serving":
                    host, _, port = line["address"].rpartition(":")
                    return host, int(port)
                if line["stage"] == "trouble":
                    raise RuntimeError(line["detail"])

    def _read(self, deadline: float) -> None:
        """Wait for output. Raises RuntimeError when there is none in time, or will be none."""
        timeout = max(0.0, deadline - time.monotonic())
        if not select.select([self._out, self._err], [], [], timeout)[0]:
            raise RuntimeError("the server is silent")
        for lines in (self._out, self._err):
            lines.read()
        if self._out.ended:
            status = self.process.wait(DEADLINE)
            self._err.read()
            raise RuntimeError(f"the server ended ({status}): {self._err.last}")

    def close(self) -> None:
        """End it, calls included."""
        for _ in range(2):
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(DEADLINE)
        finally:
            self.process.kill()
            for stream in (self.process.stdout, self.process.stderr):
                if stream is not None:
                    stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Bare(Server):
    """A single-process `websockets` server."""

    def __init__(self) -> None:
        super().__init__("bare")


class Pool(Server):
    """A voicepool server that hosts one of our apps, or speech; what it logs tells when it has
    refilled."""

    def __init__(
        self, app: str = "", *, speech: Mapping[str, Any] | None = None, **settings: Any
    ) -> None:
        """`speech`: settings for an app of ours that loads speech engines."""
        super().__init__(
            "pool",
            json.dumps({"app": app, "port": 0, **settings}),
            env={SPEECH: json.dumps(speech)} if speech else None,
        )
        self._seen: Counter[str] = Counter()
        """Log lines since `expect`."""

    def expect(self) -> None:
        """Count log lines from here on."""
        self._log()
        self._seen.clear()

    def until(self, event: str, count: int) -> None:
        """Wait until the log has said `event` so often. Nothing polls: the measured processes are
        left alone."""
        deadline = time.monotonic() + DEADLINE
        self._log()
        while self._seen[event] < count:
            self._read(deadline)
            self._log()

    def settle(self, calls: int) -> None:
        """Wait until the workers of so many calls are gone and replaced."""
        self.until("worker ready", calls)
        self.until("worker exited", calls)

    def _log(self) -> None:
        self._seen.update(line["event"] for line in self._err.take())

    @property
    def zygote(self) -> int:
        (pid,) = children(self.pid)
        return pid

    @property
    def workers(self) -> Sequence[int]:
        return children(self.zygote)


class _Lines:
    """JSON lines from a pipe, read only when asked to; other lines are kept for error messages."""

    def __init__(self, pipe: IO[bytes] | None) -> None:
        assert pipe is not None
        self._pipe = pipe
        os.set_blocking(pipe.fileno(), False)
        with contextlib.suppress(PermissionError):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._rest = b""
        self._parsed: list[dict[str, Any]] = []
        self.last = ""
        self.ended = False

    def fileno(self) -> int:
        return self._pipe.fileno()

    def read(self) -> None:
        while (data := self._pipe.read(65536)) is not None:
            if not data:
                self.ended = True
                return
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                self.last = line.decode("utf-8", "replace")
                with contextlib.suppress(json.JSONDecodeError):
                    self._parsed.append(json.loads(line))

    def take(self) -> list[dict[str, Any]]:
        taken, self._parsed = self._parsed, []
        return taken
