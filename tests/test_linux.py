"""The kernel's side of life and death, on real processes."""

from __future__ import annotations

import ctypes
import os
import resource
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from voicepool import linux
from voicepool.budget import Reading


def fork(body: Callable[[], None], *, group: bool = False) -> int:
    """A child that runs `body` and exits 0; with `group`, one that leads a group of its own."""
    pid = os.fork()
    if pid == 0:
        try:
            if group:
                os.setpgid(0, 0)
            body()
            os._exit(0)
        finally:
            os._exit(99)
    if group:
        os.setpgid(pid, pid)
    return pid


def status_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Read end and write end; each test closes what it must."""
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue


# --- life-line -------------------------------------------------------------------------------


def stuck_in_c() -> None:
    """Holds the GIL: no thread, no signal handler and no exception can end this."""
    ctypes.PyDLL(None).sleep(3600)


def test_lifeline_ends_a_process_that_is_stuck_in_c(pipe: tuple[int, int]) -> None:
    armed, tell = os.pipe()

    def body() -> None:
        os.close(pipe[1])
        linux.arm_lifeline(pipe[0])
        os.write(tell, b"x")
        stuck_in_c()

    pid = fork(body)
    assert os.read(armed, 1) == b"x"
    os.close(pipe[1])
    assert status_of(pid) == -signal.SIGKILL
    os.close(armed)
    os.close(tell)


def test_lifeline_that_was_cut_before_it_was_armed(pipe: tuple[int, int]) -> None:
    os.close(pipe[1])
    assert status_of(fork(lambda: linux.arm_lifeline(pipe[0]))) == -signal.SIGKILL


def test_disarmed_lifeline_kills_nobody(pipe: tuple[int, int]) -> None:
    disarmed, tell = os.pipe()

    def body() -> None:
        os.close(pipe[1])
        linux.arm_lifeline(pipe[0])
        linux.disarm_lifeline(pipe[0])
        os.write(tell, b"x")
        poller = select.poll()
        poller.register(pipe[0], select.POLLIN)
        poller.poll()  # it sees the write end close, and lives

    pid = fork(body)
    assert os.read(disarmed, 1) == b"x"
    os.close(pipe[1])
    assert status_of(pid) == 0
    os.close(disarmed)
    os.close(tell)


# --- pidfds and reaping ----------------------------------------------------------------------


def test_signal_reaches_the_process_of_the_pidfd_and_no_other() -> None:
    pid = fork(signal.pause, group=True)
    pidfd = os.pidfd_open(pid)
    assert not linux.has_exited(pidfd)
    linux.signal_pidfd(pidfd, signal.SIGKILL)
    assert os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT) is not None
    assert linux.has_exited(pidfd)
    assert linux.reap(os.P_PIDFD, pidfd) == (pid, -signal.SIGKILL)
    # Dead and reaped: nobody is signalled, and that is no error.
    linux.signal_pidfd(pidfd, signal.SIGKILL)
    assert linux.reap(os.P_PIDFD, pidfd) is None
    os.close(pidfd)


def test_nothing_to_reap() -> None:
    pid = fork(signal.pause, group=True)
    assert linux.reap(os.P_PID, pid) is None
    os.kill(pid, signal.SIGKILL)
    assert status_of(pid) == -signal.SIGKILL
    assert linux.reap(os.P_PID, pid) is None


def test_one_that_somebody_waits_for_is_spared() -> None:
    pid = fork(lambda: None, group=True)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert linux.reap(os.P_PID, pid, spare={pid}) is None
    assert linux.reap(os.P_PID, pid, spare={pid + 1, None}) == (pid, 0)


def test_what_a_child_left_in_its_group_dies_with_it(pipe: tuple[int, int]) -> None:
    def body() -> None:
        if os.fork() == 0:
            os.close(pipe[0])
            signal.pause()
            os._exit(0)

    pid = fork(body, group=True)
    os.close(pipe[1])
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert linux.reap(os.P_PID, pid) == (pid, 0)
    # The grandchild held the write end; EOF says that it is gone.
    assert os.read(pipe[0], 1) == b""


# --- the process itself ----------------------------------------------------------------------


def run(code: str, preexec: Callable[[], None] | None = None) -> str:
    """The output of a fresh Python that knows `linux`."""
    done = subprocess.run(
        [sys.executable, "-c", f"import os, resource\nfrom voicepool import linux\n{code}"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        preexec_fn=preexec,
    )
    return done.stdout.strip()


def test_subreaper_inherits_orphans() -> None:
    code = """
linux.become_subreaper()
read, write = os.pipe()
child = os.fork()
if child == 0:
    if os.fork() == 0:
        while os.getppid() == child: pass
        os.read(read, 1)
        os._exit(7)
    os._exit(0)
os.waitpid(child, 0)
os.write(write, b"x")
_, status = os.wait()
print(os.waitstatus_to_exitcode(status))
"""
    assert run(code) == "7"


def test_name_is_cut_to_what_the_kernel_keeps() -> None:
    code = 'linux.name_process("vp-worker-12345678")\nprint(open("/proc/self/comm").read())'
    assert run(code) == "vp-worker-12345"


def test_descriptor_limit_is_lifted_to_the_hard_one() -> None:
    code = "print(linux.raise_fd_limit(), resource.getrlimit(resource.RLIMIT_NOFILE))"
    lowered = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 512))  # noqa: E731
    assert run(code, lowered) == "512 (512, 512)"


def test_oom_score_is_raised_for_what_is_forked() -> None:
    code = """
def now(): return int(open("/proc/self/oom_score_adj").read())
score, before = linux.OomScore(), now()
linux.hide_memory()
with score.raised(501):
    if os.fork() == 0:
        os._exit(0 if now() == 501 else 1)
print(os.waitstatus_to_exitcode(os.wait()[1]), now() - before)
"""
    assert run(code) == "0 0"


def test_memory_held_is_seen_through_a_descriptor() -> None:
    code = """
ours, theirs = os.pipe()
child = os.fork()
if child == 0:
    os.read(ours, 1)
    os._exit(0)
status = os.open(f"/proc/{child}/status", os.O_RDONLY)
mine = linux.held_bytes(linux.open_status())
print(linux.private_bytes() <= mine, 0 < linux.held_bytes(status) < 2 * mine)
os.write(theirs, b"x")
os.waitpid(child, 0)
print(linux.held_bytes(status))
"""
    assert run(code) == "True True\n0"


def test_hidden_memory_leaves_no_core_dump(tmp_path: Path) -> None:
    code = f"""
os.chdir({str(tmp_path)!r})
def dumps(hidden):
    child = os.fork()
    if child == 0:
        _, hard = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
        if hidden:
            linux.hide_memory()
        os.abort()
    return os.WCOREDUMP(os.waitpid(child, 0)[1])
print(dumps(hidden=False), dumps(hidden=True))
"""
    usual, hidden = run(code).split()
    if usual == "False":
        pytest.skip("no process leaves a core dump here")
    assert hidden == "False"


def test_low_priority_ends_as_it_began() -> None:
    code = """
import threading
def now(): return os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0)
before = now()
with linux.low_priority():
    assert now() != before
    seen = []
    thread = threading.Thread(target=lambda: seen.append(now()))
    thread.start()
    thread.join()
    assert seen == [now()]
assert now() == before
print("ok")
"""
    assert run(code) == "ok"


def test_threads_are_counted_and_gpus_seen() -> None:
    before = linux.thread_count()
    go = threading.Event()
    thread = threading.Thread(target=go.wait)
    thread.start()
    assert linux.thread_count() == before + 1
    go.set()
    thread.join()
    assert not linux.holds_gpu()


# --- memory ----------------------------------------------------------------------------------


def test_private_memory_is_what_a_process_has_for_itself() -> None:
    code = """
before = linux.private_bytes()
data = os.urandom(1) * (64 << 20)
print(linux.private_bytes() - before)
"""
    assert abs(int(run(code)) - (64 << 20)) < 8 << 20


def test_memory_that_is_shared_with_a_parent_is_not_private() -> None:
    code = """
data = os.urandom(1) * (64 << 20)
read, write = os.pipe()
if os.fork() == 0:
    mine = linux.footprint()
    os.write(write, f"{mine.private} {mine.pss}".encode())
    os._exit(0)
print(os.read(read, 100).decode())
os.wait()
"""
    private, pss = map(int, run(code).split())
    assert private < 32 << 20
    assert pss >= private + (30 << 20), "half of what two have in common"


def test_host_memory_is_that_of_the_machine_or_less() -> None:
    lines = Path("/proc/meminfo").read_text().splitlines()
    total = int(next(line for line in lines if line.startswith("MemTotal:")).split()[1]) * 1024
    reading = linux.host_memory()
    assert 0 < reading.used < reading.total <= total


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"memory.max": "max\n"}, None),
        ({}, None),
        ({"memory.max": "100\n"}, None),  # gone while it was read
        (
            {
                "memory.max": "1000\n",
                "memory.current": "600\n",
                "memory.stat": "inactive_file 100\n",
            },
            Reading(total=1000, used=500),
        ),
        (
            {
                "memory.max": "1000\n",
                "memory.current": "50\n",
                "memory.stat": "inactive_file 100\n",
            },
            Reading(total=1000, used=0),
        ),
    ],
)
def test_cgroup_limit(tmp_path: Path, files: dict[str, str], expected: Reading | None) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert linux._read_cgroup(tmp_path) == expected


def test_control_groups_from_the_innermost_to_the_topmost(tmp_path: Path) -> None:
    membership = tmp_path / "cgroup"
    membership.write_text("4:memory:/other\n0::/a.slice/b.service\n")
    found = list(linux.cgroups(tmp_path, membership))
    assert found == [tmp_path / "a.slice/b.service", tmp_path / "a.slice", tmp_path]


def test_a_container_sees_its_own_group_as_the_topmost(tmp_path: Path) -> None:
    membership = tmp_path / "cgroup"
    membership.write_text("0::/\n")
    assert list(linux.cgroups(tmp_path, membership)) == [tmp_path]
    membership.write_text("4:memory:/old\n")
    assert not list(linux.cgroups(tmp_path, membership))
    assert not list(linux.cgroups(tmp_path, tmp_path / "none"))
