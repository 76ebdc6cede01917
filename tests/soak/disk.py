"""Where the server's log goes: a small file system that can be filled up and emptied."""

from __future__ import annotations

import ctypes
import fcntl
import os
import threading
from pathlib import Path
from typing import BinaryIO, Final, Protocol

DISK_BYTES: Final = 8 << 20
_BLOCK: Final = 1 << 16
_PIPE_BYTES: Final = 1 << 12
"""Some lines: the smallest that a pipe can be (fcntl(2))."""
_CLONE_NEWNS: Final = 0x00020000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000
_MNT_DETACH: Final = 2
"""Source: unshare(2), mount(2), umount2(2), linux/mount.h."""


class LogDisk(Protocol):
    """Where the log goes."""

    kind: str
    fills: bool
    """Whether `fill` does anything."""
    path: Path
    """The log as it can be read at the end."""

    def fill(self) -> None:
        """From now on no line can be written."""

    def free(self) -> None:
        """From now on lines can be written again."""

    def stderr(self) -> int:
        """The descriptor for the server's stderr; whoever starts the server closes it."""

    def settle(self) -> None:
        """After the server's end: return when all of the log is there."""

    def close(self) -> None:
        """Let go of it; the log is gone."""


class SmallDisk:
    """A tmpfs of DISK_BYTES, in a mount namespace of this process's own: nobody else sees it, and
    it is gone with the process. Raises OSError where that is not allowed."""

    kind = f"a tmpfs of {DISK_BYTES >> 20} MiB, filled up"
    fills = True

    def __init__(self, folder: Path) -> None:
        self._libc = libc = ctypes.CDLL(None, use_errno=True)
        _check(libc.unshare(_CLONE_NEWNS))
        _check(libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None))
        folder.mkdir()
        options = f"size={DISK_BYTES}".encode()
        _check(libc.mount(b"soak", os.fsencode(folder), b"tmpfs", 0, options))
        self.path = folder / "voicepool.log"
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        with self._ballast.open("ab", buffering=0) as ballast:
            size = _BLOCK
            while size:
                try:
                    ballast.write(bytes(size))
                except OSError:
                    size //= 2

    def free(self) -> None:
        self._ballast.unlink()

    def stderr(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def settle(self) -> None:
        """Nothing is buffered."""

    def close(self) -> None:
        _check(self._libc.umount2(os.fsencode(self.path.parent), _MNT_DETACH))


class StalledReader:
    """For those who may not mount: a pipe whose reader stops reading, and so never an ENOSPC."""

    kind = "a pipe whose reader stalls"
    fills = True

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.path = folder / "voicepool.log"
        self.path.touch()
        reading, self._writing = os.pipe()
        fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._reads = threading.Event()
        self._reads.set()
        self._thread = threading.Thread(target=self._copy, args=(os.fdopen(reading, "rb", 0),))
        self._thread.start()

    def _copy(self, source: BinaryIO) -> None:
        with source, self.path.open("ab", buffering=0) as log:
            while data := source.read(_BLOCK):
                log.write(data)
                self._reads.wait()

    def fill(self) -> None:
        self._reads.clear()

    def free(self) -> None:
        self._reads.set()

    def stderr(self) -> int:
        writing, self._writing = self._writing, -1
        return writing

    def settle(self) -> None:
        self.free()
        self._thread.join()

    def close(self) -> None:
        """All is closed when it has settled."""


class PlainDisk:
    """A file on a disk that does not fill up: for a run to compare with."""

    kind = "a plain file"
    fills = False

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.path = folder / "voicepool.log"

    def fill(self) -> None:
        """Not this one."""

    def free(self) -> None:
        """It never was full."""

    def stderr(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def settle(self) -> None:
        """Nothing is buffered."""

    def close(self) -> None:
        """Nothing is held."""


def small_disk(folder: Path) -> LogDisk:
    """A real disk that fills up, or what comes closest to it."""
    try:
        return SmallDisk(folder)
    except OSError:
        return StalledReader(folder.with_name(folder.name + "-pipe"))


def _check(result: int) -> None:
    if result:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
