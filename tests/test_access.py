"""Who may talk to the server: keys, Host, Origin, and addresses through proxies."""

from __future__ import annotations

import datetime
import hashlib

import pytest

from voicepool.access import Access, Admitted, Denied
from voicepool.keys import Key, Scope, digest_of, plain
from voicepool.request import Head

KEY, OTHER = "first-key-long-enough", "second-key-long-enough"
NOW = datetime.datetime(2026, 6, 15, 12, tzinfo=datetime.UTC).timestamp()
TODAY = datetime.date(2026, 6, 15)


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
    assert Access(keys=plain([KEY])).check_site(stranger) is None
    listed = Access(keys=plain([KEY]), allowed_hosts=["ours.example"])
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
    found = Access(keys=plain([KEY])).check_site(head(("origin", "http://evil.example")))
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


def bearer(text: str) -> Head:
    return head(("authorization", f"Bearer {text}"))


def named(name: str, *scopes: Scope, expires: datetime.date | None = None) -> Key:
    """The key whose text is its name."""
    return Key(digest_of(name), frozenset(scopes), name, expires)


@pytest.mark.parametrize("scope", Scope)
def test_without_keys_anyone_is_admitted_to_everything(scope: Scope) -> None:
    assert Access().check_key(head(), scope, NOW) == Admitted("")
    assert not Access().asks_for_keys


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
    access = Access(keys=plain([KEY, OTHER]))
    admitted = access.check_key(head(header), Scope.CALL, NOW)
    digest = hashlib.sha256(OTHER.encode()).digest()
    assert admitted == Admitted(digest.hex()[:8], key=digest)


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
    access = Access(keys=plain([KEY]))
    found = access.check_key(head(*headers), Scope.CALL, NOW)
    assert denied(found) == (401, "invalid_api_key")
    assert isinstance(found, Denied)
    assert KEY not in found.message


def test_identity_is_the_name_and_else_gives_nothing_away() -> None:
    (nameless,) = plain([KEY])
    access = Access(keys=[nameless, named("website", Scope.CALL)])
    for text, identity in (("website", "website"), (KEY, nameless.fingerprint)):
        admitted = access.check_key(bearer(text), Scope.CALL, NOW)
        assert isinstance(admitted, Admitted)
        assert admitted.identity == identity
    assert len(nameless.fingerprint) == 8


CALLER, ADMIN = named("caller", Scope.CALL), named("admin", Scope.ADMIN)
BOTH = named("both", Scope.CALL, Scope.ADMIN)


@pytest.mark.parametrize(
    ("name", "scope", "good"),
    [
        ("caller", Scope.CALL, True),
        ("caller", Scope.ADMIN, False),
        ("admin", Scope.CALL, False),
        ("admin", Scope.ADMIN, True),
        ("both", Scope.CALL, True),
        ("both", Scope.ADMIN, True),
    ],
)
def test_key_is_good_for_its_scopes(name: str, scope: Scope, good: bool) -> None:
    found = Access(keys=[CALLER, ADMIN, BOTH]).check_key(bearer(name), scope, NOW)
    if good:
        assert isinstance(found, Admitted)
    else:
        assert denied(found) == (403, "insufficient_scope")


def test_wrong_scope_says_what_to_do() -> None:
    found = Access(keys=[CALLER]).check_key(bearer("caller"), Scope.ADMIN, NOW)
    assert isinstance(found, Denied)
    assert "of scope call, and here one of scope admin is needed" in found.message
    assert "admin_keys" in found.message
    assert "voicepool key new NAME --scope admin" in found.message
    found = Access(keys=[ADMIN]).check_key(bearer("admin"), Scope.CALL, NOW)
    assert isinstance(found, Denied)
    assert "api_keys" in found.message
    found = Access(keys=[CALLER, ADMIN]).check_key(bearer("caller"), Scope.ADMIN, NOW)
    assert isinstance(found, Denied)
    assert found.message.endswith("is needed: use one of those")


def test_expired_key_is_told_so_and_nobody_else_is() -> None:
    yesterday = TODAY - datetime.timedelta(days=1)
    access = Access(keys=[named("old", Scope.CALL, expires=yesterday), CALLER])
    found = access.check_key(bearer("old"), Scope.CALL, NOW)
    assert denied(found) == (401, "invalid_api_key")
    assert isinstance(found, Denied)
    assert "expired after 2026-06-14" in found.message
    for text in ("other", "", "ol", "old "):
        wrong = access.check_key(head(("api-key", text)), Scope.CALL, NOW)
        assert isinstance(wrong, Denied)
        assert "expired" not in wrong.message
    # A scope that it never had makes no difference.
    assert access.check_key(bearer("old"), Scope.ADMIN, NOW) == found


def test_key_is_good_on_its_last_day() -> None:
    access = Access(keys=[named("last", Scope.CALL, expires=TODAY)])
    midnight = datetime.datetime(2026, 6, 16, tzinfo=datetime.UTC).timestamp()
    assert isinstance(access.check_key(bearer("last"), Scope.CALL, midnight - 0.001), Admitted)
    assert denied(access.check_key(bearer("last"), Scope.CALL, midnight)) == (
        401,
        "invalid_api_key",
    )


def test_guarded_server_without_a_key_lets_nobody_in() -> None:
    access = Access(guarded=True)
    assert access.asks_for_keys
    assert denied(access.check_key(bearer(KEY), Scope.CALL, NOW)) == (401, "invalid_api_key")
    assert not access.vouches_for(b"", NOW)


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


def test_secrets_live_as_long_as_their_keys_open_calls() -> None:
    gone = digest_of("another")
    assert Access(keys=[CALLER]).vouches_for(CALLER.digest, NOW)
    assert not Access(keys=[CALLER]).vouches_for(gone, NOW)
    assert not Access(keys=[CALLER]).vouches_for(b"", NOW)
    assert not Access(keys=[ADMIN]).vouches_for(ADMIN.digest, NOW)
    old = named("old", Scope.CALL, expires=TODAY)
    assert Access(keys=[old]).vouches_for(old.digest, NOW)
    assert not Access(keys=[old]).vouches_for(old.digest, NOW + 24 * 3600)
    assert Access().vouches_for(b"", NOW)
    assert not Access().vouches_for(CALLER.digest, NOW)


def test_another_key_of_the_same_name_does_not_vouch() -> None:
    renewed = Key(digest_of("another"), frozenset({Scope.CALL}), CALLER.name)
    assert not Access(keys=[renewed]).vouches_for(CALLER.digest, NOW)


def test_pages_of_other_origins_may_read_the_answer() -> None:
    access = Access(allowed_origins=["https://page.example"])
    head = Head("GET", "/readyz", (("host", "localhost"), ("origin", "https://page.example")))
    assert access.check_site(head) is None
    assert access.cors(head)["Access-Control-Allow-Origin"] == "https://page.example"
    assert access.cors(Head("GET", "/readyz", (("host", "localhost"),))) == {}
