"""What the conversations share: a caller's sound, waiting for what comes, and telling the outcome.

Runs in an environment of the frameworks, without voicepool: the standard library must do.
"""

from __future__ import annotations

import asyncio
import json
import sys
import wave
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

RATE = 24_000
PIECE_MS = 20
DEADLINE = 30.0

TOOL = "count_waiting_callers"
TOOL_DESCRIPTION = "How many callers wait."
QUESTION = "how many callers are waiting in the queue"
STORY = "tell me a very long story"
SAYINGS = {
    "color": "what is your favorite color",
    "queue": QUESTION,
    "name": "do you remember my name",
    "story": STORY,
    "stop": "please stop talking now",
}
"""What the caller says, by the name of its WAV file."""


class Microphone:
    """A caller's sound as it comes, 20 ms at a time: silence but for what is to be said."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pending = b""

    def say(self, name: str) -> None:
        with wave.open(str(self._folder / f"{name}.wav")) as file:
            self._pending += file.readframes(file.getnframes())

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = RATE * PIECE_MS // 1000 * 2
        clock = asyncio.get_running_loop().time
        due = clock()
        while True:
            piece, self._pending = self._pending[:size], self._pending[size:]
            yield piece.ljust(size, b"\0")
            due += PIECE_MS / 1000
            await asyncio.sleep(due - clock())


class Journal:
    """What happened, in order, to be awaited. A step reads on from where it began."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, Any]] = []
        """Of all steps: what kind, and its value."""
        self._begun = 0
        self._news = asyncio.Condition()

    async def note(self, kind: str, value: Any = None) -> None:
        async with self._news:
            self.entries.append((kind, value))
            self._news.notify_all()

    def begin(self) -> None:
        self._begun = len(self.entries)

    def all(self, kind: str) -> list[Any]:
        """Of this step."""
        return [value for each, value in self.entries[self._begun :] if each == kind]

    async def until(self, kind: str, wanted: Callable[[Any], object] = lambda value: True) -> Any:
        """The first entry of this step of the kind that is wanted, once it is there."""
        async with self._news:
            while True:
                for value in self.all(kind):
                    if wanted(value):
                        return value
                await self._news.wait()

    def last(self) -> list[str]:
        return [kind for kind, _ in self.entries[-8:]]


def tell(step: str, ok: bool, detail: str) -> None:
    print(json.dumps({"step": step, "ok": ok, "detail": detail}), flush=True)


async def run(
    package: str, journal: Journal, steps: dict[str, Callable[[], Awaitable[str]]]
) -> None:
    """Take the steps in turn, and tell of each whether it worked."""
    print(json.dumps({"package": package, "version": version(package)}), flush=True)
    for name, step in steps.items():
        journal.begin()
        try:
            async with asyncio.timeout(DEADLINE):
                tell(name, True, await step())
        except (AssertionError, TimeoutError) as error:
            tell(name, False, f"{type(error).__name__} {error} after {journal.last()}")


def arguments() -> tuple[str, Path]:
    """The server's address, such as ws://127.0.0.1:8000, and the folder of WAV files."""
    url, folder = sys.argv[1:]
    return url, Path(folder)
