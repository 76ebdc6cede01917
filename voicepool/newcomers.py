"""Who may come in, and how many of one address may have an incomplete request head. Pure.

Used by the front door, and by the TLS relay, which is the front door of those who speak TLS.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from voicepool.addresses import Networks, address_key

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True, slots=True)
class DoorRules:
    """What a reload may change about the door."""

    trusted_proxies: tuple[str, ...] = ()
    address_heads: int = 0
    """Incomplete heads of one address; 0: any number."""
    log_level: str = "info"
    """The TLS relay's, which has a log of its own."""


class Newcomers(Generic[T]):
    """Those whose address is known and whose head is incomplete, by address."""

    def __init__(self, rules: DoorRules, *, proxy_protocol: bool) -> None:
        self._proxy_protocol = proxy_protocol
        self._keys: dict[T, bytes] = {}
        self._by_key: dict[bytes, OrderedDict[T, None]] = {}
        self.renew(rules)

    def __len__(self) -> int:
        return len(self._keys)

    def renew(self, rules: DoorRules) -> None:
        """From now on these, also for those who are here."""
        self._most = rules.address_heads
        self._proxies = Networks(rules.trusted_proxies)

    def may_connect(self, peer: str) -> bool:
        """Whether that peer may be listened to: with the PROXY protocol only those are whose word
        for whom they connect is believed, or anybody could be anybody."""
        return not self._proxy_protocol or peer in self._proxies

    def add(self, newcomer: T, address: str) -> T | None:
        """Count one more; who must go for it, which is the oldest of the same address.

        Nobody else's: so no address can crowd out another. Those that stand for many are not held
        to it, for what one client behind them does would fall on all others.
        """
        if newcomer in self._keys or self._proxies.stand_for_many(address):
            return None
        key = self._keys[newcomer] = address_key(address)
        crowd = self._by_key.setdefault(key, OrderedDict())
        crowd[newcomer] = None
        return next(iter(crowd)) if 0 < self._most < len(crowd) else None

    def discard(self, newcomer: T) -> None:
        """It is no newcomer any more, if it was one."""
        key = self._keys.pop(newcomer, None)
        if key is not None:
            crowd = self._by_key[key]
            del crowd[newcomer]
            if not crowd:
                del self._by_key[key]
