"""Who may talk to this server: API keys, Host and Origin, and whose word about addresses counts.

Pure. `Host` is checked because a page of any site can make a browser talk to a server on loopback
under that site's name (DNS rebinding); `Origin` because browsers let any page open WebSockets
anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from voicepool.addresses import Networks, parse_address
from voicepool.keys import Key, Keyring, Scope, digest_of, scopes_text
from voicepool.request import Head

INSUFFICIENT_SCOPE: Final = "insufficient_scope"
"""The code of a refusal whose key is good, but not for this (RFC 6750, 3.1)."""

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
    """The key's name, else its fingerprint; "" where no key is asked for."""
    session: bytes = b""
    """What the call shall begin with, where it was a client secret: as `app.Caller` has it."""
    key: bytes = b""
    """The key's digest; b"" where none is asked for."""


class Access:
    """The rules of one configuration. An entry "*" in a list of names allows all."""

    def __init__(
        self,
        *,
        keys: Iterable[Key] = (),
        guarded: bool = False,
        bind_host: str = "127.0.0.1",
        allowed_hosts: Sequence[str] = (),
        allowed_origins: Sequence[str] = (),
        trusted_proxies: Sequence[str] = (),
    ) -> None:
        """`guarded`: keys are asked for even if there are none; then nobody gets in."""
        self._keys = Keyring(keys)
        self._scopes = {scope for key in self._keys for scope in key.scopes}
        self._guarded = guarded or len(self._keys) > 0
        names = {"localhost", bind_host.lower(), *(name.lower() for name in allowed_hosts)}
        # A page that rebinds its name cannot know a key, so keys make the check superfluous.
        self._any_host = (self._guarded and not allowed_hosts) or "*" in names
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
        return self._guarded

    def vouches_for(self, key: bytes, now: float) -> bool:
        """Whether the key with that digest still opens calls; b"": whether none is asked for.

        `now` here and below: seconds since the epoch.
        """
        if not self._guarded:
            return key == b""
        held = self._keys.holder(key)
        return held is not None and Scope.CALL in held.scopes and not held.expired(now)

    def check_key(self, head: Head, scope: Scope, now: float) -> Admitted | Denied:
        """Whether the API key, wherever clients carry it, is good for that."""
        if not self._guarded:
            return Admitted("")
        given = given_key(head)
        if given is None:
            return _unknown("an API key is required: send it as 'Authorization: Bearer KEY'")
        key = self._keys.holder(digest_of(given))
        if key is None:
            return _unknown("this API key is not known to the server")
        if key.expired(now):
            return _unknown(f"this API key expired after {key.expires}: ask for another")
        if scope not in key.scopes:
            return Denied(403, self._lacking(key, scope), INSUFFICIENT_SCOPE)
        return Admitted(key.identity, key=key.digest)

    def _lacking(self, key: Key, scope: Scope) -> str:
        """What to do about a key that is good for other things."""
        held = f"this API key is of scope {scopes_text(key.scopes)}, and here one of scope"
        if scope in self._scopes:
            return f"{held} {scope.value} is needed: use one of those"
        setting = {Scope.CALL: "api_keys", Scope.ADMIN: "admin_keys"}[scope]
        return (
            f"{held} {scope.value} is needed, of which this server has none: set {setting}, or "
            f"make one with: voicepool key new NAME --scope {scope.value} --file FILE"
        )

    def client_address(self, head: Head, peer: str) -> str:
        """The caller's address: the peer's own, or, from a trusted proxy, the last address in
        X-Forwarded-For that is not a trusted proxy's."""
        address = parse_address(peer)
        if address is None:
            return peer
        if address in self._proxies:
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


def _unknown(message: str) -> Denied:
    return Denied(401, message, "invalid_api_key")


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
