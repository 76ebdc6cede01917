"""Runs a supervisor for tests: settings come as JSON in argv, progress goes out as JSON lines.

An argument @FILE names a file with that JSON, which a reload reads again.

Apart from that it is what `voicepool start` runs; settings that have no meaning for users (port 0,
half-second deadlines) are easier to give this way.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path

import msgspec

from voicepool import logs, systemd
from voicepool.config import Settings
from voicepool.errors import ConfigError, ExitCode
from voicepool.keysfile import sealed
from voicepool.progress import Progress
from voicepool.serving import supervise
from voicepool.supervisor import Supervisor

PR_SET_PDEATHSIG = 1
PR_CAPBSET_DROP = 24
CAPABILITIES = 64
UNPRIVILEGED = "VOICEPOOL_TEST_UNPRIVILEGED"
"""While this is in the environment the server is one without privileges, also where root runs the
tests: as it is installed. It would not be kept from anything otherwise."""


def announce(supervisor: Supervisor, progress: Progress) -> None:
    print(json.dumps({"url": supervisor.url, **asdict(progress)}), flush=True)


def read(argument: str) -> Settings:
    """The settings that the argument means now. Raises ConfigError."""
    text = Path(argument[1:]).read_text() if argument.startswith("@") else argument
    try:
        return sealed(msgspec.convert(json.loads(text), Settings))
    except (ValueError, msgspec.ValidationError) as error:
        raise ConfigError(f"not settings: {error}") from error


def drop_privileges() -> None:
    """What is started from here has no capability. Source: capabilities(7)."""
    libc = ctypes.CDLL(None)
    for number in range(CAPABILITIES):
        libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)  # fails for those that the kernel has not
    version_3, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if libc.capset(version_3, none) != 0:
        raise OSError("the capabilities cannot be given back")


def main() -> None:
    if os.environ.pop(UNPRIVILEGED, ""):
        drop_privileges()
    # Should the test run itself be killed, its servers shall not stay (prctl(2)).
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    inherited = systemd.take(os.environ)
    settings = read(sys.argv[1])
    logs.configure(settings.log_level, "json")
    run = supervise(settings, announce, inherited=inherited, reread=lambda: read(sys.argv[1]))
    try:
        sys.exit(asyncio.run(run))
    except ConfigError as error:
        print(f"voicepool: {error}", file=sys.stderr)
        sys.exit(ExitCode.USAGE)


if __name__ == "__main__":
    main()
