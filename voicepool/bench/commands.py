"""What `voicepool bench startup` and `voicepool bench call` do."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from voicepool import config
from voicepool.bench import call, startup
from voicepool.calling import call_url
from voicepool.dialogue import RATE
from voicepool.errors import ConfigError, ExitCode
from voicepool.gpu import usable
from voicepool.gpuprobe import survey
from voicepool.settings import Settings
from voicepool.talk import TalkOptions
from voicepool.wavfile import read_wav


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _print(shown: Any, *, markdown: bool) -> None:
    wide = markdown or not sys.stdout.isatty()
    Console(width=200 if wide else None, highlight=False).print(shown)


def _check_writable(file: Path | None) -> None:
    """Before anything is measured. Raises ConfigError."""
    if file is None:
        return
    if file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
        raise ConfigError(f"--json: {file} cannot be written")


def _keep(file: Path | None, document: dict[str, Any]) -> None:
    if file is not None:
        file.write_text(json.dumps(document, indent=1) + "\n")


def bench_startup(args: argparse.Namespace, settings: Settings) -> ExitCode:
    """Compare the three servers on this host with these engines."""
    from voicepool.bench import chart

    _check_writable(args.json)
    if args.chart is not None:
        chart.check(args.chart)
    results = list(startup.measure(settings, args.users, lambda: _vram_used(settings), _tell))
    _keep(args.json, startup.document(results, settings.profile))
    if args.chart is not None:
        chart.draw(results, settings.profile, args.chart)
    _print(startup.table(results, markdown=args.markdown), markdown=args.markdown)
    return ExitCode.OK


def _vram_used(settings: Settings) -> int | None:
    """Bytes in use on the GPUs that voicepool may use; None where there is none."""
    gpus = usable(survey().gpus, settings.visible_gpus, settings.gpus)
    return sum(gpu.used for gpu in gpus) if gpus else None


def bench_call(args: argparse.Namespace) -> ExitCode:
    """Measure a running server with more and more callers."""
    _check_writable(args.json)
    read_wav(args.file, RATE)  # callers would say what is wrong with it after they have waited
    url, api_key = config.client(args.url, args.api_key, os.environ)
    options = TalkOptions(
        url=call_url(url),
        file=args.file,
        out=None,
        api_key=api_key,
        cafile=args.cafile,
        wait=30.0,
    )
    fits, most, rounds = asyncio.run(_rounds(options, args))
    _keep(args.json, call.document(rounds, args.p95, fits))
    _print(call.table(rounds, markdown=args.markdown), markdown=args.markdown)
    for why in dict.fromkeys(why for found in rounds for why in found.failures):
        print(f"a call failed: {why}")
    if fits is not None:
        print(call.verdict(fits, args.p95, rounds, most))
    answered = any(found.waits or found.unanswered for found in rounds)
    return ExitCode.OK if answered else ExitCode.UNREACHABLE


async def _rounds(
    options: TalkOptions, args: argparse.Namespace
) -> tuple[int | None, int | None, list[call.Round]]:
    """How many fit, where a limit is named; how many the server takes, where that was asked."""

    async def round_of(callers: int) -> call.Round:
        return await call.play(options, callers, args.turns, _tell)

    if args.callers is None and args.p95 is not None:
        most = call.most_callers(options)
        fits, rounds = await call.search(args.p95, most, round_of)
        return fits, most, rounds
    rounds = [await round_of(number) for number in args.callers or [1]]
    if args.p95 is None:
        return None, None, rounds
    fitting = [found.callers for found in rounds if found.fits(args.p95)]
    return max(fitting, default=0), None, rounds
