"""What a worker tells the metrics of its call: counts and latencies, and never a word of it.

    count("turns"), took("stt", 0.2)     said anywhere in a call, in whatever it awaits or starts
    Recorder                             the worker's: keeps them until the next message to the pool
    Figures                              what that message carries
    admit                                the supervisor's: what it believes of it

Which figures there are is fixed here, so nothing that a caller or an app sends can become a label.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

COUNTED: Final[Mapping[str, tuple[str, ...]]] = {
    "turns": (),
    "responses": ("completed", "cancelled", "failed", "incomplete"),
    "interruptions": (),
    "engine_errors": ("vad", "stt", "llm", "tts"),
}
"""What is counted, and the kinds of each: a figure's name is "turns", or "engine_errors.stt"."""

TIMED: Final = ("voice_to_voice", "stt", "llm", "tts")
"""What is timed, in seconds."""

MOST_TIMES: Final = 64
"""Times of one kind that wait for a message; a call has a few a minute."""
MOST_COUNT: Final = 10_000
"""What one message may add to a count."""
LONGEST: Final = 3600.0
"""Seconds that are believed."""

COUNTS: Final = frozenset(
    f"{name}.{kind}" if kind else name for name, kinds in COUNTED.items() for kind in kinds or ("",)
)


@dataclass(frozen=True, slots=True)
class Figures:
    """What has been counted and timed since the worker's last message."""

    counts: Mapping[str, int] = field(default_factory=dict)
    times: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    dropped: int = 0
    """How many observations found no room."""


class Recorder:
    """A worker's figures since its last message. Bounded, never waits, for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clear()

    def _clear(self) -> None:
        self._counts: Counter[str] = Counter()
        self._times: dict[str, list[float]] = {}
        self._dropped = 0

    def count(self, name: str, amount: int = 1) -> None:
        """Count one of COUNTS."""
        with self._lock:
            self._counts[name] += amount

    def took(self, name: str, seconds: float) -> None:
        """Note one of TIMED; dropped where too many wait."""
        with self._lock:
            times = self._times.setdefault(name, [])
            if len(times) < MOST_TIMES:
                times.append(seconds)
            else:
                self._dropped += 1

    def take(self) -> Figures | None:
        """All of it, for a message; None where there is nothing to tell."""
        with self._lock:
            if not (self._counts or self._times or self._dropped):
                return None
            times = {name: tuple(values) for name, values in self._times.items()}
            figures = Figures(dict(self._counts), times, self._dropped)
            self._clear()
            return figures

    def restore(self, figures: Figures) -> None:
        """The message could not be sent: keep what there is room for until the next."""
        for name, amount in figures.counts.items():
            self.count(name, amount)
        for name, values in figures.times.items():
            for seconds in values:
                self.took(name, seconds)
        with self._lock:
            self._dropped += figures.dropped


recorder: ContextVar[Recorder] = ContextVar("voicepool.recorder")
"""Where the present call's figures go; set for the real caller only, not in rehearsals."""


def count(name: str) -> None:
    """Count something in the present call; nothing where there is none, as in a rehearsal.

    Raises ValueError for what is not in COUNTS.
    """
    if name not in COUNTS:
        raise ValueError(f"{name!r} is not counted; what is: {', '.join(sorted(COUNTS))}")
    if present := recorder.get(None):
        present.count(name)


def took(name: str, seconds: float) -> None:
    """Note how long something took in the present call; nothing where there is none.

    Raises ValueError for what is not in TIMED, and for what is no length of time.
    """
    if name not in TIMED:
        raise ValueError(f"{name!r} is not timed; what is: {', '.join(TIMED)}")
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{name} cannot take {seconds} s")
    if present := recorder.get(None):
        present.took(name, seconds)


def admit(figures: Figures) -> tuple[Figures, int]:
    """What a worker may have told, and how much else there was: it runs code of others, and may be
    of another release."""
    counts = dict(_admitted_counts(figures.counts))
    times = dict(_admitted_times(figures.times))
    unknown = len(figures.counts.keys() - counts.keys())
    told = sum(map(len, figures.times.values()))
    dropped = unknown + told - sum(map(len, times.values()))
    return Figures(counts, times), dropped + min(max(figures.dropped, 0), MOST_COUNT)


def _admitted_counts(counts: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    for name in COUNTS & counts.keys():
        if counts[name] > 0:
            yield name, min(counts[name], MOST_COUNT)


def _admitted_times(
    times: Mapping[str, tuple[float, ...]],
) -> Iterator[tuple[str, tuple[float, ...]]]:
    for name in TIMED:
        told = times.get(name, ())[:MOST_TIMES]
        yield name, tuple(seconds for seconds in told if 0 <= seconds <= LONGEST)
