"""Ports of servers that are addressed before they listen."""

from __future__ import annotations

import contextlib
import secrets
import socket


def free_port() -> int:
    """One where nobody listens. It is none of those that the kernel gives to whoever asks for any,
    lest somebody is given it before it is used, or who dials it there meets himself."""
    while True:
        port = 20_000 + secrets.randbelow(10_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
