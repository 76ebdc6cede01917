"""The runtime directory: one folder a server, with the workers' temporary folders in it.

The folder is locked as long as its server lives. Whoever starts next sweeps away what a server
left that was killed together with its zygote, which would have removed it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

PREFIX: Final = "voicepool-"
_LOCK: Final = "lock"


class RuntimeDir:
    """Made locked and empty; `close` removes it and all that is in it."""

    def __init__(self, parent: str = "") -> None:
        """`parent` "" is the system's folder for temporary files.

        Raises OSError when nothing can be made there.
        """
        base = Path(parent or tempfile.gettempdir())
        base.mkdir(parents=True, exist_ok=True)
        _sweep(base)
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        try:
            self._lock = _lock(self.path)
        except OSError:
            self.path.rmdir()
            raise

    def close(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _lock(folder: Path) -> int:
    """Lock the new folder; the descriptor that holds the lock."""
    unlocked = folder / f"{_LOCK}.new"
    lock = os.open(unlocked, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Named only now: whoever starts at the same moment must not find it unlocked.
        unlocked.rename(folder / _LOCK)
    except OSError:
        os.close(lock)
        unlocked.unlink()
        raise
    return lock


def _sweep(base: Path) -> None:
    for folder in base.glob(PREFIX + "*"):
        try:
            if folder.lstat().st_uid != os.geteuid():
                continue  # another user's; root could open what is in there
            # Whoever made the folder may have put anything in its place: a link, a device.
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue  # not ours to judge, or one that is being made
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            pass
        finally:
            os.close(lock)
