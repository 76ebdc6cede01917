"""Addresses: what they are counted under, and behind which there may be many."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicepool.addresses import Networks, address_key, parse_address


@given(st.ip_addresses(v=4), st.ip_addresses(v=4))
def test_ipv4_counts_whole(one: ipaddress.IPv4Address, other: ipaddress.IPv4Address) -> None:
    assert (address_key(str(one)) == address_key(str(other))) == (one == other)


@given(st.ip_addresses(v=4))
def test_ipv4_is_the_same_in_ipv6(address: ipaddress.IPv4Address) -> None:
    assert address_key(f"::ffff:{address}") == address_key(str(address))
    assert parse_address(f"::ffff:{address}") == address


@given(st.ip_addresses(network="2001:db8:1:2::/64"), st.ip_addresses(network="2001:db8:1:3::/64"))
def test_ipv6_counts_by_64_bits(
    inside: ipaddress.IPv6Address, beside: ipaddress.IPv6Address
) -> None:
    assert address_key(str(inside)) == address_key("2001:db8:1:2::")
    assert address_key(str(beside)) != address_key("2001:db8:1:2::")


def test_what_is_no_address_has_a_key_too() -> None:
    assert address_key("unknown") != address_key("\udc80")
    assert parse_address("1" * 100_000) is None
    assert address_key("fe80::1%eth0") == address_key("fe80::2%eth1")


@pytest.mark.parametrize(
    ("address", "many"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("192.0.2.1", True),
        ("::ffff:192.0.2.1", True),
        ("2001:db8::7", True),
        ("nobody knows", True),
        ("192.0.3.1", False),
        ("2001:db9::7", False),
    ],
)
def test_behind_proxies_and_on_this_machine_there_may_be_many(address: str, many: bool) -> None:
    assert Networks(["192.0.2.0/24", "2001:db8::/32"]).stand_for_many(address) == many


def test_networks_have_their_addresses_and_no_others() -> None:
    networks = Networks(["192.0.2.0/24", "10.0.0.7"])
    assert "192.0.2.255" in networks
    assert "::ffff:10.0.0.7" in networks
    assert "10.0.0.8" not in networks
    assert "::1" not in networks
    assert "" not in networks
