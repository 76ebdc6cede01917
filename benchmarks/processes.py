"""What /proc says of a process: its CPU time, its memory, its children. Source: proc(5)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def cpu_seconds(pid: int) -> float:
    """CPU time that the threads of `pid` have used, in seconds.

    From schedstat, whose nanoseconds are exact once the process sleeps; the ticks of
    /proc/PID/stat would be fifty times what one refusal takes.
    """
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def pss_bytes(pids: Iterable[int]) -> int:
    """Memory of these processes: what they share is counted in parts, so that the sum is true."""
    return sum(_rollup(pid)["Pss"] for pid in pids)


def _rollup(pid: int) -> dict[str, int]:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {
        name: int(rest.split()[0]) * 1024 for name, _, rest in (s.partition(":") for s in lines)
    }


def anonymous_bytes(pid: int) -> int:
    """Memory of `pid` that is in no file, shared with its parent or not; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields.get("RssAnon", "0").split()[0]) * 1024


def memfd_bytes(pid: int) -> int:
    """Memory in files without a name that `pid` holds open; it is in nobody's PSS while nobody maps
    it. Source: memfd_create(2)."""
    found = {}
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        if str(fd.readlink()).startswith("/memfd:"):
            about = fd.stat()
            found[about.st_ino] = about.st_blocks * 512
    return sum(found.values())


def children(pid: int) -> list[int]:
    """Living children of a single-threaded process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def conditions() -> dict[str, object]:
    """What a reader must know of the machine to judge a figure."""
    system = os.uname()
    return {
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
        "kernel": f"{system.sysname} {system.release}",
    }
