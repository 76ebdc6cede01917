"""The `voicepool` command: its grammar, and what a user sees when something goes wrong."""

from __future__ import annotations

import argparse
import difflib
import errno
import io
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import voicepool
from voicepool import commands, config, keycommand
from voicepool.config import FILE_NAME, SPECS
from voicepool.errors import CallError, ConfigError, EngineUnavailable, ExitCode, WavError
from voicepool.quantities import parse_duration
from voicepool.setting import Spec

_EXIT_CODES = """exit codes:
  0 all went well        1 a bug in voicepool          2 a wrong command line or setting
  3 cannot listen        4 it cannot run as asked      5 no server, or it refused
  6 the call broke off   130 interrupted"""

_EPILOG = f"""examples:
  voicepool start                              two warm workers on 127.0.0.1:8000
  voicepool start --workers 4 --max-connections 16
  voicepool talk hello.wav                     call it: transcripts, latencies, reply as WAV
  voicepool status                             watch the pool
  voicepool doctor                             what this host can run, and what it lacks
  voicepool prefetch --profile cpu             download the models of a profile
  voicepool bench startup                      what a pool saves on this host
  voicepool config                             what is set, and where
  voicepool key new website                    a key for callers
  voicepool unit                               run it as a systemd service

Every setting of `start` can also be written in {FILE_NAME} or as VOICEPOOL_<NAME>:
  VOICEPOOL_WORKERS=4 voicepool start

{_EXIT_CODES}"""

_UNWRITABLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""How a write fails that is no fault of ours."""
_FAILING = frozenset({"strict", "surrogateescape"})
"""Python's ways with letters that raise on some; the second is that of the C locale."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    _hold_streams()
    try:
        return _run(argv)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has enough of it.
        _drop_output()
        return ExitCode.OK
    except CallError as error:
        return _complain(str(error), error.code)
    except (ConfigError, WavError, EngineUnavailable) as error:
        return _complain(str(error), ExitCode.USAGE)
    except Exception as error:  # noqa: BLE001 - the last resort of a program
        if circumstance := _circumstance(error):
            return _complain(circumstance, ExitCode.USAGE)
        traceback.print_exc()
        print(
            f"\nvoicepool {voicepool.__version__} met a fault of its own. Please report it to the "
            "project, with the lines above and what you did; they hold no keys and no speech.",
            file=sys.stderr,
        )
        return ExitCode.FAULT


def _run(argv: Sequence[str] | None) -> int:
    """What `main` does, but for its errors. Raises OSError where the output cannot be written."""
    code: int
    try:
        args = _parser().parse_args(argv)
        run: Callable[[argparse.Namespace], ExitCode] = args.run
        code = run(args)
    except SystemExit as stop:
        # argparse has said it all.
        code = int(stop.code or 0)
    # What is still in the buffer would fail at exit, where nobody can catch it.
    sys.stdout.flush()
    return code


def _hold_streams() -> None:
    """Have something behind all standard streams, and have stdout take any letter.

    The number of one that is closed would go to whatever is opened next, a caller's socket for one,
    and what is printed and logged with it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))
    # A terminal that has no sign for what a table or a reply holds is shown its number.
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors in _FAILING:
        sys.stdout.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """Forget what has been printed and not been written; Python would complain of it at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _circumstance(error: Exception) -> str:
    """What is wrong with the place that a command was run in; "" where it is a bug."""
    if not isinstance(error, OSError):
        return ""
    if error.errno in _UNWRITABLE:
        _drop_output()
        return f"cannot write: {error.strerror}"
    try:
        Path.cwd()
    except OSError:
        return "the current folder does not exist any more: cd to one that does"
    return ""


def _complain(message: str, code: ExitCode) -> ExitCode:
    for line in message.splitlines():
        print(f"voicepool: {line}", file=sys.stderr)
    return code


# --- the grammar -----------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser that suggests what a misspelled flag may have meant."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options
        )

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        known, unknown = self.parse_known_args(args, namespace)
        if unknown:
            command: _Parser = getattr(known, "parser", self)
            hint = _hint(unknown[0].partition("=")[0], list(command._option_string_actions))
            command.error(f"unknown argument {unknown[0]}{hint}")
        return known

    def error(self, message: str) -> NoReturn:
        self.exit(ExitCode.USAGE, f"voicepool: {message}\nSee: {self.prog} --help\n")


def _hint(unknown: str, flags: Sequence[str]) -> str:
    """What may have been meant by a flag that a command with these has not."""
    if unknown in ("--host", "--port") and "--url" in flags:
        return "; where the server is, is said by --url, as ws://127.0.0.1:8000"
    if any(spec.flag == unknown for spec in SPECS.values()):
        return "; that is for voicepool start"
    close = difflib.get_close_matches(unknown, flags, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _parser() -> _Parser:
    parser = _Parser(
        prog="voicepool",
        description="A pool of warm speech workers: every caller is answered at once by one of "
        "their own.",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"voicepool {voicepool.__version__}")
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(
        name: str, run: Callable[[argparse.Namespace], ExitCode], help: str, epilog: str
    ) -> Any:
        command = verbs.add_parser(name, help=help, description=help, epilog=epilog)
        command.set_defaults(run=run, parser=command)
        return command

    _add_settings(
        add("start", commands.start, "Warm up the pool and answer callers.", _START_EPILOG)
    )
    _add_status(
        add("status", commands.status, "Show what a running pool does, live.", _STATUS_EPILOG)
    )
    _add_talk(
        add("talk", commands.talk, "Call a server with a WAV file or a microphone.", _TALK_EPILOG)
    )
    _add_doctor(add("doctor", commands.doctor, _DOCTOR, _DOCTOR_EPILOG))
    _add_settings(
        add("prefetch", commands.prefetch, _PREFETCH, _PREFETCH_EPILOG), ("budget", "speech")
    )
    bench = verbs.add_parser("bench", help=_BENCH, description=_BENCH, epilog=_BENCH_EPILOG)
    bench.set_defaults(parser=bench)
    _add_benches(bench)
    _add_unit(add("unit", commands.unit, "Print the systemd unit for this host.", _UNIT_EPILOG))
    keycommand.add_to(
        verbs.add_parser(
            "key",
            help=keycommand.HELP,
            description=keycommand.HELP,
            epilog=f"{keycommand.EPILOG}\n\n{_EXIT_CODES}",
        )
    )
    listing = add(
        "config", commands.show_config, "Show the settings and where each came from.", _EXIT_CODES
    )
    listing.add_argument("--json", action="store_true", help="as JSON")
    _add_settings(listing)
    return parser


_START_EPILOG = f"""Durations are seconds or such as 90s, 5m; sizes bytes or such as 512MiB, 2GB.
Keys are given by VOICEPOOL_API_KEYS, VOICEPOOL_ADMIN_KEYS or in files, never as a flag, which
everybody on the machine could read; see voicepool key --help. The tables [vad], [stt], [llm] and
[tts] of the file set the engines.

signals: TERM and INT (Ctrl-C) let calls finish, then stop; a second one stops at once.
HUP reads settings and code again and replaces idle workers; calls go on. USR1 logs the state.

{_EXIT_CODES}"""

_STATUS_EPILOG = f"""Where a server has keys, this takes one of scope admin: voicepool key --help.

environment: VOICEPOOL_URL, VOICEPOOL_API_KEY

{_EXIT_CODES}"""

_TALK_EPILOG = f"""The caller speaks at the pace of speech, then silence follows until all is
answered. A file may hold several utterances; one that begins while a reply still plays interrupts
it, as in a call. With --fast each is sent at once, after the reply before it; none interrupts.

environment: VOICEPOOL_URL, VOICEPOOL_API_KEY

{_EXIT_CODES}"""


_UNIT_EPILOG = f"""examples:
  voicepool unit > /etc/systemd/system/voicepool.service
  voicepool unit --socket > /etc/systemd/system/voicepool.socket

How long stopping may take, and the socket's address, follow from the settings.

{_EXIT_CODES}"""

_DOCTOR = "Look at this host: what it can run, what is missing, how many workers fit."

_DOCTOR_EPILOG = f"""Lines are marked ok, note or problem, which is what keeps the profile that
`voicepool start` would take from running. What to type follows.
No model is loaded, and nothing on a GPU, unless --probe says so.

environment: CUDA_VISIBLE_DEVICES, CUDA_MPS_PIPE_DIRECTORY

{_EXIT_CODES}"""

_PREFETCH = "Download the models of a profile ahead of time."

_PREFETCH_EPILOG = f"""Files that are here are not downloaded again; one that was interrupted begins
anew. Without a network: copy ~/.cache/huggingface (or HF_HOME) from a machine that has the files.

environment: HF_HOME, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE as everywhere

{_EXIT_CODES}"""

_BENCH = "Measure what callers of this host wait for."

_BENCH_EPILOG = f"""examples:
  voicepool bench startup --profile cpu        without a pool, and with one
  voicepool bench call hello.wav --p95 1.5s    how many callers fit on a running server

{_EXIT_CODES}"""

_STARTUP_EPILOG = f"""Three servers host the same pipeline on this host, one after another:
  cold         a fresh process for every connection, which loads and warms up a pipeline
  prewarmed    one process with warm models, which builds a pipeline for every connection
  pool         voicepool
Users connect one after another and stay. A user is ready when the session's first event is there.

{_EXIT_CODES}"""

_CALL_EPILOG = f"""The callers of a round speak the file at the pace of speech. Voice to voice is
from the end of their words to the first sound of the reply. Stages are medians: the silence that
ends a turn, then the transcript, the reply's first word, its first sound. With --p95 and without
--callers the number of callers is doubled until it is too many, then narrowed down.

environment: VOICEPOOL_URL, VOICEPOOL_API_KEY

{_EXIT_CODES}"""


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument(
        "--probe",
        action="store_true",
        help="also try: have each GPU compute, and the model server answer all callers at once",
    )
    _add_settings(parser, ("pool", "budget", "speech"))


def _add_benches(bench: argparse.ArgumentParser) -> None:
    verbs = bench.add_subparsers(title="benchmarks", metavar="NAME", required=True)
    for name, run, help, epilog, extend in (
        (
            "startup",
            commands.bench_startup,
            "Compare pipelines built per connection with a pool.",
            _STARTUP_EPILOG,
            _add_startup,
        ),
        (
            "call",
            commands.bench_call,
            "Measure how long callers wait for an answer.",
            _CALL_EPILOG,
            _add_call,
        ),
    ):
        command = verbs.add_parser(name, help=help, description=help, epilog=epilog)
        command.set_defaults(run=run, parser=command)
        command.add_argument("--json", metavar="FILE", type=Path, help="keep the figures")
        command.add_argument("--markdown", action="store_true", help="print the table as Markdown")
        extend(command)


def _add_startup(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--users", metavar="N", type=_count, default=3, help="(default 3)")
    parser.add_argument("--chart", metavar="FILE", type=Path, help="draw it: .svg, .png or .pdf")
    _add_settings(parser, ("budget", "speech"))


def _add_call(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE.wav", type=Path, help="what callers say; PCM")
    _add_server(parser, "the server, or the address of a path on it", "call")
    parser.add_argument(
        "--callers", metavar="N,...", type=_counts, help="callers at once, one round each"
    )
    parser.add_argument(
        "--p95",
        metavar="TIME",
        type=_duration,
        help="find how many callers fit: 95%% of turns are answered within TIME",
    )
    parser.add_argument(
        "--turns", metavar="N", type=_count, default=20, help="turns of a round (default 20)"
    )


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {text!r}")
    return int(text)


def _counts(text: str) -> list[int]:
    return [_count(part.strip()) for part in text.split(",")]


def _add_settings(parser: argparse.ArgumentParser, sections: Sequence[str] | None = None) -> None:
    """Flags for the settings, of these sections only if they are named."""
    parser.add_argument(
        "--config", metavar="FILE", help=f"read this file (default ./{FILE_NAME} if there is one)"
    )
    groups: dict[str, Any] = {}
    for spec in SPECS.values():
        if spec.flag is not None and (sections is None or spec.section in sections):
            if spec.section not in groups:
                groups[spec.section] = parser.add_argument_group(spec.section)
            _add_setting(groups[spec.section], spec)


def _add_setting(group: Any, spec: Spec) -> None:
    options: dict[str, Any] = {"metavar": _METAVARS[spec.kind], "default": argparse.SUPPRESS}
    if spec.kind == "boolean":
        options |= {"nargs": "?", "const": "true"}
    if spec.choices:
        options["metavar"] = "{" + ",".join(spec.choices) + "}"
    words = [spec.help]
    if spec.kind == "list":
        words.append("; several are separated by commas")
    elif spec.kind != "boolean" and spec.default not in (None, ""):
        words.append(f" (default {spec.show(spec.default).strip(chr(34))})")
    options["help"] = "".join(words).replace("%", "%%")
    group.add_argument(spec.flag, dest=spec.name, **options)


_METAVARS = {
    "text": "TEXT",
    "choice": "",
    "integer": "N",
    "number": "TIME",
    "bytes": "SIZE",
    "boolean": "BOOL",
    "list": "LIST",
}


def _add_server(parser: argparse.ArgumentParser, what: str, scope: str) -> None:
    parser.add_argument("--url", metavar="URL", help=f"{what} (default {config.CLIENT_URL})")
    parser.add_argument(
        "--api-key",
        metavar="KEY",
        help=f"one of scope {scope}, if the server has any; VOICEPOOL_API_KEY is more private",
    )
    parser.add_argument(
        "--cafile",
        metavar="FILE",
        type=Path,
        help="trust servers by the certificates in this file, PEM (default: the system's)",
    )


def _add_unit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--socket", action="store_true", help="the socket unit instead")
    parser.add_argument(
        "--config", metavar="FILE", help="the service's settings (default: /etc/voicepool's)"
    )
    parser.add_argument("--user", default="voicepool", help="whom it runs as (default voicepool)")


def _add_status(parser: argparse.ArgumentParser) -> None:
    _add_server(parser, "the server", "admin")
    parser.add_argument("--json", action="store_true", help="print the server's answer once")
    parser.add_argument("--once", action="store_true", help="print the table once")


def _add_talk(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("file", metavar="FILE.wav", nargs="?", type=Path, help="PCM, any rate")
    source.add_argument("--mic", action="store_true", help="the microphone, until Ctrl-C")
    _add_server(parser, "the server, or the address of a path on it", "call")
    parser.add_argument(
        "--out", metavar="WAV", type=Path, help="the reply (default FILE-reply.wav)"
    )
    parser.add_argument("--fast", action="store_true", help="do not wait for the pace of speech")
    parser.add_argument(
        "--wait",
        metavar="TIME",
        type=_duration,
        default=0.0,
        help="while the server is full, or asks to come later, try again for so long",
    )
    parser.add_argument(
        "--timeout",
        metavar="TIME",
        type=_duration,
        default=30.0,
        help="longest silence of the server while a reply is due (default 30s)",
    )
    parser.add_argument("--json", action="store_true", help="end with a summary as JSON on stdout")


def _duration(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f'expected seconds, or a duration such as "90s" or "5m", got {text!r}'
        ) from None
