"""How far a server has come, for whoever started it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from voicepool.pool import Snapshot, WorkerState


@dataclass(frozen=True, slots=True)
class Progress:
    """One step: preloading → warming (or trouble, and back) → serving; draining → stopped."""

    stage: Literal["preloading", "warming", "serving", "trouble", "draining", "stopped"]
    warm: int = 0
    target: int = 0
    detail: str = ""
    """What is wrong, in a line for people."""


def progress_of(snapshot: Snapshot, target: int, *, preloaded: bool) -> Progress:
    """The step that the pool is at. `target`: how many warm workers were asked for."""
    warm = snapshot.states[WorkerState.IDLE] + snapshot.callers
    if snapshot.draining:
        return Progress("draining")
    if not preloaded:
        return Progress("preloading", target=target)
    shortage = _shortage(snapshot, target)
    if warm and warm >= min(target, snapshot.target + snapshot.callers):
        return Progress("serving", warm, target, shortage)
    if snapshot.last_error or snapshot.target == 0:
        return Progress("trouble", warm, target, snapshot.last_error or shortage)
    return Progress("warming", warm, target)


def _shortage(snapshot: Snapshot, target: int) -> str:
    """Why fewer workers are kept warm than were asked for, and what helps; "" if they are not."""
    if snapshot.target + snapshot.callers >= target:
        return ""
    kind, _, device = snapshot.bound_by.partition(":")
    if kind != "budget":
        return ""
    return (
        f"{snapshot.target} of {target} workers fit into the memory of {device} "
        f"(a worker takes {snapshot.estimate.host >> 20} MiB, by ram_per_worker until one has been "
        "measured): free memory there, raise ram_budget, lower ram_reserve or ram_per_worker, or "
        "start with fewer --workers"
    )
