"""Looks at voicepool as a service: systemd, its units, who has the address, a container.

What may hang is a child process or has a deadline: systemctl, the service's own program, a server
at the address. Nothing is started or changed: a socket that systemd keeps for a service that is
down is left alone, for a connection would start it.

Sources: sd_booted(3), systemctl(1), pid_namespaces(7), file-hierarchy(7).
"""

from __future__ import annotations

import contextlib
import grp
import http.client
import json
import os
import pwd
import re
import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

import psutil

from voicepool import linux, unit, unithost
from voicepool.config import Settings
from voicepool.doctor.servicefacts import Container, Disk, File, Port, Program, Service, Unit
from voicepool.errors import ConfigError

T = TypeVar("T")

SERVICE: Final = "voicepool.service"
SOCKET: Final = "voicepool.socket"
UNITS: Final = (Path("/etc/systemd/system"), Path("/usr/lib/systemd/system"))
DEADLINE: Final = 30.0
"""Seconds that systemctl and other programs have."""
_PATIENCE: Final = 2.0
"""Seconds that a server at the address has for an answer."""
_MOST: Final = 64 << 10
"""Bytes of an answer that are read."""
_INITIAL_PIDS: Final = 0xEFFFFFFC
"""PROC_PID_INIT_INO: the inode of the machine's own PID namespace."""
_EVERYWHERE: Final = ("0.0.0.0", "::")


def look(settings: Settings, environ: Mapping[str, str]) -> Service | None:
    """None where there is no service to speak of: no systemd, no unit, no container.

    `settings`: those to take where no unit names a file that can be read.
    """
    box = container(environ)
    booted = Path("/run/systemd/system").is_dir()
    texts = {name: _text(name) for name in (SERVICE, SOCKET)}
    if not (booted or box or any(texts.values())):
        return None
    if not booted:
        # Without a systemd the units say nothing of what runs here.
        units = {name: Unit(text) for name, text in texts.items()}
        return Service(booted=False, unit=units[SERVICE], socket=units[SOCKET], container=box)
    return _under_systemd(settings, box)


def _text(name: str) -> str:
    return next(filter(None, (_read(folder / name) for folder in UNITS)), "")


def _read(path: Path) -> str:
    """ "" for a file that is not there, or not for us."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return path.read_text("utf-8")
    return ""


def _under_systemd(settings: Settings, box: Container | None) -> Service:
    version = unithost.systemd_version()
    try:
        service, socket = shown(SERVICE), shown(SOCKET)
        persistenced = shown("nvidia-persistenced.service").active
    except (OSError, subprocess.SubprocessError) as error:
        return Service(booted=True, systemd=version, error=_why(error), container=box)
    started = unit.started_by(service.text)
    with contextlib.suppress(ConfigError):
        settings = settings_of(service) or settings
    return Service(
        booted=True,
        systemd=version,
        unit=service,
        socket=socket,
        program=program(started[0]) if started else Program(),
        needs_home=started is not None and unithost.needs_home(*started),
        user=service.get("DynamicUser") == "yes" or _account(service.get("User")) is not None,
        files=tuple(_files(service, settings)) if service.installed else (),
        disks=tuple(_disks()) if service.installed else (),
        port=port(settings, service, socket),
        persistenced=persistenced,
        container=box,
    )


def settings_of(service: Unit) -> Settings | None:
    """Those that the unit starts with; None where it names none.

    Raises ConfigError where they are wrong, or may not be read.
    """
    started = unit.started_by(service.text)
    return unithost.settings_of(started[1], _environment(service)) if started else None


def _environment(service: Unit) -> Path:
    """The EnvironmentFile=, which `systemctl show` has as "/path (ignore_errors=yes)"."""
    named = re.match(r"(/\S+)", service.get("EnvironmentFiles"))
    return Path(named[1]) if named else unithost.ENVIRONMENT


# --- systemd ---------------------------------------------------------------------------------


def shown(name: str) -> Unit:
    """Raises OSError and subprocess.SubprocessError where systemd does not answer."""
    done = subprocess.run(
        ["systemctl", "show", name],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    properties: dict[str, str] = {}
    for line in done.stdout.splitlines():
        key, mark, value = line.partition("=")
        if mark:
            properties[key] = f"{properties[key]}\n{value}" if properties.get(key) else value
    path = properties.get("FragmentPath", "")
    return Unit(_read(Path(path)) if path else "", properties)


def _why(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        said = (error.stderr or "").strip().splitlines()
        return said[0] if said else f"systemctl ended with {error.returncode}"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"systemctl took more than {DEADLINE:.0f} s"
    return f"systemctl cannot be run: {error}"


def program(command: Sequence[str]) -> Program:
    """What a voicepool says of itself."""
    try:
        done = subprocess.run(
            [*command, "--version"],
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except OSError as error:
        return Program(error=f"cannot be run: {error.strerror}")
    except subprocess.TimeoutExpired:
        return Program()
    found = re.match(r"voicepool (\S+)$", done.stdout.strip())
    if found is None:
        said = done.stderr.strip().splitlines()
        return Program(error=f"does not say its version: {said[-1] if said else 'not a word'}")
    return Program(found[1])


# --- files -----------------------------------------------------------------------------------


def _files(service: Unit, settings: Settings) -> Iterator[File]:
    started = unit.started_by(service.text)
    account = _account(service.get("User"))
    if started:
        yield file(started[1], "settings", account)
    for path, holds in (
        (settings.keys_file, "keys"),
        (settings.tls_cert, "certificate"),
        (settings.tls_key, "key"),
    ):
        if path:
            yield file(Path(path), holds, account)
    # systemd reads it, before it becomes that user.
    yield file(_environment(service), "environment", None)


def file(path: Path, holds: str, account: pwd.struct_passwd | None) -> File:
    """`account`: who has to read it."""
    try:
        mode = path.stat().st_mode & 0o777
    except PermissionError:
        return File(str(path), holds)
    except OSError:
        return File(str(path), holds, there=False)
    return File(str(path), holds, mode, readable=_reads(path, account) if account else None)


def _account(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name or "root")
    except KeyError:
        return None


def _reads(path: Path, account: pwd.struct_passwd) -> bool | None:
    """Asked of the kernel in that user's place, which only root can take."""
    if os.geteuid() != 0:
        return os.access(path, os.R_OK) if os.geteuid() == account.pw_uid else None
    groups = [group.gr_gid for group in grp.getgrall() if account.pw_name in group.gr_mem]
    try:
        done = subprocess.run(
            ["test", "-r", str(path)],
            user=account.pw_uid,
            group=account.pw_gid,
            extra_groups=groups,
            timeout=DEADLINE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.returncode == 0


def _disks() -> Iterator[Disk]:
    journal = Path("/var/log/journal")
    for folder, use in (
        (journal if journal.is_dir() else Path("/run/log/journal"), "the journal"),
        (Path("/run/voicepool"), "the runtime directory"),
    ):
        place = folder
        while not place.exists():
            place = place.parent
        usage = shutil.disk_usage(place)
        yield Disk(str(folder), use, usage.total, usage.free)


# --- the address -----------------------------------------------------------------------------


def port(settings: Settings, service: Unit, socket: Unit) -> Port:
    host = unit.address_of(settings.host)
    address = f"[{host}]:{settings.port}" if ":" in host else f"{host}:{settings.port}"
    found = listener(host, settings.port)
    if found is None:
        return Port(address)
    pid, name = found
    if socket.active and service.get("ActiveState") != "active":
        return Port(address, True, pid, name)
    if settings.proxy_protocol:
        return Port(address, True, pid, name, asked=False)
    # A key is for the service alone, not for whoever else may have the port.
    ours = pid is not None and str(pid) in ("1", service.get("MainPID"))
    key = settings.admin_keys[0] if ours and settings.admin_keys else ""
    answers, version = _in_time(lambda: _asked(host, settings, key)) or (False, "")
    return Port(address, True, pid, name, answers=answers, version=version)


def listener(host: str, port: int) -> tuple[int | None, str] | None:
    """Who listens where a server would: the process id, None where it may not be seen, and its
    name. None: nobody."""
    for found in psutil.net_connections("tcp"):
        if found.status != psutil.CONN_LISTEN or not found.laddr or found.laddr.port != port:
            continue
        if host in _EVERYWHERE or found.laddr.ip in (host, *_EVERYWHERE):
            name = ""
            with contextlib.suppress(psutil.Error):
                name = psutil.Process(found.pid).name() if found.pid else ""
            return found.pid, name
    return None


def _in_time(ask: Callable[[], T]) -> T | None:
    """What it brings. None if it has not come to an end by then, however steadily it goes on."""
    answers: list[T] = []
    asking = threading.Thread(target=lambda: answers.append(ask()), daemon=True)
    asking.start()
    asking.join(2 * _PATIENCE)
    return answers[0] if answers else None


def _asked(host: str, settings: Settings, key: str) -> tuple[bool, str]:
    """Whether it answers as voicepool does, and its version if it says."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    alive = _get(host, settings, "/healthz", "")
    if alive != {"status": "alive"}:
        return False, ""
    status = _get(host, settings, "/status", key)
    server = status.get("server") if isinstance(status, dict) else None
    version = server.get("version") if isinstance(server, dict) else ""
    return True, str(version or "")


def _get(host: str, settings: Settings, path: str, key: str) -> object:
    """The JSON there; None for anything else."""
    link: http.client.HTTPConnection
    if settings.tls_cert:
        trusting = ssl.create_default_context()
        trusting.check_hostname = False
        trusting.verify_mode = ssl.CERT_NONE
        link = http.client.HTTPSConnection(host, settings.port, timeout=_PATIENCE, context=trusting)
    else:
        link = http.client.HTTPConnection(host, settings.port, timeout=_PATIENCE)
    with contextlib.closing(link), contextlib.suppress(OSError, http.client.HTTPException):
        link.request("GET", path, headers={"Authorization": f"Bearer {key}"} if key else {})
        with contextlib.suppress(ValueError):
            answer: object = json.loads(link.getresponse().read(_MOST))
            return answer
    return None


# --- containers ------------------------------------------------------------------------------


def container(environ: Mapping[str, str]) -> Container | None:
    marks = {
        "kubernetes": "KUBERNETES_SERVICE_HOST" in environ,
        "podman": Path("/run/.containerenv").exists(),
        "docker": Path("/.dockerenv").exists(),
    }
    kind = next((name for name, there in marks.items() if there), None)
    if kind is None:
        return None
    own_pids = Path("/proc/self/ns/pid").stat().st_ino != _INITIAL_PIDS
    limits = [int(text) for group in linux.cgroups() if (text := _limit(group)).isdecimal()]
    return Container(kind, own_pids, min(limits, default=None))


def _limit(group: Path) -> str:
    return _read(group / "memory.max").strip()
