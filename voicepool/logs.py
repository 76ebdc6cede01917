"""Logging: static messages with structured fields, pretty on a terminal, JSON lines elsewhere.

    log = logging.getLogger(__name__)
    log.info("worker ready", extra={"worker": 3, "seconds": 1.2})

`extra` may carry any name that a LogRecord has not taken. `identify` and `context` add fields to
everything that this process, or this task, logs: the numbers of its worker, session and caller.
Never log audio, transcripts or keys; what a client sent is escaped and cut before it is written.
"""

from __future__ import annotations

import json
import logging
import math
import os
import select
import stat
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import ClassVar, Literal

ROOT = "voicepool"
_LONGEST_VALUE = 1024
_LONGEST_TRACEBACK = 16_384
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}

_process: dict[str, object] = {}
_context: ContextVar[Mapping[str, object]] = ContextVar(
    "voicepool.log_context", default=MappingProxyType({})
)


def identify(**fields: object) -> None:
    """Add fields to all that this process logs from now on; a fork inherits them."""
    _process.update(fields)


@contextmanager
def context(**fields: object) -> Iterator[None]:
    """Add fields to all that the current task, and what it starts, logs inside the block."""
    token = _context.set({**_context.get(), **fields})
    try:
        yield
    finally:
        _context.reset(token)


def configure(
    level: str, format: Literal["pretty", "json"], *, color: bool = False, fd: int = 2
) -> None:
    """Send the logs of voicepool, and warnings of the libraries, to the file descriptor `fd`.

    Replaces what an earlier call set up, so it may be called again after a reload or a fork.
    """
    handler = _LineHandler(fd)
    handler.setFormatter(PrettyFormatter(color) if format == "pretty" else JsonFormatter())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        if isinstance(old, _LineHandler):
            old.close()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger(ROOT).setLevel(level.upper())
    logging.captureWarnings(True)


def style(format: Literal["auto", "pretty", "json"]) -> Literal["pretty", "json"]:
    """What "auto" comes to: for people on a terminal, for programs elsewhere."""
    if format == "auto":
        return "pretty" if os.isatty(2) else "json"
    return format


def lines_dropped() -> int:
    """Lines of this process that nobody will read, for their reader stalled or is gone."""
    return _LineHandler.lost


def hold() -> int:
    """Keep this process's info and debug messages back; the level, for `release`."""
    level = logging.getLogger(ROOT).level
    logging.getLogger(ROOT).setLevel(max(level, logging.WARNING))
    return level


def release(level: int) -> None:
    logging.getLogger(ROOT).setLevel(level)


# --- one record ------------------------------------------------------------------------------


def _fields(record: logging.LogRecord) -> dict[str, object]:
    own = {key: value for key, value in vars(record).items() if key not in _STANDARD}
    return {**_process, **_context.get(), **own}


def _event(record: logging.LogRecord) -> str:
    """The message. A library's may be built from what a client sent: escaped and cut too."""
    return escape(record.getMessage())


def escape(text: str, longest: int = _LONGEST_VALUE, keep: str = "") -> str:
    """`text` on one line and safe to print: what a terminal might act on is backslash-escaped.

    Covers C0 and C1 controls, line and paragraph separators, direction marks and lone surrogates,
    which str.isprintable rules out together. Characters in `keep` pass.
    """
    cut = f"...(+{len(text) - longest})" if len(text) > longest else ""
    text = text[:longest]
    if not text.isprintable():
        text = "".join(
            c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text
        )
    return text + cut


def _traceback(record: logging.LogRecord) -> str:
    if not record.exc_info or record.exc_info[1] is None:
        return ""
    lines = "".join(traceback.format_exception(record.exc_info[1]))
    return escape(lines.rstrip()[-_LONGEST_TRACEBACK:], _LONGEST_TRACEBACK, keep="\n")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ts (RFC 3339, UTC), level, logger, event, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        entry: dict[str, object] = {
            "ts": moment.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": _event(record),
        }
        for key, value in _fields(record).items():
            entry.setdefault(key, _plain(value))
        if trace := _traceback(record):
            entry["traceback"] = trace
        return json.dumps(entry, allow_nan=False)


def _plain(value: object) -> object:
    """`value` as JSON has it. Texts are cut here; json.dumps escapes them."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        over = len(value) - _LONGEST_VALUE
        return value if over <= 0 else f"{value[:_LONGEST_VALUE]}...(+{over})"
    return _plain(str(value))


_COLORS = {"DEBUG": "2", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}


class PrettyFormatter(logging.Formatter):
    """For people: the time of day, the level where it is not info, the message, the fields."""

    def __init__(self, color: bool) -> None:
        super().__init__()
        self._color = color

    def format(self, record: logging.LogRecord) -> str:
        clock = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        level = "" if record.levelno == logging.INFO else record.levelname.lower() + ": "
        message = self._paint(level + _event(record), _COLORS.get(record.levelname, ""))
        fields = " ".join(f"{key}={_pretty(value)}" for key, value in _fields(record).items())
        line = "  ".join(filter(None, (self._paint(clock, "2"), message, self._paint(fields, "2"))))
        return "\n".join(filter(None, (line, _traceback(record))))

    def _paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._color and code and text else text


def _pretty(value: object) -> str:
    text = escape(f"{value:.4g}" if isinstance(value, float) else str(value))
    return f'"{text}"' if " " in text or not text else text


# --- where it goes ---------------------------------------------------------------------------


class _LineHandler(logging.Handler):
    """Writes each record with one write(2), so that lines of several processes do not mix.

    A reader that stalls (a pipe into a pager, a terminal on Ctrl-S) must not stall the server:
    after `patience` seconds lines are dropped, without waiting again, until it reads on; the next
    line is preceded by their count. So it is with a disk that is full; a line that it has cut short
    is ended before the next one. Nothing is buffered, so a fork duplicates nothing.
    """

    patience = 0.1
    lost: ClassVar[int] = 0
    """Lines that this process has dropped."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        own = not_blocking(fd)
        self._own = own is not None
        self._fd = fd if own is None else own
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLOUT)
        self._dropped = 0
        self._cut = False
        """The last of our lines was written in part."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if not self._writable():
                self._drop()
                return
            if self._dropped:
                lost = logging.makeLogRecord({"name": __name__, "levelno": logging.WARNING})
                lost.levelname, lost.msg = "WARNING", "log lines dropped"
                vars(lost)["count"] = self._dropped
                self._write(lost)
                self._dropped = 0
            self._write(record)
        except OSError:
            # The disk is full; or the reader is gone for good, and there is nobody left to tell.
            self._drop()
        except Exception:  # noqa: BLE001 - a log call must never fail its caller
            self.handleError(record)

    def _drop(self) -> None:
        self._dropped += 1
        _LineHandler.lost += 1

    def _writable(self) -> bool:
        ready = self._poll.poll(0 if self._dropped else self.patience * 1000)
        return any(event & select.POLLOUT for _, event in ready)

    def _write(self, record: logging.LogRecord) -> None:
        text = ("\n" if self._cut else "") + self.format(record) + "\n"
        line = memoryview(text.encode("utf-8", "backslashreplace"))
        stuck = False
        while line:
            try:
                line = line[os.write(self._fd, line) :]
            except BlockingIOError:
                # A terminal may say that it has room, and have too little of it.
                if stuck or not self._writable():
                    raise
                stuck = True
            else:
                stuck, self._cut = False, bool(line)

    def close(self) -> None:
        if self._own:
            self._own = False
            os.close(self._fd)
            self._fd = -1  # whoever logs here all the same writes into nobody's file
        super().close()


def not_blocking(fd: int) -> int | None:
    """The pipe or terminal that `fd` is, opened anew for writes that never wait; None for what is
    neither, or must not be opened.

    Where there is room for a part of a line only, a write(2) that has begun waits for the rest.
    O_NONBLOCK on `fd` itself would hold for all who share it, such as the shell that started us.
    """
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        if not stat.S_ISFIFO(os.fstat(fd).st_mode) and not os.isatty(fd):
            return None
        return os.open(f"/proc/self/fd/{fd}", flags)
    except OSError:
        return None


# --- messages that a client could flood ------------------------------------------------------


class FloodGuard:
    """Logs at most `burst` of each message per `period` seconds and counts the rest.

    The first message of the next period says how many were left out (`suppressed`). Messages are
    static, so what it remembers is bounded by the program's text.
    """

    def __init__(
        self,
        logger: logging.Logger,
        *,
        burst: int = 5,
        period: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._logger = logger
        self._burst = burst
        self._period = period
        self._clock = clock
        self._seen: dict[str, tuple[float, int]] = {}
        """Message → when its period began, how often it came since."""

    def log(self, level: int, message: str, /, **fields: object) -> None:
        if not self._logger.isEnabledFor(level):
            return
        now = self._clock()
        began, count = self._seen.get(message, (-math.inf, 0))
        if now - began >= self._period:
            suppressed = max(0, count - self._burst)
            self._seen[message] = (now, 1)
            if suppressed:
                fields["suppressed"] = suppressed
        else:
            self._seen[message] = (began, count + 1)
            if count >= self._burst:
                return
        self._logger.log(level, message, extra=fields)

    def info(self, message: str, /, **fields: object) -> None:
        self.log(logging.INFO, message, **fields)

    def warning(self, message: str, /, **fields: object) -> None:
        self.log(logging.WARNING, message, **fields)
