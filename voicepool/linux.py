"""The kernel's side of life and death: subreaper, life-lines, pidfds, reaping, memory.

Everything Linux-specific is here, one small function each. Sources: prctl(2), fcntl(2),
pidfd_open(2), waitid(2), proc(5), cgroups(7).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import resource
import select
import signal
import threading
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from voicepool.budget import Reading

_PR_SET_DUMPABLE: Final = 4
_PR_SET_NAME: Final = 15
_PR_SET_CHILD_SUBREAPER: Final = 36
_F_SETSIG: Final = 10
_CAP_SYS_NICE: Final = 23

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, argument: int | bytes) -> None:
    if _libc.prctl(option, argument, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def become_subreaper() -> None:
    """Orphaned descendants become children of this process, not of init."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def name_process(name: str) -> None:
    """What `ps -o comm` and `top` show; the kernel keeps 15 bytes."""
    _prctl(_PR_SET_NAME, name.encode()[:15])


def raise_fd_limit() -> int:
    """Lift the soft limit of open files to the hard one; returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def arm_lifeline(fd: int) -> None:
    """Let the kernel SIGKILL this process when the last write end of the pipe `fd` is closed.

    Works on a process that is stuck in C code or holds the GIL, which no thread or handler could.
    `fd` is the read end of a pipe of this process alone: owner and signal belong to the open file
    description, so a shared one would serve only whoever armed it last.
    """
    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(fd, _F_SETSIG, signal.SIGKILL)
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_ASYNC | os.O_NONBLOCK)
    # The supervisor may have died before the pipe was armed; then no signal will ever come.
    poller = select.poll()
    poller.register(fd, 0)
    if poller.poll(0):
        os.kill(os.getpid(), signal.SIGKILL)


def disarm_lifeline(fd: int) -> None:
    """Undo `arm_lifeline`: EOF no longer kills."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    fcntl.fcntl(fd, fcntl.F_SETFL, flags & ~os.O_ASYNC)


def signal_pidfd(pidfd: int, signum: int) -> None:
    """Signal the very process that the pidfd was opened for; a dead one is no error."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signum)


def has_exited(pidfd: int) -> bool:
    """Whether the process has ended (it may be a zombie still). Never blocks."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(0))


def reap(
    kind: int = os.P_ALL, ident: int = 0, *, spare: Container[int | None] = ()
) -> tuple[int, int] | None:
    """Reap one ended child, if there is any: (pid, status as in `os.waitstatus_to_exitcode`).

    None also when the one that the kernel names is in `spare`, because somebody waits for it.
    What the child left in its process group dies first, while the zombie still keeps its number
    from being given to somebody else. Only for children that lead a group of their own.
    """
    try:
        ended = os.waitid(kind, ident, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    if ended is None or ended.si_pid in spare:
        return None
    if os.getpgid(ended.si_pid) == ended.si_pid:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(ended.si_pid, signal.SIGKILL)
    pid, status = os.waitpid(ended.si_pid, 0)
    return pid, os.waitstatus_to_exitcode(status)


def thread_count() -> int:
    """Threads of this process, native ones included."""
    return len(os.listdir("/proc/self/task"))  # noqa: PTH208


def holds_gpu() -> bool:
    """Whether this process has an NVIDIA device open, as one with a CUDA context has."""
    for fd in os.listdir("/proc/self/fd"):  # noqa: PTH208
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115
            if target.startswith("/dev/nvidia"):
                return True
    return False


def _may_raise_priority() -> bool:
    """Whether a thread of this process may take back a niceness that it has given itself."""
    if resource.getrlimit(resource.RLIMIT_NICE)[0] >= 20 - os.getpriority(os.PRIO_PROCESS, 0):
        return True
    status = Path("/proc/self/status").read_text()
    effective = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> _CAP_SYS_NICE & 1)


@contextlib.contextmanager
def low_priority() -> Iterator[None]:
    """Let other processes go first while this thread, and threads that it starts, are at work.

    Priorities are a thread's own on Linux and inherited by the threads it starts, so at the end
    every thread of the process is raised again. Without the privilege for that the work runs as
    SCHED_BATCH, which preempts nobody and which anybody may leave again (sched(7)).
    """
    nice = _may_raise_priority()
    normal = os.getpriority(os.PRIO_PROCESS, 0)
    if nice:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(19, normal + 10))
    else:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        yield
    finally:
        for name in os.listdir("/proc/self/task"):  # noqa: PTH208
            with contextlib.suppress(ProcessLookupError):
                if nice:
                    os.setpriority(os.PRIO_PROCESS, int(name), normal)
                else:
                    os.sched_setscheduler(int(name), os.SCHED_OTHER, os.sched_param(0))


def hide_memory() -> None:
    """Nobody but root may look into this process or steer it: no debugger, no other process of the
    same user, through ptrace(2) or /proc, and it leaves no core dump (PR_SET_DUMPABLE).

    Holds for what it forks too, until that runs another program.
    """
    _prctl(_PR_SET_DUMPABLE, 0)


class OomScore:
    """This process's oom_score_adj, held open: once its memory is hidden the file is root's."""

    def __init__(self) -> None:
        self._fd = -1
        with contextlib.suppress(OSError):
            self._fd = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)

    @contextlib.contextmanager
    def raised(self, score: int = 500) -> Iterator[None]:
        """What is forked inside is taken before its supervisor when memory runs out."""
        if self._fd < 0:
            yield
            return
        usual = os.pread(self._fd, 16, 0)
        self._write(b"%d" % score)
        try:
            yield
        finally:
            self._write(usual)

    def _write(self, score: bytes) -> None:
        with contextlib.suppress(OSError):
            os.pwrite(self._fd, score, 0)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def trim_heap() -> None:
    """Give freed heap back to the kernel (glibc only, see malloc_trim(3))."""
    trim = getattr(_libc, "malloc_trim", None)
    if trim is not None:
        trim(0)


@dataclass(frozen=True, slots=True)
class Footprint:
    """What this process takes of the host's memory, in bytes."""

    private: int = 0
    """What would come back if it died: private pages, and its swap."""
    pss: int = 0
    """Its private pages, and its share of those that it has in common with others."""


def footprint() -> Footprint:
    """Of this process, now. The kernel walks its page tables for it."""
    private, pss = 0, 0
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in ("Private_Clean", "Private_Dirty", "Private_Hugetlb", "SwapPss"):
            private += int(rest.split()[0]) * 1024
        elif name == "Pss":
            pss = int(rest.split()[0]) * 1024
    return Footprint(private, pss)


def private_bytes() -> int:
    """Memory that would come back if this process died, in bytes."""
    return footprint().private


def open_status() -> int:
    """A descriptor of this process's /proc/self/status, for `held_bytes` of another process."""
    return os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)


def held_bytes(status: int) -> int:
    """All memory of the process that `status` is of, shared pages and swap included, in bytes; 0
    where it has ended. At least its `private_bytes`, and never walks page tables."""
    try:
        lines = os.pread(status, 8192, 0).decode("ascii", "replace").splitlines()
    except OSError:
        return 0
    fields = (line.partition(":") for line in lines)
    return sum(
        int(rest.split()[0]) * 1024
        for name, _, rest in fields
        if name in ("VmRSS", "VmSwap", "HugetlbPages")
    )


def host_memory() -> Reading:
    """RAM as this process may use it: the smaller of the machine's and the cgroup's room."""
    memory = psutil.virtual_memory()
    machine = Reading(total=memory.total, used=memory.total - memory.available)
    cgroup = _cgroup_memory()
    if cgroup is None or cgroup.total - cgroup.used >= machine.total - machine.used:
        return machine
    return cgroup


def cgroups(
    root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> Iterator[Path]:
    """The folders of the control groups (v2) that this process is in, the innermost first.

    Also the topmost one: a machine's has no limits, but what a container sees there is its own
    group, with the container's.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        if line.startswith("0::"):
            group = root / line[3:].lstrip("/")
            yield group
            while group != root and root in group.parents:
                group = group.parent
                yield group


def _cgroup_memory() -> Reading | None:
    """The tightest memory.max above this process, cgroup v2; None where there is no limit."""
    readings = filter(None, map(_read_cgroup, cgroups()))
    return min(readings, key=lambda reading: reading.total - reading.used, default=None)


def _read_cgroup(group: Path) -> Reading | None:
    try:
        limit = (group / "memory.max").read_text().strip()
        if limit == "max":
            return None
        current = int((group / "memory.current").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    # Page cache that the kernel can drop at once is room, as MemAvailable counts it.
    return Reading(total=int(limit), used=max(0, current - int(stat.get("inactive_file", "0"))))
