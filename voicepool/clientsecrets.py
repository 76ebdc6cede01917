"""Client secrets: keys that last for minutes, for clients that must not know an API key. Pure.

A secret lets its holder make calls, as many as there is room for, until it expires, and see how
many there are; it opens nothing else. Only hashes of secrets are kept. What time it is, and what a
secret looks like, is said from outside.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import Final

from voicepool.keys import digest_of

PREFIX: Final = "ek_"
"""By which they are told from API keys."""
MAX_SECRETS: Final = 10_000
MAX_BYTES: Final = 16 << 20
"""Of the sessions that belong to them, together."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a secret stands for."""

    expires_at: float
    identity: str
    """Of the API key that it was made with."""
    key: bytes
    """That key's digest, b"" where none is asked for: when the key goes, so does the secret."""
    session: bytes
    """What its calls begin with."""


class Full(Exception):
    """No more secrets can be kept before one expires, in `retry_after` seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"full for {retry_after} s")
        self.retry_after = retry_after


class ClientSecrets:
    """All secrets that have not expired; bounded in number and in bytes."""

    def __init__(self, most: int = MAX_SECRETS, most_bytes: int = MAX_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._grants: dict[bytes, Grant] = {}
        self._by_expiry: list[tuple[float, bytes]] = []
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._grants)

    def add(self, secret: str, grant: Grant, now: float) -> None:
        """Let `secret` stand for `grant`. Raises Full; `now` as in `Grant.expires_at`."""
        self._drop_expired(now)
        if len(self._grants) >= self._most or self._bytes + len(grant.session) > self._most_bytes:
            soonest = self._by_expiry[0][0] if self._by_expiry else grant.expires_at
            raise Full(max(1, math.ceil(soonest - now)))
        digest = digest_of(secret)
        self._grants[digest] = grant
        heapq.heappush(self._by_expiry, (grant.expires_at, digest))
        self._bytes += len(grant.session)

    def redeem(self, secret: str, now: float) -> Grant | None:
        """What `secret` stands for; None where it is unknown or has expired."""
        self._drop_expired(now)
        # As in `keys.Keyring`, the time that this takes tells nothing of a secret.
        return self._grants.get(digest_of(secret))

    def _drop_expired(self, now: float) -> None:
        while self._by_expiry and self._by_expiry[0][0] <= now:
            _, digest = heapq.heappop(self._by_expiry)
            self._bytes -= len(self._grants.pop(digest).session)
