"""The table of client secrets, without clocks and without chance."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicepool.clientsecrets import ClientSecrets, Full, Grant


def grant(expires_at: float, session: bytes = b"") -> Grant:
    return Grant(expires_at, "cafe", b"digest", session)


def test_a_secret_can_be_redeemed_until_it_expires() -> None:
    secrets = ClientSecrets()
    secrets.add("ek_1", grant(10.0), now=0.0)
    assert secrets.redeem("ek_1", 0.0) == grant(10.0)
    assert secrets.redeem("ek_1", 9.9) == grant(10.0)
    assert secrets.redeem("ek_1", 10.0) is None
    assert len(secrets) == 0


@pytest.mark.parametrize("other", ["", "ek_", "ek_2", "EK_1", "ek_1 ", "\udcff"])
def test_others_cannot(other: str) -> None:
    secrets = ClientSecrets()
    secrets.add("ek_1", grant(10.0), now=0.0)
    assert secrets.redeem(other, 0.0) is None


def test_secrets_are_not_kept() -> None:
    secrets = ClientSecrets()
    secrets.add("ek_plain", grant(10.0), now=0.0)
    assert "plain" not in repr(vars(secrets))


def test_too_many() -> None:
    secrets = ClientSecrets(most=2)
    secrets.add("ek_1", grant(7.5), now=0.0)
    secrets.add("ek_2", grant(9.0), now=0.0)
    with pytest.raises(Full) as full:
        secrets.add("ek_3", grant(9.0), now=1.0)
    assert full.value.retry_after == 7
    secrets.add("ek_3", grant(20.0), now=8.0)
    assert secrets.redeem("ek_2", 8.0)


def test_too_large_together() -> None:
    secrets = ClientSecrets(most_bytes=100)
    secrets.add("ek_1", grant(5.0, bytes(60)), now=0.0)
    with pytest.raises(Full):
        secrets.add("ek_2", grant(5.0, bytes(41)), now=0.0)
    secrets.add("ek_2", grant(9.0, bytes(40)), now=0.0)
    secrets.add("ek_3", grant(9.0, bytes(60)), now=5.0)


def test_one_that_never_fits_is_not_told_to_come_at_once() -> None:
    with pytest.raises(Full) as full:
        ClientSecrets(most_bytes=10).add("ek_1", grant(5.0, bytes(11)), now=0.0)
    assert full.value.retry_after == 5


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(0, 8)), max_size=40))
def test_what_is_kept_is_what_has_not_expired(steps: list[tuple[int, int]]) -> None:
    """Against the plainest model: a list of all that were added."""
    secrets, now = ClientSecrets(most=5, most_bytes=20), 0.0
    added: list[tuple[str, Grant]] = []
    for number, (lifetime, size) in enumerate(steps):
        now += 1.0
        live = [one for one in added if one[1].expires_at > now]
        made = (f"ek_{number}", grant(now + lifetime, bytes(size)))
        room = len(live) < 5 and sum(len(one[1].session) for one in live) + size <= 20
        try:
            secrets.add(*made, now)
        except Full:
            assert not room
        else:
            assert room
            added.append(made)
        for secret, expected in added:
            assert secrets.redeem(secret, now) == (expected if expected.expires_at > now else None)
