"""Which worker has how much of a GPU, from what NVML lists, or from what it does not. Pure.

NVML lists processes by the numbers of its own PID namespace. Where those are ours, a worker's VRAM
is what is listed for it. In a container they are others, or nothing is listed; then what a worker
takes is inferred from how much fuller its device has become between two moments when all of ours
that were on it were idle, and none had gone meanwhile: those who came share it evenly.

Such a difference also holds what strangers did meanwhile, such as an LLM server that loads its
model when it is first asked, which is while the first worker warms up. So the first difference is
not believed beyond what was configured, and of several the median counts. What a wrong guess
leaves unexplained is use by others to the ledger, so nothing is ever given out twice.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from voicepool.gpu import Gpu

Phase = Literal["loading", "idle", "other"]

REMEMBERED: Final = 9
"""How many differences the guess is made from."""


@dataclass(frozen=True, slots=True)
class Member:
    """One of our workers on a GPU, once it may have begun to use it."""

    pid: int | None
    device: str
    phase: Phase
    """"other": in a call, or leaving."""


Crew = Mapping[int, Member]
"""Workers by number."""


@dataclass(frozen=True, slots=True)
class Weights:
    """The VRAM of those who are not loading, None where nobody can tell."""

    vram: Mapping[int, int | None]
    guessed: bool


@dataclass(frozen=True, slots=True)
class _Frame:
    """One device at a moment when all workers on it were idle."""

    used: int
    workers: frozenset[int]


class Attribution:
    """Looks at one sight after another."""

    def __init__(self, estimate: int) -> None:
        """`estimate`: the VRAM that a worker is configured to take, in bytes."""
        self._estimate = estimate
        self._differences: deque[int] = deque(maxlen=REMEMBERED)
        self._frames: dict[str, _Frame] = {}
        """The last one of each device."""
        self._known: set[int] = set()
        """Workers that have been seen."""
        self._listed: frozenset[int] = frozenset()
        """Process ids in the last sight that were not those of workers then."""
        self._doubtful: set[int] = set()
        """Workers whose process id was listed before they were born: it is somebody else's, by the
        numbers of another namespace."""
        self.visible = False
        """A worker has been found in the driver's list, so that the list tells about all."""

    def weigh(self, gpus: Mapping[str, Gpu | None], crew: Crew, *, quiet: bool) -> Weights:
        """What each worker takes. `gpus`: by device, None for one that cannot be read; `quiet`:
        the crew did not change while the driver was asked."""
        self._meet(crew)
        self._look_for(gpus, crew)
        if not self.visible and quiet:
            for device, gpu in gpus.items():
                if gpu is not None:
                    self._compare(device, gpu.used, crew)
        self._remember(gpus, crew)
        ready = {number: member for number, member in crew.items() if member.phase != "loading"}
        vram = {
            number: self._weight(number, member, gpus.get(member.device))
            for number, member in ready.items()
        }
        return Weights(vram, guessed=not self.visible)

    # -- by the driver's list

    def _meet(self, crew: Crew) -> None:
        """Welcome those who are new, forget those who are gone."""
        self._doubtful &= crew.keys()
        self._doubtful |= {
            number
            for number, member in crew.items()
            if number not in self._known and member.pid in self._listed
        }
        self._known = set(crew)

    def _look_for(self, gpus: Mapping[str, Gpu | None], crew: Crew) -> None:
        if self.visible:
            return
        self.visible = any(
            number not in self._doubtful
            and member.pid is not None
            and _processes(gpus.get(member.device)).get(member.pid) is not None
            for number, member in crew.items()
        )

    def _remember(self, gpus: Mapping[str, Gpu | None], crew: Crew) -> None:
        ours = {member.pid for member in crew.values()}
        self._listed = frozenset(
            pid for gpu in gpus.values() for pid in _processes(gpu) if pid not in ours
        )

    def _weight(self, number: int, member: Member, gpu: Gpu | None) -> int | None:
        if gpu is None:
            return None
        if not self.visible:
            return self._guess()
        if gpu.processes is None or number in self._doubtful or member.pid is None:
            return None
        return gpu.processes.get(member.pid, 0)

    # -- by differences

    def _compare(self, device: str, used: int, crew: Crew) -> None:
        """Take the difference that those have made who have come since the last frame.

        They may be several: workers that load at once, or faster than one looks.
        """
        here = {number: m.phase for number, m in crew.items() if m.device == device}
        if any(phase != "idle" for phase in here.values()):
            return
        before = self._frames.get(device)
        if before is not None and before.workers < here.keys():
            newcomers = len(here) - len(before.workers)
            self._differences.append(max(0, used - before.used) // newcomers)
        self._frames[device] = _Frame(used, frozenset(here))

    def _guess(self) -> int | None:
        if not self._differences:
            return None
        guess = statistics.median_low(self._differences)
        return min(guess, self._estimate) if len(self._differences) == 1 else guess


def _processes(gpu: Gpu | None) -> Mapping[int, int | None]:
    return gpu.processes or {} if gpu is not None else {}
