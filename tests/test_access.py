"""Who may talk to the server: keys, Host, Origin, and addresses through proxies."""

from __future__ import annotations

import pytest

from voicepool.access import Access, Admitted, Denied, fingerprint
from voicepool.request import Head

KEY, OTHER = "first-key-long-enough", "second-key-long-enough"


def head(*headers: tuple[str, str], host: str | None = "localhost:8000") -> Head:
    own = () if host is None else (("host", host),)
    return Head("GET", "/", (*own, *headers))


def denied(found: Denied | Admitted | None) -> tuple[int, str]:
    assert isinstance(found, Denied)
    assert found.message
    return found.status, found.code


# --- Host: DNS rebinding ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8000",
        "LOCALHOST:8000",
        "app.localhost",
        "127.0.0.1:8000",
        "192.0.2.7",
        "[::1]:8000",
        "[2001:db8::1]",
    ],
)
def test_names_that_nobody_can_rebind(host: str) -> None:
    assert Access().check_site(head(host=host)) is None


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "localhost.",
        "evil.example@localhost",
        "localhost@evil.example",
        "localhost/evil.example",
        "localhost:port",
        "localhost:99999",
        "[::1",
        "::1",
        "",
        " ",
        "\xe9vil",
    ],
)
def test_names_that_are_not_ours(host: str) -> None:
    assert denied(Access().check_site(head(host=host))) == (403, "host_not_allowed")


def test_request_without_host() -> None:
    assert denied(Access().check_site(head(host=None))) == (400, "bad_host")
    assert denied(Access().check_site(head(("host", "localhost")))) == (400, "bad_host")


def test_names_that_are_made_ours() -> None:
    access = Access(bind_host="Voice.example", allowed_hosts=["Call.example"])
    for host in ("voice.example", "VOICE.example:443", "call.example"):
        assert access.check_site(head(host=host)) is None
    assert denied(access.check_site(head(host="other.example")))
    assert Access(allowed_hosts=["*"]).check_site(head(host="other.example")) is None


def test_keys_make_the_host_check_superfluous_unless_hosts_are_listed() -> None:
    stranger = head(host="other.example")
    assert Access(api_keys=[KEY]).check_site(stranger) is None
    listed = Access(api_keys=[KEY], allowed_hosts=["ours.example"])
    assert denied(listed.check_site(stranger)) == (403, "host_not_allowed")


# --- Origin ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost:8000", True),
        ("HTTP://LOCALHOST:8000", True),
        ("https://localhost:8000", True),  # behind a proxy that terminates TLS
        ("http://localhost", False),
        ("http://localhost:8001", False),
        ("http://evil.example", False),
        ("http://localhost:8000.evil.example", False),
        ("http://evil.example@localhost:8000", False),
        ("null", False),
        ("", False),
        ("http://[", False),
    ],
)
def test_pages_of_our_own_may_call(origin: str, allowed: bool) -> None:
    found = Access().check_site(head(("origin", origin)))
    assert found is None if allowed else denied(found) == (403, "origin_not_allowed")


def test_keys_do_not_open_the_server_to_every_page() -> None:
    found = Access(api_keys=[KEY]).check_site(head(("origin", "http://evil.example")))
    assert denied(found) == (403, "origin_not_allowed")


def test_origins_that_are_listed() -> None:
    access = Access(allowed_origins=["https://App.example/"])
    assert access.check_site(head(("origin", "https://app.example"))) is None
    assert denied(access.check_site(head(("origin", "http://app.example"))))
    assert Access(allowed_origins=["*"]).check_site(head(("origin", "null"))) is None


def test_several_origins_do_not_count_as_none() -> None:
    ours, evil = ("origin", "http://localhost:8000"), ("origin", "http://evil.example")
    for pair in ((ours, evil), (evil, ours), (evil, evil)):
        assert denied(Access().check_site(head(*pair))) == (403, "origin_not_allowed")
    assert Access().check_site(head(ours, ours)) is None


# --- keys ------------------------------------------------------------------------------------


def test_without_keys_anyone_is_admitted() -> None:
    assert Access().check_key(head()) == Admitted("")


@pytest.mark.parametrize(
    "header",
    [
        ("authorization", f"Bearer {OTHER}"),
        ("authorization", f"bEARER   {OTHER} "),
        ("api-key", OTHER),
        ("sec-websocket-protocol", f"realtime, openai-insecure-api-key.{OTHER}"),
    ],
)
def test_key_wherever_clients_carry_it(header: tuple[str, str]) -> None:
    access = Access(api_keys=[KEY, OTHER])
    assert access.check_key(head(header)) == Admitted(fingerprint(OTHER))


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (("authorization", ""),),
        (("authorization", "Bearer"),),
        (("authorization", "Bearer wrong"),),
        (("authorization", f"Basic {KEY}"),),
        (("authorization", KEY),),
        (("authorization", f"Bearer {KEY}\xff"),),
        (("authorization", f"Bearer {KEY[:-1]}"),),
        (("authorization", "Bearer wrong"), ("api-key", KEY)),
        (("authorization", f"Bearer {KEY}"), ("authorization", f"Bearer {KEY}")),
        (("api-key", ""),),
        (("sec-websocket-protocol", f"openai-insecure-api-key.{KEY}x"),),
        (("sec-websocket-protocol", KEY),),
    ],
)
def test_no_key_or_a_wrong_one(headers: tuple[tuple[str, str], ...]) -> None:
    access = Access(api_keys=[KEY])
    found = access.check_key(head(*headers))
    assert denied(found) == (401, "invalid_api_key")
    assert isinstance(found, Denied)
    assert KEY not in found.message


def test_identity_does_not_give_the_key_away() -> None:
    assert fingerprint(KEY) != fingerprint(OTHER)
    assert len(fingerprint(KEY)) == 8


# --- addresses -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("198.51.100.1", "6.6.6.6", "198.51.100.1"),  # not a proxy of ours: its word is nothing
        ("10.0.0.1", "192.0.2.7", "192.0.2.7"),
        ("10.0.0.1", "6.6.6.6, 192.0.2.7", "192.0.2.7"),  # the client wrote the first one
        ("10.0.0.1", "192.0.2.7, 10.0.0.9", "192.0.2.7"),
        ("10.0.0.1", "10.0.0.8, 10.0.0.9", "10.0.0.8"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "192.0.2.7, nonsense", "10.0.0.1"),
        ("::ffff:10.0.0.1", "::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8::1", "2001:DB8::7", "2001:db8::7"),
        ("fe80::1%eth0", "192.0.2.7", "fe80::1%eth0"),
        ("", "192.0.2.7", ""),
    ],
)
def test_address_of_the_client(peer: str, forwarded: str, address: str) -> None:
    access = Access(trusted_proxies=["10.0.0.0/8", "2001:db8::1"])
    assert access.client_address(head(("x-forwarded-for", forwarded)), peer) == address


def test_identities_live_as_long_as_their_keys() -> None:
    one, other = "one-key-of-16-chars", "other-key-of-16-chars"
    assert Access(api_keys=[one, other]).vouches_for(fingerprint(other))
    assert not Access(api_keys=[one]).vouches_for(fingerprint(other))
    assert not Access(api_keys=[one]).vouches_for("")
    assert Access().vouches_for("")
    assert not Access().vouches_for(fingerprint(one))


def test_pages_of_other_origins_may_read_the_answer() -> None:
    access = Access(allowed_origins=["https://page.example"])
    head = Head("GET", "/readyz", (("host", "localhost"), ("origin", "https://page.example")))
    assert access.check_site(head) is None
    assert access.cors(head)["Access-Control-Allow-Origin"] == "https://page.example"
    assert access.cors(Head("GET", "/readyz", (("host", "localhost"),))) == {}
