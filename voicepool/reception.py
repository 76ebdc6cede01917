"""Where a visitor with a complete request head goes: an HTTP answer, a refusal, or the pool."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from voicepool.access import Access, Denied
from voicepool.answers import FileAnswer, refuse, respond
from voicepool.frontdoor import Farewells, Visitor
from voicepool.pages import Pages
from voicepool.request import Head

HEALTHZ: Final = "/healthz"
READYZ: Final = "/readyz"
STATUS: Final = "/status"
CALL_PATH: Final = "/v1/realtime"
STARTING_RETRY: Final = 2
"""Retry-After while the app's paths are not known yet."""


class Reception:
    """Owns no socket: each visitor goes to `farewells` or to `on_call` at once."""

    def __init__(
        self,
        access: Access,
        farewells: Farewells,
        pages: Pages,
        *,
        ready: Callable[[], bool],
        status: Callable[[], dict[str, Any]],
        on_call: Callable[[Visitor, str, str], None],
    ) -> None:
        """`on_call(visitor, address, identity)` gets every admitted WebSocket request."""
        self._access = access
        self._farewells = farewells
        self._pages = pages
        self._ready = ready
        self._status = status
        self._on_call = on_call
        self.paths: frozenset[str] | None = None
        """The app's WebSocket paths; None until its zygote has said."""

    def renew(self, access: Access, pages: Pages, paths: Iterable[str]) -> None:
        """From now on these; callers who are in are not asked again."""
        self._access = access
        self._pages = pages
        self.paths = frozenset(paths)

    @property
    def has_page(self) -> bool:
        """Whether there is something for browsers at "/": our own page needs CALL_PATH.

        It is there before the paths are known, and says that the server is starting.
        """
        return not self._pages.own or self.paths is None or CALL_PATH in self.paths

    def receive(self, visitor: Visitor) -> None:
        """Route one visitor."""
        head = visitor.head
        assert head is not None
        answer = self._answer(visitor, head)
        if answer is not None:
            self._farewells.answer(visitor, answer)

    def _answer(self, visitor: Visitor, head: Head) -> bytes | FileAnswer | None:
        """The response, or None where the visitor has been given to the pool."""
        if denied := self._access.check_site(head):
            return _deny(denied, head)
        if head.path in (HEALTHZ, READYZ, STATUS):
            return self._answer_http(head)
        if self.paths is None and head.upgrades:
            return refuse(
                503,
                "the server is still starting; try again in a moment",
                "starting",
                {"Retry-After": str(STARTING_RETRY)},
            )
        if self.paths is None or head.path not in self.paths:
            page = self._pages.answer(head) if self.has_page else None
            return page or self._not_found(head)
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
        admitted = self._access.check_key(head)
        if isinstance(admitted, Denied):
            return _deny(admitted, head)
        address = self._access.client_address(head, visitor.address[0])
        self._on_call(visitor, address, admitted.identity)
        return None

    def _answer_http(self, head: Head) -> bytes:
        is_head = head.method == "HEAD"
        if head.method not in ("GET", "HEAD"):
            return refuse(
                405,
                f"{head.path} answers GET and HEAD only",
                "method_not_allowed",
                {"Allow": "GET, HEAD"},
            )
        if head.path == HEALTHZ:
            return respond(200, {"status": "alive"}, head=is_head)
        if head.path == READYZ:
            ready = self.paths is not None and self._ready()
            body = {"status": "ready" if ready else "not ready"}
            return respond(200 if ready else 503, body, head=is_head)
        denied = self._access.check_key(head)
        if isinstance(denied, Denied):
            return _deny(denied, head)
        return respond(200, self._status(), head=is_head)

    def _not_found(self, head: Head) -> bytes:
        known = [
            *(["/"] if self.has_page else []),
            HEALTHZ,
            READYZ,
            STATUS,
            *sorted(self.paths or ()),
        ]
        return refuse(
            404,
            f"there is nothing at {head.path[:200]!a}; try {_listed(known)}",
            "not_found",
            head=head.method == "HEAD",
        )


def _deny(denied: Denied, head: Head) -> bytes:
    headers = {"WWW-Authenticate": "Bearer"} if denied.status == 401 else None
    return refuse(denied.status, denied.message, denied.code, headers, head=head.method == "HEAD")


def _listed(names: Sequence[str] | Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last
