"""`voicepool prefetch`: downloads what a profile's engines need, before anybody waits for it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from voicepool.config import STAGES
from voicepool.engines import registry
from voicepool.engines.base import Download, Fetching
from voicepool.engines.registry import Choice
from voicepool.errors import EngineError, ExitCode
from voicepool.logs import escape
from voicepool.quantities import format_size

Report = Callable[[Download], None]

_KEPT: Final = "interrupted; what is complete is kept: the same command fetches the rest"


class Tally:
    """The files that were reported, and how much of each is there."""

    def __init__(self) -> None:
        self._files: dict[str, int] = {}
        self._complete: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._files)

    def add(self, download: Download) -> bool:
        """Take a report; whether the file has just become complete. That may be told again."""
        self._files[download.name] = download.done
        complete = download.total is not None and download.done >= download.total
        news = complete and download.name not in self._complete
        if news:
            self._complete.add(download.name)
        return news

    def summary(self) -> str:
        size = format_size(sum(self._files.values()))
        whole, count = len(self._complete), len(self._files)
        if whole < count:
            return f"{whole} of {count} files are here, {size} in all"
        return f"all {count} files are here, {size}" if count > 1 else f"1 file is here, {size}"


def prefetch(choice: Choice) -> ExitCode:
    """Fetch what the engines of `choice` can fetch, and say how far it is.

    Raises ConfigError, and EngineUnavailable where a package is missing.
    """
    made = {stage: registry.make(stage, choice.tables[stage]) for stage in STAGES}
    fetching = {stage: it for stage, it in made.items() if isinstance(it, Fetching)}
    if not fetching:
        print(f"{_titled(choice)}: its engines come with their packages, nothing to download")
        others = [name for name in registry.PROFILES if name != choice.profile]
        print(f"for another profile: voicepool prefetch --profile {'|'.join(others)}")
        return ExitCode.OK
    print(f"{_titled(choice)}: " + ", ".join(f"{s} {made[s].name}" for s in fetching))
    tally = Tally()
    try:
        with _shown(tally, sys.stdout) as report:
            failures = list(_fetch_all(fetching, report))
    except KeyboardInterrupt:
        print(f"voicepool: {_KEPT}", file=sys.stderr)
        return ExitCode.INTERRUPTED
    if tally:
        print(tally.summary())
    for failure in failures:
        print(f"voicepool: {escape(failure, 2000)}", file=sys.stderr)
    return ExitCode.UNREACHABLE if failures else ExitCode.OK


def _titled(choice: Choice) -> str:
    return f"profile {choice.profile} ({choice.why})"


def _fetch_all(fetching: dict[str, Fetching], report: Report) -> Iterator[str]:
    """What went wrong, by engine: one that cannot be had does not keep the others away."""
    for stage, engine in fetching.items():
        try:
            engine.fetch(report)
        except EngineError as error:
            yield f"{stage}: {error}"


@contextmanager
def _shown(tally: Tally, stream: TextIO) -> Iterator[Report]:
    """A bar for each file on a terminal, elsewhere a line at each file's end."""
    if not stream.isatty():
        yield lambda download: _print_line(tally, download)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(file=stream)) as progress:
        tasks: dict[str, TaskID] = {}

        def report(download: Download) -> None:
            tally.add(download)
            name = escape(download.name)
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=download.total)
            progress.update(tasks[name], completed=download.done, total=download.total)

        yield report


def _print_line(tally: Tally, download: Download) -> None:
    if tally.add(download):
        print(f"{escape(download.name)}  {format_size(download.done)}", flush=True)
