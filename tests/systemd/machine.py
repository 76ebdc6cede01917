"""A real systemd as process 1, in namespaces and a cgroup of its own; it needs root.

It has the machine's files and network, but units, /run and all state are its own. It dies with
the test run.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tests.pools import DEADLINE

ROOT = Path(__file__).parent.parent.parent
BOOT = Path(__file__).with_name("boot.sh")
SYSTEMD = "/lib/systemd/systemd"
TARGETS = (
    "test basic sysinit sockets shutdown umount final network network-online multi-user local-fs"
    " local-fs-pre swap paths slices timers"
)
UNSHARE = ("unshare", "--mount", "--pid", "--fork", "--uts", "--ipc", "--cgroup", "--kill-child")
STATEFUL = ("/tmp", "/var/tmp", "/var/lib", "/var/cache")


def unavailable() -> str:
    """Why there can be no such machine here, "" where there can. No reason is, where CI is set,
    that a program is missing."""
    if os.geteuid() != 0:
        return "systemd as process 1 needs root"
    for program in (SYSTEMD, "unshare", "nsenter", "systemctl"):
        if shutil.which(program) is None and "CI" not in os.environ:
            return f"there is no {program} (Debian: apt install systemd)"
    if _cgroups() is None:
        return "there is no writable cgroup2 hierarchy"
    trial = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--cgroup", "mount", "-t", "tmpfs", "x", "/mnt"],
        capture_output=True,
        timeout=DEADLINE,
        check=False,
    )
    return "" if trial.returncode == 0 else "namespaces cannot be made here"


def _cgroups() -> Path | None:
    """Where this process may make a cgroup."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[fields.index("-") + 1] == "cgroup2":
            own = next(
                text.removeprefix("0::").strip("/\n")
                for text in Path("/proc/self/cgroup").read_text().splitlines()
                if text.startswith("0::")
            )
            folder = Path(fields[4]) / own
            return folder if os.access(folder, os.W_OK) else None
    return None


class Machine:
    """Booted until `close`. `units`: file names and texts, with drop-ins as NAME.d/FILE."""

    def __init__(self, folder: Path, units: dict[str, str]) -> None:
        folder.mkdir()
        bare = {f"{name}.target": "[Unit]\nDefaultDependencies=no\n" for name in TARGETS.split()}
        for name, text in {**bare, **units}.items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        base = _cgroups()
        assert base is not None
        self._cgroup = base / f"voicepool-{uuid.uuid4()}"
        self._cgroup.mkdir()
        self._console = folder / "console"
        into = f'echo $$ > "{self._cgroup}/cgroup.procs"; exec "$@"'
        with self._console.open("wb") as console:
            self._process = subprocess.Popen(
                ["sh", "-c", into, "sh", *UNSHARE, "sh", str(BOOT), str(folder), *_places()],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env={**os.environ, "SYSTEMD": SYSTEMD},
                start_new_session=True,
            )
        try:
            self.until(self._booted, "booted")
        except BaseException:
            self.close()
            raise

    def _booted(self) -> bool:
        assert self._process.poll() is None, self._console.read_text()
        pid = self._init()
        return pid is not None and self.show("test.target")["ActiveState"] == "active"

    def _init(self) -> int | None:
        """Process 1 of the machine, by our numbers, once it is systemd."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        with contextlib.suppress(OSError, IndexError):
            pid = int(children.read_text().split()[0])
            if Path(f"/proc/{pid}/comm").read_text() == "systemd\n":
                return pid
        return None

    @property
    def files(self) -> Path:
        """The root of its files."""
        return Path(f"/proc/{self._init()}/root")

    # -- what it does

    def systemctl(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = self.run("systemctl", *words)
        assert not check or done.returncode == 0, (words, done.stderr, self._console.read_text())
        return done

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """As its root."""
        return subprocess.run(
            ["nsenter", "-t", str(self._init()), "-m", "-p", "-C", *command],
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )

    def show(self, unit: str) -> dict[str, str]:
        """A unit's properties."""
        lines = self.systemctl("show", unit, check=False).stdout.splitlines()
        properties = {name: value for name, _, value in (line.partition("=") for line in lines)}
        return {"ActiveState": "", **properties}

    def outside(self, pid: str) -> int:
        """By our numbers, the process that has this number there."""
        for status in Path("/proc").glob("[0-9]*/status"):
            with contextlib.suppress(OSError, StopIteration):
                lines = status.read_text().splitlines()
                _, ours, *theirs = next(x for x in lines if x.startswith("NSpid:")).split()
                if theirs[:1] == [pid] and self._owns(ours):
                    return int(ours)
        raise AssertionError(f"no process {pid} in the machine")

    def _owns(self, pid: str) -> bool:
        mine = Path(f"/proc/{self._init()}/ns/pid").readlink()
        return Path(f"/proc/{pid}/ns/pid").readlink() == mine

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait until `condition()` is true; its value. systemd tells nobody of its changes but by
        its bus, so this looks again and again."""
        end = time.monotonic() + DEADLINE
        while not (value := condition()):
            assert time.monotonic() < end, f"never {what}: {self._console.read_text()[-2000:]}"
            time.sleep(0.05)
        return value

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            # Its process 1 dies with it, and all its processes with that.
            os.killpg(self._process.pid, signal.SIGKILL)
        init = self._init()
        if init is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(init, signal.SIGKILL)
        self._process.wait(DEADLINE)
        self.until(lambda: not (self._cgroup / "cgroup.procs").read_text(), "ended")
        for folder in sorted(self._cgroup.rglob("*"), reverse=True):
            if folder.is_dir():
                self.until(partial(_removed, folder), "empty")
        self.until(partial(_removed, self._cgroup), "empty")


def _removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:
        return not folder.exists()
    return True


def _places() -> Iterator[str]:
    """What boot.sh is to do to folders: hide state, and open the way to this Python for everybody,
    which may lie in root's home."""
    paths = needed()
    yield from (s for s in STATEFUL if not any(path.is_relative_to(s) for path in paths))
    yield from openings()


def needed() -> list[Path]:
    """What a Python that runs tests reads."""
    return [Path(sys.prefix), Path(sys.base_prefix), ROOT]


def openings() -> Iterator[str]:
    """FOLDER:PATH for each folder that is shut to others and has in it what tests run."""
    shut: dict[Path, Path] = {}
    for path in needed():
        for folder in reversed(path.parents):
            if not folder.stat().st_mode & 1:
                shut.setdefault(folder, path)
                break
    yield from (f"{folder}:{path}" for folder, path in shut.items())
