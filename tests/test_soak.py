"""A short soak with everything in it, and its judges: each finds what it is there to find."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.soak import account, growth, logbook, plan
from tests.soak.account import Books, Ended, Outcome
from tests.soak.disk import StalledReader
from tests.soak.growth import MIB, Footprint, Holding
from tests.soak.plan import Disturbance, Part
from tests.soak.report import Result, markdown

ROOT = Path(__file__).parent.parent
MINUTES = "0.4"
"""Of callers and disturbances; what is waited for in between comes on top."""
DEADLINE = 600


@pytest.mark.timeout(DEADLINE + 30)
def test_every_call_is_accounted_for_and_nothing_grows(tmp_path: Path) -> None:
    report = tmp_path / "report.md"
    command = [sys.executable, "-m", "tests.soak", MINUTES, "--gap", "0.8", "--report", str(report)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert report.read_text().startswith("**PASS**")


def test_a_report_says_first_whether_all_is_well() -> None:
    assert markdown(Result(seed=1)).startswith("**PASS**")
    failed = markdown(Result(seed=1, faults=["a call is missing"]))
    assert failed.startswith("**FAIL**")
    assert "\n- a call is missing\n" in failed


# --- the plan --------------------------------------------------------------------------------


def test_a_seed_is_a_sequence() -> None:
    def drawn(seed: int) -> list[Any]:
        callers = itertools.islice(plan.calls(seed, 1.0), 100)
        return [*callers, *itertools.islice(plan.disturbances(seed), 50)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_everything_happens_before_anything_happens_again() -> None:
    kinds = [kind for kind, _ in itertools.islice(plan.disturbances(3), 2 * len(Disturbance))]
    assert set(kinds[: len(Disturbance)]) == set(kinds[len(Disturbance) :]) == set(Disturbance)
    parts = {call.part for call in itertools.islice(plan.calls(3, 1.0), len(plan.CALLERS))}
    assert parts == set(Part)


def test_rounds_fill_the_time_and_a_short_soak_has_two() -> None:
    assert plan.next_round(1800, 1799, 10) is not None
    assert plan.next_round(1800, 1800, 10) is None
    assert plan.next_round(30, 500, plan.LEAST_ROUNDS) is not None
    assert plan.next_round(30, 500, plan.LEAST_ROUNDS + 1) is None


# --- the account -----------------------------------------------------------------------------

ENDED = (
    Ended(Part.SPOKEN, Outcome.ANSWERED, True, True),
    Ended(Part.TYPED, Outcome.CUT, True, True),
    Ended(Part.TYPED, Outcome.REFUSED, True, detail="full"),
    *[Ended(Part.IMPATIENT, Outcome.HUNG_UP, True)] * 3,
    Ended(Part.FLEETING, Outcome.HUNG_UP, True, True),
    Ended(Part.PROBE, Outcome.NO_CALL, False),
)
TOTALS = {
    "arrived": 8,
    "accepted": 5,
    "completed": 3,
    "lost": 1,
    "gone": 1,
    "refused": {"full": 1, "timeout": 1},
}
BOOKS = Books(TOTALS, waiting=0, callers=1, shot_in_call=1, still_open=1)


def test_books_that_balance() -> None:
    assert account.judge(len(ENDED) + 1, ENDED, BOOKS) == []


@pytest.mark.parametrize(
    ("totals", "said"),
    [
        ({"arrived": 9, "gone": 2}, "8 asked for a call"),
        ({"arrived": 7}, "8 are accounted for"),
        ({"completed": 2}, "4 are accounted for"),
        ({"completed": 2, "lost": 2}, "2 calls were lost, and 1 workers in one were shot"),
        ({"refused": {"full": 0, "timeout": 2}}, "callers saw 4 calls"),
        ({"accepted": 3, "completed": 1, "gone": 3}, "callers saw 4 calls"),
    ],
)
def test_books_that_do_not_balance(totals: dict[str, Any], said: str) -> None:
    wrong = replace(BOOKS, totals={**TOTALS, **totals})
    assert any(said in fault for fault in account.judge(len(ENDED) + 1, ENDED, wrong))


@pytest.mark.parametrize(
    ("ended", "said"),
    [
        (ENDED[1:], "9 calls were started, and 8 are accounted for"),
        (
            (replace(ENDED[0], outcome=Outcome.WRONG, detail="why"), *ENDED[1:]),
            "a caller who speaks: why",
        ),
        (
            (replace(ENDED[0], outcome=Outcome.CUT), *ENDED[1:]),
            "2 calls were cut off, and 1 workers in a call were shot",
        ),
    ],
)
def test_callers_without_a_right_end(ended: tuple[Ended, ...], said: str) -> None:
    assert said in account.judge(len(ENDED) + 1, ended, BOOKS)


# --- growth ----------------------------------------------------------------------------------


def footprint(at: float, **changes: Any) -> Footprint:
    held = {role: Holding(fds=20, threads=2, pss=20 * MIB) for role in growth.MEMORY_BOUND}
    print_ = Footprint(at, calls=int(at), processes=5, files=5, holdings=held)
    return replace(print_, **changes)


def leaking(at: float, pss: float) -> Footprint:
    same = footprint(at)
    held = {**same.holdings, "supervisor": Holding(20, 2, round(pss))}
    return replace(same, holdings=held)


def test_what_stays_as_it_was() -> None:
    assert growth.judge([footprint(at) for at in (10, 20, 30)]) == []


@pytest.mark.parametrize(
    ("last", "said"),
    [
        (footprint(30, processes=6), "processes: 5 at first, 6 after 30 s"),
        (footprint(30, files=4), "files: 5 at first, 4 after 30 s"),
        (
            replace(leaking(30, 20 * MIB), holdings={"supervisor": Holding(21, 2, 20 * MIB)}),
            "supervisor's descriptors: 20 at first, 21 after 30 s",
        ),
    ],
)
def test_what_is_there_once_more(last: Footprint, said: str) -> None:
    held = {**footprint(30).holdings, **last.holdings}
    assert said in growth.judge([footprint(10), footprint(20), replace(last, holdings=held)])


def test_memory_that_grows() -> None:
    bound = growth.MEMORY_BOUND["supervisor"]
    steady = [leaking(at, 20 * MIB + at / 100 * 1.1 * bound) for at in range(0, 101, 10)]
    assert any(fault.startswith("supervisor: ") for fault in growth.judge(steady))
    hump = [leaking(at, (20 + (at == 50)) * MIB) for at in range(0, 101, 10)]
    assert growth.judge(hump) == []


# --- the log ---------------------------------------------------------------------------------


def line(event: str, level: str = "info", **fields: Any) -> str:
    return json.dumps({"event": event, "level": level, **fields}) + "\n"


def test_a_log_is_read_for_what_it_must_not_hold(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(
        line("fine")
        + line("log lines dropped", "warning", count=3)
        + line("warm-up failed", "error", traceback="expected")
        + line("broken", "error", traceback="Boom")
        + line("told", said="the secret")
        + '{"event": "cut sh{"event": "another process", "level": "info"}\n\n'
    )
    book = logbook.read(path, ["the secret"])
    assert (book.lines, book.dropped, len(book.broken)) == (6, 3, 1)
    assert [fault.partition(":")[0] for fault in logbook.judge(book, 1)] == [
        "broken",
        "the log holds 'the secret'",
    ]
    assert len(logbook.judge(book, 0)) == 3


# --- where it goes ---------------------------------------------------------------------------

FILL = """
import os, pathlib, sys
from tests.soak.disk import SmallDisk
try:
    disk = SmallDisk(pathlib.Path(sys.argv[1]))
except PermissionError:
    sys.exit("not allowed")
fd = disk.stderr()
os.write(fd, bytes(4096))
disk.fill()
try:
    print(os.write(fd, b"lost"))
except OSError as error:
    print(error.strerror)
disk.free()
print(os.write(fd, b"there"))
os.close(fd)
disk.close()
"""


def test_a_small_disk_is_full_until_it_is_freed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FILL, str(tmp_path / "log")]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    if done.stderr == "not allowed\n":
        pytest.skip("mounting is not allowed here")
    assert done.stdout.splitlines() == ["No space left on device", "5"], done.stderr
    assert not list((tmp_path / "log").iterdir())  # nobody else has seen it


def test_a_reader_stalls_until_it_is_freed(tmp_path: Path) -> None:
    disk = StalledReader(tmp_path / "log")
    fd = disk.stderr()
    disk.fill()
    os.set_blocking(fd, False)
    written = _until_full(lambda: os.write(fd, bytes(1 << 12)))
    os.close(fd)
    assert disk.path.stat().st_size < written
    disk.settle()
    assert disk.path.stat().st_size == written


def _until_full(write: Callable[[], int]) -> int:
    written = 0
    try:
        while True:
            written += write()
    except BlockingIOError:
        return written
