"""What a terminal and a log file are told while a server comes up and goes."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from voicepool import logs
from voicepool.config import Settings
from voicepool.progress import Progress
from voicepool.startup import Announcer


def supervisor(callers: int = 0) -> Any:
    """As much of a Supervisor as announcements are about."""
    return SimpleNamespace(
        url="ws://127.0.0.1:8001",
        settings=Settings(app="a.b:c", drain_timeout=90),
        reception=SimpleNamespace(paths={"/a"}, has_page=False),
        pool=SimpleNamespace(snapshot=lambda: SimpleNamespace(callers=callers)),
    )


def told(*steps: Progress, live: bool, callers: int = 0) -> str:
    stream = io.StringIO()
    announce = Announcer(stream, None, live=live)
    for step in steps:
        announce(supervisor(callers), step)
    return stream.getvalue()


@pytest.fixture(autouse=True)
def level() -> Iterator[logging.Logger]:
    log = logging.getLogger(logs.ROOT)
    before = log.level
    log.setLevel(logging.INFO)
    yield log
    log.setLevel(before)


COMING = [Progress("warming", n, 2) for n in (0, 1)]
UP = Progress("serving", 2, 2)


def test_a_log_file_gets_a_line_a_step() -> None:
    assert told(*COMING, UP, live=False).splitlines()[:3] == [
        "warming up: 0 of 2 workers ready",
        "warming up: 1 of 2 workers ready",
        "ready",
    ]


def test_on_a_terminal_the_count_grows_in_place() -> None:
    seen = told(*COMING, UP, live=True)
    assert seen.startswith(
        "\r\x1b[Kwarming up: 0 of 2 workers ready\r"
        "\r\x1b[Kwarming up: 1 of 2 workers ready\r"
        "\r\x1b[Kready\n"
    )


@pytest.mark.parametrize("stage", ["serving", "trouble", "draining"])
def test_the_log_waits_for_the_banner_or_for_trouble(level: logging.Logger, stage: Any) -> None:
    announce = Announcer(io.StringIO(), None, live=True)
    announce(supervisor(), COMING[0])
    assert not level.isEnabledFor(logging.INFO)
    assert level.isEnabledFor(logging.WARNING)
    announce(supervisor(), Progress(stage, 2, 2))
    assert level.isEnabledFor(logging.INFO)


def test_a_drain_says_for_whom_it_waits_and_how_to_end_it() -> None:
    draining = Progress("draining")
    assert told(draining, live=False, callers=2) == (
        "no new calls; 2 calls have 90s to finish (Ctrl-C again: end them now)\n"
    )
    assert told(draining, live=False, callers=0) == ""
