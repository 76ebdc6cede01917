"""What the doctor says of voicepool as a service, and in a container. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import voicepool
from voicepool import unit
from voicepool.config import Settings, is_loopback
from voicepool.doctor import judgeunit
from voicepool.doctor.findings import Finding, note, ok, problem
from voicepool.doctor.servicefacts import Container, Disk, File, Port, Service, Unit
from voicepool.errors import ExitCode
from voicepool.quantities import format_size

_OLDEST: Final = 240
"""The first systemd.exec(5) with all that the unit asks for but ProtectProc=, which older ones
leave out with a warning."""
_LOG: Final = "journalctl -u voicepool -n 50 -o cat"
_GRACE: Final = {"docker": 10, "podman": 10, "kubernetes": 30}
"""Seconds between TERM and KILL where nobody says otherwise."""
_LITTLE: Final = 100 << 20


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be served."""

    settings: Settings
    """With the profile that would run; the service's own where they can be read."""
    error: str = ""
    """What is wrong with them, or why they cannot be read."""
    known: bool = True
    """They are those of the service."""
    gpus: bool = False
    """Workers would use some."""
    needs_gpu: bool = False


def judge(service: Service, plan: Plan) -> list[Finding]:
    """Nothing where there is neither a systemd nor a unit."""
    if service.booted:
        found = list(_systemd(service))
        return found if service.error else [*found, *_unit(service, plan)]
    if service.unit.installed:
        return [note("voicepool.service is installed, but systemd does not run here")]
    return []


# --- systemd ---------------------------------------------------------------------------------


def _systemd(service: Service) -> Iterator[Finding]:
    if service.error:
        yield note(f"systemd does not answer: {service.error}", "sudo voicepool doctor")
        return
    version = f"systemd {service.systemd}"
    if service.systemd < _OLDEST:
        yield note(f"{version} does not know all that the unit asks for", "a newer distribution")
    elif service.systemd < unit.NOTIFY_RELOAD:
        yield ok(
            f"{version}; `systemctl reload` returns before a reload is over (from "
            f"{unit.NOTIFY_RELOAD} on it waits)"
        )
    else:
        yield ok(version)


def _unit(service: Service, plan: Plan) -> Iterator[Finding]:
    if not service.unit.installed:
        yield note("voicepool.service is not installed", "sudo scripts/install")
        return
    yield _installed(service.unit)
    yield from _state(service.unit)
    yield from _program(service)
    yield from _person(service)
    yield from _files(service)
    if plan.error:
        yield _unread(service, plan.error)
    if plan.known and not plan.error:
        yield from judgeunit.judge_lines(service, plan.settings)
        yield from judgeunit.judge_limits(service.unit, plan.settings)
        yield from _keys(service, plan.settings)
        if service.port is not None and not judgeunit.elsewhere(service, plan.settings):
            yield _port(service.port, service)
    yield from judgeunit.judge_sandbox(service.unit, gpus=plan.gpus, serious=plan.needs_gpu)
    if plan.gpus and not service.persistenced:
        yield note(
            "nvidia-persistenced does not run: nobody makes /dev/nvidia* after a boot, for the "
            "service cannot, and the first worker waits for the GPU to wake up",
            "sudo systemctl enable --now nvidia-persistenced",
        )
    yield from map(_disk, service.disks)


def _installed(shown: Unit) -> Finding:
    text = f"voicepool.service is {shown.path or 'installed'}"
    if shown.get("NeedDaemonReload") == "yes":
        return note(f"{text}, and has changed on the disk", "sudo systemctl daemon-reload")
    state = shown.get("UnitFileState")
    if state == "masked":
        return problem(f"{text}, and masked", "sudo systemctl unmask voicepool.service")
    if state != "enabled":
        return note(
            f"{text}, and not enabled ({state or 'no [Install]'}): it does not start with the host",
            "sudo systemctl enable voicepool.socket voicepool.service",
        )
    return ok(f"{text}, and enabled")


def _state(shown: Unit) -> Iterator[Finding]:
    state = f"{shown.get('ActiveState')} ({shown.get('SubState')})"
    said = f': "{shown.get("StatusText")}"' if shown.get("StatusText") else ""
    restarts = shown.get("NRestarts")
    again = f", started anew {restarts} times" if restarts not in ("", "0") else ""
    failure = _failure(shown)
    if shown.get("ActiveState") == "failed":
        yield problem(
            f"it is {state}{again}; {failure or 'systemd does not say why'}",
            f"{_LOG}; once that is mended: sudo systemctl reset-failed voicepool.service "
            "voicepool.socket && sudo systemctl start voicepool.socket voicepool.service",
        )
    elif shown.get("ActiveState") == "inactive":
        remedy = "sudo systemctl start voicepool.socket voicepool.service"
        yield note(f"it is {state}{f'; {failure}' if failure else ''}", remedy)
    elif again:
        yield note(f"it is {state}{said}{again}; {failure or 'see its log for why'}", _LOG)
    else:
        yield ok(f"it is {state}{said}")


_RESULTS: Final = {
    "watchdog": "the watchdog ended it, for its supervisor hung",
    "timeout": "starting or stopping took too long",
    "oom-kill": "the kernel killed it for want of memory",
    "start-limit-hit": "it failed too often in a short time",
    "protocol": "it ended before it was ready",
    "resources": "systemd could not set it up",
}
"""Result= of systemd.exec(5) in words, where the exit code says no more."""

_CODES: Final = {
    int(ExitCode.FAULT): "a fault of voicepool's own",
    int(ExitCode.USAGE): "a wrong setting",
    int(ExitCode.CANNOT_LISTEN): "the address or the runtime folder cannot be had",
    int(ExitCode.CANNOT_WARM): "fewer workers came up than were asked for",
    200: "WorkingDirectory= cannot be entered",
    203: "the program cannot be run",
    216: "there is no such group",
    217: "there is no such user",
    226: "a folder for the sandbox is missing",
    228: "the system calls cannot be filtered",
    233: "the runtime directory cannot be made",
    238: "the state directory cannot be made",
    239: "the cache directory cannot be made",
}
"""Exit codes: ours, and those of systemd.exec(5), "Process Exit Codes"."""
_EXITED: Final = "1"
"""CLD_EXITED."""


def _failure(shown: Unit) -> str:
    """The last one, in words; "" where there was none."""
    result = shown.get("Result")
    if result in ("", "success"):
        return ""
    if shown.get("ExecMainCode") == _EXITED and shown.get("ExecMainStatus") != "0":
        status = shown.get("ExecMainStatus")
        meaning = _CODES.get(int(status) if status.isdecimal() else 0, "")
        said = f"it ended with code {status}" + (f", {meaning}" if meaning else "")
        return f"{said} ({result})"
    return f"{_RESULTS.get(result, 'it ended')} ({result})"


def _program(service: Service) -> Iterator[Finding]:
    started = unit.started_by(service.unit.text)
    if started is None:
        return
    program, ours = started[0][0], voicepool.__version__
    version, error = service.program.version, service.program.error
    if error:
        yield problem(f"{program}, which the unit starts, {error}", "sudo scripts/install")
    elif not version:
        remedy = f"see how long this takes: {' '.join(started[0])} --version"
        yield note(f"{program} took too long to say its version", remedy)
    elif version != ours:
        yield note(
            f"{program} is voicepool {version}, and this doctor is of {ours}",
            "sudo scripts/install && sudo systemctl reload voicepool",
        )
    else:
        yield ok(f"{program} is voicepool {ours}, as this doctor")


def _person(service: Service) -> Iterator[Finding]:
    name = service.unit.get("User")
    if not service.user:
        yield problem(
            f"there is no user {name}", f"sudo useradd --system --user-group {name or unit.USER}"
        )
    elif name in ("", "root"):
        yield note("it runs as root", judgeunit.edit(f"User={unit.USER}"))


# --- files -----------------------------------------------------------------------------------

_OTHERS: Final = 0o007
_SECRET: Final = ("environment", "keys", "key")


def _files(service: Service) -> Iterator[Finding]:
    group = service.unit.get("Group") or unit.USER
    for file in service.files:
        if finding := _file(file, group, _command(service)):
            yield finding


def _command(service: Service) -> str:
    """What to type for the service's voicepool: sudo does not look in the folder of the install."""
    started = unit.started_by(service.unit.text)
    return " ".join(started[0]) if started else "voicepool"


def _share(path: str, group: str) -> str:
    return f"sudo chgrp {group} {path} && sudo chmod 640 {path}"


def _file(file: File, group: str, program: str) -> Finding | None:
    """None where there is nothing to say."""
    name = f"{file.path} ({file.holds})"
    if not file.there:
        if file.holds == "environment":
            return None
        return problem(f"{name} does not exist", _make(file, program))
    if file.readable is False:
        return problem(
            f"{name} cannot be read by the service's user",
            f"{_share(file.path, group)}, and let that group into the folders above it",
        )
    if file.mode is not None and file.mode & _OTHERS and file.holds in _SECRET:
        keep = "600" if file.holds == "environment" else "640"
        return problem(
            f"{name} can be read by everybody on this host", f"sudo chmod {keep} {file.path}"
        )
    return ok(f"{name} is there, and readable for whom it shall be")


def _make(file: File, program: str) -> str:
    remedies = {
        "settings": f"sudo touch {file.path}",
        "keys": f"sudo {program} key new NAME --file {file.path}",
    }
    return remedies.get(file.holds, f"put it at {file.path}")


def _keys(service: Service, settings: Settings) -> Iterator[Finding]:
    """Keys in a settings file that others may read."""
    keys = settings.api_keys or settings.admin_keys
    for file in service.files:
        if file.holds == "settings" and file.mode and file.mode & _OTHERS and keys:
            yield problem(
                f"{file.path} has keys in it, or beside it, and can be read by everybody on this "
                "host",
                _share(file.path, service.unit.get("Group") or unit.USER),
            )


def _unread(service: Service, error: str) -> Finding:
    if "cannot be read" in error:
        return note(
            f"the service's settings cannot be judged: {error}", f"sudo {_command(service)} doctor"
        )
    started = unit.started_by(service.unit.text)
    file = started[1] if started else unit.CONFIG
    return problem(f"the service's settings are wrong: {error}", f"correct {file}")


def _disk(disk: Disk) -> Finding:
    text = f"{format_size(disk.free)} free for {disk.use} ({disk.folder})"
    if disk.free < min(_LITTLE, disk.total // 2):
        remedies = {"the journal": "sudo journalctl --vacuum-size=100M"}
        return note(text, remedies.get(disk.use, f"see what fills it: df -h {disk.folder}"))
    return ok(text)


# --- the address -----------------------------------------------------------------------------


def _port(port: Port, service: Service) -> Finding:
    who = port.process or "somebody who may not be seen from here"
    process = f"{who} (pid {port.pid})" if port.pid else who
    name = f"voicepool {port.version}".rstrip() if port.answers else process
    running = service.unit.get("ActiveState") == "active"
    ours = port.pid is not None and str(port.pid) in ("1", service.unit.get("MainPID"))
    if not port.taken:
        if running or service.socket.active:
            return problem(f"nobody listens on {port.address}, though it is active", _LOG)
        return ok(f"{port.address} is free")
    if port.answers and running:
        if port.version and port.version != service.program.version:
            return note(
                f"{name} answers on {port.address}, which is not what is installed",
                "sudo systemctl restart voicepool",
            )
        return ok(f"{name} answers on {port.address}")
    if service.socket.active and not running:
        return ok(f"voicepool.socket listens on {port.address}")
    if running and not port.asked and (ours or port.pid is None):
        return ok(f"{process} listens on {port.address}; only its proxies can ask it for more")
    if running and ours:
        return note(f"the service listens on {port.address}, but does not answer", _LOG)
    return problem(
        f"{name if not port.answers else f'another {name}'} listens on {port.address}",
        "stop it, or choose another port in the settings; see: sudo ss -ltnp",
    )


# --- containers ------------------------------------------------------------------------------


def judge_container(box: Container, settings: Settings, *, gpus: bool) -> Iterator[Finding]:
    """`gpus`: workers would use some."""
    yield _grace(box, settings)
    if gpus and box.own_pids:
        yield note(
            "this container has process numbers of its own, and the driver has the machine's: "
            "what workers take of VRAM is inferred",
            "hostPID: true" if box.kind == "kubernetes" else "docker run --pid=host",
        )
    if box.limit is not None:
        yield ok(f"a memory limit of {format_size(box.limit)}, by which the budget goes")
    else:
        yield ok("no memory limit of its own: the budget goes by the machine's memory")
    if is_loopback(settings.host):
        yield note(
            f"voicepool listens on {settings.host}, which is this container's own unless it has "
            "the machine's network",
            "set VOICEPOOL_HOST=0.0.0.0 and VOICEPOOL_API_KEYS",
        )
    elif settings.api_keys or settings.admin_keys or settings.keys_file:
        yield ok(f"voicepool listens on {settings.host}, and asks for a key")
    else:
        yield note(
            f"voicepool listens on {settings.host}, and anyone may call (no_auth)",
            "set VOICEPOOL_API_KEYS",
        )


def _grace(box: Container, settings: Settings) -> Finding:
    seconds = settings.drain_notice + settings.drain_timeout + settings.stop_timeout
    takes, usual = math.ceil(seconds), _GRACE[box.kind]
    text = f"in a container ({box.kind}): stopping takes up to {takes} s"
    if takes <= usual:
        return ok(text)
    remedy = f"docker run --stop-timeout {takes + 5}, or stop_grace_period: {takes + 5}s"
    if box.kind == "kubernetes":
        remedy = f"terminationGracePeriodSeconds: {takes + 5}"
    return note(
        f"{text}, and it is killed after {usual} s unless that was set, which cannot be seen from "
        "in here",
        remedy,
    )
