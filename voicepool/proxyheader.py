"""The header of the PROXY protocol, versions 1 and 2. Pure.

A proxy that passes on bytes, and cannot add a header to a request that it does not read, says with
it for whom it connects, before the first of these bytes.

Source: "The PROXY protocol, Versions 1 & 2", doc/proxy-protocol.txt in HAProxy's sources; numbers
in brackets are its sections. It lets a receiver ignore what follows the addresses (TLVs): they are
skipped, the checksum (2.2.3) among them, for nothing but TCP lies between us and a trusted proxy.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

MAX_LINE: Final = 107
"""The longest header of version 1, with its end of line (2.1)."""
MAX_HEADER: Final = 2048
"""The longest header of version 2 that is taken. The specification means it to fit into 536 bytes,
but a host name and the details of a client's certificate among the TLVs can exceed that; what its
length field could say is 64 KiB."""

_PREFIX: Final = b"PROXY "
_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED: Final = len(_SIGNATURE) + 4
_PORT: Final = re.compile(rb"0|[1-9][0-9]{0,4}")
_LOCAL, _PROXY = 0x20, 0x21
_STREAM: Final = 1
_LENGTHS: Final = {0: 0, 1: 12, 2: 36, 3: 216}
"""Bytes of both addresses and ports by family: unspecified, IPv4, IPv6, UNIX (2.2)."""


class BadHeader(Exception):
    """These bytes are no PROXY header. The message says why."""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    length: int
    """Bytes, all of which are the header's."""
    source: tuple[str, int] | None
    """Address and port of the client; None where the proxy itself is the client (LOCAL), or cannot
    say who is."""


def parse_header(data: bytes) -> ProxyHeader | None:
    """The header at the beginning of `data`, None while it is incomplete. Raises BadHeader, as
    soon as it can be told."""
    if _begins(data, _SIGNATURE):
        return _parse_binary(data)
    if _begins(data, _PREFIX):
        return _parse_line(data)
    raise BadHeader("the connection does not begin with one")


def _begins(data: bytes, sign: bytes) -> bool:
    """Whether `data` begins with `sign`, or may still."""
    return sign.startswith(data[: len(sign)])


# --- version 1: a line of text -----------------------------------------------------------------


def _parse_line(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\r\n", 0, MAX_LINE)
    if end < 0:
        if len(data) >= MAX_LINE:
            raise BadHeader(f"its line does not end within {MAX_LINE} bytes")
        return None
    words = data[:end].split(b" ")
    if words[1] == b"UNKNOWN":  # the rest of the line is to be ignored
        return ProxyHeader(end + 2, None)
    if len(words) != 6 or words[1] not in (b"TCP4", b"TCP6"):
        raise BadHeader("its line is not PROXY TCP4 or TCP6 with two addresses and two ports")
    _, family, source, destination, port, other_port = words
    _text_address(family, destination)
    _port(other_port)
    return ProxyHeader(end + 2, (_text_address(family, source), _port(port)))


def _text_address(family: bytes, text: bytes) -> str:
    kind = ipaddress.IPv4Address if family == b"TCP4" else ipaddress.IPv6Address
    try:
        address = kind(text.decode("ascii"))
    except ValueError as error:
        raise BadHeader(f"{text!r} is no address of {family.decode()}") from error
    if b"%" in text:
        raise BadHeader("an address has no zone")
    return str(address)


def _port(text: bytes) -> int:
    if not _PORT.fullmatch(text) or int(text) > 65535:
        raise BadHeader(f"{text!r} is no port")
    return int(text)


# --- version 2: binary -------------------------------------------------------------------------


def _parse_binary(data: bytes) -> ProxyHeader | None:
    if len(data) < _FIXED:
        return None
    command, kind = data[12], data[13]
    following = int.from_bytes(data[14:16], "big")
    family, protocol = kind >> 4, kind & 0xF
    if command not in (_LOCAL, _PROXY):
        raise BadHeader(f"its version and command are {command:#04x}")
    if command == _PROXY and (family not in _LENGTHS or protocol > 2):
        raise BadHeader(f"its family and protocol are {kind:#04x}")
    if command == _PROXY and protocol and following < _LENGTHS[family]:
        raise BadHeader(f"it has {following} bytes for addresses of {_LENGTHS[family]}")
    length = _FIXED + following
    if length > MAX_HEADER:
        raise BadHeader(f"it is {length} bytes long; at most {MAX_HEADER} are taken")
    if len(data) < length:
        return None
    if command == _LOCAL or protocol != _STREAM:
        return ProxyHeader(length, None)
    return ProxyHeader(length, _binary_source(family, data[_FIXED:length]))


def _binary_source(family: int, block: bytes) -> tuple[str, int] | None:
    if family == 1:
        return str(ipaddress.IPv4Address(block[:4])), int.from_bytes(block[8:10], "big")
    if family == 2:
        return str(ipaddress.IPv6Address(block[:16])), int.from_bytes(block[32:34], "big")
    return None
