"""Who may talk to this server: API keys, Host and Origin, and whose word about addresses counts.

Pure. Keys are compared in constant time. `Host` is checked because a page of any site can make a
browser talk to a server on loopback under that site's name (DNS rebinding); `Origin` because
browsers let any page open WebSockets anywhere.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from voicepool.addresses import Networks, parse_address
from voicepool.request import Head

KEY_SUBPROTOCOL = "openai-insecure-api-key."
"""How browsers, which cannot set headers, carry a key: as one more WebSocket subprotocol."""


@dataclass(frozen=True, slots=True)
class Denied:
    """Why a request is turned away."""

    status: int
    message: str
    code: str
    retry_after: int | None = None
    """Seconds, where it helps to wait."""


@dataclass(frozen=True, slots=True)
class Admitted:
    identity: str
    """A short fingerprint of the key; "" where none is asked for."""
    session: bytes = b""
    """What the call shall begin with, where it was a client secret: as `app.Caller` has it."""


class Access:
    """The rules of one configuration. An entry "*" in a list of names allows all."""

    def __init__(
        self,
        *,
        api_keys: Sequence[str] = (),
        bind_host: str = "127.0.0.1",
        allowed_hosts: Sequence[str] = (),
        allowed_origins: Sequence[str] = (),
        trusted_proxies: Sequence[str] = (),
    ) -> None:
        self._keys = [(key.encode(), fingerprint(key)) for key in api_keys]
        names = {"localhost", bind_host.lower(), *(name.lower() for name in allowed_hosts)}
        # A page that rebinds its name cannot know a key, so keys make the check superfluous.
        self._any_host = bool(self._keys and not allowed_hosts) or "*" in names
        self._hosts = names
        self._origins = {origin.rstrip("/").lower() for origin in allowed_origins}
        self._proxies = Networks(trusted_proxies)

    def check_site(self, head: Head) -> Denied | None:
        """Host and Origin, for every request."""
        host = head.get("host")
        if host is None:
            return Denied(400, "exactly one Host header is required", "bad_host")
        name = _host_name(host)
        if name is None or not (self._any_host or self._is_ours(name)):
            return Denied(
                403,
                f"the Host header names {_shown(host)}, which this server does not answer to; "
                "list it in allowed_hosts if it is yours",
                "host_not_allowed",
            )
        if not all(self._origin_allowed(origin, host) for origin in head.all("origin")):
            return Denied(
                403,
                "pages of that origin may not use this server; "
                "list the origin in allowed_origins if it is yours",
                "origin_not_allowed",
            )
        return None

    def cors(self, head: Head) -> dict[str, str]:
        """What lets a page read the answer, once `check_site` has let its request pass: nothing,
        where it is no page of another origin (Fetch standard, "CORS protocol")."""
        origin = head.get("origin")
        if origin is None:
            return {}
        return {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Expose-Headers": "Retry-After",
            "Vary": "Origin",
        }

    @property
    def asks_for_keys(self) -> bool:
        return bool(self._keys)

    def vouches_for(self, identity: str) -> bool:
        """Whether somebody of that identity could still be admitted by a key."""
        return identity in [known for _, known in self._keys] if self._keys else identity == ""

    def check_key(self, head: Head) -> Admitted | Denied:
        """The API key, wherever clients carry it."""
        if not self._keys:
            return Admitted("")
        given = given_key(head)
        if given is None:
            return Denied(
                401,
                "an API key is required: send it as 'Authorization: Bearer KEY'",
                "invalid_api_key",
            )
        found = ""
        for key, identity in self._keys:
            # No early exit: the time must not tell which key was nearly right.
            if hmac.compare_digest(key, given.encode("utf-8", "surrogateescape")):
                found = identity
        if not found:
            return Denied(401, "this API key is not known to the server", "invalid_api_key")
        return Admitted(found)

    def client_address(self, head: Head, peer: str) -> str:
        """The caller's address: the peer's own, or, from a trusted proxy, the last address in
        X-Forwarded-For that is not a trusted proxy's."""
        address = parse_address(peer)
        if address is None:
            return peer
        hops = [hop for hop in head.tokens("x-forwarded-for") if hop]
        while hops and address in self._proxies:
            hop = parse_address(hops.pop())
            if hop is None:
                break
            address = hop
        return str(address)

    def stands_for_many(self, address: str) -> bool:
        """See `Networks.stand_for_many`."""
        return self._proxies.stand_for_many(address)

    def _is_ours(self, name: str) -> bool:
        # An address cannot be rebound, so naming the server by one is always safe.
        return name in self._hosts or name.endswith(".localhost") or parse_address(name) is not None

    def _origin_allowed(self, origin: str, host: str) -> bool:
        if "*" in self._origins or origin.lower() in self._origins:
            return True
        try:
            return urlsplit(origin.lower()).netloc == host.lower()
        except ValueError:
            return False


def fingerprint(key: str) -> str:
    """What logs may show of a key: 8 hex digits of its SHA-256."""
    return hashlib.sha256(key.encode()).hexdigest()[:8]


def given_key(head: Head) -> str | None:
    """The key that a request carries, wherever clients put it; not necessarily a good one."""
    authorization = head.get("authorization")
    if authorization is not None:
        scheme, _, token = authorization.partition(" ")
        return token.strip() if scheme.lower() == "bearer" else None
    key = head.get("api-key")
    if key is not None:
        return key
    for subprotocol in head.tokens("sec-websocket-protocol"):
        if subprotocol.startswith(KEY_SUBPROTOCOL):
            return subprotocol.removeprefix(KEY_SUBPROTOCOL)
    return None


def _host_name(host: str) -> str | None:
    """The name in a Host header, without its port; None where there is none."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port  # raises where it is no number
    except ValueError:
        return None
    return None if parts.username is not None or parts.path else parts.hostname


def _shown(text: str) -> str:
    return ascii(text[:100])
