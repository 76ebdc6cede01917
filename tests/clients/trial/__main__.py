"""Runs a conversation by each framework against a server, and prints what worked:
python -m tests.clients.trial PYTHON, the interpreter of the frameworks' environment."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.clients import sayings
from tests.clients.snippets import aimed, snippets
from tests.clients.trial import caller
from tests.pools import PoolServer

ROOT = Path(__file__).parents[3]
DRIVERS = ("with_pipecat", "with_livekit", "with_agents")
SNIPPETS = {
    "pipecat-ai": ("Pipecat", "49"),
    "livekit-plugins-openai": ("LiveKit Agents", "49"),
    "openai-agents": ("OpenAI Agents for Python", "count_waiting_callers 3"),
}
"""Package -> the section of docs/clients.md with its snippet, and what that prints."""
DEADLINE = 300.0


@dataclass
class Outcome:
    """What a framework did."""

    package: str
    version: str
    steps: dict[str, tuple[bool, str]] = field(default_factory=dict)
    """Its name -> whether it worked, and what was seen."""


def drive(python: str, module: str, *arguments: str) -> Iterator[dict[str, Any]]:
    """What a driver tells."""
    process = subprocess.run(
        [python, "-m", f"tests.clients.trial.{module}", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        timeout=DEADLINE,
    )
    for line in process.stdout.splitlines():
        yield json.loads(line)
    if process.returncode != 0:
        yield {"step": "ends well", "ok": False, "detail": f"exit status {process.returncode}"}


def run_snippets(python: str, url: str) -> Iterator[dict[str, Any]]:
    """Whether the snippets for users do what they promise."""
    for package, (heading, promised) in SNIPPETS.items():
        (code,) = snippets(heading, "python")
        process = subprocess.run(
            [python, "-c", aimed(code, url)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=DEADLINE,
        )
        said = process.stdout.strip()
        ok = process.returncode == 0 and promised in said
        yield {"package": package, "version": ""}
        yield {"step": "snippet", "ok": ok, "detail": f"printed {said!r}"}


def collect(told: Iterator[dict[str, Any]], outcomes: dict[str, Outcome]) -> None:
    """Adds what was told, package by package."""
    outcome = Outcome("?", "?")
    for fact in told:
        if "package" in fact:
            new = Outcome(fact["package"], fact["version"])
            outcome = outcomes.setdefault(new.package, new)
            continue
        before, _ = outcome.steps.get(fact["step"], (True, ""))
        outcome.steps[fact["step"]] = (before and fact["ok"], fact["detail"])
        print(f"  {outcome.package}: {fact['step']}: {fact['detail']}", flush=True)
        if outcome.package == "?":
            outcomes["?"] = outcome


def table(outcomes: dict[str, Outcome]) -> Table:
    names = list(dict.fromkeys(name for each in outcomes.values() for name in each.steps))
    shown = Table("client", "version", *names)
    for column in shown.columns:
        column.overflow = "fold"
    shown.columns[0].no_wrap = True
    for each in outcomes.values():
        marks = {name: "yes" if ok else "NO" for name, (ok, _) in each.steps.items()}
        shown.add_row(each.package, each.version, *(marks.get(name, "") for name in names))
    return shown


def main() -> int:
    (python,) = sys.argv[1:]
    outcomes: dict[str, Outcome] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        runtime = folder / "runtime"
        runtime.mkdir()
        sayings.write(folder, caller.SAYINGS)
        server = PoolServer(runtime, app="", workers=2, spare=2)
        try:
            server.stage("serving")
            for module in DRIVERS:
                collect(drive(python, module, server.url, str(folder)), outcomes)
            collect(run_snippets(python, server.url), outcomes)
        finally:
            server.close()
    golden = sorted(str(path) for path in (ROOT / "tests" / "golden").glob("*.txt"))
    collect(drive(python, "strict_models", *golden), outcomes)
    Console(width=160).print(table(outcomes))
    return int(any(not ok for each in outcomes.values() for ok, _ in each.steps.values()))


if __name__ == "__main__":
    sys.exit(main())
