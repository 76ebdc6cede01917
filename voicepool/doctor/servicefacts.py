"""What was seen of voicepool as a service: systemd, the units, the address, a container. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec


class Unit(msgspec.Struct, frozen=True):
    """A unit as systemd knows it; nothing where it does not."""

    text: str = ""
    """Of its file; "" where there is none, or it may not be read."""
    properties: Mapping[str, str] = {}
    """As `systemctl show` has them, drop-ins included; the lines of a repeated one together."""

    @property
    def installed(self) -> bool:
        return bool(self.text) or self.properties.get("LoadState") == "loaded"

    @property
    def active(self) -> bool:
        """Running, or on the way there or back."""
        return self.get("ActiveState") in ("active", "activating", "reloading", "deactivating")

    @property
    def path(self) -> str:
        return self.get("FragmentPath")

    def get(self, name: str) -> str:
        return self.properties.get(name, "")


class Program(msgspec.Struct, frozen=True):
    version: str = ""
    """What it says of itself."""
    error: str = ""
    """Why it does not: what follows its name in a sentence. "" also where it took too long."""


class File(msgspec.Struct, frozen=True):
    """One that the service reads, or systemd for it."""

    path: str
    holds: str
    """ "settings", "keys", "key", "certificate" or "environment"."""
    mode: int | None = None
    """None: it is not there, or not for us to look at."""
    there: bool = True
    readable: bool | None = None
    """By the service's user; None: not tried, which takes root."""


class Disk(msgspec.Struct, frozen=True):
    """Sizes in bytes."""

    folder: str
    use: str
    total: int
    free: int


class Port(msgspec.Struct, frozen=True):
    """The address of the settings."""

    address: str
    taken: bool = False
    pid: int | None = None
    """Who listens; None: nobody, or it may not be seen."""
    process: str = ""
    asked: bool = True
    """False: it takes PROXY headers, so only its proxies can ask it anything."""
    answers: bool = False
    """As a voicepool does."""
    version: str = ""
    """What it says; "" where it wants a key for that."""


class Container(msgspec.Struct, frozen=True):
    kind: str
    """ "docker", "podman" or "kubernetes"."""
    own_pids: bool
    """It has a PID namespace of its own."""
    limit: int | None
    """Bytes of memory; None: what the machine has."""


class Service(msgspec.Struct, frozen=True, kw_only=True):
    booted: bool
    """systemd is process 1, sd_booted(3)."""
    systemd: int = 0
    """Its version; 0: unknown."""
    error: str = ""
    """Why systemd did not answer."""
    unit: Unit = Unit()
    socket: Unit = Unit()
    program: Program = Program()
    """What the unit starts."""
    needs_home: bool = False
    """Some of what it starts lies in a home."""
    user: bool = True
    """The unit's user exists."""
    files: tuple[File, ...] = ()
    disks: tuple[Disk, ...] = ()
    port: Port | None = None
    """None: not looked at."""
    persistenced: bool = False
    """nvidia-persistenced runs."""
    container: Container | None = None


_UNITS: Final = {
    "us": 1e-6,
    "ms": 1e-3,
    "s": 1,
    "min": 60,
    "h": 3600,
    "d": 86_400,
    "w": 7 * 86_400,
    "month": 2_629_800,
    "y": 31_557_600,
}


def span(text: str) -> float | None:
    """Seconds of a time span as systemd prints it, "1min 3s"; infinite for "infinity", None where
    it is none. systemd.time(7)."""
    if text == "infinity":
        return float("inf")
    parts = re.findall(r"([\d.]+)\s*([a-z]+)", text)
    if not parts or any(unit not in _UNITS for _, unit in parts):
        return 0.0 if text == "0" else None
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def amount(text: str) -> int | None:
    """A number as `systemctl show` has it; None for "infinity" and for what is none."""
    return int(text) if text.isdecimal() and int(text) < 1 << 63 else None
