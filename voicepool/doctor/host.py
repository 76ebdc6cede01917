"""Looks at the machine: kernel, memory, cores, limits; see proc(5), cgroups(7), getrlimit(2)."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import psutil

from voicepool import linux
from voicepool.doctor.facts import Host

_NVIDIA: Final = "0x10de"
_DISPLAY: Final = "0x03"
"""The PCI class of graphics cards and of accelerators of NVIDIA's."""
_MPS_DAEMON: Final = "nvidia-cuda-mps"
"""As much of nvidia-cuda-mps-control as the kernel keeps of a name."""
_MPS_FOLDER: Final = "/tmp/nvidia-mps"


def look(temp: str, environ: Mapping[str, str]) -> Host:
    """`temp`: the folder that is configured for temporary files, "" for the system's."""
    machine = psutil.virtual_memory().total
    names = list(_named_processes())
    temp = temp or tempfile.gettempdir()
    pipe = Path(environ.get("CUDA_MPS_PIPE_DIRECTORY") or _MPS_FOLDER) / "control"
    return Host(
        kernel=platform.release(),
        python=platform.python_version(),
        memory=linux.host_memory(),
        machine_memory=machine,
        swap=psutil.swap_memory().total,
        cores=usable_cores(len(os.sched_getaffinity(0)), list(linux.cgroups())),
        machine_cores=os.cpu_count() or 1,
        files=_unless_infinite(resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
        tasks=_free_tasks(),
        overcommit=int(_read(Path("/proc/sys/vm/overcommit_memory")) or 0),
        temp=temp,
        temp_free=_free_space(Path(temp)),
        container=any(Path(mark).exists() for mark in ("/.dockerenv", "/run/.containerenv")),
        cards=sum(_is_gpu(device) for device in Path("/sys/bus/pci/devices").glob("*")),
        servers=tuple(pid for pid, name in names if name == "vp-zygote"),
        mps=next((pid for pid, name in names if name.startswith(_MPS_DAEMON)), None),
        mps_pipe=pipe.exists(),
    )


def _read(path: Path) -> str:
    """ "" for a file that is not there, or not for us."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _named_processes() -> Iterator[tuple[int, str]]:
    for process in psutil.process_iter(["pid", "name"]):
        yield process.info["pid"], process.info["name"] or ""


def usable_cores(affinity: int, groups: list[Path]) -> float:
    """Cores of `affinity` that the quotas (cpu.max) of the control groups leave."""
    quotas = [float(affinity)]
    for group in groups:
        quota, _, period = _read(group / "cpu.max").partition(" ")
        if quota.isdigit() and period.isdigit() and int(period):
            quotas.append(int(quota) / int(period))
    return min(quotas)


def free_pids(groups: list[Path]) -> int | None:
    """Tasks that the control groups (pids.max) still allow; None: any number."""
    free = [
        int(most) - int(_read(group / "pids.current") or 0)
        for group in groups
        if (most := _read(group / "pids.max")).isdigit()
    ]
    return max(0, min(free)) if free else None


def _free_tasks() -> int | None:
    free = free_pids(list(linux.cgroups()))
    limit = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if limit == resource.RLIM_INFINITY or os.getuid() == 0:  # root is exempt
        return free
    ours = 0
    for process in psutil.process_iter(["uids", "num_threads"]):
        if process.info["uids"] and process.info["uids"].real == os.getuid():
            ours += process.info["num_threads"] or 1
    left = max(0, limit - ours)
    return left if free is None else min(free, left)


def _unless_infinite(limit: int) -> int:
    return 1 << 30 if limit == resource.RLIM_INFINITY else limit


def _free_space(folder: Path) -> int | None:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent  # the server makes it
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        return None
    return shutil.disk_usage(folder).free


def _is_gpu(device: Path) -> bool:
    return _read(device / "vendor") == _NVIDIA and _read(device / "class").startswith(_DISPLAY)
