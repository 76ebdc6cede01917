"""Runs a supervisor for tests: settings come as JSON in argv, progress goes out as JSON lines.

Apart from that it is what `voicepool start` runs; settings that have no meaning for users (port 0,
half-second deadlines) are easier to give this way.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import signal
import sys
from dataclasses import asdict

import msgspec

from voicepool import logs
from voicepool.config import Settings
from voicepool.errors import ConfigError, ExitCode
from voicepool.progress import Progress
from voicepool.supervisor import Supervisor, supervise

PR_SET_PDEATHSIG = 1


def announce(supervisor: Supervisor, progress: Progress) -> None:
    print(json.dumps({"url": supervisor.url, **asdict(progress)}), flush=True)


def main() -> None:
    # Should the test run itself be killed, its servers shall not stay (prctl(2)).
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    settings = msgspec.convert(json.loads(sys.argv[1]), Settings)
    logs.configure(settings.log_level, "json")
    try:
        sys.exit(asyncio.run(supervise(settings, announce)))
    except ConfigError as error:
        print(f"voicepool: {error}", file=sys.stderr)
        sys.exit(ExitCode.USAGE)


if __name__ == "__main__":
    main()
