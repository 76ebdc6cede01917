"""A server with keys of both scopes: what each opens, and what a reload makes of them."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection

from tests.pools import DEADLINE, PoolServer, hello
from tests.rawhttp import Answer, exchange
from voicepool.bench.call import most_callers
from voicepool.keys import Key, Scope, digest_of, write_line
from voicepool.talk import TalkOptions

Start = Callable[..., PoolServer]

PLAIN_CALL, PLAIN_ADMIN = "a-key-that-is-long-enough", "another-key-that-is-long"
CALL, ADMIN = frozenset({Scope.CALL}), frozenset({Scope.ADMIN})
SECRETS = "/v1/realtime/client_secrets"
OPERATOR = "the-key-of-the-operator"


def line(name: str, text: str, scopes: frozenset[Scope] = CALL, expires: str = "") -> str:
    day = datetime.date.fromisoformat(expires) if expires else None
    return write_line(Key(digest_of(text), scopes, name, day)) + "\n"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def ask(server: PoolServer, path: str, key: str) -> Answer:
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n\r\n"
    with server.socket() as client:
        return exchange(client, head.encode())


def dial(server: PoolServer, key: str) -> ClientConnection:
    return server.call("/v1/realtime", additional_headers=bearer(key))


def greeting(client: ClientConnection) -> dict[str, Any]:
    """What the app says first, after the session that the call was set up with."""
    client.recv(timeout=DEADLINE)
    return hello(client)


def refusal(server: PoolServer, key: str) -> tuple[int, str, str]:
    """Why a call with that key is refused: status, code, message."""
    with pytest.raises(InvalidStatus) as refused:
        dial(server, key)
    response = refused.value.response
    error = json.loads(response.body or b"")["error"]
    return response.status_code, error["code"], error["message"]


def make_secret(server: PoolServer, key: str) -> str:
    code, made = server.get(SECRETS, "POST", **bearer(key))
    assert code == 200
    return str(made["value"])


def status(server: PoolServer) -> dict[str, Any]:
    code, report = server.get("/status", **bearer(OPERATOR))
    assert code == 200
    return dict(report)


# --- what keys open --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PoolServer]:
    """One with keys of all kinds, for tests that leave it as it is."""
    folder = tmp_path_factory.mktemp("runtime")
    file = folder.parent / "guarded.keys"
    file.write_text(
        line("caller", "caller")
        + line("operator", "operator", ADMIN)
        + line("both", "both", CALL | ADMIN)
        + line("old", "old", CALL | ADMIN, "2020-01-01")
    )
    file.chmod(0o644)
    server = PoolServer(
        folder,
        app="tests.apps.presetting:Presetting",
        workers=1,
        max_connections=2,
        spare=1,
        api_keys=[PLAIN_CALL],
        admin_keys=[PLAIN_ADMIN],
        keys_file=str(file),
    )
    try:
        server.stage("serving")
        yield server
    finally:
        server.close()


@pytest.mark.parametrize(
    ("key", "call", "admin"),
    [
        ("caller", True, False),
        (PLAIN_CALL, True, False),
        ("operator", False, True),
        (PLAIN_ADMIN, False, True),
        ("both", True, True),
    ],
)
def test_key_opens_what_its_scopes_say(
    guarded: PoolServer, key: str, call: bool, admin: bool
) -> None:
    if call:
        with dial(guarded, key) as client:
            greeting(client)
    else:
        assert refusal(guarded, key)[:2] == (403, "insufficient_scope")
    assert guarded.get("/v1/models", **bearer(key))[0] == (200 if call else 403)
    assert guarded.get(SECRETS, "POST", **bearer(key))[0] == (200 if call else 403)
    code, report = guarded.get("/status", **bearer(key))
    assert code == 200
    assert ("workers" in report) == admin


def test_wrong_scope_is_told_what_to_do(guarded: PoolServer) -> None:
    assert "of scope call is needed: use one of those" in refusal(guarded, "operator")[2]
    answer = ask(guarded, "/v1/models", "operator")
    assert answer.error["code"] == "insufficient_scope"
    assert answer.headers["www-authenticate"] == 'Bearer error="insufficient_scope"'


def test_status_for_callers_has_the_counts_and_nothing_else(guarded: PoolServer) -> None:
    answer = ask(guarded, "/status", "caller")
    assert set(answer.json) == {"pool"}
    pool = answer.json["pool"]
    assert set(pool) == {"states", "callers", "waiting", "max_connections", "draining"}
    full = ask(guarded, "/status", "operator").json["pool"]
    assert pool["max_connections"] == full["max_connections"] == 2
    assert set(pool["states"]) == set(full["states"])
    for inside in (str(guarded.pid), str(guarded.runtime), "version", "device", "/v1/realtime"):
        assert inside.encode() not in answer.body
    assert guarded.get("/status", "HEAD", **bearer("caller")) == (200, None)


def test_expired_key_is_told_so_and_a_wrong_one_is_not(guarded: PoolServer) -> None:
    for path in ("/status", "/v1/models"):
        answer = ask(guarded, path, "old")
        assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
        assert "expired after 2020-01-01" in answer.error["message"]
        answer = ask(guarded, path, "older")
        assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
        assert "expired" not in answer.error["message"]
    assert refusal(guarded, "old")[0] == 401


def test_secret_of_a_key_with_both_scopes_is_good_for_callers_things_alone(
    guarded: PoolServer,
) -> None:
    secret = make_secret(guarded, "both")
    with dial(guarded, secret) as client:
        assert greeting(client)["caller"][3] == "both"
    for path in ("/metrics", "/v1/models"):
        assert ask(guarded, path, secret).status == 401
    assert ask(guarded, "/status", secret).json.keys() == {"pool"}


def test_calls_are_named_after_their_keys(guarded: PoolServer) -> None:
    for key, identity in (("caller", "caller"), (PLAIN_CALL, digest_of(PLAIN_CALL).hex()[:8])):
        with dial(guarded, key) as client:
            assert greeting(client)["caller"][3] == identity
        guarded.logged("call ended", identity=identity)
    assert PLAIN_CALL not in "".join(guarded.stderr)


def test_start_warns_of_what_should_not_be(guarded: PoolServer) -> None:
    path = guarded.settings["keys_file"]
    readable = f"keys_file: {path} can be read by everybody on this machine: chmod o-r it"
    guarded.logged("advice", advice=readable)
    guarded.logged("advice", advice=f"keys_file: {path}: expired, delete their lines: old")


def test_bench_needs_no_more_than_a_key_for_calls(guarded: PoolServer) -> None:
    options = TalkOptions(url=guarded.url, file=None, out=None, api_key="caller")
    assert most_callers(options) == 2


# --- reload ----------------------------------------------------------------------------------


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A keys file with one caller and the operator."""
    path = tmp_path / "keys"
    path.write_text(line("one", "one") + line("operator", OPERATOR, ADMIN))
    path.chmod(0o600)
    return path


@pytest.fixture
def server(start_pool: Start, keys: Path) -> PoolServer:
    return start_pool(
        app="tests.apps.presetting:Presetting",
        workers=1,
        max_connections=2,
        spare=1,
        keys_file=str(keys),
    )


def reload(server: PoolServer, times: int) -> None:
    """Until it has been reloaded so often."""
    server.reload()
    server.until(
        lambda: [line["event"] for line in server.logs].count("reloaded") == times, "reloaded"
    )


def test_bad_file_changes_nothing_and_says_so(server: PoolServer, keys: Path) -> None:
    good = keys.read_text()
    keys.write_text(line("two", "two") + "three call a-key-in-the-wrong-place\n")
    server.reload(max_waiting=1)
    error = server.logged("reload refused, nothing has changed")["error"]
    assert error.startswith(f"keys_file: {keys}:2: the third word is not sha256:")
    assert "a-key-in-the-wrong-place" not in error
    report = status(server)
    assert report["server"]["reloads"] == {"count": 0, "last_error": error}
    assert report["pool"]["max_waiting"] == 64
    with dial(server, "one") as client:
        greeting(client)
    assert refusal(server, "two")[0] == 401
    keys.write_text(good + line("two", "two"))
    reload(server, 1)
    assert server.logged("reloaded")["changed"] == "keys, max_waiting"
    with dial(server, "two") as client:
        assert greeting(client)["caller"][3] == "two"


def test_withdrawn_key_opens_nothing_and_its_calls_go_on(server: PoolServer, keys: Path) -> None:
    secret = make_secret(server, "one")
    with dial(server, "one") as client, dial(server, secret) as guest:
        greeting(client)
        greeting(guest)
        keys.write_text(line("two", "two") + line("operator", OPERATOR, ADMIN))
        reload(server, 1)
        for withdrawn in ("one", secret):
            assert refusal(server, withdrawn)[:2] == (401, "invalid_api_key")
            assert ask(server, "/v1/models", withdrawn).status == 401
        for caller in (client, guest):
            caller.send("undisturbed?")
            assert caller.recv(timeout=DEADLINE) == "undisturbed?"
    with dial(server, "two") as client:
        greeting(client)


def test_secret_does_not_outlive_its_key_for_another_of_that_name(
    server: PoolServer, keys: Path
) -> None:
    secret = make_secret(server, "one")
    keys.write_text(line("one", "renewed") + line("operator", OPERATOR, ADMIN))
    reload(server, 1)
    assert refusal(server, secret)[0] == 401
    with dial(server, make_secret(server, "renewed")) as client:
        assert greeting(client)["caller"][3] == "one"


def test_file_without_a_key_lets_nobody_in(server: PoolServer, keys: Path) -> None:
    keys.write_text("# nobody\n")
    reload(server, 1)
    advice = [line["advice"] for line in server.logs if line["event"] == "advice"]
    assert advice[-1].startswith("nobody can call: no key of scope call is in force")
    assert refusal(server, "one")[0] == 401
    assert ask(server, "/status", OPERATOR).status == 401
    assert server.get("/status")[0] == 401
    assert server.get("/healthz")[0] == 200


# --- no key for one of the scopes ------------------------------------------------------------


def test_where_only_callers_have_keys_the_inside_is_shut(start_pool: Start) -> None:
    server = start_pool(workers=1, api_keys=[PLAIN_CALL])
    assert server.get("/status")[0] == 401
    assert set(ask(server, "/status", PLAIN_CALL).json) == {"pool"}
