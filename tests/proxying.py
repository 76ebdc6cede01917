"""PROXY headers as proxies send them, written down apart from the code that reads them."""

from __future__ import annotations

import ipaddress
import struct

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
LOCAL, PROXY = 0x20, 0x21
TCP4, UDP4, TCP6, UDP6, UNIX, UNIX_DGRAM, UNSPEC = 0x11, 0x12, 0x21, 0x22, 0x31, 0x32, 0x00


def line(host: str, port: int, to: str | None = None) -> bytes:
    """Version 1."""
    six = ":" in host
    to = to or ("2001:db8::1" if six else "192.0.2.1")
    return f"PROXY TCP{6 if six else 4} {host} {to} {port} 443\r\n".encode()


def binary(kind: int, block: bytes = b"", *, command: int = PROXY, tlvs: bytes = b"") -> bytes:
    """Version 2; `block` has the addresses and ports."""
    size = struct.pack("!H", len(block) + len(tlvs))
    return SIGNATURE + bytes((command, kind)) + size + block + tlvs


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def addresses(host: str, port: int) -> bytes:
    """The block of version 2 for a client there."""
    packed = ipaddress.ip_address(host).packed
    return packed + bytes(len(packed)) + struct.pack("!HH", port, 443)


def header(version: int, host: str, port: int = 4321) -> bytes:
    """What a proxy sends for a client there."""
    if version == 1:
        return line(host, port)
    return binary(TCP6 if ":" in host else TCP4, addresses(host, port))
