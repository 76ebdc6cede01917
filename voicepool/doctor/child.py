"""Looks at what may hang or crash from a process of its own, with a deadline.

The child gets a request on standard input and answers in JSON lines, so that of one which dies it
is known how far it came.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import Any, Final, Generic, TypeVar

import msgspec

T = TypeVar("T")

_PATIENCE: Final = 2.0
"""Seconds for what takes none unless the kernel is in trouble: to read what a child has said, and
to end it. One that a driver holds stays behind."""


class Child(Generic[T]):
    """`python -m module` at work, since it was made. Close it."""

    def __init__(self, module: str, request: msgspec.Struct, answers: Any, deadline: float) -> None:
        """`answers`: the type of the answers; `deadline`: seconds from now.

        Raises OSError where no process can be started.
        """
        self._answers = answers
        self._deadline = deadline
        self._end = time.monotonic() + deadline
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, str(int(deadline) + 1)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        stdin, self._process.stdin = self._process.stdin, None
        assert stdin is not None
        with contextlib.suppress(BrokenPipeError), stdin:
            stdin.write(msgspec.json.encode(request))

    def answers(self) -> tuple[list[T], str]:
        """All that it said in time, and how it ended: "" if all is well."""
        try:
            # Who comes late, busy with another child, still gets what this one said in time.
            left = max(_PATIENCE, self._end - time.monotonic())
            output, _ = self._process.communicate(timeout=left)
            ending = _ending(self._process.returncode)
        except subprocess.TimeoutExpired as late:
            output, ending = late.output or b"", f"took more than {self._deadline:.0f} s"
        whole, _, _ = output.rpartition(b"\n")
        decoder: msgspec.json.Decoder[T] = msgspec.json.Decoder(self._answers)
        return [decoder.decode(line) for line in whole.splitlines()], ending

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_PATIENCE)
        if self._process.stdout is not None:
            self._process.stdout.close()


def _ending(status: int) -> str:
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with code {status}" if status else ""


class Desk:
    """The child's side: the request, and where the answers go."""

    def __init__(self) -> None:
        # The kernel ends this process in time whatever a library does, and whoever asked is gone.
        signal.alarm(int(sys.argv[1]))
        # What libraries print must not get among the answers.
        self._out = os.dup(1)
        os.dup2(2, 1)

    def request(self, kind: type[T]) -> T:
        return msgspec.json.decode(sys.stdin.buffer.read(), type=kind)

    def tell(self, answer: msgspec.Struct) -> None:
        os.write(self._out, msgspec.json.encode(answer) + b"\n")
