"""What is asked first of somebody who wants a call: limits, and only then a key."""

from __future__ import annotations

import pytest

from voicepool.access import Access, Admitted, Denied
from voicepool.keys import Scope, plain
from voicepool.ratelimits import Limits, RateRules
from voicepool.request import Head
from voicepool.turnstile import Turnstile

KEY, WRONG = "a-key-that-is-long-enough", "another-that-is-not-known"
HERE, THERE, PROXY = "203.0.113.7", "198.51.100.8", "192.0.2.1"


def head(key: str | None = KEY, *, of: str = "") -> Head:
    headers = [("host", "h")]
    headers += [("authorization", f"Bearer {key}")] if key else []
    headers += [("x-forwarded-for", of)] if of else []
    return Head("GET", "/", tuple(headers))


class Gate:
    """A turnstile whose time stands still, and what its key check was asked."""

    def __init__(
        self, *, keys: tuple[str, ...] = (KEY,), scope: Scope = Scope.CALL, **rules: int
    ) -> None:
        """`scope`: what is asked for."""
        self.limits = Limits(RateRules(**rules))
        self.now = 0.0
        self.checked: list[Head] = []
        self._scope = scope
        self._access = Access(keys=plain(keys), trusted_proxies=[PROXY])
        self._turnstile = Turnstile(self._access, self.limits, lambda: self.now)

    def code(self, head: Head, peer: str = HERE, *, calling: bool = False) -> str:
        """Why it is denied; "" where it is not."""
        found = self._turnstile.pass_through(head, peer, self._check, calling=calling)
        if isinstance(found, Denied):
            assert (found.status == 429) == (found.retry_after is not None)
            return found.code
        return ""

    def _check(self, head: Head) -> Admitted | Denied:
        self.checked.append(head)
        return self._access.check_key(head, self._scope, 0.0)


def test_a_rate_comes_before_everything() -> None:
    gate = Gate(address_rate=2, address_calls=1, address_failed_keys=1)
    gate.limits.call_begins(1, HERE)
    gate.limits.ask(HERE, 0.0)
    assert gate.code(head(WRONG)) == "invalid_api_key"
    assert gate.code(head(), calling=True) == "rate_limited"
    gate.now = 30.0
    assert gate.code(head(), calling=True) == "too_many_calls_from_address"
    gate.limits.call_ends(1)
    assert gate.code(head(), calling=True) == "too_many_failed_keys"
    assert len(gate.checked) == 1


def test_who_is_refused_by_one_limit_has_used_nothing_of_the_others() -> None:
    gate = Gate(address_rate=1, total_rate=2, address_calls=1, address_failed_keys=1)
    gate.limits.call_begins(1, HERE)
    for _ in range(5):
        assert gate.code(head(), calling=True) == "too_many_calls_from_address"
    gate.limits.call_ends(1)
    gate.limits.key_failed(HERE, 0.0)
    for _ in range(5):
        assert gate.code(head(), calling=True) == "too_many_failed_keys"
    assert gate.code(head(), THERE) == ""
    gate.now = 60.0
    assert gate.code(head(), calling=True) == ""
    assert gate.code(head(), calling=True) == "rate_limited"


def test_calls_do_not_count_for_what_is_none() -> None:
    gate = Gate(address_calls=1)
    gate.limits.call_begins(1, HERE)
    assert gate.code(head()) == ""
    assert gate.code(head(), calling=True) == "too_many_calls_from_address"


def test_after_too_many_wrong_keys_none_is_looked_at() -> None:
    gate = Gate(address_failed_keys=2)
    assert [gate.code(head(WRONG)) for _ in range(3)] == [
        "invalid_api_key",
        "invalid_api_key",
        "too_many_failed_keys",
    ]
    assert gate.code(head()) == "too_many_failed_keys"
    assert len(gate.checked) == 2
    assert gate.code(head(None)) == "invalid_api_key"
    assert gate.code(head(), THERE) == ""
    gate.now = 30.0
    assert gate.code(head()) == ""


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", PROXY])
def test_wrong_keys_of_those_who_stand_for_many_are_not_counted(peer: str) -> None:
    gate = Gate(address_failed_keys=1)
    assert {gate.code(head(WRONG), peer) for _ in range(5)} == {"invalid_api_key"}
    assert gate.code(head(), peer) == ""


def test_whoever_a_proxy_speaks_for_is_held_to_it_alone() -> None:
    gate = Gate(address_failed_keys=1)
    assert gate.code(head(WRONG, of=HERE), PROXY) == "invalid_api_key"
    assert gate.code(head(of=HERE), PROXY) == "too_many_failed_keys"
    assert gate.code(head(of=THERE), PROXY) == ""
    # Who is no proxy speaks for nobody.
    assert gate.code(head(of=THERE), HERE) == "too_many_failed_keys"


def test_a_key_that_is_good_for_other_things_was_not_guessed() -> None:
    gate = Gate(scope=Scope.ADMIN, address_failed_keys=1)
    assert [gate.code(head()) for _ in range(3)] == ["insufficient_scope"] * 3


def test_where_anybody_may_call_no_key_is_wrong() -> None:
    gate = Gate(keys=(), address_failed_keys=1)
    assert {gate.code(head(WRONG)) for _ in range(5)} == {""}
