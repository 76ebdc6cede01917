"""How many workers there are: who is spawned, who is let go, and when trying is no use.

    idle target = min(N, M + S - busy workers, what the budget fits)

Busy are all live workers that are neither idle nor coming (STARTING, WARMING).
"""

from __future__ import annotations

import random
from typing import Final

from voicepool.backoff import Backoff
from voicepool.poolspec import PoolSettings, ProcessExited, Reason, SpawnFailed, WorkerState
from voicepool.poolstate import PoolState, Timer
from voicepool.roster import COMING, Worker

_REFILL_WEIGHT = 0.2
"""The weight of the newest Spawn-to-ready time in the moving average."""
_HANGING = 3
"""Who takes so many times as long to get ready as others, and longer than callers wait, hangs."""
AGE_JITTER = 0.1
"""The part of worker_age by which a worker's own may be more or less: those that were started
together are not to be replaced together."""


class Staffing:
    """Keeps as many workers warm as there should be and can be."""

    def __init__(self, state: PoolState, rng: random.Random) -> None:
        self._state = state
        self._roster = state.roster
        self._ledger = state.ledger
        self._rng = rng
        self._refill_time: float | None = None
        self.backoff = self._new_backoff()
        self.halted = False
        """A permanent error: only new settings can help."""
        self.last_error = ""

    def _new_backoff(self) -> Backoff:
        settings = self._state.settings
        return Backoff(settings.backoff_base, settings.backoff_cap, self._rng)

    # -- experience

    def failed(self, worker: Worker, event: ProcessExited | SpawnFailed) -> None:
        """Note the loss of a worker that never took a caller, by no decision of the pool.

        One that dies while ASSIGNED is such a loss too: if taking a socket is what kills workers,
        they must not be spawned as fast as they die.
        """
        self._state.counts["failures"] += 1
        self.last_error = event.error or _epitaph(worker)
        self.halted = self.halted or event.permanent
        self.backoff.failed(worker.born, self._state.now)
        if self.backoff.until is not None:
            self._state.deadlines.set((Timer.BACKOFF, 0), self.backoff.until)

    def proved(self, worker: Worker) -> None:
        """End the run of failures: the worker shows that spawning works."""
        if worker.stale:
            return  # it shows nothing about new code
        self.backoff.succeeded()
        if not self.halted:
            self.last_error = ""

    def warmed(self, worker: Worker) -> None:
        """Note how long it took to get the worker ready, and let it grow old from now on."""
        age = self._state.settings.worker_age
        if age is not None:
            age *= self._rng.uniform(1 - AGE_JITTER, 1 + AGE_JITTER)
            self._state.deadlines.set((Timer.AGE, worker.number), self._state.now + age)
        took = self._state.now - worker.born
        if self._refill_time is None:
            self._refill_time = took
        else:
            self._refill_time += _REFILL_WEIGHT * (took - self._refill_time)

    @property
    def refill_time(self) -> float:
        """Seconds from Spawn to ready: a moving average, or the guess of the settings."""
        if self._refill_time is None:
            return self._state.settings.refill_guess
        return self._refill_time

    def reload(self, settings: PoolSettings) -> None:
        """Start anew with new settings and new code; what was learned of the old ones is void."""
        needed = self._nearly_there()
        self._state.settings = settings
        self._ledger.configure(settings.budget)
        self._state.deadlines.clear((Timer.BACKOFF, 0))
        self.backoff = self._new_backoff()
        self.halted = False
        self.last_error = ""
        self._roster.make_stale()
        for worker in list(self._roster):
            if worker.state in COMING and worker not in needed:
                self._state.stop(worker, Reason.RELOAD)

    def _nearly_there(self) -> list[Worker]:
        """Workers for callers who wait: had these to wait for a whole warm-up more, a reload could
        cost them their turn. Not where warm-ups fail or hang, which a reload may be to mend."""
        if self.halted or self.backoff.failures or self._refill_time is None:
            return []
        longest = max(_HANGING * self._refill_time, self._state.settings.queue_timeout)
        warming = [
            worker
            for worker in self._roster
            if worker.state is WorkerState.WARMING and self._state.now - worker.born <= longest
        ]
        return warming[: len(self._state.waiting)]

    # -- the target

    @property
    def hopeless(self) -> bool:
        """Nobody can serve a caller, and nobody will come."""
        return self.halted and not self._roster.idle and not self._roster.coming

    def target(self) -> tuple[int, str]:
        """The idle target, and what keeps it from being higher."""
        wanted, workers = self._wanted, self._state.settings.workers
        fits = self._roster.idle + self._roster.coming + self._ledger.room(workers)
        if fits < wanted:
            return fits, f"budget:{self._ledger.bottleneck()}"
        return wanted, "workers" if wanted == workers else "max_connections"

    @property
    def _most_live(self) -> int:
        return self._state.settings.max_connections + self._state.settings.spare

    @property
    def _wanted(self) -> int:
        """The idle target where memory is no object."""
        busy = len(self._roster) - self._roster.idle - self._roster.coming
        return max(0, min(self._state.settings.workers, self._most_live - busy))

    # -- letting go

    def shed_overshoot(self) -> None:
        """Do without idle workers, then without coming ones, until the rest fits the budget."""
        for device in self._ledger.overshot():
            coming = [worker for worker in self._roster if worker.state in COMING]
            for worker in [*self._roster.dispensable(), *reversed(coming)]:
                if not self._ledger.overshoots(device):
                    break
                if self._ledger.relieves(worker.number, device):
                    self._state.stop(worker, Reason.BUDGET)

    def shed_surplus(self) -> None:
        """Do without idle workers beyond the target: a superseded one whose successor is ready,
        or, when N or M has fallen, any."""
        staying = self._most_live - self._roster.callers
        keep = max(0, min(self._state.settings.workers, staying))
        while self._roster.idle > keep:
            worker = next(self._roster.dispensable())
            self._state.stop(worker, worker.superseded or Reason.SURPLUS)

    # -- taking on

    @property
    def _may_spawn(self) -> bool:
        state = self._state
        return not (state.draining or self.halted or self.backoff.waits(state.now))

    def refill(self) -> None:
        """Spawn up to the target, and one beyond it while idle workers are to be replaced."""
        if not self._may_spawn:
            return
        while len(self._roster) < self._most_live:
            lacking = self._wanted - self._roster.idle - self._roster.coming
            if lacking + bool(self._roster.superseded) <= 0:
                return
            device = self._place()
            if device is None:
                return
            self._state.spawn(device)

    def _place(self) -> str | None:
        """Where a worker may be spawned now.

        While nobody knows at what cost, or whether, a worker comes up (no footprint measured yet,
        or the last attempt failed), one is tried at a time.
        """
        proven = self._ledger.proven
        if self._roster.coming and (self.backoff.failures or not proven):
            return None
        if self._ledger.unweighed and not proven:
            return None
        warmups = self._state.settings.warmups
        full = [name for name in self._ledger.places if self._roster.coming_on(name) >= warmups]
        return self._ledger.place(shun=full)

    def roll(self) -> None:
        """Retire a superseded worker first where there is no room to spawn first.

        One at a time: the next goes when nobody is leaving or coming any more, so that its
        successor is ready. After a reload none goes if its successor would not fit even without
        all of them, and the last that is idle stays until a call has ended where nobody may wait
        for as long as its successor takes. For its age none goes if it is the last that is idle,
        for that alone no caller shall wait, or if its successor would not fit in its place.
        """
        superseded = self._roster.superseded
        if not superseded or self._roster.coming or self._roster.leaving or not self._may_spawn:
            return
        worker = next(iter(superseded.values()))
        if self._roster.idle == 1 and not (worker.stale and self._may_be_awaited):
            return
        gone = superseded if worker.stale else (worker.number,)
        if self._ledger.place(without=gone) is not None:
            self._state.stop(worker, worker.superseded or Reason.SURPLUS)

    @property
    def _may_be_awaited(self) -> bool:
        """Whether a caller would be served although the last idle worker has to be replaced first.
        Where no call will end and make room there is no better moment to come."""
        held = self.refill_time < self._state.settings.queue_timeout
        return held or not self._roster.callers


_LIMITS: Final = {
    Reason.SOFT_LIMIT: "ram_soft_limit",
    Reason.HARD_LIMIT: "ram_hard_limit",
    Reason.VRAM_SOFT_LIMIT: "vram_soft_limit",
    Reason.VRAM_HARD_LIMIT: "vram_hard_limit",
}
"""The settings that a worker can exceed."""


def _epitaph(worker: Worker) -> str:
    if worker.reason in _LIMITS:
        return (
            f"worker {worker.number} was above {_LIMITS[worker.reason]} before it had a caller: "
            "raise that limit, or choose smaller models"
        )
    if worker.reason is not None:
        return f"worker {worker.number} was ended: {worker.reason}"
    return f"worker {worker.number} died while {worker.state.value}"
