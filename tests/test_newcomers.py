"""Whose heads may be incomplete, and how many of one address."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from voicepool.newcomers import DoorRules, Newcomers

HERE, THERE = "203.0.113.7", "198.51.100.8"


def newcomers(most: int, *, proxies: tuple[str, ...] = ()) -> Newcomers[int]:
    return Newcomers(DoorRules(proxies, most), proxy_protocol=bool(proxies))


def test_the_oldest_of_the_same_address_goes() -> None:
    found = newcomers(2)
    assert [found.add(number, HERE) for number in range(3)] == [None, None, 0]
    found.discard(0)
    assert [found.add(number, THERE) for number in (10, 11)] == [None, None]
    assert found.add(3, HERE) == 1


def test_one_is_counted_once() -> None:
    found = newcomers(1)
    assert found.add(1, HERE) is None
    assert found.add(1, HERE) is None
    found.discard(1)
    found.discard(1)
    assert found.add(2, HERE) is None


def test_those_that_stand_for_many_are_not_held_to_it() -> None:
    found = newcomers(1, proxies=("192.0.2.0/24",))
    for number, address in enumerate(("192.0.2.1", "192.0.2.1", "127.0.0.1", "::1", "::1")):
        assert found.add(number, address) is None
    assert len(found) == 0


def test_with_the_proxy_protocol_only_trusted_proxies_may_connect() -> None:
    found = newcomers(1, proxies=("192.0.2.0/24",))
    assert found.may_connect("192.0.2.200")
    assert found.may_connect("::ffff:192.0.2.200")
    assert not found.may_connect("127.0.0.1")
    assert newcomers(1).may_connect("127.0.0.1")
    found.renew(DoorRules(("127.0.0.1",), 1))
    assert found.may_connect("127.0.0.1")
    assert not found.may_connect("192.0.2.200")


def test_a_new_limit_holds_for_those_who_are_here() -> None:
    found = newcomers(0)
    assert [found.add(number, HERE) for number in range(5)] == [None] * 5
    found.renew(DoorRules((), 2))
    assert found.add(5, HERE) == 0


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.sampled_from([HERE, THERE]))))
def test_no_address_has_more_than_its_share_and_nothing_is_left(
    steps: list[tuple[bool, int, str]],
) -> None:
    found, model = newcomers(3), dict[int, str]()
    for comes, number, address in steps:
        if comes:
            model.setdefault(number, address)
            oldest = found.add(number, address)
            if oldest is not None:
                assert model.pop(oldest) == address
                found.discard(oldest)
        else:
            model.pop(number, None)
            found.discard(number)
        assert len(found) == len(model)
        assert all(list(model.values()).count(each) <= 3 for each in (HERE, THERE))
    for number in list(model):
        found.discard(number)
    assert not found._by_key
