"""What workers were seen to take of the host and of their GPUs, and who is too big. Pure."""

from __future__ import annotations

from voicepool.budgetspec import HOST
from voicepool.poolspec import Reason, WorkerState
from voicepool.poolstate import PoolState
from voicepool.roster import CALLING, Worker


class Footprints:
    """Takes measures to the ledger and holds them against the limits."""

    def __init__(self, state: PoolState) -> None:
        self._state = state

    def measure(self, worker: Worker, private: int) -> None:
        """Take the worker's private host bytes; kill it above the hard limit."""
        warm = self._telling(worker, HOST, private)
        self._state.ledger.measure(worker.number, private, warm=warm)
        self._kill_if_too_big(worker, HOST, private)

    def weigh(self, worker: Worker, vram: int | None, *, guessed: bool) -> None:
        """Take what it uses on its GPU (None: nobody can tell); the limits are for sure figures.

        One that is still loading is not weighed: its reservation stands for it.
        """
        if not worker.loaded or worker.device == HOST:
            return
        warm = vram is not None and self._telling(worker, worker.device, vram)
        self._state.ledger.weigh(worker.number, vram, warm=warm, guessed=guessed)
        if vram is not None and not guessed:
            self._kill_if_too_big(worker, worker.device, vram)
            self.retire_if_big(worker, worker.device, vram)

    def retire_if_big(self, worker: Worker, device: str, used: int) -> None:
        """Stop an idle worker above the soft limit; one in a call exits after it anyway."""
        soft = self._state.settings.budget.soft_limit.on(device)
        if soft is None or used <= soft:
            return
        reason = Reason.SOFT_LIMIT if device == HOST else Reason.VRAM_SOFT_LIMIT
        if worker.state is WorkerState.IDLE:
            self._state.stop(worker, reason)
        elif worker.state in CALLING:
            self._state.warn(worker, reason)

    def _kill_if_too_big(self, worker: Worker, device: str, used: int) -> None:
        if self._too_big(device, used) and worker.state is not WorkerState.KILLING:
            reason = Reason.HARD_LIMIT if device == HOST else Reason.VRAM_HARD_LIMIT
            self._state.kill(worker, reason)

    def _telling(self, worker: Worker, device: str, used: int) -> bool:
        """Whether the worker shows what the next will take; one killed for its size does not."""
        return worker.loaded and not worker.stale and not self._too_big(device, used)

    def _too_big(self, device: str, used: int) -> bool:
        hard = self._state.settings.budget.hard_limit.on(device)
        return hard is not None and used > hard
