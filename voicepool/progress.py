"""How far a server has come, for whoever started it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from voicepool.budgetspec import HOST, DeviceView, Shortfall
from voicepool.pool import Snapshot, WorkerState
from voicepool.quantities import format_size


@dataclass(frozen=True, slots=True)
class Progress:
    """One step: preloading → warming (or trouble, and back) → serving; draining → stopped."""

    stage: Literal["preloading", "warming", "serving", "trouble", "draining", "stopped"]
    warm: int = 0
    target: int = 0
    detail: str = ""
    """What is wrong, in a line for people."""


def progress_of(
    snapshot: Snapshot, target: int, *, preloaded: bool, zygote_error: str = ""
) -> Progress:
    """The step that the pool is at. `target`: how many warm workers were asked for;
    `zygote_error`: why what they share could not be loaded when that was tried last."""
    warm = snapshot.states[WorkerState.IDLE] + snapshot.callers
    if snapshot.draining:
        return Progress("draining")
    if not preloaded:
        stage: Literal["trouble", "preloading"] = "trouble" if zygote_error else "preloading"
        return Progress(stage, target=target, detail=zygote_error)
    shortage = _shortage(snapshot, target)
    measuring = snapshot.unweighed and not snapshot.proven
    if warm and warm >= min(target, snapshot.target + snapshot.callers) and not measuring:
        return Progress("serving", warm, target, shortage)
    # No room without a shortage is one that a worker on its way out still takes.
    if snapshot.last_error or (snapshot.target == 0 and shortage and not measuring):
        return Progress("trouble", warm, target, snapshot.last_error or shortage)
    return Progress("warming", warm, target)


def _shortage(snapshot: Snapshot, target: int) -> str:
    """Why fewer workers are kept warm than were asked for, and what helps; "" if they are not."""
    if snapshot.target + snapshot.callers >= target:
        return ""
    kind, _, device = snapshot.bound_by.partition(":")
    if kind != "budget":
        return ""
    view = next(view for view in snapshot.devices if view.device == device)
    if view.missing and device != HOST:
        return f"{device} cannot be read any more: see what nvidia-smi says of it"
    memory, prefix = _memory(device)
    how = "measured" if snapshot.proven else f"by {prefix}_per_worker until one has been measured"
    return (
        f"{snapshot.target} of {target} workers fit into the {memory} "
        f"(a worker takes {format_size(view.per_worker)}, {how}; others use "
        f"{format_size(view.others)} of {format_size(view.total)}): "
        + ", ".join(_ways(view, prefix, measured=snapshot.proven))
        + ", or start with fewer --workers"
    )


def _ways(view: DeviceView, prefix: str, *, measured: bool) -> Iterator[str]:
    """What would make room: only what is set, or still counts, can be changed for the better."""
    yield "free memory there"
    yield from _limits(view, prefix)
    if not measured:
        yield f"lower {prefix}_per_worker if that is more than a worker takes"


def never_fits(shortfall: Shortfall) -> str:
    """Why not a single worker will ever fit, and what to change."""
    memory, prefix = _memory(shortfall.device)
    needs = f"a worker takes {format_size(shortfall.needs)} of {memory}"
    room = (
        f"at most {format_size(shortfall.most)} of {format_size(shortfall.total)} are for workers"
    )
    ways = list(_limits(shortfall, prefix))
    if shortfall.measured:
        return f"{needs}, as measured, but {room}: {', or '.join([*ways, 'choose smaller models'])}"
    ways.append(f"lower {prefix}_per_worker if that is more than a worker takes")
    return f"{needs} by {prefix}_per_worker, but {room}: {', or '.join(ways)}"


def _limits(device: DeviceView | Shortfall, prefix: str) -> Iterator[str]:
    """What would give workers more of a device, of what is set."""
    if device.cap is not None:
        yield f"raise {prefix}_budget"
    if device.reserve:
        yield f"lower {prefix}_reserve"


def _memory(device: str) -> tuple[str, str]:
    """What a device's memory is called, and what its settings begin with."""
    return ("RAM", "ram") if device == HOST else (f"VRAM of {device}", "vram")
