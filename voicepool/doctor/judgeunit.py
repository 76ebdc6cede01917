"""What the doctor says of the units: their lines, and whether their limits are enough. Pure."""

from __future__ import annotations

import contextlib
import difflib
import math
import re
from collections.abc import Iterator
from typing import Final

from voicepool import unit
from voicepool.config import Settings
from voicepool.doctor import fit
from voicepool.doctor.findings import Finding, note, ok, problem, wrong
from voicepool.doctor.servicefacts import Service, Unit, amount, span
from voicepool.errors import ConfigError
from voicepool.quantities import format_size
from voicepool.rules import estimate

RENEW: Final = "sudo scripts/install, or print the unit anew: voicepool unit --help"
_EDIT: Final = "sudo systemctl edit voicepool.service, and set: "
_MOST_LINES: Final = 6
"""Differing lines that are shown."""


def edit(line: str) -> str:
    """How a line of the unit is changed, so that a later install keeps it."""
    return f"{_EDIT}[Service] {line}; then: sudo systemctl restart voicepool"


# --- the lines -------------------------------------------------------------------------------


def judge_lines(service: Service, settings: Settings) -> Iterator[Finding]:
    """Whether the units are what `voicepool unit` would print for these settings."""
    started = unit.started_by(service.unit.text)
    if started is None:
        yield note(
            "voicepool.service does not start voicepool in the way that `voicepool unit` writes",
            RENEW,
        )
        return
    command, config = started
    user = _directives(service.unit.text).get("User", unit.USER)
    try:
        host = unit.Host(command, config, user, service.systemd, service.needs_home)
        yield from _compared("voicepool.service", service.unit, unit.service(host, settings))
    except ConfigError as error:
        yield note(f"voicepool.service cannot be compared: {error}", RENEW)
    if service.socket.installed:
        yield from _socket(service, settings)


def _compared(name: str, found: Unit, expected: str) -> Iterator[Finding]:
    different = differences(found.text, expected)
    drop_ins = [path.rpartition("/")[2] for path in found.get("DropInPaths").split()]
    changed = f"; changed by {', '.join(drop_ins)}" if drop_ins else ""
    if not different:
        yield ok(f"{name} is what `voicepool unit` prints for its settings{changed}")
        return
    shown = ", ".join(different[:_MOST_LINES])
    more = f" and {len(different) - _MOST_LINES} more" if len(different) > _MOST_LINES else ""
    yield note(
        f"{name} is not what `voicepool unit` would print now (- there, + now): "
        f"{shown}{more}{changed}",
        RENEW,
    )


def differences(there: str, now: str) -> list[str]:
    """Lines that only one of two units has, as "-line" and "+line"; comments do not count."""
    compared = difflib.ndiff(_lines(there), _lines(now))
    return [f"{line[0]}{line[2:]}" for line in compared if line[0] in "-+"]


def _lines(text: str) -> list[str]:
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and line[0] not in "#;"]


def _directives(text: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in _lines(text))
    return {name: value for name, mark, value in pairs if mark}


def _socket(service: Service, settings: Settings) -> Iterator[Finding]:
    try:
        expected = unit.socket(settings)
    except ConfigError as error:
        remedy = "name an address and a port in the settings, or disable voicepool.socket"
        yield problem(f"voicepool.socket: {error}", remedy)
        return
    wanted = _directives(expected)["ListenStream"]
    listens = _listens(service.socket)
    if listens == [wanted]:
        yield from _compared("voicepool.socket", service.socket, expected)
        return
    yield problem(
        f"voicepool.socket listens on {' and '.join(listens) or 'nothing'}, but host and port of "
        f"the settings are {wanted}: the socket's address counts",
        f"{RENEW}; then: sudo systemctl daemon-reload && sudo systemctl restart voicepool.socket "
        "voicepool.service",
    )


def elsewhere(service: Service, settings: Settings) -> bool:
    """Whether the socket unit has another address than these settings."""
    with contextlib.suppress(ConfigError):
        wanted = _directives(unit.socket(settings))["ListenStream"]
        return service.socket.installed and _listens(service.socket) != [wanted]
    return True


def _listens(socket: Unit) -> list[str]:
    """ "127.0.0.1:8000 (Stream)" of each line of systemctl's, else those of the file."""
    shown = [line.split(" ")[0] for line in socket.get("Listen").splitlines() if line]
    return shown or re.findall(r"^ListenStream=(\S+)$", socket.text, re.MULTILINE)


# --- the limits ------------------------------------------------------------------------------


def judge_limits(shown: Unit, settings: Settings) -> Iterator[Finding]:
    """`settings`: with the profile that would run."""
    yield _stop(shown, settings)
    yield _files(shown, settings)
    yield _tasks(shown, settings)
    yield from _memory(shown, settings)
    yield _watchdog(shown)


def _stop(shown: Unit, settings: Settings) -> Finding:
    allowed = span(shown.get("TimeoutStopUSec"))
    takes = unit.stop_seconds(settings) - unit.SLACK
    if allowed is None or allowed >= takes:
        most = "" if allowed is None or math.isinf(allowed) else f", of {allowed:.0f} s"
        return ok(f"a drain takes {takes} s at most{most}")
    return note(
        f"TimeoutStopSec is {allowed:.0f} s, and a drain takes up to {takes} s (head_timeout + "
        "queue_timeout + drain_notice + drain_timeout + stop_timeout): calls end early wherever "
        "the supervisor does not get round to ask for more",
        edit(f"TimeoutStopSec={unit.stop_seconds(settings)}"),
    )


def _files(shown: Unit, settings: Settings) -> Finding:
    allowed, need = amount(shown.get("LimitNOFILE")), fit.files_needed(settings)
    if allowed is None or allowed >= need:
        return ok(f"LimitNOFILE is enough: {need} open files at most")
    return problem(
        f"LimitNOFILE is {allowed}, and it takes {need} open files to serve, hold and hear as many "
        "as the settings say: beyond it nobody is let in",
        edit(f"LimitNOFILE={max(need, 65536)}"),
    )


def _tasks(shown: Unit, settings: Settings) -> Finding:
    allowed, need = amount(shown.get("TasksMax")), fit.tasks_needed(settings)
    if allowed is None or allowed >= need:
        return ok(f"TasksMax is enough: {need} processes and threads at most")
    return problem(
        f"TasksMax is {allowed}, and all workers may come to {need} processes and threads",
        edit(f"TasksMax={max(need, 32768)}"),
    )


def _memory(shown: Unit, settings: Settings) -> Iterator[Finding]:
    """The control group's limits beside what the workers are taken to need."""
    zygote = 0 if settings.app else fit.ZYGOTE.get(settings.profile, 0)
    each = estimate(settings).host
    one = settings.ram_reserve + zygote + each
    need = one + each * (settings.workers - 1)
    for name in ("MemoryMax", "MemoryHigh"):
        limit = amount(shown.get(name))
        if limit is None or limit >= need:
            continue
        text = f"{name} is {format_size(limit)}"
        remedy = edit(f"{name}={math.ceil(need / (1 << 20))}M")
        if name == "MemoryMax" and limit < one:
            yield problem(f"{text}, and the first worker takes {format_size(one)}", remedy)
        elif name == "MemoryMax":
            yield note(
                f"{text}, and {settings.workers} workers are taken to need {format_size(need)}: "
                "fewer are kept warm",
                remedy,
            )
        else:
            yield note(
                f"{text}, and {settings.workers} workers are taken to need {format_size(need)}: "
                "above it the kernel slows everything down, and the budget does not know of it",
                f"{edit('MemoryHigh=infinity')}; or set ram_budget below it",
            )


def _watchdog(shown: Unit) -> Finding:
    interval = span(shown.get("WatchdogUSec"))
    if not interval or math.isinf(interval):
        return note("no watchdog: a supervisor that hangs stays so", edit("WatchdogSec=30"))
    return ok(f"a supervisor that hangs for {interval:.0f} s is started anew")


# --- GPUs ------------------------------------------------------------------------------------

_HIDING: Final = {
    "PrivateDevices": ("yes", "hides /dev/nvidia*"),
    "ProtectClock": ("yes", "hides /dev/nvidia*, by its filter of devices"),
    "MemoryDenyWriteExecute": ("yes", "forbids what CUDA and torch compile as they run"),
    "PrivateUsers": ("yes", "is in the driver's way"),
}
"""Name -> the value that keeps CUDA from working, and how."""


def judge_sandbox(shown: Unit, *, gpus: bool, serious: bool) -> Iterator[Finding]:
    """Lines that keep the service from what it needs. `gpus`: its workers use some; `serious`: they
    need them."""
    if shown.get("ProcSubset") == "pid":
        yield problem(
            "ProcSubset=pid hides /proc/meminfo, by which memory is budgeted",
            edit("ProcSubset=all"),
        )
    if not gpus:
        return
    hiding = [
        (f"{name}={value}", why, "no")
        for name, (value, why) in _HIDING.items()
        if shown.get(name) == value
    ]
    policy = shown.get("DevicePolicy")
    if policy in ("closed", "strict") and "nvidia" not in shown.get("DeviceAllow"):
        hiding.append((f"DevicePolicy={policy}", "hides /dev/nvidia*", "auto"))
    for line, why, instead in hiding:
        name = line.partition("=")[0]
        yield wrong(f"{line} {why}", edit(f"{name}={instead}"), serious=serious)
    if not hiding:
        yield ok("no line of the unit keeps CUDA from its devices")
