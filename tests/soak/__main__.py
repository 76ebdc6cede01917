"""`python -m tests.soak`: run a server for a while under callers and disturbances, and judge it."""

from __future__ import annotations

import argparse
import asyncio
import resource
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from tests.soak.disk import LogDisk, PlainDisk, StalledReader, small_disk
from tests.soak.report import markdown
from tests.soak.run import Options, Soak

DISKS: Final[Mapping[str, Callable[[Path], LogDisk]]] = {
    "small": small_disk,
    "pipe": StalledReader,
    "plain": PlainDisk,
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/soak",
        description="Run a server under callers who come and go while workers are killed, settings "
        "reloaded, the model server dies and the log's disk fills up; then account for every call "
        "and look for growth. Prints a report as Markdown; ends with 1 if anything is wrong.",
    )
    parser.add_argument("minutes", nargs="?", type=float, default=30.0, help="30 by default")
    parser.add_argument("--seed", type=int, default=1, help="of all choices; 1 by default")
    parser.add_argument("--gap", type=float, default=1.5, help="mean seconds between callers")
    parser.add_argument("--tls", action="store_true", help="call by TLS, through the relay")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the report there too")
    parser.add_argument(
        "--disk",
        choices=list(DISKS),
        default="small",
        help="where the log goes: a small disk that fills up (as root; else a pipe), a pipe whose "
        "reader stalls, or a plain file",
    )
    given = parser.parse_args()
    if given.minutes <= 0 or given.gap <= 0:
        parser.error("MINUTES and --gap are above 0")
    return given


def main() -> int:
    given = arguments()
    # Threads are not to be there yet: a mount namespace is a thread's.
    with tempfile.TemporaryDirectory(prefix="voicepool-soak-") as folder:
        here = Path(folder)
        place = here / "log"
        disk = DISKS[given.disk](place)
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        options = Options(given.minutes * 60, given.seed, given.gap, given.tls)
        soak = Soak(options, here, disk, lambda line: print(line, file=sys.stderr, flush=True))
        try:
            result = asyncio.run(soak.run())
        finally:
            disk.close()
    report = markdown(result)
    print(report)
    if given.report:
        given.report.write_text(report)
    return 0 if result.passed else 1


if __name__ == "__main__":
    sys.exit(main())
