"""The memory ledger: what every device has, who uses it, and where the next worker fits.

Pure: no probes, no clock. Amounts are bytes. A device is "host" (RAM, the smaller of the machine's
and the cgroup's) or a GPU such as "cuda:0". A worker's cost is a vector: private host bytes, and
VRAM on the one GPU that it was placed on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from voicepool.budgetspec import (
    HOST,
    BudgetSettings,
    Cost,
    DeviceView,
    Limits,
    Reading,
    Shortfall,
)

__all__ = [
    "HOST",
    "BudgetSettings",
    "Cost",
    "DeviceView",
    "Ledger",
    "Limits",
    "Reading",
    "Shortfall",
]


@dataclass(slots=True)
class _Holding:
    """What one live worker is charged for."""

    place: str
    floor: Cost
    """The estimate it was placed with; its first warm measures renew it."""
    host: int | None = None
    """Its latest measure of private host bytes, None before the first."""
    device: int | None = None
    """The latest of its VRAM."""
    measured: bool = False
    """`floor.host` has been renewed."""
    weighed: bool = False
    """The same for `floor.device`."""
    inscrutable: bool = False
    """It was to be weighed, and nobody can tell."""
    leaving: bool = False

    def used(self, device: str) -> int | None:
        """Bytes that it was last seen to use on `device`, None before its first measure there."""
        if device == HOST:
            return self.host
        return self.device if device == self.place else 0

    def on(self, device: str) -> int:
        """Bytes reserved on `device`: the estimate or the latest measure, whichever is more."""
        if device not in (HOST, self.place):
            return 0
        return max(self.floor.on(device), self.used(device) or 0)

    def devices(self) -> tuple[str, ...]:
        return (HOST,) if self.place == HOST else (HOST, self.place)


@dataclass(slots=True)
class _Device:
    """One device's account."""

    total: int = 0
    others: int = 0
    """Use that no measure of ours explains."""
    others_surely: int = 0
    """The same, but taking workers that are still loading to fill their reservations."""
    workers: int = 0
    reserved: int = 0
    leaving: int = 0
    """The part of `reserved` that workers hold who were told to go."""


@dataclass(slots=True)
class _Learned:
    """What workers were measured to take at most; None where nobody was measured yet."""

    host: int | None = None
    device: int | None = None
    guessed: bool = False
    """`device` is inferred, not measured: it may fall again."""


class Ledger:
    """Reservations against readings, a vector of devices.

    For every device:

        others = max(0, used - zygote - measured use of our workers)   when a reading comes
        limit  = min(total - reserve - others, cap)
        free   = limit - zygote - reservations of all workers that have not exited

    A worker is placed where its estimate fits into `free`, on the host and, where there are GPUs,
    on one of them too. Example: 8 GiB of RAM with 1 GiB in reserve, 3.5 GiB used, of which our
    zygote takes 0.5 and two workers 1 GiB each: others = 1, limit = 6, free = 6 - 0.5 - 2 = 3.5,
    so three more workers of 1 GiB fit.

    `others` stays as it is until the next reading. A worker that exits between two readings gives
    its reservation back at once, although the last reading still counts its memory. A reading that
    counts the memory of the dead for a while (a driver may lag) takes it for others' use: it is
    never counted twice, and its room is given out only when it is seen to be free.

    A worker that is loading uses memory which nobody has measured yet, so a reading shows it as
    `others` and its reservation counts it again. For placing, that doubt costs at most some
    patience; for taking idle workers away it would cost warm workers, so there the worker is
    taken to fill its reservation (`others_surely`).

    Once a GPU has been read, workers live on GPUs: should all of them vanish, there is no room.
    """

    def __init__(self, settings: BudgetSettings) -> None:
        self._settings = settings
        self._learned = _Learned()
        self._holdings: dict[int, _Holding] = {}
        self._accounts: dict[str, _Device] = {HOST: _Device()}
        self._read: tuple[str, ...] = ()
        self._unweighed: set[int] = set()
        """Warm workers on GPUs whose VRAM nobody has looked at yet."""
        self._zygote = 0

    # -- settings and probes

    def configure(self, settings: BudgetSettings) -> None:
        """Take new settings for new code: what was learned about a worker's cost is void."""
        self._settings = settings
        self._learned = _Learned()
        self._unweighed.clear()

    def update(self, readings: Mapping[str, Reading | None], zygote: int) -> None:
        """Take fresh readings; `zygote` is its private host bytes.

        A device that is None, or missing though it was read before, has no room.
        """
        self._zygote = zygote
        self._read = tuple(name for name, reading in readings.items() if reading is not None)
        for name, reading in readings.items():
            account = self._accounts.setdefault(name, _Device())
            if reading is not None:
                self._compare(name, account, reading)

    def _compare(self, name: str, account: _Device, reading: Reading) -> None:
        account.total = reading.total
        unexplained = reading.used - self._zygote_on(name)
        loading = 0
        for holding in self._holdings.values():
            used = holding.used(name)
            if used is not None:
                unexplained -= used
            elif holding.inscrutable and name != HOST:
                unexplained -= holding.on(name)
            else:
                loading += holding.on(name)
        account.others = max(0, unexplained)
        account.others_surely = max(0, unexplained - loading)

    # -- workers

    @property
    def estimate(self) -> Cost:
        """What the next worker is expected to take: the high-water mark, or what was configured."""
        learned, configured = self._learned, self._settings.estimate
        return Cost(
            host=configured.host if learned.host is None else learned.host,
            device=configured.device if learned.device is None else learned.device,
        )

    @property
    def proven(self) -> bool:
        """Whether the estimate comes from measures, all of it."""
        learned = self._learned
        return learned.host is not None and (learned.device is not None or not self._gpus)

    @property
    def unweighed(self) -> bool:
        """Whether the VRAM of some warm worker is about to be looked at for the first time."""
        return bool(self._unweighed)

    def reserve(self, worker: int, place: str) -> None:
        """Charge a new worker on `place` with the estimate."""
        self._holdings[worker] = holding = _Holding(place, self.estimate)
        for device in holding.devices():
            self._accounts.setdefault(device, _Device()).workers += 1
        self._charge(holding, 1)

    def measure(self, worker: int, private: int, *, warm: bool) -> None:
        """Take what a worker was seen to use of the host.

        `warm`: it is fully loaded and of the current code, so that its footprint says what a
        worker costs. The first such measure replaces the configured estimate, downwards too;
        later ones can only raise it.
        """
        holding, learned = self._holdings[worker], self._learned
        self._charge(holding, -1)
        holding.host = private
        if warm:
            learned.host = max(learned.host or 0, private)
            if not holding.measured:
                holding.measured = True
                holding.floor = Cost(learned.host, holding.floor.device)
                if holding.place != HOST:
                    self._unweighed.add(worker)
        self._charge(holding, 1)

    def weigh(self, worker: int, vram: int | None, *, warm: bool, guessed: bool = False) -> None:
        """The same for what a worker, loaded by now, uses on its GPU.

        None: nobody can tell; it is taken to fill its reservation. `guessed`: it is inferred from
        what the device as a whole has come to use, so that a later guess may also be lower.
        """
        holding = self._holdings[worker]
        self._unweighed.discard(worker)
        holding.inscrutable = vram is None
        if vram is None:
            return
        self._charge(holding, -1)
        holding.device = vram
        if warm:
            self._learn(vram, guessed=guessed)
            if guessed or not holding.weighed:
                holding.weighed = not guessed
                holding.floor = Cost(holding.floor.host, self._learned.device or 0)
        self._charge(holding, 1)

    def _learn(self, vram: int, *, guessed: bool) -> None:
        learned = self._learned
        if learned.device is None or learned.guessed:
            learned.device, learned.guessed = vram, guessed
        elif not guessed:
            learned.device = max(learned.device, vram)

    def leave(self, worker: int) -> None:
        """Note that the worker was told to go: its reservation stays, but not for long."""
        holding = self._holdings[worker]
        self._charge(holding, -1)
        holding.leaving = True
        self._charge(holding, 1)

    def release(self, worker: int) -> None:
        """Give the reservation back: the process is gone."""
        holding = self._holdings.pop(worker)
        self._unweighed.discard(worker)
        self._charge(holding, -1)
        for device in holding.devices():
            self._accounts[device].workers -= 1

    def measured(self, worker: int) -> tuple[int | None, int | None]:
        """The worker's latest private host bytes and VRAM; None for what was not measured."""
        holding = self._holdings[worker]
        return holding.host, holding.device

    # -- questions

    @property
    def _gpus(self) -> Sequence[str]:
        """All that have ever been read."""
        return [name for name in self._accounts if name != HOST]

    @property
    def places(self) -> Sequence[str]:
        """Where workers may be placed: the GPUs that can be read, or the host if none ever was."""
        return [name for name in self._read if name != HOST] if self._gpus else [HOST]

    def free(self, device: str, without: Collection[int] = ()) -> int:
        """Bytes to give out on `device` (negative: overshot), as if `without` had exited."""
        if device not in self._read:
            return 0
        account = self._accounts[device]
        spared = sum(self._holdings[worker].on(device) for worker in without)
        return (
            self._limit(device, account.others)
            - self._zygote_on(device)
            - account.reserved
            + spared
        )

    def place(self, shun: Collection[str] = (), without: Collection[int] = ()) -> str | None:
        """The place with most room of those where a worker fits, None if there is none."""
        if HOST not in self._read or self.free(HOST, without) < self.estimate.host:
            return None
        fitting = [
            name
            for name in self.places
            if name not in shun
            and (name == HOST or self.free(name, without) >= self.estimate.device)
        ]
        return max(fitting, key=lambda name: self.free(name, without), default=None)

    def room(self, most: int) -> int:
        """How many more workers fit, counted up to `most`."""
        fit = self._fits(HOST, most)
        if self._gpus:
            fit = min(fit, sum(self._fits(name, most) for name in self.places))
        return min(fit, most)

    def _fits(self, device: str, most: int) -> int:
        if device not in self._read:
            return 0
        return _times(self.free(device), self.estimate.on(device), most)

    def bottleneck(self) -> str:
        """The device that keeps the next worker out when `room` is short."""
        if HOST not in self._read or self.free(HOST) < self.estimate.host:
            return HOST
        return max(self.places or self._gpus, key=self.free)

    def binding(self, most: int) -> str:
        """The device that fills up first as workers are added, counted up to `most` of them."""
        gpus = sum(self._fits(name, most) for name in self.places)
        if not self._gpus or self._fits(HOST, most) < gpus:
            return HOST
        return max(self.places or self._gpus, key=self.free)

    def overshot(self) -> list[str]:
        """Devices on which the zygote and those workers who stay hold more than there is."""
        return [name for name in self._read if self.overshoots(name)]

    def overshoots(self, device: str) -> bool:
        """Whether this device is one of them."""
        account = self._accounts[device]
        staying = account.reserved - account.leaving + self._zygote_on(device)
        return staying > self._limit(device, account.others_surely)

    def relieves(self, worker: int, device: str) -> bool:
        """Whether the worker's exit would give anything back on `device`."""
        return self._holdings[worker].on(device) > 0

    def shortfall(self) -> Shortfall | None:
        """Where no worker would fit though all others and all of ours went; None where one would.

        Never because of a device that cannot be read now, or of a guess.
        """
        if HOST in self._read and (found := self._shortfall(HOST)):
            return found
        gpus = [name for name in self._gpus if name in self._read]
        if not gpus or len(gpus) < len(self._gpus) or self._learned.guessed:
            return None
        return self._shortfall(max(gpus, key=lambda name: self._limit(name, others=0)))

    def _shortfall(self, device: str) -> Shortfall | None:
        needs = self.estimate.on(device)
        most = max(0, self._limit(device, others=0) - self._zygote_on(device))
        if needs <= most:
            return None
        seen = self._learned.host if device == HOST else self._learned.device
        return Shortfall(
            device,
            needs,
            most,
            self._accounts[device].total,
            measured=seen is not None,
            cap=self._settings.caps.on(device),
            reserve=self._settings.reserve.on(device),
        )

    def views(self, most: int) -> tuple[DeviceView, ...]:
        """Every device's account; `fits` is counted up to `most`."""
        settings = self._settings
        return tuple(
            DeviceView(
                device=name,
                total=account.total,
                others=account.others,
                zygote=self._zygote_on(name),
                reserved=account.reserved,
                reserve=settings.reserve.on(name),
                cap=settings.caps.on(name),
                per_worker=self.estimate.on(name),
                workers=account.workers,
                fits=self._fits(name, most),
                missing=bool(self._read) and name not in self._read,  # else nobody has looked yet
            )
            for name, account in self._accounts.items()
        )

    # -- arithmetic

    def _limit(self, device: str, others: int) -> int:
        left = self._accounts[device].total - self._settings.reserve.on(device) - others
        cap = self._settings.caps.on(device)
        return left if cap is None else min(left, cap)

    def _zygote_on(self, device: str) -> int:
        # The zygote never creates a CUDA context, so it has nothing on any GPU.
        return self._zygote if device == HOST else 0

    def _charge(self, holding: _Holding, sign: int) -> None:
        for device in holding.devices():
            account = self._accounts[device]
            account.reserved += sign * holding.on(device)
            if holding.leaving:
                account.leaving += sign * holding.on(device)


def _times(free: int, each: int, most: int) -> int:
    if each <= 0:
        return most if free >= 0 else 0
    return max(0, min(most, free // each))
