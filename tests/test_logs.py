"""Logs: what a line holds, what a hostile value cannot do, and a reader that stalls."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import re
import resource
import select
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from voicepool import logs

log = logging.getLogger("voicepool.test")


class Sink:
    """A pipe that the logs go to."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)

    def text(self) -> str:
        data = b""
        try:
            while piece := os.read(self.reader, 1 << 16):
                data += piece
        except BlockingIOError:
            pass
        return data.decode()

    def entries(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().splitlines()]


@pytest.fixture
def sink(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sink]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    ours = logging.getLogger(logs.ROOT).level
    monkeypatch.setattr(logs, "_process", {})
    made = Sink()
    yield made
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger(logs.ROOT).setLevel(ours)
    logging.captureWarnings(False)
    os.close(made.reader)
    os.close(made.writer)


def test_a_json_line(sink: Sink) -> None:
    logs.configure("info", "json", fd=sink.writer)
    log.info("worker ready", extra={"worker": 3, "seconds": 1.25, "device": "host", "odd": {1}})
    (entry,) = sink.entries()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry.pop("ts"))
    assert entry == {
        "level": "info",
        "logger": "voicepool.test",
        "event": "worker ready",
        "worker": 3,
        "seconds": 1.25,
        "device": "host",
        "odd": "{1}",
    }


def test_a_pretty_line(sink: Sink) -> None:
    logs.configure("info", "pretty", fd=sink.writer)
    log.info("worker ready", extra={"worker": 3, "seconds": 1.23456, "why": "two words", "no": ""})
    log.warning("slow")
    first, second = sink.text().splitlines()
    assert re.fullmatch(
        r'\d\d:\d\d:\d\d  worker ready  worker=3 seconds=1.235 why="two words" no=""', first
    )
    assert re.fullmatch(r"\d\d:\d\d:\d\d  warning: slow", second)


def test_color_only_where_asked_for(sink: Sink) -> None:
    logs.configure("info", "pretty", color=True, fd=sink.writer)
    log.error("broken")
    assert "\x1b[31merror: broken\x1b[0m" in sink.text()


@pytest.mark.parametrize("format", ["pretty", "json"])
@pytest.mark.parametrize(
    "hostile",
    [
        "a\nlevel=error b",
        "\x1b]0;title\x07",
        "\x9b31m",
        "a\u2028b",
        "\u202egnp.exe",
        "\ud800",
        "\r",
    ],
)
def test_a_hostile_value_stays_on_its_line_and_off_the_terminal(
    sink: Sink, format: Any, hostile: str
) -> None:
    logs.configure("info", format, fd=sink.writer)
    log.info("bad path", extra={"path": hostile})
    log.info(hostile)
    text = sink.text()
    assert text.count("\n") == 2
    assert text.replace("\n", "").isprintable()


@pytest.mark.parametrize("format", ["pretty", "json"])
def test_a_long_value_is_cut(sink: Sink, format: Any) -> None:
    logs.configure("info", format, fd=sink.writer)
    log.info("bad path", extra={"path": "x" * 1_000_000})
    text = sink.text()
    assert len(text) < 2000
    assert "...(+998976)" in text


def test_numbers_that_json_has_not(sink: Sink) -> None:
    logs.configure("info", "json", fd=sink.writer)
    log.info("measured", extra={"ratio": float("nan"), "limit": float("inf")})
    (entry,) = sink.entries()
    assert (entry["ratio"], entry["limit"]) == ("nan", "inf")


@pytest.mark.parametrize("format", ["pretty", "json"])
def test_a_traceback_is_whole_and_harmless(sink: Sink, format: Any) -> None:
    logs.configure("info", format, fd=sink.writer)
    try:
        raise ValueError("from a client: \x1b[2J")
    except ValueError:
        log.exception("session failed")
    text = sink.text()
    assert "test_a_traceback_is_whole_and_harmless" in text
    assert "\\x1b[2J" in text
    assert "\x1b" not in text


def test_levels(sink: Sink) -> None:
    logs.configure("warning", "json", fd=sink.writer)
    log.info("no")
    log.warning("yes")
    logging.getLogger("somebody.else").info("no")
    logging.getLogger("somebody.else").warning("yes")
    assert [entry["event"] for entry in sink.entries()] == ["yes", "yes"]


async def test_fields_of_the_process_and_of_the_task(sink: Sink) -> None:
    logs.configure("info", "json", fd=sink.writer)
    logs.identify(worker=7)

    async def call(session: str, first: asyncio.Event, second: asyncio.Event) -> None:
        with logs.context(session=session):
            first.set()
            await second.wait()
            log.info("hello")

    one, two = asyncio.Event(), asyncio.Event()
    await asyncio.gather(call("a", one, two), call("b", two, one))
    log.info("outside", extra={"worker": 8})
    *inside, outside = sink.entries()
    assert sorted((entry["worker"], entry["session"]) for entry in inside) == [(7, "a"), (7, "b")]
    assert outside["worker"] == 8
    assert "session" not in outside


def test_a_fork_logs_on_with_its_own_number(sink: Sink) -> None:
    logs.configure("info", "json", fd=sink.writer)
    logs.identify(role="zygote")
    child = os.fork()
    if child == 0:
        logs.identify(role="worker", worker=1)
        log.info("up")
        os._exit(0)
    os.waitpid(child, 0)
    log.info("forked")
    assert [(e["event"], e["role"]) for e in sink.entries()] == [
        ("up", "worker"),
        ("forked", "zygote"),
    ]


def test_a_reader_that_stalls_costs_lines_and_not_the_server(
    sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs._LineHandler, "patience", 0.001)
    logs.configure("info", "json", fd=sink.writer)
    dropped = logs.lines_dropped()
    for _ in range(5000):  # several times what the pipe holds; a blocking handler hangs here
        log.info("x" * 200)
    before = len(sink.entries())
    log.info("read on")
    *_, lost, last = sink.entries()
    assert (lost["event"], lost["level"]) == ("log lines dropped", "warning")
    assert before + lost["count"] == 5000
    assert logs.lines_dropped() - dropped == lost["count"]
    assert last["event"] == "read on"


def test_a_line_for_which_there_is_room_in_part_does_not_wait_for_the_rest(
    sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs._LineHandler, "patience", 0.001)
    logs.configure("info", "json", fd=sink.writer)
    size = fcntl.fcntl(sink.writer, fcntl.F_GETPIPE_SZ)
    os.write(sink.writer, b"." * (size - select.PIPE_BUF))
    log.info("long", extra={f"field_{n}": "x" * 1000 for n in range(10)})  # a blocking one hangs
    assert len(sink.text()) == size
    log.info("read on")
    end, *lines = sink.text().splitlines()
    lost, last = map(json.loads, lines)
    assert (end, lost["event"], lost["count"]) == ("", "log lines dropped", 1)
    assert last["event"] == "read on"


def test_a_long_line_reaches_a_reader_that_reads(
    sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs._LineHandler, "patience", 60.0)
    logs.configure("info", "json", fd=sink.writer)
    os.set_blocking(sink.reader, True)
    os.write(sink.writer, b"." * (fcntl.fcntl(sink.writer, fcntl.F_GETPIPE_SZ) - select.PIPE_BUF))
    read: list[bytes] = []

    def read_on() -> None:
        while not read or not read[-1].endswith(b"\n"):
            read.append(os.read(sink.reader, 1 << 16))

    reader = threading.Thread(target=read_on, daemon=True)
    reader.start()
    log.info("long", extra={f"field_{n}": "x" * 1000 for n in range(10)})
    reader.join(60)
    assert json.loads(b"".join(read).lstrip(b"."))["event"] == "long"


def test_a_terminal_that_stalls_costs_lines_and_not_the_server(
    sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs._LineHandler, "patience", 0.001)
    screen, terminal = os.openpty()
    logs.configure("info", "pretty", fd=terminal)
    dropped = logs.lines_dropped()
    for _ in range(2000):  # many times what it takes; a blocking handler hangs here
        log.info("x" * 200)
    assert logs.lines_dropped() > dropped
    assert os.get_blocking(terminal)  # it is also somebody else's
    logs.configure("info", "pretty", fd=sink.writer)
    os.close(screen)
    os.close(terminal)


def test_a_full_disk_costs_lines_that_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "voicepool.log"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    logs.configure("info", "json", fd=fd)
    log.info("before")
    # As on a full disk, what is beyond the limit is not written, even of one line.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 40, hard))
    try:
        for _ in range(3):
            log.info("lost")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    log.info("after")
    os.close(fd)
    before, cut, dropped, after = path.read_text().splitlines()
    assert len(cut) == 40
    told = [json.loads(line) for line in (before, dropped, after)]
    assert [entry["event"] for entry in told] == ["before", "log lines dropped", "after"]
    assert told[1]["count"] == 3


def test_a_reader_that_is_gone_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    dropped = logs.lines_dropped()
    handler = logs._LineHandler(writer)
    handler.emit(logging.makeLogRecord({"msg": "nobody reads this"}))
    os.close(writer)
    assert logs.lines_dropped() == dropped + 1


def test_a_flood_is_counted(sink: Sink) -> None:
    logs.configure("info", "json", fd=sink.writer)
    now = 0.0
    guard = logs.FloodGuard(log, burst=2, period=10.0, clock=lambda: now)
    for number in range(100):
        guard.warning("bad request", number=number)
    guard.info("another message")
    now = 10.0
    guard.warning("bad request", number=100)
    now = 20.0
    guard.warning("bad request", number=101)
    seen = [(e["event"], e.get("number"), e.get("suppressed")) for e in sink.entries()]
    assert seen == [
        ("bad request", 0, None),
        ("bad request", 1, None),
        ("another message", None, None),
        ("bad request", 100, 98),
        ("bad request", 101, None),
    ]
