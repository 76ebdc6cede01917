"""Who calls, what breaks, and when: all drawn from one seed. Pure.

What a draw hits depends on the moment (which worker is idle), the sequence of draws does not.
"""

from __future__ import annotations

import enum
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

T = TypeVar("T")


class Part(enum.StrEnum):
    """What a caller does."""

    SPOKEN = "speaks"
    TYPED = "types"
    BARGE_IN = "barges in"
    SILENT = "says nothing"
    ABSENT = "connects, sends nothing"
    HALF_HEAD = "hangs up in mid-request"
    IMPATIENT = "hangs up before an answer"
    FLEETING = "hangs up after the handshake"
    MID_SPEECH = "hangs up while speaking"
    MID_REPLY = "hangs up in a reply"
    NEVER_READS = "never reads"
    PROBE = "asks by HTTP"


class Disturbance(enum.StrEnum):
    KILL_IDLE = "idle worker killed"
    KILL_SERVING = "serving worker killed"
    STOP_IDLE = "idle worker stopped"
    STOP_SERVING = "serving worker stopped"
    KILL_ZYGOTE = "zygote killed"
    RELOAD = "reload"
    RELOAD_CHANGED = "reload, changed settings"
    RELOAD_BAD = "reload, bad file"
    MODEL_KILLED = "model server killed, restarted"
    MODEL_HANGS = "model server hangs"
    DISK_FULL = "log's disk full"
    BURST = "burst of callers"


CALLERS: Final = (
    *[Part.SPOKEN] * 6,
    *[Part.TYPED] * 6,
    *[Part.BARGE_IN] * 2,
    *(part for part in Part if part not in (Part.SPOKEN, Part.TYPED, Part.BARGE_IN)),
)
"""Of each so many until all have had their turn."""

BURST_SIZE: Final = (14, 22)
MOST_TURNS: Final = 3


@dataclass(frozen=True, slots=True)
class Call:
    """One caller of the plan."""

    gap: float
    """Seconds after the one before."""
    part: Part
    seed: int
    """Of the caller's own choices."""


def deck(cards: Sequence[T], rng: random.Random) -> Iterator[T]:
    """All cards in a random order, then all again in another, without an end."""
    while True:
        yield from rng.sample(cards, len(cards))


def calls(seed: int, mean_gap: float) -> Iterator[Call]:
    """The callers in their order; `mean_gap` in seconds."""
    rng = random.Random(f"callers {seed}")
    for part in deck(CALLERS, rng):
        yield Call(min(4 * mean_gap, rng.expovariate(1 / mean_gap)), part, rng.getrandbits(32))


def disturbances(seed: int) -> Iterator[tuple[Disturbance, int]]:
    """What breaks in which order, each with a seed of its own choices."""
    rng = random.Random(f"disturbances {seed}")
    for kind in deck(list(Disturbance), rng):
        yield kind, rng.getrandbits(32)


@dataclass(frozen=True, slots=True)
class Round:
    """Undisturbed callers, then disturbed ones, then quiet. Seconds."""

    calm: float
    disturbed: float
    disturbances: int


ROUND_SECONDS: Final = 180.0
LEAST_ROUNDS: Final = 2
CALM_SHARE: Final = 0.35


def warm_seconds(seconds: float) -> float:
    """How long a soak of `seconds` has callers, and no disturbances, before its first quiet."""
    return min(20.0, 0.15 * seconds)


def next_round(seconds: float, elapsed: float, number: int) -> Round | None:
    """Round `number`, from 1 on, of a soak of `seconds`; None: it is over.

    Rounds take about ROUND_SECONDS each, or what makes LEAST_ROUNDS of a short soak.
    """
    if number > LEAST_ROUNDS and elapsed >= seconds:
        return None
    each = min(ROUND_SECONDS, (seconds - warm_seconds(seconds)) / LEAST_ROUNDS)
    # A short soak has time for each kind once.
    kinds = len(Disturbance)
    count = kinds if each == ROUND_SECONDS else math.ceil(kinds / LEAST_ROUNDS)
    return Round(each * CALM_SHARE, each * (1 - CALM_SHARE), count)
