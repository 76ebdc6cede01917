"""What a reload changes and what it cannot. Pure."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Final

from voicepool.config import Settings, check

FIXED: Final = (
    "host",
    "port",
    "agent_port",
    "tls_cert",
    "tls_key",
    "runtime_dir",
    "proxy_protocol",
    "head_timeout",
    "max_heads",
    "gpus",
    "log_format",
    "inspectable",
)
"""Settings of what is made once, when the server starts. A changed one is named in the log and
waits for a restart; all others hold from the end of the reload on."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a reload comes to."""

    settings: Settings
    """What will be in force."""
    changed: tuple[str, ...]
    """The names of those that will be different."""
    fixed: tuple[str, ...]
    """The names of those that are different in their sources and stay what they are."""


def plan(running: Settings, started: Settings, fresh: Settings) -> Plan:
    """What becomes of a running server when its settings are read again.

    `running` is in force. `started` are the settings as the start has read them, which differ
    from it where the listening socket was inherited. `fresh` are those read now.

    Raises ConfigError where they do not go together with what is fixed.
    """
    kept = {name: getattr(running, name) for name in FIXED}
    settings = replace(fresh, **kept)
    check(settings)
    return Plan(
        settings=settings,
        changed=_differences(running, settings),
        fixed=tuple(name for name in _differences(started, fresh) if name in FIXED),
    )


def _differences(one: Settings, other: Settings) -> tuple[str, ...]:
    names = (field.name for field in fields(Settings))
    return tuple(name for name in names if getattr(one, name) != getattr(other, name))
