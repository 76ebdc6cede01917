"""The keys file, and settings that hold no key's text any more."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from voicepool.config import Settings
from voicepool.errors import ConfigError
from voicepool.keys import Key, Keyring, Scope, plain, read_lines, write_line

MAX_BYTES: Final = 1 << 20
"""Of a keys file: more than ten thousand keys."""

_OTHERS_MAY_READ: Final = 0o004
_REMEDIES: Final = {
    errno.ENOENT: "; it is made by: voicepool key new NAME --file FILE",
    errno.EACCES: "; the server's user must be able to: chgrp it, and chmod 640",
}


def sealed(settings: Settings) -> Settings:
    """The same settings with all keys as digests in `keys`, and their texts nowhere.

    Reads `keys_file`: may block. Raises ConfigError, naming the file and the line.
    """
    texts = plain(settings.api_keys, settings.admin_keys)
    listed = read(settings.keys_file, "keys_file: ") if settings.keys_file else ()
    twice = {key.digest for key in texts}
    for key in listed:
        if key.digest in twice:
            raise ConfigError(
                f"keys_file: {settings.keys_file}: the key of {key.name} is in api_keys or "
                "admin_keys too; take it out of one of them"
            )
    return replace(settings, api_keys=(), admin_keys=(), keys=(*texts, *listed))


def read(path: str, prefix: str = "") -> tuple[Key, ...]:
    """The keys of a file. Raises ConfigError, whose lines begin with `prefix` and the path."""
    label = f"{prefix}{path}"
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):  # a pipe might never end
            raise ConfigError(f"{label}: is not a file")
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "")
        raise ConfigError(f"{label}: cannot be read: {error.strerror}{remedy}") from error
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{label}: is longer than {MAX_BYTES} bytes")
    try:
        return read_lines(data.decode("utf-8-sig"), label)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{label}: not UTF-8 text") from error


def append(path: Path, key: Key) -> None:
    """Add a named key's line to a file, which is made with mode 600 if need be; the mode and the
    owner of one that exists are kept, for the server's user must be able to read it.

    Raises ConfigError where the file has faults or the name already, and OSError.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "r+b", buffering=0) as file:
        if any(other.name == key.name for other in read(str(path))):
            raise ConfigError(
                f"{path}: has a key named {key.name} already; choose another name, or delete its "
                "line"
            )
        file.seek(0, os.SEEK_END)
        if file.tell():
            file.seek(-1, os.SEEK_END)
            begun = file.read(1) != b"\n"
        else:
            begun = False
        # In one piece, so that a server that reads it just now sees all of the line or nothing.
        os.write(descriptor, ("\n" * begun + write_line(key) + "\n").encode())


def advice(settings: Settings) -> list[str]:
    """What a server can start with and should not; of settings that are `sealed`."""
    found = []
    path, now = settings.keys_file, time.time()
    with contextlib.suppress(OSError):
        if path and Path(path).stat().st_mode & _OTHERS_MAY_READ:
            found.append(
                f"keys_file: {path} can be read by everybody on this machine: chmod o-r it"
            )
    gone = [key.name for key in settings.keys if key.expired(now)]
    if gone:
        found.append(f"keys_file: {path}: expired, delete their lines: {', '.join(gone[:10])}")
    if settings.asks_for_keys and not Keyring(settings.keys).grants(Scope.CALL, now):
        found.append(
            "nobody can call: no key of scope call is in force; make one with: voicepool key new "
            "NAME --file FILE"
        )
    return found
