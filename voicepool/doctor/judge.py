"""What the doctor says of the host and of the profiles. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

import voicepool
from voicepool.config import STAGES, Settings
from voicepool.doctor.facts import Checked, Host, in_cores
from voicepool.doctor.findings import Finding, note, ok, problem, wrong
from voicepool.doctor.fit import files_needed
from voicepool.engines.registry import Choice, name_profile
from voicepool.quantities import format_size

_OLDEST_KERNEL: Final = (5, 3)
"""pidfd_open(2)."""
_LITTLE_SPACE: Final = 100 << 20
_STRICT_OVERCOMMIT: Final = 2


# --- the host --------------------------------------------------------------------------------


def judge_host(host: Host, settings: Settings) -> list[Finding]:
    return [
        _kernel(host),
        _memory(host),
        _cores(host),
        _files(host, settings),
        _temp(host),
        *_oddities(host),
    ]


def _kernel(host: Host) -> Finding:
    text = f"voicepool {voicepool.__version__}, Python {host.python}, Linux {host.kernel}"
    version = tuple(int(part) for part in re.findall(r"\d+", host.kernel)[:2])
    if version < _OLDEST_KERNEL:
        return problem(text, "run it on Linux 5.3 or newer, for the sake of pidfd_open(2)")
    return ok(text)


def _memory(host: Host) -> Finding:
    free = host.memory.total - host.memory.used
    text = f"{format_size(host.memory.total)} of RAM, {format_size(free)} of it free"
    if host.memory.total < host.machine_memory:
        text += f", by a control group's limit (the machine has {format_size(host.machine_memory)})"
    return ok(f"{text}; {f'{format_size(host.swap)} of swap' if host.swap else 'no swap'}")


def _cores(host: Host) -> Finding:
    if host.cores < host.machine_cores:
        return ok(
            f"{in_cores(host.cores)} of the machine's {host.machine_cores}, by CPU affinity or a "
            "control group's quota"
        )
    return ok(in_cores(host.cores))


def _files(host: Host, settings: Settings) -> Finding:
    need = files_needed(settings)
    text = f"{host.files} open files"
    if host.files < need:
        # No failure: the server stops to accept while it is out of descriptors.
        return note(
            f"{text}, and it takes {need} to serve, hold and hear as many as the settings say",
            "raise the hard limit (LimitNOFILE=, docker run --ulimit nofile=65536), or lower "
            "--max-heads and --max-waiting",
        )
    return ok(text)


def _temp(host: Host) -> Finding:
    if host.temp_free is None:
        return problem(
            f"{host.temp} cannot be written, and every worker needs a temporary folder",
            "name a folder that can: --runtime-dir FOLDER",
        )
    text = f"{format_size(host.temp_free)} free in {host.temp}, for temporary files"
    if host.temp_free < _LITTLE_SPACE:
        return note(text, "free some, or name another folder: --runtime-dir FOLDER")
    return ok(text)


def _oddities(host: Host) -> Iterator[Finding]:
    if host.overcommit == _STRICT_OVERCOMMIT:
        yield note(
            "vm.overcommit_memory = 2: the kernel sets aside for every worker all that it could "
            "ever copy of what workers share, so far fewer fit than have room",
            "sudo sysctl vm.overcommit_memory=0",
        )
    if host.servers:
        pids = ", ".join(map(str, host.servers))
        yield note(
            f"a voicepool server runs already (its zygote is pid {pids}): what it takes counts as "
            "used by others here"
        )


# --- profiles --------------------------------------------------------------------------------


def judge_profile(
    choice: Choice, checks: Mapping[str, Checked], why_no_gpu: str, callers: int, *, serious: bool
) -> list[Finding]:
    """What a profile lacks. `checks`: by stage. `why_no_gpu`: "" unless it needs one and there is
    none. `serious`: it is the one that would run."""
    found = list(_engines(choice, checks, callers, serious=serious))
    if why_no_gpu and not serious:  # else it is said of the GPUs
        found.insert(0, note(f"needs a GPU: {why_no_gpu}"))
    if not serious and not found:
        found.append(ok(f"all is there: voicepool start --profile {choice.profile}"))
    return found


def _engines(
    choice: Choice, checks: Mapping[str, Checked], callers: int, *, serious: bool
) -> Iterator[Finding]:
    for stage in STAGES:
        checked, name = checks[stage], f"{stage} {choice.engines[stage]}"
        if checked.outcome == "ready":
            if serious:
                yield ok(f"{name}: {_ready(choice, stage)}")
                yield from _remarks(name, checked, callers)
        elif checked.outcome == "fault":
            text = f"{name}: {checked.message}"
            yield wrong(
                text, f"voicepool start --profile {choice.profile} says more", serious=serious
            )
        else:
            text, remedy = split(checked.message, choice.profile)
            remedy = remedy or _FALLBACKS[checked.outcome]
            yield wrong(f"{name}: {_without(choice.engines[stage], text)}", remedy, serious=serious)


def _without(engine: str, text: str) -> str:
    """The text less the engine's name at its beginning, "faster-whisper: "."""
    first, _, rest = text.partition(": ")
    return rest if first.replace("-", "_") == engine else text


def _ready(choice: Choice, stage: str) -> str:
    table = choice.tables[stage]
    options = [str(table[key]) for key in ("model", "voice", "device") if table.get(key)]
    return ", ".join(["ready", *options])


def _remarks(name: str, checked: Checked, callers: int) -> Iterator[Finding]:
    for line in checked.advice:
        yield note(*split(f"{name}: {line}", ""))
    if checked.at_once is True:
        yield ok(f"{name}: {callers} replies were made at once")
    elif checked.at_once is False:
        yield note(
            f"{name}: {callers} replies were made one after another, so callers would wait",
            f"OLLAMA_NUM_PARALLEL={callers} ollama serve",
        )


_FALLBACKS: Final = {
    "config": "correct that option in the configuration file",
    "missing": "see to it that this is there, then look again: voicepool doctor",
    "away": "start that server, then look again: voicepool doctor",
}
"""Where a message names no remedy of its own."""


def split(message: str, profile: str) -> tuple[str, str]:
    """An engine's message as what is wrong and the remedy ("" if it has none), in this order."""
    text, _, remedy = name_profile(message, profile).rpartition("; ")
    return (text, remedy) if text else (message, "")
