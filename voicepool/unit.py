"""`voicepool unit`: the systemd units for a host, from the templates in `units/`."""

from __future__ import annotations

import math
import pwd
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template
from typing import Final

from voicepool.config import Settings
from voicepool.errors import ConfigError

CONFIG: Final = Path("/etc/voicepool/voicepool.toml")
USER: Final = "voicepool"
NOTIFY_RELOAD: Final = 253
"""The first systemd with Type=notify-reload, whose `systemctl reload` waits for the end of it."""
SLACK: Final = 15
"""Seconds that stopping may take beyond all time-outs: killing processes of gigabytes, mostly."""

_HOMES: Final = ("/home", "/root", "/run/user")
_RELOAD: Final = "ExecReload=/bin/kill -HUP $MAINPID"
_RELOAD_BY_TYPE: Final = (
    "# systemctl reload sends HUP, and waits until voicepool says that it is done."
)


@dataclass(frozen=True, slots=True)
class Host:
    """What differs between hosts."""

    command: tuple[str, ...]
    """The program and the words before "start"."""
    config: Path = CONFIG
    user: str = USER
    systemd: int = 0
    """Its version; 0: unknown."""
    needs_home: bool = False
    """Some of it lies in a home."""


STANDARD: Final = Host(("/opt/voicepool/bin/voicepool",))
"""As scripts/install makes it; for what is in scripts/."""


def service(host: Host, settings: Settings) -> str:
    """voicepool.service. `settings`: for how long stopping may take. Raises ConfigError."""
    notify_reload = host.systemd >= NOTIFY_RELOAD
    return _template("voicepool.service").substitute(
        type="notify-reload" if notify_reload else "notify",
        command=" ".join(_word(word) for word in host.command),
        config=_word(str(host.config)),
        reload=_RELOAD_BY_TYPE if notify_reload else _RELOAD,
        stop=stop_seconds(settings),
        user=_user(host.user),
        home="read-only" if host.needs_home else "yes",
    )


def socket(settings: Settings) -> str:
    """voicepool.socket."""
    host = settings.host
    everywhere = host in ("::", "[::]")
    if host == "localhost":
        host = "127.0.0.1"
    name = f"[{host}]" if ":" in host and not host.startswith("[") else host
    if not re.fullmatch(r"[0-9.]+|\[[0-9a-fA-F:.]+\]", name):
        raise ConfigError(f"host = {settings.host!r}: a socket unit needs an address, not a name")
    if settings.port == 0:
        raise ConfigError("port = 0: a socket unit needs a port")
    return _template("voicepool.socket").substitute(
        listen=f"{name}:{settings.port}", both="BindIPv6Only=both\n" if everywhere else ""
    )


def stop_seconds(settings: Settings) -> int:
    """The longest that an orderly stop takes: who has been let in waits or is served, calls end,
    workers exit."""
    let_in = settings.head_timeout + settings.queue_timeout
    ending = settings.drain_notice + settings.drain_timeout + settings.stop_timeout
    return math.ceil(let_in + ending) + SLACK


def this_host(config: Path, user: str) -> Host:
    command = _command()
    # The interpreter of a virtual environment may lie elsewhere.
    paths = (Path(command[0]), Path(sys.executable).resolve(), config)
    needs_home = any(path.is_relative_to(home) for home in _HOMES for path in paths)
    return Host(command, config, user, _systemd_version(), needs_home)


def advice(host: Host) -> Iterator[str]:
    """What the host lacks for the unit to start."""
    for folder in Path(sys.executable).resolve().parents:
        if not folder.stat().st_mode & stat.S_IXOTH:
            yield (
                f"{folder} is shut to others than its owner, and Python is in there: "
                "scripts/install puts voicepool elsewhere"
            )
    if not host.config.exists():
        yield f"{host.config} does not exist yet; an empty file will do"
    try:
        pwd.getpwnam(host.user)
    except KeyError:
        yield f"there is no user {host.user} yet: useradd --system --user-group {host.user}"


def _command() -> tuple[str, ...]:
    script = Path(sys.executable).with_name("voicepool")
    return (str(script),) if script.exists() else (sys.executable, "-m", "voicepool")


def _systemd_version() -> int:
    try:
        shown = subprocess.run(
            ["systemctl", "--version"], capture_output=True, text=True, timeout=10, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = re.match(r"systemd (\d+)", shown)
    return int(found[1]) if found else 0


def _user(name: str) -> str:
    if not re.fullmatch(r"[a-z_][a-z0-9_-]{0,30}", name):
        raise ConfigError(f"{name!r} is no name of a user that systemd takes")
    return name


def _word(text: str) -> str:
    """As ExecStart= takes it literally, systemd.service(5)."""
    if not re.fullmatch(r"[\w./%$@:+,=~-]+", text):
        raise ConfigError(f"{text!r}: a path with blanks or such cannot stand in a unit")
    return text.replace("%", "%%").replace("$", "$$")


def _template(name: str) -> Template:
    return Template(resources.files("voicepool").joinpath("units", name).read_text("utf-8"))
