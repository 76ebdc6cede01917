"""GPUs: what is seen of them, which of them voicepool may use, and what they are called. Pure.

A GPU that is split by MIG is not a device itself; its instances are. All are named by UUID where
it matters: CUDA numbers GPUs by speed unless told otherwise (CUDA_DEVICE_ORDER), NVML and
nvidia-smi by PCI bus, and numbers shift when a GPU falls off the bus.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from voicepool.errors import ConfigError

AUTO, NONE = "auto", "none"
"""Values of the setting `gpus` besides a list."""

ComputeMode = Literal["default", "exclusive", "prohibited"]


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU or MIG instance at one moment. Bytes."""

    uuid: str
    index: str
    """As nvidia-smi counts: "0", or "0:1" for the MIG instance 1 of GPU 0."""
    name: str
    total: int
    used: int
    """By everyone, and by the driver itself."""
    processes: dict[int, int | None] | None = None
    """VRAM by process id, as the driver knows processes: in a container other numbers than ours,
    or none. None instead of bytes, or of everything, where the driver does not tell."""
    compute_mode: ComputeMode = "default"
    parent: str = ""
    """The UUID of the GPU whose MIG instance this is."""

    @property
    def device(self) -> str:
        """What the budget calls it."""
        return f"cuda:{self.index}"


# --- which ones ------------------------------------------------------------------------------


def usable(gpus: Sequence[Gpu], cuda_visible_devices: str | None, setting: str) -> list[Gpu]:
    """Those that workers may be placed on. Raises ConfigError as `chosen` does."""
    found = chosen(visible(gpus, cuda_visible_devices), setting)
    return [gpu for gpu in found if gpu.compute_mode != "prohibited"]


def visible(gpus: Sequence[Gpu], cuda_visible_devices: str | None) -> list[Gpu]:
    """Those that CUDA would show a process with this CUDA_VISIBLE_DEVICES (None: unset).

    As in the CUDA C++ Programming Guide, "CUDA Environment Variables": what follows the first
    entry that names nothing is invisible, UUIDs may be cut short while they are unique, and
    naming a device twice leaves none. Numbers are counted by PCI bus, as nvidia-smi does; a GPU
    that is split by MIG stands for all its instances.
    """
    if cuda_visible_devices is None:
        return list(gpus)
    seen: dict[str, Gpu] = {}
    for entry in cuda_visible_devices.split(","):
        found = _named(gpus, _number(entry) or entry.strip())
        if not found:
            break
        if any(gpu.uuid in seen for gpu in found):
            return []
        seen.update((gpu.uuid, gpu) for gpu in found)
    return list(seen.values())


def _number(entry: str) -> str:
    """What strtoul(3) makes of the entry, as CUDA does; "" where it is no number."""
    match = re.match(r"\s*\+?(\d+)", entry)
    return str(int(match[1])) if match else ""


def _named(gpus: Sequence[Gpu], name: str) -> list[Gpu]:
    """By index or UUID, both also of a parent; a UUID's beginning will do if it is unique."""
    whole = [
        gpu
        for gpu in gpus
        if name and name in (gpu.index, gpu.index.partition(":")[0], gpu.uuid, gpu.parent)
    ]
    if whole or not name.startswith(("GPU-", "MIG-")):
        return whole
    begun = [gpu for gpu in gpus if gpu.uuid.startswith(name)]
    return begun if len(begun) == 1 else []


def chosen(gpus: Sequence[Gpu], setting: str) -> list[Gpu]:
    """Those that the setting `gpus` names. Raises ConfigError where it names one that is not."""
    if setting in (AUTO, NONE):
        return list(gpus) if setting == AUTO else []
    picked: dict[str, Gpu] = {}
    for entry in setting.split(","):
        found = _named(gpus, entry.strip())
        if not found:
            raise ConfigError(f"gpus: {entry.strip()!r} is none of the GPUs here: {listing(gpus)}")
        picked.update((gpu.uuid, gpu) for gpu in found)
    return list(picked.values())


def listing(gpus: Iterable[Gpu]) -> str:
    """GPUs in a line for people: "0 NVIDIA A10G (GPU-5a...)"."""
    return ", ".join(f"{gpu.index} {gpu.name} ({gpu.uuid})" for gpu in gpus) or "there are none"
