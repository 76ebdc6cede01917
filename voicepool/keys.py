"""API keys: who holds one, what it is good for, until when; and the lines of a keys file. Pure.

Nothing here keeps the text of a key, only its SHA-256. A fast hash is right for them: they are 192
random bits, which nobody can try out. What is slow on purpose is for passwords, and would cost the
supervisor that time for every caller.
"""

from __future__ import annotations

import datetime
import enum
import hashlib
import hmac
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from voicepool.errors import ConfigError

PREFIX: Final = "vp_"
"""What keys of our making begin with, so that scanners for leaked secrets can tell them."""
MAX_COMPLAINTS: Final = 10
"""Faults of one file that are told; there may be one in every line."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,39}")
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{8}")
_DIGEST: Final = re.compile(r"sha256:([0-9A-Fa-f]{64})")
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


class Scope(enum.Enum):
    """What a key is good for."""

    CALL = "call"
    """Open calls, make client secrets, list models."""
    ADMIN = "admin"
    """See the inside: /status in full, /metrics."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key, without its text."""

    digest: bytes
    """The SHA-256 of its text."""
    scopes: frozenset[Scope]
    name: str = ""
    """Whose it is; "" where nobody has said."""
    expires: datetime.date | None = None
    """The last day, in UTC, on which it is good; None: it is for ever."""

    @property
    def fingerprint(self) -> str:
        """What may be shown of a key: 8 hex digits of its SHA-256."""
        return self.digest.hex()[:8]

    @property
    def identity(self) -> str:
        """What logs and apps call its holder. A name cannot look like a fingerprint."""
        return self.name or self.fingerprint

    def expired(self, now: float) -> bool:
        """Whether it is good no more; `now` in seconds since the epoch."""
        return self.expires is not None and day_of(now) > self.expires


def day_of(now: float) -> datetime.date:
    """The day in UTC, of seconds since the epoch."""
    return datetime.datetime.fromtimestamp(now, datetime.UTC).date()


def digest_of(text: str) -> bytes:
    """The SHA-256 of a key's text, which may be anything that a client has sent."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


class Keyring:
    """All keys of a server, found by their digests.

    That takes a time which tells nothing of any key: who does not know one cannot choose a part of
    its SHA-256.
    """

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._keys: Mapping[bytes, Key] = MappingProxyType({key.digest: key for key in keys})

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys.values())

    def __len__(self) -> int:
        return len(self._keys)

    def holder(self, digest: bytes) -> Key | None:
        """The key with that digest."""
        key = self._keys.get(digest)
        # Once more, in constant time: what the lookup of a dict compares is not for us to promise.
        return key if key is not None and hmac.compare_digest(key.digest, digest) else None

    def grants(self, scope: Scope, now: float) -> bool:
        """Whether anybody holds a key of that scope that has not expired."""
        return any(scope in key.scopes and not key.expired(now) for key in self)


def plain(call: Iterable[str], admin: Iterable[str] = ()) -> tuple[Key, ...]:
    """The keys that settings have as texts; one in both lists has both scopes."""
    scopes: dict[bytes, frozenset[Scope]] = {}
    for texts, scope in ((call, Scope.CALL), (admin, Scope.ADMIN)):
        for text in texts:
            digest = digest_of(text)
            scopes[digest] = scopes.get(digest, frozenset()) | {scope}
    return tuple(Key(digest, held) for digest, held in scopes.items())


# --- the file --------------------------------------------------------------------------------


def write_line(key: Key) -> str:
    """The line of a named key, as `read_lines` takes it."""
    expires = f" expires={key.expires.isoformat()}" if key.expires else ""
    return f"{key.name} {scopes_text(key.scopes)} sha256:{key.digest.hex()}{expires}"


def scopes_text(scopes: Collection[Scope]) -> str:
    """ "call", "admin" or "call,admin"."""
    return ",".join(scope.value for scope in Scope if scope in scopes)


def read_lines(text: str, label: str) -> tuple[Key, ...]:
    """The keys of a file, whose lines are

        NAME SCOPES sha256:HEX [expires=YYYY-MM-DD]     # a comment

    Raises ConfigError with a line for each fault, which begin with `label` and their numbers. They
    repeat nothing that could be a key that somebody has put where it does not belong.
    """
    problems: list[str] = []
    seen: dict[str | bytes, int] = {}
    keys = []
    for number, line in enumerate(text.split("\n"), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            key = _read(words)
            _check_new(key, number, seen)
        except ValueError as error:
            problems.append(f"{label}:{number}: {error}")
        else:
            keys.append(key)
    if len(problems) > MAX_COMPLAINTS:
        more = len(problems) - MAX_COMPLAINTS
        problems[MAX_COMPLAINTS:] = [f"{label}: {more} more lines are wrong"]
    if problems:
        raise ConfigError("\n".join(problems))
    return tuple(keys)


def _check_new(key: Key, number: int, seen: dict[str | bytes, int]) -> None:
    """Raises ValueError where an earlier line has its name or its digest."""
    if key.name in seen:
        raise ValueError(f"the name {key.name} is that of line {seen[key.name]} too")
    if key.digest in seen:
        raise ValueError(f"{key.name} has the same key as line {seen[key.digest]}")
    seen[key.name] = seen[key.digest] = number


def _read(words: list[str]) -> Key:
    """Raises ValueError, whose text says what is wrong and what to write."""
    if len(words) not in (3, 4):
        raise ValueError(
            f"expected NAME SCOPES sha256:HEX [expires=YYYY-MM-DD], got {len(words)} word"
            f"{'' if len(words) == 1 else 's'}; make a line with: voicepool key new NAME"
        )
    name, scopes, digest = words[:3]
    found = _DIGEST.fullmatch(digest)
    if found is None:
        raise ValueError(
            "the third word is not sha256: and 64 hex digits; "
            "make a key and its line with: voicepool key new NAME"
        )
    return Key(
        digest=bytes.fromhex(found[1]),
        scopes=parse_scopes(scopes),
        name=parse_name(name),
        expires=_parse_expires(words[3]) if len(words) == 4 else None,
    )


def parse_name(text: str) -> str:
    """A name as a key may have it. Raises ValueError."""
    if not _NAME.fullmatch(text):
        raise ValueError(
            "a key's name has 1 to 40 letters, digits and . _ @ -, and begins with one of the "
            "first two"
        )
    if _FINGERPRINT.fullmatch(text):
        raise ValueError("8 hex digits are no name: keys without one are called so in the log")
    return text


def parse_scopes(text: str) -> frozenset[Scope]:
    """The scopes of "call", "admin" or "call,admin". Raises ValueError."""
    words = text.split(",")
    known = {scope.value for scope in Scope}
    if not set(words) <= known or len(set(words)) < len(words):
        raise ValueError("the scopes of a key are call, admin or call,admin")
    return frozenset(Scope(word) for word in words)


def parse_date(text: str) -> datetime.date:
    """The day of "2027-01-31". Raises ValueError."""
    if _DATE.fullmatch(text):
        try:
            return datetime.date.fromisoformat(text)
        except ValueError:
            pass
    raise ValueError("expected a date such as 2027-01-31, the last day on which the key is good")


def _parse_expires(word: str) -> datetime.date:
    name, _, text = word.partition("=")
    if name != "expires":
        raise ValueError("the fourth word is not expires=YYYY-MM-DD")
    return parse_date(text)
