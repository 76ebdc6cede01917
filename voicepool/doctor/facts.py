"""What was seen: the machine, CUDA's libraries, engines. Pure, and all of it goes as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import msgspec

from voicepool.budgetspec import Reading

# --- the machine -----------------------------------------------------------------------------


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """The machine as this process may use it. Sizes in bytes."""

    kernel: str
    python: str
    memory: Reading
    """The tighter of the machine's and the control group's."""
    machine_memory: int
    swap: int
    cores: float
    """By affinity and the control groups' quota."""
    machine_cores: int
    files: int
    """Most files that a process may have open; the server raises its soft limit to it."""
    tasks: int | None
    """Processes and threads that may still be started; None: no limit."""
    overcommit: int
    """vm.overcommit_memory, see proc_sys_vm(5)."""
    temp: str
    """Folder for temporary files."""
    temp_free: int | None
    """None where nothing can be written."""
    container: bool
    cards: int
    """NVIDIA's GPUs on the PCI bus, whether there is a driver or not."""
    servers: tuple[int, ...]
    """Process ids of voicepool servers that run already."""
    mps: int | None
    """Process id of CUDA MPS's daemon."""
    mps_pipe: bool
    """Its pipe is there."""


def in_cores(cores: float) -> str:
    """ "2 cores", "0.5 cores"."""
    whole = math.isclose(cores, round(cores))
    number = f"{cores:.0f}" if whole else f"{cores:.1f}"
    return f"{number} core{'' if number == '1' else 's'}"


# --- CUDA's libraries ------------------------------------------------------------------------


class Driver(msgspec.Struct, frozen=True, tag="driver"):
    cuda: str = ""
    """The newest CUDA that it can run, "12.8"."""
    error: str = ""


class Torch(msgspec.Struct, frozen=True, tag="torch"):
    version: str = ""
    """"" where it is not installed."""
    cuda: str = ""
    """What it was built for; "" for a build without CUDA."""
    devices: int = 0
    error: str = ""


class Library(msgspec.Struct, frozen=True):
    name: str
    """ "libcublas.so.12"."""
    error: str = ""
    """Why it cannot be loaded."""
    folder: str = ""
    """Where a package has put it, if the loader does not look there."""


class CTranslate2(msgspec.Struct, frozen=True, tag="ctranslate2"):
    version: str = ""
    devices: int = 0
    error: str = ""
    libraries: tuple[Library, ...] = ()


Answer = Driver | Torch | CTranslate2


class Cuda(msgspec.Struct, frozen=True):
    """All of it. None for what was not answered."""

    driver: Driver | None = None
    torch: Torch | None = None
    ctranslate2: CTranslate2 | None = None
    ending: str = ""
    """How the child ended that should have answered; "" if it answered all."""


def gather(answers: Iterable[Answer], ending: str) -> Cuda:
    found = {type(answer).__name__.lower(): answer for answer in answers}
    return Cuda(**found, ending=ending)  # type: ignore[arg-type]


# --- engines ---------------------------------------------------------------------------------

Outcome = Literal["ready", "config", "missing", "away", "fault"]
"""What came of it; "config": an option is wrong, "missing": something that must be installed or
downloaded, "away": something to wait for, such as a server, "fault": the check itself failed."""


class Checked(msgspec.Struct, frozen=True):
    outcome: Outcome
    message: str = ""
    """"" for one that is ready."""
    advice: tuple[str, ...] = ()
    at_once: bool | None = None
    """Whether the server was seen to answer all callers at once; None: not tried."""
