"""The systemd units for a host, from the templates in `units/`. Pure but for reading those; what is
looked up on the host is in `unithost`."""

from __future__ import annotations

import ipaddress
import math
import re
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
    host = address_of(settings.host)
    everywhere = host == "::"
    name = f"[{host}]" if ":" in host else host
    if not re.fullmatch(r"[0-9.]+|\[[0-9a-fA-F:.]+\]", name):
        raise ConfigError(f"host = {settings.host!r}: a socket unit needs an address, not a name")
    if settings.port == 0:
        raise ConfigError("port = 0: a socket unit needs a port")
    return _template("voicepool.socket").substitute(
        listen=f"{name}:{settings.port}", both="BindIPv6Only=both\n" if everywhere else ""
    )


def address_of(host: str) -> str:
    """The address that `host` names, in the one form in which systemd and the kernel tell it; a
    name stays what it is, but for localhost."""
    if host == "localhost":
        return "127.0.0.1"
    try:
        return ipaddress.ip_address(host.strip("[]")).compressed
    except ValueError:
        return host


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
