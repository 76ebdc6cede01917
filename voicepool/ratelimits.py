"""How often one address, and all together, may ask for something, and how many calls it may have.
Pure: the time is an argument, on any clock that never goes back.

Rates are token buckets: what a limit allows in a minute may come at once, and then again as it
flows back. Whoever is refused by a limit, whichever it is, pays nothing for having asked. What is
remembered of addresses is bounded; who has not been heard of for longest is forgotten first, which
does him no harm.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Final

from voicepool.addresses import address_key

MINUTE: Final = 60.0
MAX_ADDRESSES: Final = 16384
"""Addresses that are remembered, for each kind of limit: 4 MiB."""
CALLS_RETRY_SECONDS: Final = 10
"""Retry-After for too many calls of one address. Nobody knows when its callers will hang up."""
RATE: Final = "rate_limited"
TOTAL_RATE: Final = "total_rate_limited"
FAILED_KEYS: Final = "too_many_failed_keys"
CALLS: Final = "too_many_calls_from_address"
CODES: Final = (RATE, TOTAL_RATE, FAILED_KEYS, CALLS)
"""`error.code` of those who reach a limit."""
_ROUNDING: Final = 1e-6
"""Tokens: what sums of times may be wrong by."""


@dataclass(frozen=True, slots=True)
class RateRules:
    """The limits of one configuration; 0 stands for none. Rates are a minute."""

    address_calls: int = 0
    address_rate: int = 0
    total_rate: int = 0
    address_failed_keys: int = 0


@dataclass(frozen=True, slots=True)
class Limited:
    """Why somebody is to come again later."""

    message: str
    code: str
    retry_after: int
    """Whole seconds."""


class Buckets:
    """Token buckets by key, each for a minute's worth. What is not remembered is full."""

    def __init__(self, most: int = MAX_ADDRESSES) -> None:
        self._most = most
        self._used: OrderedDict[bytes, tuple[float, float]] = OrderedDict()
        """Tokens that were out, and when that was; longest untouched first."""

    def __len__(self) -> int:
        return len(self._used)

    def wait(self, key: bytes, rate: int, now: float) -> float:
        """Seconds until there is a token, 0 where there is one."""
        if key not in self._used:
            return 0.0
        self._used.move_to_end(key)
        short = self._out(key, rate, now) + 1 - rate
        return short * MINUTE / rate if short > _ROUNDING else 0.0

    def take(self, key: bytes, rate: int, now: float) -> None:
        """Take one token."""
        self._used[key] = (self._out(key, rate, now) + 1, now)
        self._used.move_to_end(key)
        if len(self._used) > self._most:
            self._used.popitem(last=False)

    def _out(self, key: bytes, rate: int, now: float) -> float:
        """Tokens that are out now. A lower rate than before finds no more than it would give."""
        used, at = self._used.get(key, (0.0, now))
        return min(float(rate), max(0.0, used - (now - at) * rate / MINUTE))


class Limits:
    """All limits of a server, and what has been counted."""

    def __init__(self, rules: RateRules, most: int = MAX_ADDRESSES) -> None:
        """`most`: addresses to remember."""
        self._rules = rules
        self._requests = Buckets(most)
        self._total = Buckets(1)
        self._failed_keys = Buckets(most)
        self._calls: Counter[bytes] = Counter()
        self._callers: dict[int, bytes] = {}
        """Who is in a call or waits for one: the address's key by connection."""

    def renew(self, rules: RateRules) -> None:
        """From now on these; what was counted counts."""
        self._rules = rules

    def ask(
        self,
        address: str,
        now: float,
        *,
        calling: bool = False,
        looking: bool = False,
        tries_key: bool = False,
    ) -> Limited | None:
        """Somebody asks for a call, or for something that takes a key: counted, or refused.

        `looking`: he asks how the server is; the total rate is not for that, or nobody could see
        what it holds back. `tries_key`: a wrong key of his would be counted.
        """
        limited = self._above_rate(address, now, looking)
        if limited is None and calling:
            limited = self.one_more_call(address)
        if limited is None and tries_key:
            limited = self.try_key(address, now)
        if limited is None:
            self._take(address, now, looking)
        return limited

    def _above_rate(self, address: str, now: float, looking: bool) -> Limited | None:
        rules = self._rules
        if not (rules.address_rate or rules.total_rate):
            return None
        key = address_key(address)
        if rules.address_rate and (wait := self._requests.wait(key, rules.address_rate, now)):
            return _later(
                wait,
                RATE,
                f"your address may ask {rules.address_rate} times a minute, and asks more often",
            )
        if looking:
            return None
        if rules.total_rate and (wait := self._total.wait(b"", rules.total_rate, now)):
            return _later(
                wait,
                TOTAL_RATE,
                f"this server answers {rules.total_rate} such requests a minute, and gets more",
            )
        return None

    def _take(self, address: str, now: float, looking: bool) -> None:
        if rate := self._rules.address_rate:
            self._requests.take(address_key(address), rate, now)
        if (rate := self._rules.total_rate) and not looking:
            self._total.take(b"", rate, now)

    # -- keys

    def try_key(self, address: str, now: float) -> Limited | None:
        """Whether one may try a key from there."""
        rate = self._rules.address_failed_keys
        if rate and (wait := self._failed_keys.wait(address_key(address), rate, now)):
            return _later(
                wait,
                FAILED_KEYS,
                f"more than {rate} wrong keys a minute came from your address; check yours",
            )
        return None

    def key_failed(self, address: str, now: float) -> None:
        """The key that was tried is none."""
        if rate := self._rules.address_failed_keys:
            self._failed_keys.take(address_key(address), rate, now)

    # -- calls

    def one_more_call(self, address: str) -> Limited | None:
        """Whether one more caller of that address may be let in."""
        most = self._rules.address_calls
        if not most or self._calls[address_key(address)] < most:
            return None
        return _later(
            CALLS_RETRY_SECONDS,
            CALLS,
            f"your address has as many calls as one may have ({most}); end one",
        )

    def call_begins(self, connection: int, address: str) -> None:
        """A caller is let in, to wait or to be served."""
        key = self._callers[connection] = address_key(address)
        self._calls[key] += 1

    def call_ends(self, connection: int) -> None:
        """However it ended; once for each that began."""
        key = self._callers.pop(connection)
        self._calls[key] -= 1
        if not self._calls[key]:
            del self._calls[key]

    @property
    def calls(self) -> int:
        """Callers who are in, of all addresses."""
        return len(self._callers)


def _later(wait: float, code: str, why: str) -> Limited:
    seconds = math.ceil(wait)
    return Limited(f"{why}; try again in {seconds} s", code, seconds)
