"""`voicepool unit`: the systemd units for a host, from the templates in `units/`."""

from __future__ import annotations

import math
import os
import pwd
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from string import Template
from typing import Final

from voicepool.config import Settings, is_loopback, load
from voicepool.errors import ConfigError

CONFIG: Final = Path("/etc/voicepool/voicepool.toml")
ENVIRONMENT: Final = Path("/etc/voicepool/environment")
"""What the template's EnvironmentFile= names."""
USER: Final = "voicepool"
NOTIFY_RELOAD: Final = 253
"""The first systemd with Type=notify-reload, whose `systemctl reload` waits for the end of it."""
SLACK: Final = 15
"""Seconds that stopping may take beyond all time-outs: killing processes of gigabytes, mostly."""

_HOMES: Final = ("/home", "/root", "/run/user")
_REMARK: Final = ("#", ";")
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


def started_by(text: str) -> tuple[tuple[str, ...], Path] | None:
    """The command and the settings file that a unit's text starts, as `service` writes them; None
    where somebody has written something else there."""
    found = re.search(r"^ExecStart=(\S.*) start --config (\S+)$", text, re.MULTILINE)
    if found is None:
        return None
    words = [word.replace("$$", "$").replace("%%", "%") for word in (*found[1].split(), found[2])]
    return tuple(words[:-1]), Path(words[-1])


def settings_of(config: Path, environment: Path = ENVIRONMENT) -> Settings:
    """The settings of the service: of its file and of its variables, as far as they may be read.

    A public address without a key is not refused here, for the keys may be where only systemd sees
    them; the start does that. Raises ConfigError.
    """
    environ = variables(environment)
    found = str(config) if is_there(config) else None
    try:
        return load({}, environ, config.parent, found).settings
    except ConfigError:
        excused = {**environ, "VOICEPOOL_NO_AUTH": "true"}
        return replace(load({}, excused, config.parent, found).settings, no_auth=False)


def variables(environment: Path = ENVIRONMENT) -> dict[str, str]:
    """What an EnvironmentFile= sets, systemd.exec(5), less its rarer ways of quoting; nothing where
    it cannot be read."""
    try:
        lines = environment.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    pairs = (line.strip().partition("=") for line in lines if not line.lstrip().startswith(_REMARK))
    return {name.strip(): _unquoted(value.strip()) for name, mark, value in pairs if mark}


def _unquoted(value: str) -> str:
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    return value[1:-1] if quoted else value


def is_there(path: Path) -> bool:
    """Also where it lies in a folder that is shut to us."""
    try:
        return path.exists()
    except PermissionError:
        return True


def this_host(config: Path, user: str) -> Host:
    command = _command()
    return Host(command, config, user, systemd_version(), needs_home(command, config))


def needs_home(command: tuple[str, ...], config: Path) -> bool:
    # The interpreter of a virtual environment may lie elsewhere.
    interpreter = Path(command[0]).with_name("python").resolve()
    paths = (Path(command[0]), interpreter, config)
    return any(path.is_relative_to(home) for home in _HOMES for path in paths)


def advice(host: Host, settings: Settings) -> Iterator[str]:
    """What the host lacks for the unit to start."""
    if unguarded(settings) and _may_read(ENVIRONMENT):
        yield (
            f"{settings.host} is reachable from other machines, and no key is seen: put "
            f"VOICEPOOL_API_KEYS=... into {ENVIRONMENT} (make a key with: openssl rand -hex 24)"
        )
    for folder in Path(sys.executable).resolve().parents:
        if not folder.stat().st_mode & stat.S_IXOTH:
            yield (
                f"{folder} is shut to others than its owner, and Python is in there: "
                "scripts/install puts voicepool elsewhere"
            )
    if not is_there(host.config):
        yield f"{host.config} does not exist yet; an empty file will do"
    try:
        pwd.getpwnam(host.user)
    except KeyError:
        yield f"there is no user {host.user} yet: useradd --system --user-group {host.user}"


def _command() -> tuple[str, ...]:
    script = Path(sys.executable).with_name("voicepool")
    return (str(script),) if script.exists() else (sys.executable, "-m", "voicepool")


def unguarded(settings: Settings) -> bool:
    """Whether the start would refuse such an address."""
    return not (is_loopback(settings.host) or settings.api_keys or settings.no_auth)


def _may_read(path: Path) -> bool:
    """Whether nothing that stands in there is hidden from us."""
    return os.access(path, os.R_OK) or not is_there(path)


def systemd_version() -> int:
    """0 where there is none, or it does not say."""
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
