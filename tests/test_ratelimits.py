"""Limits of rates, keys and calls: exact, true to what they promise, bounded, and harmless."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from voicepool.addresses import address_key
from voicepool.ratelimits import Buckets, Limited, Limits, RateRules

HERE, THERE, THIRD = "203.0.113.7", "198.51.100.8", "192.0.2.9"


def refused(found: Limited | None) -> Limited:
    assert found is not None
    assert found.retry_after >= 1
    assert f"try again in {found.retry_after} s" in found.message
    return found


# --- rates -------------------------------------------------------------------------------------


def test_a_minute_s_worth_comes_at_once_and_then_as_it_flows_back() -> None:
    limits = Limits(RateRules(address_rate=6))
    assert [limits.ask(HERE, 0.0) for _ in range(6)] == [None] * 6
    found = refused(limits.ask(HERE, 0.0))
    assert (found.code, found.retry_after) == ("rate_limited", 10)
    assert limits.ask(THERE, 0.0) is None
    assert limits.ask(HERE, 9.9) is not None
    assert limits.ask(HERE, 10.0) is None
    assert limits.ask(HERE, 10.0) is not None
    assert [limits.ask(HERE, 1000.0) for _ in range(7)].count(None) == 6


def test_all_together() -> None:
    limits = Limits(RateRules(address_rate=2, total_rate=3))
    assert limits.ask(HERE, 0.0) is None
    assert limits.ask(HERE, 0.0) is None
    # Who is refused for its own sake takes nothing of what is everybody's.
    for _ in range(5):
        assert refused(limits.ask(HERE, 0.0)).code == "rate_limited"
    assert limits.ask(THERE, 0.0) is None
    assert refused(limits.ask(THERE, 0.0)).code == "total_rate_limited"
    # And the other way round: its own two are not gone for that.
    assert limits.ask(THERE, 20.0) is None
    # Who looks how the server is takes nothing of it and is not held to it, but to his own.
    assert refused(limits.ask(THIRD, 20.0)).code == "total_rate_limited"
    assert [limits.ask(THIRD, 20.0, looking=True) for _ in range(2)] == [None] * 2
    assert refused(limits.ask(THIRD, 20.0, looking=True)).code == "rate_limited"
    assert limits.ask(THIRD, 50.0) is None


def test_no_limit() -> None:
    limits = Limits(RateRules())
    for connection in range(1000):
        assert limits.ask(HERE, 0.0) is None
        assert limits.try_key(HERE, 0.0) is None
        limits.key_failed(HERE, 0.0)
        assert limits.one_more_call(HERE) is None
        limits.call_begins(connection, HERE)


UNTIMED = settings(deadline=None, max_examples=50)
RATES = st.integers(1, 150)
STEPS = st.lists(st.tuples(st.sampled_from([HERE, THERE]), st.floats(0, 30)), max_size=60)


@UNTIMED
@given(RATES, STEPS)
def test_who_waits_as_told_is_let_in_and_not_a_second_sooner(
    rate: int, steps: list[tuple[str, float]]
) -> None:
    now, limits = 0.0, Limits(RateRules(address_rate=rate))
    for _ in range(rate - 1):
        limits.ask(HERE, now)
    for address, pause in steps:
        now += pause
        found = limits.ask(address, now)
        if found is not None:
            if found.retry_after > 1:
                assert limits.ask(address, now + found.retry_after - 1.001) is not None
            now += found.retry_after
            assert limits.ask(address, now) is None


@UNTIMED
@given(st.integers(1, 30), st.lists(st.floats(0, 5), min_size=1, max_size=100))
def test_nobody_gets_more_than_the_rate_allows(rate: int, pauses: list[float]) -> None:
    now, limits, let_in = 0.0, Limits(RateRules(address_rate=rate)), []
    for pause in pauses:
        now += pause
        if limits.ask(HERE, now) is None:
            let_in.append(now)
    for first in range(len(let_in)):
        for last in range(first, len(let_in)):
            seconds = let_in[last] - let_in[first]
            assert last - first + 1 <= rate + seconds * rate / 60 + 1e-3


# --- keys --------------------------------------------------------------------------------------


def test_wrong_keys_count_and_right_ones_do_not() -> None:
    limits = Limits(RateRules(address_failed_keys=3))
    for _ in range(100):
        assert limits.try_key(HERE, 0.0) is None
    for _ in range(3):
        limits.key_failed(HERE, 0.0)
    found = refused(limits.try_key(HERE, 0.0))
    assert (found.code, found.retry_after) == ("too_many_failed_keys", 20)
    assert limits.try_key(THERE, 0.0) is None
    assert limits.try_key(HERE, 20.0) is None


# --- what is remembered ------------------------------------------------------------------------


def test_table_is_bounded_and_forgets_whom_it_has_not_heard_of_for_longest() -> None:
    buckets = Buckets(most=3)
    for key in (b"a", b"b", b"c"):
        buckets.take(key, 1, 0.0)
    assert buckets.wait(b"a", 1, 0.0) > 0  # asking is being heard of
    buckets.take(b"d", 1, 0.0)
    assert len(buckets) == 3
    assert [buckets.wait(key, 1, 0.0) > 0 for key in (b"a", b"b", b"c", b"d")] == [
        True,
        False,
        True,
        True,
    ]


def test_an_attacker_with_many_addresses_blocks_nobody_else_and_grows_nothing() -> None:
    limits = Limits(RateRules(address_rate=2, address_failed_keys=2), most=1000)
    assert limits.ask(HERE, 0.0) is None
    for number in range(3000):
        attacker = f"2001:db8:{number >> 16:x}:{number & 0xFFFF:x}::1"
        limits.ask(attacker, 0.0)
        limits.key_failed(attacker, 0.0)
    assert len(limits._requests) == len(limits._failed_keys) == 1000
    assert limits.ask(HERE, 0.0) is None
    assert limits.try_key(HERE, 0.0) is None


@UNTIMED
@given(st.lists(st.integers(0, 20), max_size=200))
def test_forgetting_never_makes_anybody_wait_longer(visits: list[int]) -> None:
    small, large = Buckets(most=5), Buckets(most=1000)
    for now, visitor in enumerate(visits):
        key = bytes((visitor,))
        wait = small.wait(key, 3, now / 10)
        assert wait <= large.wait(key, 3, now / 10) + 1e-9
        if not wait:
            small.take(key, 3, now / 10)
            large.take(key, 3, now / 10)
        assert len(small) <= 5


# --- reload ------------------------------------------------------------------------------------


def test_new_values_hold_at_once_and_what_was_counted_counts() -> None:
    limits = Limits(RateRules(address_rate=10, address_failed_keys=10, address_calls=5))
    for connection in range(4):
        assert limits.ask(HERE, 0.0) is None
        limits.key_failed(HERE, 0.0)
        limits.call_begins(connection, HERE)
    limits.renew(RateRules(address_rate=4, address_failed_keys=4, address_calls=4))
    assert refused(limits.ask(HERE, 0.0)).retry_after == 15
    assert limits.try_key(HERE, 0.0) is not None
    assert limits.one_more_call(HERE) is not None
    limits.renew(RateRules(address_rate=5, address_failed_keys=5, address_calls=5))
    assert limits.ask(HERE, 0.0) is None
    assert limits.ask(HERE, 0.0) is not None
    assert limits.try_key(HERE, 0.0) is None
    assert limits.one_more_call(HERE) is None


def test_a_much_lower_rate_makes_nobody_wait_for_more_than_one_token() -> None:
    limits = Limits(RateRules(address_rate=1000))
    for _ in range(1000):
        limits.ask(HERE, 0.0)
    limits.renew(RateRules(address_rate=2))
    assert refused(limits.ask(HERE, 0.0)).retry_after == 30


def test_calls_count_also_while_there_is_no_limit() -> None:
    limits = Limits(RateRules())
    limits.call_begins(1, HERE)
    limits.renew(RateRules(address_calls=1))
    assert refused(limits.one_more_call(HERE)).code == "too_many_calls_from_address"
    assert limits.one_more_call(THERE) is None
    limits.call_ends(1)
    assert limits.one_more_call(HERE) is None


# --- calls -------------------------------------------------------------------------------------


class Calls(RuleBasedStateMachine):
    """Against a model that counts anew each time."""

    def __init__(self) -> None:
        super().__init__()
        self.limits = Limits(RateRules(address_calls=2))
        self.most = 2
        self.calls: dict[int, str] = {}
        self.number = 0

    @rule(address=st.sampled_from([HERE, THERE, "2001:db8::1", "2001:db8::2", f"::ffff:{HERE}"]))
    def call(self, address: str) -> None:
        counts = Counter(map(address_key, self.calls.values()))
        full = 0 < self.most <= counts[address_key(address)]
        assert (self.limits.one_more_call(address) is not None) == full
        if not full:
            self.number += 1
            self.limits.call_begins(self.number, address)
            self.calls[self.number] = address

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        if self.calls:
            number = data.draw(st.sampled_from(sorted(self.calls)))
            del self.calls[number]
            self.limits.call_ends(number)

    @rule(most=st.integers(0, 3))
    def reload(self, most: int) -> None:
        self.most = most
        self.limits.renew(RateRules(address_calls=most))

    @invariant()
    def nothing_is_left_over(self) -> None:
        assert self.limits.calls == len(self.calls)
        assert self.limits._calls == Counter(map(address_key, self.calls.values()))
        assert set(self.limits._calls) == {address_key(a) for a in self.calls.values()}


TestCalls = Calls.TestCase
TestCalls.settings = settings(max_examples=20, deadline=None)


def test_a_call_ends_once() -> None:
    limits = Limits(RateRules())
    limits.call_begins(1, HERE)
    limits.call_ends(1)
    with pytest.raises(KeyError):
        limits.call_ends(1)
