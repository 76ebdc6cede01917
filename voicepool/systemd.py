"""What systemd hands to a service, and how it is spoken to.

    take            the notification socket, the watchdog's interval and the listening socket
    Notifier        messages to the service manager, none of which blocks

Sources: sd_notify(3), sd_watchdog_enabled(3), sd_listen_fds(3). What is taken also leaves the
environment: it is meant for this process, and not for those that it starts.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Final

from voicepool.errors import ConfigError
from voicepool.logs import escape

FIRST_FD: Final = 3
"""SD_LISTEN_FDS_START."""
SOCKET_UNIT: Final = "voicepool.socket"
_MICRO: Final = 1_000_000
_LONGEST_STATUS: Final = 512


class Notifier:
    """Tells the service manager what state the service is in. Owns its socket.

    A message that cannot be delivered now goes out with the next one; a newer value of the same
    variable replaces it, so what is kept is bounded.
    """

    def __init__(self, address: str) -> None:
        """`address` is $NOTIFY_SOCKET. Raises ConfigError where it is none."""
        if address[:1] not in ("/", "@") or len(address) < 2:
            raise ConfigError(f"NOTIFY_SOCKET={address!r} is no address of a service manager")
        # "@" stands for the zero byte that begins an abstract address, unix(7).
        self._address = "\0" + address[1:] if address[0] == "@" else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._unsent: dict[str, str] = {}

    def ready(self) -> None:
        """Start-up, or a reload, is over."""
        # Of a reload that was never heard of, the end needs no telling.
        self._unsent.pop("RELOADING", None)
        self._unsent.pop("MONOTONIC_USEC", None)
        self.send(READY="1")

    def reloading(self) -> None:
        """A reload begins; `ready` ends it. The time is what Type=notify-reload asks for."""
        self._unsent.pop("READY", None)
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self.send(RELOADING="1", MONOTONIC_USEC=str(now))

    def stopping(self) -> None:
        self.send(STOPPING="1")

    def alive(self) -> None:
        """Feed the watchdog."""
        self.send(WATCHDOG="1")

    def status(self, text: str) -> None:
        """One line for people."""
        self.send(STATUS=escape(text, _LONGEST_STATUS))

    def extend(self, seconds: float) -> None:
        """Ask that starting, reloading or stopping may take so much longer from now on."""
        self.send(EXTEND_TIMEOUT_USEC=str(int(seconds * _MICRO)))

    def send(self, **variables: str) -> None:
        """Send these and whatever could not be sent before."""
        self._unsent.update(variables)
        message = "\n".join(f"{name}={value}" for name, value in self._unsent.items())
        # A manager that is busy, or executes itself anew, reads on in a moment.
        with contextlib.suppress(OSError):
            self._socket.sendto(message.encode("utf-8", "backslashreplace"), self._address)
            self._unsent.clear()

    def close(self) -> None:
        self._socket.close()


@dataclass(frozen=True, slots=True)
class Inheritance:
    """What the service manager has given us; nothing where there is none."""

    notifier: Notifier | None = None
    watchdog: float | None = None
    """Seconds within which a sign of life is expected; None: no watchdog."""
    listener: socket.socket | None = None
    """Listening already, and kept open by the manager while we are not there."""


def take(environ: MutableMapping[str, str]) -> Inheritance:
    """Take what is meant for this process out of `environ`. Call it once, before any child starts.

    Raises ConfigError where it is not what voicepool can use.
    """
    names = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS")
    given = {name: environ.pop(name, "") for name in (*names, "LISTEN_FDNAMES")}
    address = given["NOTIFY_SOCKET"]
    watchdog = _watchdog(given["WATCHDOG_USEC"], given["WATCHDOG_PID"]) if address else None
    listener = _listener(given["LISTEN_FDS"], given["LISTEN_PID"], given["LISTEN_FDNAMES"])
    return Inheritance(Notifier(address) if address else None, watchdog, listener)


def _watchdog(interval: str, pid: str) -> float | None:
    if not interval or (pid and pid != str(os.getpid())):
        return None
    if not interval.isdecimal() or int(interval) == 0:
        raise ConfigError(f"WATCHDOG_USEC={interval!r} is no time in microseconds")
    return int(interval) / _MICRO


def _listener(count: str, pid: str, names: str) -> socket.socket | None:
    """The passed socket; None where none is meant for this process."""
    if pid != str(os.getpid()) or count in ("", "0"):
        return None
    if not count.isdecimal():
        raise ConfigError(f"LISTEN_FDS={count!r} is no number of sockets")
    if count != "1":
        raise ConfigError(
            f"systemd passed {count} sockets ({escape(names)}), but voicepool listens on one: "
            f"keep one ListenStream= in {SOCKET_UNIT}; 0.0.0.0 or [::] stands for all addresses"
        )
    try:
        os.set_inheritable(FIRST_FD, False)
        listener = socket.socket(fileno=FIRST_FD)
    except OSError as error:
        raise ConfigError(
            f"systemd passed something that is no socket: {error.strerror}"
        ) from error
    try:
        _check(listener)
    except ConfigError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def _check(listener: socket.socket) -> None:
    internet = listener.family in (socket.AF_INET, socket.AF_INET6)
    if not internet or listener.type != socket.SOCK_STREAM:
        raise ConfigError(
            f"systemd passed a socket that is not TCP: write ListenStream=ADDRESS:PORT in "
            f"{SOCKET_UNIT}"
        )
    if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise ConfigError(
            f"systemd passed a connection, not a listener: set Accept=no in {SOCKET_UNIT}"
        )
