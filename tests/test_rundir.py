"""The runtime directory: locked while its server lives, swept when it does not."""

from __future__ import annotations

import fcntl
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from voicepool.rundir import PREFIX, RuntimeDir

KILLED = """
import os, signal, sys
from voicepool.rundir import RuntimeDir
runtime = RuntimeDir(sys.argv[1])
(runtime.path / "worker-1").mkdir()
(runtime.path / "worker-1" / "file").write_text("left behind")
print(runtime.path, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(parent: Path) -> Path:
    """The folder of a server that had no time to remove it."""
    run = subprocess.run(
        [sys.executable, "-c", KILLED, str(parent)], stdout=subprocess.PIPE, text=True, check=False
    )
    return Path(run.stdout.strip())


def test_made_private_and_removed_with_all_that_is_in_it(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")  # noqa: PTH208
    runtime = RuntimeDir(str(tmp_path / "new" / "parent"))
    assert runtime.path.parent == tmp_path / "new" / "parent"
    assert runtime.path.stat().st_mode & 0o777 == 0o700
    (runtime.path / "worker-1").mkdir()
    (runtime.path / "worker-1" / "file").write_text("x")
    runtime.close()
    assert not runtime.path.exists()
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208


def test_default_is_the_systems_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    runtime = RuntimeDir()
    assert runtime.path.parent == tmp_path
    runtime.close()


def test_servers_that_live_leave_each_other_alone(tmp_path: Path) -> None:
    servers = [RuntimeDir(str(tmp_path)) for _ in range(3)]
    assert len({server.path for server in servers}) == 3
    assert all(server.path.is_dir() for server in servers)
    for server in servers:
        server.close()


def test_what_a_killed_server_left_is_swept(tmp_path: Path) -> None:
    left = killed(tmp_path)
    assert (left / "worker-1" / "file").exists()
    runtime = RuntimeDir(str(tmp_path))
    assert not left.exists()
    runtime.close()


def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "lock").touch()
    (tmp_path / f"{PREFIX}link").symlink_to(target)
    (tmp_path / f"{PREFIX}file").touch()
    (tmp_path / f"{PREFIX}being-made").mkdir()
    (tmp_path / f"{PREFIX}being-made" / "lock.new").touch()
    (tmp_path / f"{PREFIX}bait").mkdir()
    (tmp_path / f"{PREFIX}bait" / "lock").symlink_to(target / "lock")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "lock").touch()
    before = sorted(tmp_path.rglob("*"))
    RuntimeDir(str(tmp_path)).close()
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a folder of another user")
def test_what_another_user_left_is_not_touched(tmp_path: Path) -> None:
    left = tmp_path / f"{PREFIX}theirs"
    left.mkdir()
    (left / "lock").touch()
    os.chown(left, 65534, 65534)
    RuntimeDir(str(tmp_path)).close()
    assert (left / "lock").exists()


def test_never_found_unlocked_by_who_starts_at_the_same_moment(tmp_path: Path) -> None:
    """Whoever can open the lock file finds it locked, at every step of a start."""
    rename = Path.rename
    seen = []

    def look(path: Path, target: Path) -> Path:
        seen.append(sorted(entry.name for entry in path.parent.iterdir()))
        result = rename(path, target)
        lock = os.open(target, os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(lock)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "rename", look)
        RuntimeDir(str(tmp_path)).close()
    assert seen == [["lock.new"]]


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    # Not even root can make a folder in /proc.
    for parent in (str(file), str(file / "voicepool"), "/proc/voicepool"):
        with pytest.raises(OSError, match=re.escape(parent)):
            RuntimeDir(parent)
    assert list(tmp_path.iterdir()) == [file]


def test_failed_start_leaves_nothing(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    # Folders need no descriptor to be made, the lock file does.
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            RuntimeDir(str(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
