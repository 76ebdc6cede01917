"""When things happened to workers and their callers, as the metrics tell it.

Times are of one monotonic clock, in seconds. Nothing here takes longer the more workers there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


class Observed(Protocol):
    """What of `metrics.Metrics` is used here."""

    def observe(self, name: str, seconds: float) -> None: ...

    def ended(self, outcome: str, seconds: float) -> None: ...


@dataclass(slots=True)
class _Life:
    """One worker's, as far as it has come."""

    spawned: float
    arrived: float = 0.0
    """Its caller."""
    assigned: float = 0.0
    accepted: float | None = None
    """None too once its call is over."""


class Chronicle:
    """Of one server's live workers. Each is told of from `spawned` to `gone`."""

    def __init__(self, metrics: Observed, clock: Callable[[], float]) -> None:
        self._metrics = metrics
        self._clock = clock
        self._lives: dict[int, _Life] = {}

    def spawned(self, worker: int) -> None:
        self._lives[worker] = _Life(self._clock())

    def ready(self, worker: int) -> None:
        self._metrics.observe("warmup_seconds", self._clock() - self._lives[worker].spawned)

    def assigned(self, worker: int, arrived: float) -> None:
        """It was chosen for a caller who arrived then."""
        life = self._lives[worker]
        life.arrived, life.assigned = arrived, self._clock()

    def accepted(self, worker: int, at: float) -> None:
        """Its acknowledgement has come: only now is it known whose wait this was."""
        life = self._lives[worker]
        life.accepted = at
        self._metrics.observe("queue_seconds", life.assigned - life.arrived)
        self._metrics.observe("handoff_seconds", at - life.assigned)

    def ended(self, worker: int, outcome: str) -> None:
        """Its call is over."""
        life = self._lives[worker]
        if life.accepted is not None:
            self._metrics.ended(outcome, self._clock() - life.accepted)
            life.accepted = None

    def gone(self, worker: int) -> None:
        """It is no more; a call that it had has been lost."""
        self.ended(worker, "lost")
        del self._lives[worker]
