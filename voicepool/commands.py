"""What each command of `voicepool` does. Heavy imports stay inside, so that --help is quick."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from voicepool import config, logs
from voicepool.config import SPECS, Effective, Settings
from voicepool.dialogue import Reply, Turn
from voicepool.errors import CallError, ConfigError, ExitCode

if TYPE_CHECKING:
    from voicepool.engines.registry import Choice
    from voicepool.talk import Report

_HIDDEN = ("key", "token", "secret", "password")
"""Parts of the names of engine options whose values are not shown."""


def _load(args: argparse.Namespace) -> Effective:
    flags = {name: text for name, text in vars(args).items() if name in SPECS}
    return config.load(flags, os.environ, _here(), args.config)


def _here() -> Path:
    """The current folder. Raises ConfigError."""
    try:
        return Path.cwd()
    except OSError as error:
        raise ConfigError(
            f"the folder that this was started in is gone: {error.strerror}"
        ) from error


# --- config ----------------------------------------------------------------------------------


def show_config(args: argparse.Namespace) -> ExitCode:
    effective = _load(args)
    print(as_json(effective) if args.json else as_text(effective))
    return ExitCode.OK


def as_text(effective: Effective) -> str:
    """Every setting with its source, in the order and under the headings of the file."""
    sections: dict[str, list[tuple[str, str]]] = {}
    for name, spec in SPECS.items():
        shown = f"{name} = {spec.show(getattr(effective.settings, name))}"
        sections.setdefault(spec.section, []).append((shown, effective.sources[name]))
    for stage, table in effective.settings.engines.items():
        for name, value in _shown_options(table).items():
            shown = f"{name} = {json.dumps(value, ensure_ascii=False, default=str)}"
            sections.setdefault(stage, []).append((shown, effective.sources["engines"]))
    width = max(len(shown) for rows in sections.values() for shown, _ in rows)
    blocks = (
        "\n".join([f"[{section}]", *(f"{shown:{width}}  # {source}" for shown, source in rows)])
        for section, rows in sections.items()
    )
    return "\n\n".join(blocks)


def as_json(effective: Effective) -> str:
    """The same for programs: {section: {name: {"value", "source"}}}; times in seconds, sizes in
    bytes; of secrets only their number."""
    sections: dict[str, dict[str, Any]] = {}
    for name, spec in SPECS.items():
        value = getattr(effective.settings, name)
        entry = {"value": spec.show(value) if spec.secret else value}
        entry["source"] = effective.sources[name]
        sections.setdefault(spec.section, {})[name] = entry
    for stage, table in effective.settings.engines.items():
        sections[stage] = {
            name: {"value": value, "source": effective.sources["engines"]}
            for name, value in _shown_options(table).items()
        }
    return json.dumps(sections, indent=2, default=str)


def _shown_options(table: Mapping[str, Any]) -> dict[str, Any]:
    def shown(name: str, value: Any) -> Any:
        if any(part in name.lower() for part in _HIDDEN):
            return "(hidden)"
        return _shown_options(value) if isinstance(value, dict) else value

    return {name: shown(name, value) for name, value in table.items()}


# --- unit ------------------------------------------------------------------------------------


def unit(args: argparse.Namespace) -> ExitCode:
    from voicepool import unit, unithost

    path = Path(args.config).absolute() if args.config else unit.CONFIG
    # A root's environment is not the service's.
    settings = unithost.settings_of(path)
    if args.socket:
        print(unit.socket(settings), end="")
        return ExitCode.OK
    host = unithost.this_host(path, args.user)
    print(unit.service(host, settings), end="")
    for line in unithost.advice(host, settings):
        print(f"voicepool: note: {line}", file=sys.stderr)
    return ExitCode.OK


# --- talk ------------------------------------------------------------------------------------


def talk(args: argparse.Namespace) -> ExitCode:
    import asyncio

    from voicepool.calling import call_url
    from voicepool.screen import Screen
    from voicepool.talk import Report, TalkOptions
    from voicepool.talk import talk as call

    url, api_key = config.client(args.url, args.api_key, os.environ)
    out = args.out or Path(f"{args.file.stem}-reply.wav" if args.file else "reply.wav")
    _check_output(out, args.file)
    options = TalkOptions(
        url=call_url(url),
        file=args.file,
        out=out,
        api_key=api_key,
        cafile=args.cafile,
        fast=args.fast,
        wait=args.wait,
        timeout=args.timeout,
    )
    stream = sys.stderr if args.json else sys.stdout
    color = config.wants_color(stream, os.environ)
    screen = Screen(stream, live=stream.isatty(), color=color)
    report, code = Report(), ExitCode.FAULT
    try:
        asyncio.run(call(options, report, screen.show))
        code = ExitCode.OK
    except CallError as error:
        code = error.code
        raise
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED if args.file else ExitCode.OK
    finally:
        screen.close()
        if report.out:
            print(f"saved  {report.out}", file=stream)
        if args.json:
            print(json.dumps(summary(report, options.url, code), indent=2))
    return code


def _check_output(out: Path, source: Path | None) -> None:
    """Before the call, for a reply that cannot be saved is lost."""
    if source is not None and out.resolve() == source.resolve():
        raise CallError(f"--out: {out} is the file to send", ExitCode.USAGE)
    if out.exists() and not out.is_file():  # a pipe or a device is written to, not replaced
        writable = not out.is_dir() and os.access(out, os.W_OK)
    else:
        writable = os.access(out.parent, os.W_OK | os.X_OK)
    if not writable:
        raise CallError(f"--out: {out} cannot be written", ExitCode.USAGE)


def summary(report: Report, url: str, code: ExitCode) -> dict[str, Any]:
    """A call as JSON has it; times in seconds."""
    return {
        "url": url,
        "exit_code": int(code),
        "connect": _rounded(report.connect),
        "whole": _rounded(report.whole),
        "out": str(report.out) if report.out else None,
        "turns": [_turn(turn) for turn in report.dialogue.turns],
        "errors": report.dialogue.errors,
        "events": dict(report.dialogue.counts),
    }


def _turn(turn: Turn) -> dict[str, Any]:
    reply = turn.reply or Reply(status="none")
    return {
        "heard": turn.text,
        "reply": reply.text,
        "status": reply.status,
        "reply_length": reply.received_ms / 1000,
        "interrupted_after": None if reply.heard_ms is None else reply.heard_ms / 1000,
        "transcript_after": _rounded(turn.since_speech(turn.transcript_at)),
        "first_sound_after": _rounded(turn.since_speech(reply.first_audio_at)),
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)


# --- status ----------------------------------------------------------------------------------


def status(args: argparse.Namespace) -> ExitCode:
    from rich.console import Console

    from voicepool.status import fetch, render, watch

    url, api_key = config.client(args.url, args.api_key, os.environ)
    console = Console(highlight=False)
    if args.json:
        print(json.dumps(fetch(url, api_key, args.cafile), indent=2))
    elif args.once or not console.is_terminal:
        console.print(render(fetch(url, api_key, args.cafile)))
    else:
        with contextlib.suppress(KeyboardInterrupt):
            watch(url, api_key, console, args.cafile)
    return ExitCode.OK


# --- bench -----------------------------------------------------------------------------------


def bench_startup(args: argparse.Namespace) -> ExitCode:
    from voicepool.bench.commands import bench_startup

    settings = _load(args).settings
    if settings.app:
        raise ConfigError("bench startup compares speech pipelines, not an --app of your own")
    return bench_startup(args, replace(settings, profile=_choice(settings).profile))


def bench_call(args: argparse.Namespace) -> ExitCode:
    from voicepool.bench.commands import bench_call

    return bench_call(args)


# --- doctor and prefetch ---------------------------------------------------------------------


def doctor(args: argparse.Namespace) -> ExitCode:
    from voicepool.doctor.command import doctor

    return doctor(_load(args).settings, os.environ, as_json=args.json, probe=args.probe)


def prefetch(args: argparse.Namespace) -> ExitCode:
    from voicepool.prefetch import prefetch

    settings = _load(args).settings
    if settings.app:
        raise ConfigError("prefetch is for the speech engines; an --app of your own fetches itself")
    return prefetch(_choice(settings))


# --- start -----------------------------------------------------------------------------------


def start(args: argparse.Namespace) -> ExitCode:
    import asyncio
    import faulthandler

    from voicepool import systemd
    from voicepool.serving import supervise
    from voicepool.startup import Announcer, cannot_start

    faulthandler.enable(2)  # a watchdog's SIGABRT shows where the event loop hangs
    inherited = systemd.take(os.environ)
    # One that a reload does not find any more is an error: its keys must not go with it.
    args.config = config.file_name(os.environ, _here(), args.config)
    settings, choice = _settled(args)
    style = logs.style(settings.log_format)
    logs.configure(settings.log_level, style, color=config.wants_color(sys.stderr, os.environ))
    on_terminal = sys.stdout.isatty() and sys.stderr.isatty() and style == "pretty"
    announcer = Announcer(_screen(), choice, live=on_terminal and settings.log_level == "info")
    try:
        return asyncio.run(
            supervise(settings, announcer, inherited=inherited, reread=lambda: _settled(args)[0])
        )
    except OSError as error:
        raise CallError(cannot_start(error, settings), ExitCode.CANNOT_LISTEN) from error


def _screen() -> TextIO:
    """Standard output, but that a terminal or pipe which stalls holds nobody up."""
    own = logs.not_blocking(sys.stdout.fileno())
    if own is None:
        return sys.stdout
    return os.fdopen(own, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)


def _settled(args: argparse.Namespace) -> tuple[Settings, Choice | None]:
    """The settings of a server, with its keys as digests, and its engines, None for an app. Raises
    ConfigError."""
    from voicepool.keysfile import sealed

    settings = sealed(_load(args).settings)
    if settings.app:
        return settings, None
    choice = _choice(settings)
    return replace(settings, profile=choice.profile), choice  # what `status` shows is no "auto"


def _choice(settings: Settings) -> Choice:
    """The engines, once "auto" is decided. Raises ConfigError."""
    from voicepool.engines.registry import AUTO, resolve_profile

    gpu = _a_gpu(settings) if settings.profile == AUTO else ""
    return resolve_profile(settings.profile, settings.engines, gpu=gpu)


def _a_gpu(settings: Settings) -> str:
    """The name of a GPU that workers may use, "" where there is none. Raises ConfigError."""
    from voicepool.gpu import NONE, usable
    from voicepool.gpuprobe import survey

    if settings.gpus == NONE:
        return ""
    gpus = usable(survey().gpus, settings.visible_gpus, settings.gpus)
    return gpus[0].name if gpus else ""
