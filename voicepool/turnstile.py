"""Where everybody passes who wants a call, or what takes a key: rates first, keys after them."""

from __future__ import annotations

import logging
from collections.abc import Callable

from voicepool.access import INSUFFICIENT_SCOPE, Access, Admitted, Denied, given_key
from voicepool.logs import FloodGuard
from voicepool.ratelimits import Limited, Limits
from voicepool.request import Head

log = logging.getLogger("voicepool.frontdoor")


class Turnstile:
    """The access rules and the limits of one server, and its clock."""

    def __init__(self, access: Access, limits: Limits, clock: Callable[[], float]) -> None:
        """`clock`: seconds; never goes back."""
        self.access = access
        self._limits = limits
        self._clock = clock
        self._flood = FloodGuard(log)

    def pass_through(
        self,
        head: Head,
        peer: str,
        check: Callable[[Head], Admitted | Denied],
        *,
        calling: bool = False,
        looking: bool = False,
    ) -> Admitted | Denied:
        """Who that is, or why not. `check` judges the key; for the rest see `Limits.ask`."""
        now = self._clock()
        address = self.access.client_address(head, peer)
        tries = self._tries_a_key(head, address)
        limited = self._limits.ask(address, now, calling=calling, looking=looking, tries_key=tries)
        if limited is not None:
            return self._deny(limited, address)
        admitted = check(head)
        # One that is good for other things was not guessed.
        if tries and isinstance(admitted, Denied) and admitted.code != INSUFFICIENT_SCOPE:
            self._limits.key_failed(address, now)
        return admitted

    def _tries_a_key(self, head: Head, address: str) -> bool:
        """Whether a wrong key would count. Not one of an address that stands for many: one of them
        could lock out all others."""
        return (
            self.access.asks_for_keys
            and given_key(head) is not None
            and not self.access.stands_for_many(address)
        )

    def _deny(self, limited: Limited, address: str) -> Denied:
        self._flood.info("request refused by a limit", code=limited.code, address=address)
        return Denied(429, limited.message, limited.code, limited.retry_after)
