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
from voicepool.errors import ExitCode
from voicepool.gpu import usable
from voicepool.gpuprobe import survey
from voicepool.settings import Settings
from voicepool.talk import TalkOptions


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _print(shown: Any, *, markdown: bool) -> None:
    wide = markdown or not sys.stdout.isatty()
    Console(width=200 if wide else None, highlight=False).print(shown)


def _keep(file: Path | None, document: dict[str, Any]) -> None:
    if file is not None:
        file.write_text(json.dumps(document, indent=1) + "\n")


def bench_startup(args: argparse.Namespace, settings: Settings) -> ExitCode:
    """Compare the three servers on this host with these engines."""
    from voicepool.bench import chart

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
    url, api_key = config.client(args.url, args.api_key, os.environ)
    options = TalkOptions(url=call_url(url), file=args.file, out=None, api_key=api_key, wait=30.0)
    fits, rounds = asyncio.run(_rounds(options, args))
    _keep(args.json, call.document(rounds, args.p95, fits))
    _print(call.table(rounds, markdown=args.markdown), markdown=args.markdown)
    for why in dict.fromkeys(why for found in rounds for why in found.failures):
        print(f"a call failed: {why}")
    if fits is not None:
        print(call.verdict(fits, args.p95, rounds))
    return ExitCode.OK


async def _rounds(
    options: TalkOptions, args: argparse.Namespace
) -> tuple[int | None, list[call.Round]]:
    async def round_of(callers: int) -> call.Round:
        return await call.play(options, callers, args.turns, _tell)

    if args.callers is None and args.p95 is not None:
        most = call.most_callers(options.url, options.api_key)
        return await call.search(args.p95, most, round_of)
    numbers = args.callers or [1]
    rounds = [await round_of(number) for number in numbers]
    if args.p95 is None:
        return None, rounds
    fitting = [found.callers for found in rounds if found.fits(args.p95)]
    return max(fitting, default=0), rounds
