"""What `voicepool unit` looks up on a host: Python, systemd, the user, the service's settings."""

from __future__ import annotations

import os
import pwd
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from voicepool.config import Settings, is_loopback, load
from voicepool.errors import ConfigError
from voicepool.unit import Host

ENVIRONMENT: Final = Path("/etc/voicepool/environment")
"""What the template's EnvironmentFile= names."""

_HOMES: Final = ("/home", "/root", "/run/user")
_REMARK: Final = ("#", ";")


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
            f"{settings.host} is reachable from other machines, and no key is seen: name a "
            "keys_file in the settings (make a key with: voicepool key new NAME --file FILE)"
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
    return not (is_loopback(settings.host) or settings.asks_for_keys or settings.no_auth)


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
