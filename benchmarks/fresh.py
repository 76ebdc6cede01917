"""Processes that were not forked from anything warm: the cold start and the peer."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from benchmarks.wire import DEADLINE
from voicepool.forker import child_environment

PEER_PYTHON: Final = Path(__file__).parent.parent / ".venv-livekit/bin/python"
"""Made by scripts/install-livekit-bench."""
_PEER: Final = Path(__file__).with_name("livekit_peer.py")


class _Child:
    """A process that answers in lines and ends when its stdin does."""

    def __init__(self, command: list[str], env: Mapping[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )

    def line(self) -> list[str]:
        """The words of the next line. Raises RuntimeError when it has ended instead."""
        assert self.process.stdout is not None
        words = self.process.stdout.readline().split()
        if not words:
            raise RuntimeError(f"{self.process.args!r} ended")
        return words

    def ask(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def close(self) -> None:
        """End it and reap it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(DEADLINE)
        finally:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Cold(_Child):
    """`benchmarks.cold`, warm when made; `seconds` is what that took, `inferences` the part of the
    warm-up inferences. Its libraries have one thread each, as a worker's have."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        began = time.perf_counter()
        command = [sys.executable, "-m", "benchmarks.cold", json.dumps(settings)]
        super().__init__(command, env=child_environment())
        try:
            _, inferences = self.line()
        except BaseException:
            self.close()
            raise
        self.seconds = time.perf_counter() - began
        self.inferences = float(inferences)


class Peer(_Child):
    """LiveKit Agents' process pool with one idle process."""

    def __init__(self) -> None:
        super().__init__([str(PEER_PYTHON), str(_PEER)])
        self.line()

    def refill(self) -> float:
        """Seconds from the launch of a job to the next process that is ready for one."""
        self.ask()
        return float(self.line()[0])
