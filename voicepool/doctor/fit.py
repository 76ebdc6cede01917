"""How many workers would fit, and what binds first. Pure.

Memory by the very ledger that the server keeps, with what a worker is taken to need before the
first one has been measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from voicepool.budget import HOST, Ledger, Reading
from voicepool.budgetspec import DeviceView
from voicepool.config import Settings
from voicepool.doctor.facts import Host, in_cores
from voicepool.doctor.findings import Bound, Finding, note, ok, problem, wrong
from voicepool.gpu import Gpu
from voicepool.progress import never_fits
from voicepool.quantities import format_size
from voicepool.rules import pool_settings

MOST: Final = 4096
"""Workers, as in the settings: beyond it nobody counts."""

ZYGOTE: Final[Mapping[str, int]] = {"embedded": 64 << 20, "cpu": 1 << 30, "cuda": 1 << 30}
"""What the template process is taken to need, by profile: libraries, and weights on the host. With
Whisper base, Kokoro and the VAD it was seen to take 0.8 GB."""

FILES: Final = 64
"""Files that a server has open by itself, at most."""
FILES_PER_WORKER: Final = 4
"""Its control socket, its life-line, its pidfd, its status in /proc. A caller's own socket is the
worker's."""
FAREWELLS: Final = 256
"""Answered clients that are still there, at most; each may have a file on its way."""
TASKS: Final = 64
"""Processes and threads of a server without its workers, rather too many."""
TASKS_PER_WORKER: Final = 32
"""Threads of a worker, rather too many: with the embedded engines it is 6 in a call."""

CALLERS_PER_CORE: Final[Mapping[str, float]] = {"embedded": 8, "cpu": 1, "cuda": 2}
"""Callers who talk at once that one core was seen to keep up with. "embedded": a worker took 1.1 s
of CPU in a call of 9 s. "cpu": a transcript by Whisper base takes 1.2 s, and Kokoro 0.9 s for a
second of speech, which comes to 0.8 of a core. "cuda": a guess, for the GPU does that work."""


_NO_GPU: Final = "there is no GPU for workers"


def bounds(
    settings: Settings, host: Host, gpus: Sequence[Gpu], *, needs_gpu: bool = False
) -> list[Bound]:
    """What there is only so much of, the tightest first. `gpus`: those that workers would use."""
    ledger = _ledger(settings, host, gpus)
    views = ledger.views(MOST)
    found = [_memory("RAM", [view for view in views if view.device == HOST])]
    if gpus:
        found.append(_memory("VRAM", [view for view in views if view.device != HOST]))
    elif needs_gpu:
        found.append(Bound("VRAM", 0, _NO_GPU))
    taken = FILES + settings.max_waiting
    found.append(
        Bound(
            "open files",
            _times(host.files - taken, FILES_PER_WORKER),
            f"{host.files} allowed, {taken} for the server and callers who wait, "
            f"{FILES_PER_WORKER} a worker",
        )
    )
    if host.tasks is not None:
        found.append(
            Bound(
                "processes and threads",
                _times(host.tasks, TASKS_PER_WORKER),
                f"{host.tasks} more allowed, {TASKS_PER_WORKER} a worker at most",
            )
        )
    return sorted(found, key=lambda bound: bound.fits)


def _ledger(settings: Settings, host: Host, gpus: Sequence[Gpu]) -> Ledger:
    zygote = 0 if settings.app else ZYGOTE.get(settings.profile, 0)
    ledger = Ledger(pool_settings(settings).budget)
    memory = Reading(host.memory.total, host.memory.used + zygote)
    ledger.update(
        {HOST: memory, **{gpu.device: Reading(gpu.total, gpu.used) for gpu in gpus}}, zygote
    )
    return ledger


def files_needed(settings: Settings) -> int:
    """Descriptors of the process that needs most of them, where all that may come do come.

    The supervisor has one for a caller who has not been handed over yet, and one more for each
    worker until that has acknowledged. A TLS relay has two for everybody, calls included.
    """
    processes = settings.max_connections + settings.spare
    heads = settings.max_heads + 2 * FAREWELLS
    supervisor = FILES + (FILES_PER_WORKER + 1) * processes + settings.max_waiting + heads
    if not settings.tls_cert:
        return supervisor
    return max(supervisor, FILES + 2 * (processes + settings.max_waiting + heads))


def tasks_needed(settings: Settings) -> int:
    """Processes and threads with all workers there."""
    return TASKS + TASKS_PER_WORKER * (settings.max_connections + settings.spare)


def _times(free: int, each: int) -> int:
    return max(0, min(MOST, free // each))


def _memory(what: str, views: Sequence[DeviceView]) -> Bound:
    return Bound(what, min(MOST, sum(view.fits for view in views)), "; ".join(map(_sums, views)))


def _sums(view: DeviceView) -> str:
    parts = [f"{format_size(view.total)}", f"{format_size(view.others)} used by others"]
    if view.zygote:
        parts.append(f"{format_size(view.zygote)} for what all workers share")
    if view.reserve:
        parts.append(f"{format_size(view.reserve)} kept free")
    if view.cap is not None:
        parts.append(f"at most {format_size(view.cap)} by the budget")
    parts.append(f"{format_size(view.per_worker)} a worker")
    return ("" if view.device == HOST else f"{view.device}: ") + ", ".join(parts)


# --- findings --------------------------------------------------------------------------------


def judge(
    settings: Settings, host: Host, gpus: Sequence[Gpu], found: Sequence[Bound]
) -> list[Finding]:
    """What the sums mean for the workers that were asked for. `found`: as `bounds` has it."""
    shortfall = _ledger(settings, host, gpus).shortfall()
    if shortfall is not None:
        text, _, remedy = never_fits(shortfall).partition(": ")
        return [problem(text, remedy)]
    return [_workers(settings, found), *_sources(settings, gpus), *_cores(settings, host)]


def _workers(settings: Settings, found: Sequence[Bound]) -> Finding:
    fits = found[0].fits
    most = settings.max_connections + settings.spare
    asked = f"{_count(settings.workers)} asked for, at most {most} at once"
    text = f"{asked}; {_many(fits)} fit: {found[0].what} binds first ({found[0].sums})"
    if len(found) > 1 and found[1].fits < MOST:
        text += f"; next: {found[1].what}, at {_many(found[1].fits)}"
    if fits == 0:
        return problem(text, _relief(found[0]))
    if fits < settings.workers:
        remedy = f"{_relief(found[0])}, or start with --workers {fits}"
        return wrong(text, remedy, serious=settings.strict)
    if fits < most:
        return note(f"{text}; callers beyond {fits} would wait", _relief(found[0]))
    return ok(text)


def _count(workers: int) -> str:
    return f"{workers} worker{'' if workers == 1 else 's'}"


def _many(fits: int) -> str:
    return f"{fits} or more" if fits >= MOST else str(fits)


def _relief(bound: Bound) -> str:
    if bound.sums == _NO_GPU:
        return "have the driver show a GPU (see GPUs), or take another --profile"
    return {
        "RAM": "free memory, or lower --ram-per-worker if a worker takes less",
        "VRAM": "free memory of the GPU, or lower --vram-per-worker if a worker takes less",
        "open files": "raise the hard limit: LimitNOFILE= of the service, docker run --ulimit "
        "nofile=65536, or limits.conf(5)",
        "processes and threads": "raise the limit: TasksMax= of the service, docker run "
        "--pids-limit, or ulimit -u",
    }[bound.what]


def _sources(settings: Settings, gpus: Sequence[Gpu]) -> Iterator[Finding]:
    """Where the figure for a worker comes from."""
    names = ["ram_per_worker", *(["vram_per_worker"] if gpus else [])]
    guessed = [name for name in names if getattr(settings, name) is None]
    if guessed:
        yield ok(
            f"what a worker takes ({' and '.join(guessed)} unset) is a careful guess; the first "
            "one is measured and replaces it: see `voicepool status`"
        )


def _cores(settings: Settings, host: Host) -> Iterator[Finding]:
    per_core = None if settings.app else CALLERS_PER_CORE.get(settings.profile)
    if per_core is None:
        return
    talking = int(host.cores * per_core)
    also = "" if settings.profile == "embedded" else ", without what a model server takes"
    text = (
        f"{in_cores(host.cores)}: enough for about {talking} "
        f"caller{'' if talking == 1 else 's'} who talk at once, by a rule of thumb for the "
        f"{settings.profile} engines ({per_core:g} a core{also})"
    )
    remedy = "measure it on the running server: voicepool bench call FILE.wav --p95 1.5s"
    yield note(text, remedy) if talking < settings.max_connections else ok(text)
