"""Addresses: read and written, found in networks, and counted by. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


MAX_TEXT: Final = 64
"""Characters; no address takes as many, with any zone."""


def with_port(host: str, port: int) -> str:
    """As in a URL, where IPv6 needs brackets; `host` may have them already."""
    bare = host.strip("[]")
    return f"[{bare}]:{port}" if ":" in bare else f"{bare}:{port}"


def parse_address(text: str) -> Address | None:
    """The address that `text` is; None where it is none."""
    return _parse(text) if len(text) <= MAX_TEXT else None


@lru_cache(maxsize=1024)  # each request asks about the same one several times
def _parse(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    # As a listener for both families names its IPv4 peers.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


class Networks:
    """Some addresses and networks, such as those of the proxies that are trusted."""

    def __init__(self, networks: Sequence[str] = ()) -> None:
        """Raises ValueError where one is none."""
        self._networks = [ipaddress.ip_network(network, strict=False) for network in networks]

    def __contains__(self, address: Address | str | None) -> bool:
        if isinstance(address, str):
            address = parse_address(address)
        return address is not None and any(address in network for network in self._networks)

    def stand_for_many(self, address: str) -> bool:
        """Whether behind `address` there may be any number of people, whom nobody can tell apart:
        it is one of these proxies', or of this machine, where a proxy may be that nobody named."""
        found = parse_address(address)
        return found is None or found.is_loopback or found in self


def address_key(address: str) -> bytes:
    """What an address is counted under.

    An IPv4 address counts whole. An IPv6 one counts by its /64, all of which one customer has
    (RFC 6177; RFC 8981 has hosts change the rest by themselves).
    """
    found = parse_address(address)
    if found is None:
        return address.encode(errors="replace")
    return found.packed if found.version == 4 else found.packed[:8]
