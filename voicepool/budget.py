"""The memory ledger: what every device has, who uses it, and where the next worker fits.

Pure: no probes, no clock. Amounts are bytes. A device is "host" (RAM, the smaller of the machine's
and the cgroup's) or a GPU such as "cuda:0". A worker's cost is a vector: private host bytes, and
VRAM on the one GPU that it was placed on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

HOST = "host"


@dataclass(frozen=True, slots=True)
class Cost:
    """What one worker takes, in bytes."""

    host: int = 0
    device: int = 0
    """On the worker's GPU; 0 where its place is "host"."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a probe saw on one device, in bytes. `used` counts everyone, our workers included."""

    total: int
    used: int


@dataclass(frozen=True, slots=True)
class BudgetSettings:
    """How much of each device voicepool may take."""

    estimate: Cost = Cost(host=256 << 20)
    """A worker's cost until the pilot has been measured."""
    reserve: Mapping[str, int] = field(default_factory=dict)
    """Bytes per device that are never given out."""
    caps: Mapping[str, int] = field(default_factory=dict)
    """Most bytes per device that all workers and the zygote together may take."""
    soft_limit: int | None = None
    """Private host bytes above which a worker retires when idle or at its session's end."""
    hard_limit: int | None = None
    """Private host bytes above which a worker is killed."""


@dataclass(slots=True)
class _Holding:
    """What one live worker is charged for."""

    place: str
    floor: Cost
    """The estimate it was placed with; its first warm measure renews it."""
    measured: Cost | None = None
    warm: bool = False
    leaving: bool = False

    def on(self, device: str) -> int:
        """Bytes reserved on `device`: the estimate or the latest measure, whichever is more."""
        seen = self.measured or Cost()
        if device == HOST:
            return max(self.floor.host, seen.host)
        return max(self.floor.device, seen.device) if device == self.place else 0

    def used(self, device: str) -> int | None:
        """Bytes that it was last seen to use on `device`, None before its first measure."""
        if self.measured is None:
            return None
        if device == HOST:
            return self.measured.host
        return self.measured.device if device == self.place else 0

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
    reserved: int = 0
    leaving: int = 0
    """The part of `reserved` that workers hold who were told to go."""


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
    its reservation back at once, although the last reading still counts its memory.

    A worker that is loading uses memory which nobody has measured yet, so a reading shows it as
    `others` and its reservation counts it again. For placing, that doubt costs at most some
    patience; for taking idle workers away it would cost warm workers, so there the worker is
    taken to fill its reservation (`others_surely`).
    """

    def __init__(self, settings: BudgetSettings) -> None:
        self._settings = settings
        self._learned: Cost | None = None
        self._holdings: dict[int, _Holding] = {}
        self._accounts: dict[str, _Device] = {}
        self._read: tuple[str, ...] = ()
        self._zygote = Cost()

    # -- settings and probes

    def configure(self, settings: BudgetSettings) -> None:
        """Take new settings for new code: what was learned about a worker's cost is void."""
        self._settings = settings
        self._learned = None

    def update(self, readings: Mapping[str, Reading], zygote: Cost) -> None:
        """Take fresh readings. A device that is missing from them has no room."""
        self._zygote = zygote
        self._read = tuple(readings)
        for name, reading in readings.items():
            account = self._accounts.setdefault(name, _Device())
            account.total = reading.total
            unexplained = reading.used - self._zygote_on(name)
            loading = 0
            for holding in self._holdings.values():
                used = holding.used(name)
                if used is None:
                    loading += holding.on(name)
                else:
                    unexplained -= used
            account.others = max(0, unexplained)
            account.others_surely = max(0, unexplained - loading)

    # -- workers

    @property
    def estimate(self) -> Cost:
        """What the next worker is expected to take: the high-water mark, or what was configured."""
        return self._learned or self._settings.estimate

    @property
    def proven(self) -> bool:
        """Whether the estimate comes from a measure."""
        return self._learned is not None

    def reserve(self, worker: int, place: str) -> None:
        """Charge a new worker on `place` with the estimate."""
        self._holdings[worker] = holding = _Holding(place, self.estimate)
        self._charge(holding, 1)

    def measure(self, worker: int, footprint: Cost, *, warm: bool) -> None:
        """Take what a worker was seen to use.

        `warm`: it is fully loaded and of the current code, so that its footprint says what a
        worker costs. The first such measure replaces the configured estimate, downwards too;
        later ones can only raise it.
        """
        holding = self._holdings[worker]
        self._charge(holding, -1)
        holding.measured = footprint
        if warm:
            seen = self._learned or Cost()
            self._learned = Cost(
                host=max(seen.host, footprint.host), device=max(seen.device, footprint.device)
            )
            if not holding.warm:
                holding.warm, holding.floor = True, self._learned
        self._charge(holding, 1)

    def leave(self, worker: int) -> None:
        """Note that the worker was told to go: its reservation stays, but not for long."""
        holding = self._holdings[worker]
        self._charge(holding, -1)
        holding.leaving = True
        self._charge(holding, 1)

    def release(self, worker: int) -> None:
        """Give the reservation back: the process is gone."""
        self._charge(self._holdings.pop(worker), -1)

    def measured(self, worker: int) -> Cost | None:
        """The worker's latest footprint."""
        return self._holdings[worker].measured

    # -- questions

    @property
    def places(self) -> Sequence[str]:
        """Where workers may be placed: the GPUs if there are any, else the host."""
        return [name for name in self._read if name != HOST] or [HOST]

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
        if HOST not in self._read:
            return 0
        fit = _times(self.free(HOST), self.estimate.host, most)
        gpus = [name for name in self.places if name != HOST]
        if gpus:
            fit = min(
                fit, sum(_times(self.free(name), self.estimate.device, most) for name in gpus)
            )
        return min(fit, most)

    def bottleneck(self) -> str:
        """The device that keeps the next worker out when `room` is short."""
        if HOST not in self._read or self.free(HOST) < self.estimate.host:
            return HOST
        return max(self.places, key=self.free)

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

    # -- arithmetic

    def _limit(self, device: str, others: int) -> int:
        limit = self._accounts[device].total - self._settings.reserve.get(device, 0) - others
        return min(limit, self._settings.caps.get(device, limit))

    def _zygote_on(self, device: str) -> int:
        # The zygote never creates a CUDA context, so it has nothing on any GPU.
        return self._zygote.host if device == HOST else 0

    def _charge(self, holding: _Holding, sign: int) -> None:
        for device in holding.devices():
            account = self._accounts.setdefault(device, _Device())
            account.reserved += sign * holding.on(device)
            if holding.leaving:
                account.leaving += sign * holding.on(device)


def _times(free: int, each: int, most: int) -> int:
    if each <= 0:
        return most if free >= 0 else 0
    return max(0, min(most, free // each))
