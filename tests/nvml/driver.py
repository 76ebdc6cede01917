"""A driver to play with: compiles the stand-in `nvml.c` and says what it shall say.

The real pynvml loads it: `environ` is for the processes that shall see these GPUs.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Literal

GB = 1 << 30
MB = 1 << 20
SOURCE = Path(__file__).parent / "nvml.c"

NOT_LOADED = 9
"""NVML_ERROR_DRIVER_NOT_LOADED."""


@cache
def library() -> Path:
    """The folder with the compiled stand-in."""
    folder = Path(mkdtemp(prefix="voicepool-nvml-"))
    atexit.register(shutil.rmtree, folder)
    flags = ["-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC"]
    subprocess.run(["cc", *flags, "-o", folder / "libnvidia-ml.so.1", SOURCE], check=True)
    return folder


@dataclass
class Card:
    """A GPU, or with a parent a MIG instance. Bytes."""

    uuid: str
    total: int
    others: int = 0
    """What strangers use of it."""
    name: str = "NVIDIA A10G"
    lost: bool = False
    mode: int = 0
    parent: int | None = None
    """Index of the GPU that it is an instance of."""


@dataclass
class Driver:
    """What the stand-in tells. Change it, then `say`."""

    folder: Path
    cards: list[Card]
    """MIG instances come after the GPUs."""
    version: str = "550.54.15"
    fail: int = 0
    hang: bool = False
    pids: Literal[
        "visible", "hidden", "foreign", "unsupported", "nameless", "flaky", "mps", "old"
    ] = "visible"

    def __post_init__(self) -> None:
        (self.folder / "memory").mkdir(parents=True)
        self.say()

    def say(self) -> None:
        """From now on, whoever asks hears this."""
        lines = [
            f"driver {self.version}",
            f"fail {self.fail}",
            f"hang {int(self.hang)}",
            f"pids {self.pids}",
            *self._gpus(),
        ]
        draft = self.folder / "draft"
        draft.write_text("\n".join(lines) + "\n")
        draft.rename(self.folder / "state")

    def _gpus(self) -> list[str]:
        lines = []
        instances: dict[int, int] = {}
        for index, card in enumerate(self.cards):
            what = f"{card.uuid} {card.total} {card.others}"
            if card.parent is None:
                state = "lost" if card.lost else "ok"
                lines.append(f"gpu {index} {what} {state} {card.mode} {card.name}")
            else:
                number = instances[card.parent] = instances.get(card.parent, -1) + 1
                lines.append(f"mig {card.parent} {number} {what} {card.name}")
        return lines

    def allocate(self, uuid: str, size: int, pid: int | None = None) -> None:
        """A process has so much on a device."""
        allocate(self.folder, uuid, size, pid)

    @property
    def environ(self) -> dict[str, str]:
        """What makes a process meet this driver and no other."""
        return {
            "LD_LIBRARY_PATH": f"{library()}:{os.environ.get('LD_LIBRARY_PATH', '')}",
            "NVML_STAND_IN": str(self.folder),
        }


def allocate(folder: Path, uuid: str, size: int, pid: int | None = None) -> None:
    """Declare what a process, by default this one, has on a device; until it is dead."""
    pid = pid or os.getpid()
    draft = folder / "memory" / f".{pid}"
    draft.write_text(f"{uuid} {size}\n")
    draft.rename(folder / "memory" / str(pid))
