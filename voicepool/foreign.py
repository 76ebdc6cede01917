"""Descriptors that somebody else has chosen, and how to be rid of them without waiting.

Closing the last descriptor of a socket takes as long as its SO_LINGER says, non-blocking or not
(socket(7)), and the kernel closes what rides on a message that nobody reads, or that is read
without room for it, in the process that drops it (unix(7)). So a worker could hold up for hours
whoever it can send a socket to. Here every descriptor is taken, and made to linger no longer.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
from typing import Final

_MOST: Final = 253
"""Descriptors that one message can carry: SCM_MAX_FD of the kernel."""
ROOM: Final = socket.CMSG_SPACE(_MOST * 4)
"""Of the ancillary data of a message, however many it carries."""
_MOST_UNREAD: Final = 1024
"""More messages than a socket holds unread. Of packets an empty one looks like the end."""
_NO_LINGER: Final = struct.pack("ii", 0, 0)


def descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """Those that came with a message; the caller's to close."""
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return fds.tolist()


def discard(*fds: int) -> None:
    """Close them."""
    for fd in fds:
        try:
            sock = socket.socket(fileno=fd)
        except OSError:
            os.close(fd)  # no socket
        else:
            hang_up(sock)


def hang_up(sock: socket.socket) -> None:
    """Close a socket that others have had."""
    with sock, contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)


def read(sock: socket.socket, size: int) -> bytes:
    """As `sock.recv`, for one whose other end may send descriptors along. Raises OSError."""
    data, ancillary, _, _ = sock.recvmsg(size, ROOM, socket.MSG_CMSG_CLOEXEC)
    if ancillary:
        discard(*descriptors(ancillary))
    return data


def abandon(sock: socket.socket) -> None:
    """Close our end of a non-blocking pair, with what is unread in it. Of one that is closed
    already nothing is asked."""
    with sock, contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RD)  # or more could come than is read here
        for _ in range(_MOST_UNREAD):
            if not read(sock, 1 << 16) and sock.type == socket.SOCK_STREAM:
                return
