"""Where a visitor with a complete request head goes: an HTTP answer, a refusal, or the pool."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final
from urllib.parse import parse_qs

from voicepool.access import INSUFFICIENT_SCOPE, Access, Admitted, Denied, given_key
from voicepool.answers import FileAnswer, refuse, respond, respond_as, start, with_headers
from voicepool.clientsecrets import PREFIX
from voicepool.frontdoor import Farewells, Visitor
from voicepool.keys import Scope
from voicepool.minting import Mint, OnAnswer
from voicepool.openaiapi import FORMS, MODELS, models
from voicepool.pages import Pages
from voicepool.request import Head
from voicepool.turnstile import Turnstile

HEALTHZ: Final = "/healthz"
READYZ: Final = "/readyz"
STARTING: Final = "starting"
"""Why callers are refused until there are engines that say where they may call."""
STATUS: Final = "/status"
METRICS: Final = "/metrics"
CALL_PATH: Final = "/v1/realtime"
STARTING_RETRY: Final = 2
"""Retry-After while the app's paths are not known yet."""


class Reception:
    """Owns no socket: each visitor goes to `farewells`, to `on_call` or to the mint at once."""

    def __init__(
        self,
        turnstile: Turnstile,
        farewells: Farewells,
        pages: Pages,
        *,
        refusal: Callable[[], str | None],
        status: Callable[[], dict[str, Any]],
        counts: Callable[[], dict[str, Any]],
        metrics: Callable[[str], tuple[bytes, str]],
        preset: Callable[[bytes, str, OnAnswer], None],
        on_call: Callable[[Visitor, str, Admitted], None],
        body_timeout: float,
        max_bodies: int,
    ) -> None:
        """`refusal`: why a caller who came now would be refused, None where they would not be.
        `on_call(visitor, address, admitted)` gets every admitted WebSocket request; `preset` is
        the forker's. `counts`: as much of `status` as callers may see; `metrics` gives their text
        and its type by an Accept header."""
        self._turnstile = turnstile
        self._farewells = farewells
        self._pages = pages
        self._refusal = refusal
        self._status = status
        self._counts = counts
        self._metrics = metrics
        self._on_call = on_call
        self._mint = Mint(preset, self._reply, timeout=body_timeout, most=max_bodies)
        self._started_at = int(time.time())
        self.paths: frozenset[str] | None = None
        """The app's WebSocket paths; None until its zygote has said."""

    def renew(self, access: Access, pages: Pages, paths: Iterable[str]) -> None:
        """From now on these; callers who are in are not asked again."""
        self._turnstile.access = access
        self._pages = pages
        self.paths = frozenset(paths)

    @property
    def has_page(self) -> bool:
        """Whether there is something for browsers at "/": our own page needs CALL_PATH.

        It is there before the paths are known, and says that the server is starting.
        """
        return not self._pages.own or self.paths is None or CALL_PATH in self.paths

    @property
    def ready(self) -> bool:
        """Whether a new caller would be served or held."""
        return self.refusal is None

    @property
    def refusal(self) -> str | None:
        """What they would be refused for, in the words of the error's `code`; None where ready."""
        return STARTING if self.paths is None else self._refusal()

    @property
    def speaks_realtime(self) -> bool:
        """Whether calls are those of OpenAI's clients, who ask for more than calls."""
        return self.paths is not None and CALL_PATH in self.paths

    def receive(self, visitor: Visitor) -> None:
        """Route one visitor."""
        head = visitor.head
        assert head is not None
        if denied := self._turnstile.access.check_site(head):
            self._farewells.answer(visitor, _deny(denied, head))
            return
        answer = self._answer(visitor, head)
        if answer is not None:
            self._reply(visitor, answer)

    def close(self) -> None:
        """Cut off those whose requests are incomplete."""
        self._mint.close()

    def _reply(self, visitor: Visitor, answer: bytes | FileAnswer) -> None:
        assert visitor.head is not None
        self._farewells.answer(
            visitor, with_headers(answer, self._turnstile.access.cors(visitor.head))
        )

    def _answer(self, visitor: Visitor, head: Head) -> bytes | FileAnswer | None:
        """The response, or None where the visitor has been passed on."""
        if head.method == "OPTIONS" and head.get("access-control-request-method") is not None:
            return _preflight(head)
        if head.path in (HEALTHZ, READYZ, STATUS, METRICS):
            return self._answer_http(visitor, head)
        if self.paths is None and head.upgrades:
            return refuse(
                503,
                "the server is still starting; try again in a moment",
                STARTING,
                {"Retry-After": str(STARTING_RETRY)},
            )
        if self.speaks_realtime:
            if head.path in FORMS:
                return self._make_secret(visitor, head)
            if head.path == MODELS or head.path.startswith(MODELS + "/"):
                return self._answer_models(visitor, head)
        if self.paths is None or head.path not in self.paths:
            page = self._pages.answer(head) if self.has_page else None
            return page or self._not_found(head)
        return self._answer_caller(visitor, head)

    def _answer_caller(self, visitor: Visitor, head: Head) -> bytes | None:
        """Whoever asks for a call, at a path that takes them: as `_answer`."""
        if not head.upgrades:
            return refuse(
                426,
                f"{head.path} is a WebSocket endpoint: connect to it with a WebSocket client",
                "upgrade_required",
                {"Upgrade": "websocket"},
                head=head.method == "HEAD",
            )
        if head.has_body:
            return refuse(400, "a WebSocket request has no body", "bad_request")
        admitted = self._turnstile.pass_through(
            head, visitor.address[0], self._check_caller, calling=True
        )
        if isinstance(admitted, Denied):
            return _deny(admitted, head)
        if self.speaks_realtime and "call_id" in parse_qs(head.query, keep_blank_values=True):
            return refuse(
                404,
                "there are no SIP or WebRTC calls here that a call_id could name",
                "call_not_found",
            )
        address = self._turnstile.access.client_address(head, visitor.address[0])
        self._on_call(visitor, address, admitted)
        return None

    def _identify(self, visitor: Visitor, head: Head) -> Admitted | Denied:
        """Who asks for what takes a caller's key, and no client secret."""

        def check(head: Head) -> Admitted | Denied:
            return self._turnstile.access.check_key(head, Scope.CALL, time.time())

        return self._turnstile.pass_through(head, visitor.address[0], check)

    def _check_caller(self, head: Head) -> Admitted | Denied:
        """A caller's key, or client secret."""
        secret = given_key(head)
        if secret is None or not secret.startswith(PREFIX):
            return self._turnstile.access.check_key(head, Scope.CALL, time.time())
        grant = self._mint.redeem(secret)
        access = self._turnstile.access
        # A reload may have withdrawn the key that it was made with.
        if grant is not None and access.vouches_for(grant.key, time.time()):
            return Admitted(grant.identity, grant.session, grant.key)
        if access.asks_for_keys:
            return access.check_key(head, Scope.CALL, time.time())
        return Denied(
            401, "this client secret has expired, or is of another server", "invalid_api_key"
        )

    def _check_onlooker(self, head: Head) -> Admitted | Denied:
        """A key for the inside. To the status, a client secret is a caller's key."""
        access = self._turnstile.access
        secret = given_key(head) or ""
        if not (head.path == STATUS and access.asks_for_keys and secret.startswith(PREFIX)):
            return access.check_key(head, Scope.ADMIN, time.time())
        caller = self._check_caller(head)
        if isinstance(caller, Denied):
            return caller
        return Denied(403, "a client secret shows no more than counts", INSUFFICIENT_SCOPE)

    def _make_secret(self, visitor: Visitor, head: Head) -> bytes | None:
        if head.method != "POST":
            return _not_allowed(head, "POST")
        admitted = self._identify(visitor, head)
        if isinstance(admitted, Denied):
            return _deny(admitted, head)
        self._mint.receive(visitor, admitted)
        return None

    def _answer_models(self, visitor: Visitor, head: Head) -> bytes:
        if head.method not in ("GET", "HEAD"):
            return _not_allowed(head, "GET, HEAD")
        denied = self._identify(visitor, head)
        if isinstance(denied, Denied):
            return _deny(denied, head)
        return models(head, self._started_at)

    def _answer_http(self, visitor: Visitor, head: Head) -> bytes:
        is_head = head.method == "HEAD"
        if head.method not in ("GET", "HEAD"):
            return _not_allowed(head, "GET, HEAD")
        if head.path == HEALTHZ:
            return respond(200, {"status": "alive"}, head=is_head)
        if head.path == READYZ:
            refusal = self.refusal
            if refusal is None:
                return respond(200, {"status": "ready"}, head=is_head)
            return respond(503, {"status": "not ready", "reason": refusal}, head=is_head)
        return self._answer_inside(visitor, head)

    def _answer_inside(self, visitor: Visitor, head: Head) -> bytes:
        """What shows the inside of the server, to whom that is for; of the status, callers get as
        much as a page needs to draw the pool."""
        is_head = head.method == "HEAD"
        denied = self._turnstile.pass_through(
            head, visitor.address[0], self._check_onlooker, looking=True
        )
        if not isinstance(denied, Denied):
            if head.path == METRICS:
                text, content_type = self._metrics(", ".join(head.all("accept")))
                return respond_as(content_type, text, head=is_head)
            return respond(200, self._status(), head=is_head)
        if head.path == STATUS and denied.code == INSUFFICIENT_SCOPE:
            return respond(200, self._counts(), head=is_head)
        return _deny(denied, head)

    def _not_found(self, head: Head) -> bytes:
        known = [
            *(["/"] if self.has_page else []),
            HEALTHZ,
            READYZ,
            STATUS,
            METRICS,
            *([MODELS, *FORMS] if self.speaks_realtime else []),
            *sorted(self.paths or ()),
        ]
        return refuse(
            404,
            f"there is nothing at {head.path[:200]!a}; try {_listed(known)}",
            "not_found",
            head=head.method == "HEAD",
        )


def _not_allowed(head: Head, allowed: str) -> bytes:
    only = allowed.replace(", ", " and ")
    message = f"{head.path} answers {only} only"
    is_head = head.method == "HEAD"
    return refuse(405, message, "method_not_allowed", {"Allow": allowed}, head=is_head)


def _preflight(head: Head) -> bytes:
    """What a browser wants to know before it lets a page of another origin ask."""
    asked = ", ".join(head.tokens("access-control-request-headers"))
    headers = {
        "Access-Control-Allow-Methods": "GET, HEAD, POST",
        "Access-Control-Max-Age": "600",
        **({"Access-Control-Allow-Headers": asked} if asked else {}),
    }
    return start(204, headers)


def _deny(denied: Denied, head: Head) -> bytes:
    headers = {"WWW-Authenticate": "Bearer"} if denied.status == 401 else {}
    if denied.code == INSUFFICIENT_SCOPE:  # RFC 6750, 3
        headers = {"WWW-Authenticate": f'Bearer error="{INSUFFICIENT_SCOPE}"'}
    if denied.retry_after is not None:
        headers["Retry-After"] = str(denied.retry_after)
    return refuse(denied.status, denied.message, denied.code, headers, head=head.method == "HEAD")


def _listed(names: Sequence[str] | Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last
