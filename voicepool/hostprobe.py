"""What the host has to give: looks at RAM and GPUs now and then, and tells the pool.

Nothing here is on the way of a caller: the GPUs are asked by another process (`gpuprobe.py`), and
while that takes its time, the pool goes on with what it knows.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Mapping
from typing import Final

from voicepool import linux
from voicepool.attribution import Attribution, Crew, Member, Phase, Weights
from voicepool.budget import HOST, Ledger, Reading
from voicepool.config import Settings
from voicepool.errors import ConfigError
from voicepool.gpu import NONE, Gpu, usable, visible
from voicepool.gpuprobe import FIRST_PATIENCE, GpuProbe
from voicepool.ipc import Sight
from voicepool.logs import FloodGuard
from voicepool.pool import BudgetChanged, Snapshot, WorkerState
from voicepool.progress import never_fits
from voicepool.quantities import format_size
from voicepool.rules import gpu_need, pool_settings
from voicepool.statusreport import device_report

log = logging.getLogger("voicepool.supervisor")

PROBE_SECONDS: Final = 2.0
"""How often memory is looked at."""
PROBE_PAUSE: Final = 0.1
"""At least so long between two looks, however many workers come and go."""
NOTE_SECONDS: Final = 60.0
"""At least so long between two accounts in the log, however often memory runs short."""

_PHASES: Final[Mapping[WorkerState, Phase]] = {
    WorkerState.WARMING: "loading",
    WorkerState.IDLE: "idle",
}
"""One that is STARTING has not begun to load."""


_NOTHING_NEW: Final = Weights({}, guessed=False)


class HostProbe:
    """Owns the GPU probe. Make it on the running event loop, `prepare`, then `run` in a task."""

    def __init__(
        self,
        settings: Settings,
        tell: Callable[[BudgetChanged], None],
        snapshot: Callable[[], Snapshot],
        pids: Callable[[int], int | None],
    ) -> None:
        """`tell` and `snapshot` are the pool's; `pids`: a worker's process id."""
        self._settings = settings
        self._tell = tell
        self._snapshot = snapshot
        self._pids = pids
        self._gpu_probe = GpuProbe()
        self._attribution = Attribution(pool_settings(settings).budget.estimate.device)
        self._moved = asyncio.Event()
        self._flood = FloodGuard(log)
        self._missing: set[str] = set()
        self._noted = (False, "", -math.inf)
        self._weighing: asyncio.Task[tuple[Mapping[str, Gpu | None], Weights]] | None = None
        """A look at the GPUs that has not come back."""
        self._seen: Mapping[str, Gpu | None] = {}
        """The GPUs when one came back last."""
        self.zygote: int | None = None
        """The zygote's private host bytes; nothing is told before they are known."""
        self.gpus: Mapping[str, Gpu] = {}
        """Those that workers live on, by the budget's names, as they were at the start."""
        self.driver = ""

    @property
    def pid(self) -> int | None:
        """Of the GPU probe."""
        return self._gpu_probe.pid

    def gpu(self, device: str) -> str | None:
        """What a worker on this device shall see, see `ipc.Fork`."""
        if device in self.gpus:
            return self.gpus[device].uuid
        return "" if self._settings.gpus == NONE else None

    # -- before anything is started

    async def prepare(self) -> None:
        """Find the GPUs. Raises ConfigError: one is needed and there is none, or what there is
        would not do for a single worker, whoever else went."""
        await self._find_gpus()
        self._check_room(self._settings)

    def check(self, settings: Settings) -> None:
        """Raise ConfigError where a reload with these settings would not do for a single worker."""
        if (need := gpu_need(settings)) != "some" and (need == "must") != bool(self.gpus):
            now = "does not" if need == "must" else "does"
            raise ConfigError(
                f"with these settings the use of GPUs changes, and the running server {now} use "
                "any: restart it"
            )
        self._check_room(settings)

    def _check_room(self, settings: Settings) -> None:
        ledger = Ledger(pool_settings(settings).budget)
        readings = {name: Reading(gpu.total, gpu.used) for name, gpu in self.gpus.items()}
        ledger.update({HOST: linux.host_memory(), **readings}, 0)
        if shortfall := ledger.shortfall():
            raise ConfigError(never_fits(shortfall))

    async def _find_gpus(self) -> None:
        settings = self._settings
        need = gpu_need(settings)
        if need == "none":
            return
        sight = Sight()
        if settings.gpus != NONE:
            sight = await self._gpu_probe.look(FIRST_PATIENCE)
        found: list[Gpu] = []
        if not sight.error:
            found = usable(sight.gpus, settings.visible_gpus, settings.gpus)
        if found:
            self.driver = sight.driver
            self._seen = self.gpus = {gpu.device: gpu for gpu in found}
            self._announce()
            return
        await self._gpu_probe.close()
        why = sight.error or _why_none(settings, sight)
        if need == "must":
            who = f"the app {settings.app}" if settings.app else f"profile {settings.profile}"
            raise ConfigError(f"{who} is to run on a GPU, but {why}")
        log.info("no gpu is used", extra={"reason": why})

    def _announce(self) -> None:
        for device, gpu in self.gpus.items():
            log.info(
                "gpu",
                extra={
                    "device": device,
                    "model": gpu.name,
                    "uuid": gpu.uuid,
                    "total": format_size(gpu.total),
                    "used": format_size(gpu.used),
                    "driver": self.driver,
                },
            )
            if gpu.compute_mode == "exclusive":
                log.warning(
                    "gpu serves one process at a time unless CUDA MPS runs",
                    extra={"device": device, "remedy": f"nvidia-smi -i {gpu.index} -c DEFAULT"},
                )

    # -- all the time

    def open(self, zygote: int) -> None:
        """Begin to tell; `zygote`: its private host bytes."""
        self.zygote = zygote
        self.moved()

    def moved(self) -> None:
        """A worker came or went: until the next look what it takes counts as others', and what it
        gave back is not seen."""
        self._moved.set()

    async def run(self) -> None:
        """Look for ever. Cancel it, then `close`."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PROBE_SECONDS):
                    await self._moved.wait()
            self._moved.clear()
            if self.zygote is not None:
                try:
                    await self._look(self.zygote)
                except Exception:
                    # A bug, and no reason to go on with these figures for ever.
                    log.exception("memory cannot be looked at")
            await asyncio.sleep(PROBE_PAUSE)

    async def close(self) -> None:
        if self._weighing is not None:
            self._weighing.cancel()
            await asyncio.wait([self._weighing])
        await self._gpu_probe.close()

    async def _look(self, zygote: int) -> None:
        gpus, weights = await self._weighed()
        readings: dict[str, Reading | None] = {
            name: Reading(gpu.total, gpu.used) if gpu else None for name, gpu in gpus.items()
        }
        try:
            readings[HOST] = linux.host_memory()
        except OSError as error:
            # Out of descriptors. The next look is soon.
            self._flood.info("memory cannot be read", error=error.strerror)
            return
        self._tell(BudgetChanged(readings, zygote, weights.vram, weights.guessed))
        self._note_room()

    async def _weighed(self) -> tuple[Mapping[str, Gpu | None], Weights]:
        """As `_weigh`; while the driver takes its time, the GPUs as they were last seen. What else
        there is to see must not wait for it."""
        if not self.gpus:
            return {}, _NOTHING_NEW
        if self._weighing is None:
            self._weighing = asyncio.create_task(self._weigh())
        await asyncio.wait([self._weighing], timeout=PROBE_SECONDS)
        if not self._weighing.done():
            return self._seen, _NOTHING_NEW
        done, self._weighing = self._weighing, None
        self._seen, weights = done.result()
        return self._seen, weights

    def _note_room(self) -> None:
        """Log every device's account when the pilot has been measured, and whenever memory begins
        or ceases to keep workers out."""
        view = self._snapshot()
        bound = view.bound_by if view.bound_by.startswith("budget:") else ""
        proven, before, at = self._noted
        now = asyncio.get_running_loop().time()
        if view.proven == proven and (bound == before or now - at < NOTE_SECONDS):
            return
        self._noted = (view.proven, bound, now)
        for device in view.devices:
            log.info("memory", extra={**device_report(device, self.gpus), "bound_by": bound})

    async def _weigh(self) -> tuple[Mapping[str, Gpu | None], Weights]:
        """The GPUs now, None for one that cannot be read, and what workers have of them.

        Who got ready while the driver was asked may have been seen half loaded: for the phase of
        each worker, what it was before counts.
        """
        before = self._crew()
        sight = await self._gpu_probe.look()
        seen = {gpu.uuid: gpu for gpu in sight.gpus}
        gpus = {device: seen.get(gpu.uuid) for device, gpu in self.gpus.items()}
        self._note_missing({device for device, gpu in gpus.items() if gpu is None}, sight.error)
        return gpus, self._attribution.weigh(gpus, before, quiet=before == self._crew())

    def _crew(self) -> Crew:
        """The workers that may have begun to use a GPU."""
        return {
            view.number: Member(
                self._pids(view.number), view.device, _PHASES.get(view.state, "other")
            )
            for view in self._snapshot().workers
            if view.device != HOST and view.state is not WorkerState.STARTING
        }

    def _note_missing(self, missing: set[str], error: str) -> None:
        for device in sorted(missing - self._missing):
            log.error("gpu cannot be read", extra={"device": device, "error": error or "lost"})
        for device in sorted(self._missing - missing):
            log.info("gpu is back", extra={"device": device})
        self._missing = missing


def _why_none(settings: Settings, sight: Sight) -> str:
    if settings.gpus == NONE:
        return "gpus = none"
    if sight.lost:
        return "it cannot be read: see what nvidia-smi says of it"
    if not sight.gpus:
        return "this machine has none"
    if not visible(sight.gpus, settings.visible_gpus):
        return f"CUDA_VISIBLE_DEVICES={settings.visible_gpus} shows none of those here"
    return "its compute mode prohibits it: nvidia-smi -c DEFAULT"
