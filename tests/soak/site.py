"""What callers and disturbances share: address, sounds, who was shot, what was broken when."""

from __future__ import annotations

import asyncio
import base64
import ssl
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from tests.servers import spoken

KEY: Final = "0123456789abcdef0123456789abcdef"
"""The one of benchmarks.wire.request; long enough to be looked for in the log."""
PATH: Final = "/v1/realtime"
PHRASES: Final = ("what time is it", "tell me a joke", "what is the capital of norway")
"""Which the embedded recogniser knows."""
STORY: Final = "Tell me a very long story."
LOUD: Final = 0.01
AFTERMATH: Final = 8.0
"""Seconds after a disturbance in which it may still be felt: a reply's last attempt at a model
server, a worker that is being replaced."""


@dataclass(frozen=True, slots=True)
class Sound:
    """A phrase as a client sends it."""

    pieces: tuple[str, ...]
    """Of 40 ms, base64."""
    words_end: int
    """Index of the last piece that has any of the words."""


def _sound(phrase: str) -> Sound:
    pieces = spoken(phrase)
    loud = [number for number, piece in enumerate(pieces) if _peak(piece) > LOUD]
    return Sound(tuple(pieces), loud[-1])


def _peak(piece: str) -> float:
    samples = memoryview(base64.b64decode(piece)).cast("h")
    return max(map(abs, samples), default=0) / 32768


class Windows:
    """Spans of time in which something was broken. On time.monotonic."""

    def __init__(self) -> None:
        self._spans: list[list[float | None]] = []

    @contextmanager
    def open(self) -> Iterator[None]:
        span: list[float | None] = [time.monotonic(), None]
        self._spans.append(span)
        try:
            yield
        finally:
            span[1] = time.monotonic()

    def touched(self, since: float, until: float) -> bool:
        """Whether one, or what is left of it, overlaps that time."""
        for began, ended in self._spans:
            assert began is not None
            if began <= until and (ended is None or since <= ended + AFTERMATH):
                return True
        return False


@dataclass(slots=True)
class Samples:
    """Seconds that callers waited, in calm times and in others."""

    calm: list[float] = field(default_factory=list)
    disturbed: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Site:
    """Where it all happens."""

    address: tuple[str, int]
    trust: ssl.SSLContext | None = None
    """How to call a server that speaks TLS."""
    sounds: list[Sound] = field(default_factory=lambda: [_sound(phrase) for phrase in PHRASES])
    shot: set[int] = field(default_factory=set)
    """Ports of the callers whose worker was killed or stopped."""
    shot_in_call: int = 0
    """Workers shot that had a caller's connection."""
    cut: int = 0
    """Calls that `was_shot` was asked for under TLS."""
    model_away: Windows = field(default_factory=Windows)
    disturbed: Windows = field(default_factory=Windows)
    connects: Samples = field(default_factory=Samples)
    """From connect() to the session's first event."""
    waits: Samples = field(default_factory=Samples)
    """Voice to voice: from the end of a caller's words to the reply's first sound."""
    interrupted: Counter[str] = field(default_factory=Counter)
    """How replies ended into which somebody spoke."""
    doors: asyncio.Event = field(default_factory=asyncio.Event)
    """While set, callers of the plan come; cleared by who needs a moment without."""
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    """The server has been told to end, and is about to."""

    def was_shot(self, port: int) -> bool:
        """Whether the worker of the caller with this port, whose connection broke, was shot.

        Behind a relay no port leads to a worker: as many connections may break as were shot.
        """
        if self.trust is None:
            return port in self.shot
        self.cut += 1
        return self.cut <= self.shot_in_call

    def sample(self, samples: Samples, began: float, ended: float) -> None:
        """A wait, both on time.monotonic."""
        wanted = samples.disturbed if self.disturbed.touched(began, ended) else samples.calm
        wanted.append(ended - began)
