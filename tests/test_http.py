"""HTTP on the server's port, as curl, browsers, probes and hostile pages speak it."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from tests.pools import PoolServer, hello
from tests.rawhttp import exchange, parse, read_all, upgrade

Start = Callable[..., PoolServer]

KEY = "a-key-that-is-long-enough"
BODY = b"x" * (1 << 20)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PoolServer]:
    """One without keys, for all tests that do not change its state."""
    server = PoolServer(tmp_path_factory.mktemp("runtime"), workers=1)
    server.stage("serving")
    yield server
    server.close()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PoolServer]:
    """One that asks for a key."""
    server = PoolServer(tmp_path_factory.mktemp("runtime"), workers=1, api_keys=[KEY])
    server.stage("serving")
    yield server
    server.close()


def request(line: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join((line, b"Host: localhost", *headers, b"", b""))


# --- methods, versions, targets --------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/healthz", "/readyz", "/status", "/metrics", "/nothing", "/echo"]
)
def test_head_is_get_without_the_body(server: PoolServer, path: str) -> None:
    with server.socket() as one, server.socket() as other:
        full = exchange(one, request(f"GET {path} HTTP/1.1".encode()))
        head = exchange(other, request(f"HEAD {path} HTTP/1.1".encode()))
    assert head.status == full.status
    assert head.body == b""
    # Of these the length varies with the figures in them.
    if path not in ("/status", "/metrics"):
        assert head.headers["content-length"] == full.headers["content-length"]
    assert int(full.headers["content-length"]) == len(full.body)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "BREW"])
def test_other_methods(server: PoolServer, method: str) -> None:
    with server.socket() as client:
        answer = exchange(client, request(f"{method} /status HTTP/1.1".encode()))
    assert answer.status == 405
    assert answer.headers["allow"] == "GET, HEAD"
    assert answer.error["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/healthz?verbose", 200),
        ("http://localhost/healthz", 200),
        ("/", 404),
        ("/healthz/", 404),
        ("//healthz", 404),
        ("/../healthz", 404),
        ("*", 404),
        ("localhost:443", 404),
        ("/%00", 404),
        ("/" + "x" * 9000, 404),
    ],
)
def test_targets(server: PoolServer, target: str, status: int) -> None:
    with server.socket() as client:
        answer = exchange(client, request(f"GET {target} HTTP/1.1".encode()))
    assert answer.status == status
    if status == 404:
        assert "/readyz" in answer.error["message"]
        assert "/echo" in answer.error["message"]
        assert len(answer.body) < 1000


def test_absolute_target_of_a_call(server: PoolServer) -> None:
    with server.socket() as client:
        client.sendall(upgrade(b"http://localhost/echo"))
        assert client.recv(4096).startswith(b"HTTP/1.1 101 ")
    server.until_idle()


def test_http_1_0(server: PoolServer) -> None:
    with server.socket() as client:
        assert exchange(client, request(b"GET /healthz HTTP/1.0")).json == {"status": "alive"}
    with server.socket() as client:
        answer = exchange(client, b"GET /healthz HTTP/1.0\r\n\r\n")
        assert (answer.status, answer.error["code"]) == (400, "bad_host")


def test_websocket_path_without_a_websocket(server: PoolServer) -> None:
    with server.socket() as client:
        answer = exchange(client, request(b"GET /echo HTTP/1.1"))
    assert answer.status == 426
    assert answer.headers["upgrade"] == "websocket"
    assert answer.error["code"] == "upgrade_required"


def test_ipv6(start_pool: Start) -> None:
    server = start_pool(host="::1", workers=1)
    assert server.url.startswith("ws://[::1]:")
    assert server.get("/healthz")[0] == 200
    with server.call() as caller:
        assert hello(caller)["caller"][1] == "::1"


def test_listener_for_both_families_knows_ipv4_callers_by_their_address(start_pool: Start) -> None:
    server = start_pool(host="::", workers=1, no_auth=True)
    server.url = server.url.replace("[::]", "127.0.0.1")
    with server.call() as caller:
        assert hello(caller)["caller"][1] == "127.0.0.1"


# --- bodies and connections ------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 5_000, 1 << 20])
def test_body_is_read_before_the_connection_closes(server: PoolServer, length: int) -> None:
    """A client that writes its whole request first must not meet a reset."""
    head = request(b"POST /status HTTP/1.1", f"Content-Length: {length}".encode())
    with server.socket() as client:
        assert exchange(client, head + BODY[:length]).status == 405


def test_requests_in_a_row_get_one_answer_and_its_end(server: PoolServer) -> None:
    post = request(b"POST /status HTTP/1.1", b"Content-Length: 3", b"Connection: keep-alive")
    with server.socket() as client:
        answer = exchange(client, post + b"abc" + request(b"GET /healthz HTTP/1.1") * 100)
    assert answer.status == 405
    assert answer.headers["connection"] == "close"
    assert len(answer.body) == int(answer.headers["content-length"])


def test_client_that_waits_to_be_told_to_continue(server: PoolServer) -> None:
    """It gets the final answer instead and never sends its body (RFC 9110, 10.1.1)."""
    head = request(b"POST /status HTTP/1.1", b"Content-Length: 9", b"Expect: 100-continue")
    with server.socket() as client:
        assert exchange(client, head).status == 405


def test_ordinary_client_reconnects_by_itself(server: PoolServer) -> None:
    connection = http.client.HTTPConnection(*server.address, timeout=60)
    for _ in range(3):
        connection.request("GET", "/healthz")
        assert connection.getresponse().read() == b'{"status":"alive"}\n'
    connection.close()


def test_request_in_single_bytes(server: PoolServer) -> None:
    with server.socket() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in request(b"GET /healthz HTTP/1.1"):
            client.send(bytes([byte]))
        assert parse(read_all(client)).status == 200


def test_half_closed_client_is_answered(server: PoolServer) -> None:
    with server.socket() as client:
        client.sendall(request(b"GET /healthz HTTP/1.1"))
        client.shutdown(socket.SHUT_WR)
        assert parse(read_all(client)).status == 200


# --- Host and Origin -------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/healthz", "/status", "/echo", "/nothing"])
def test_page_that_rebinds_its_name_gets_nothing(server: PoolServer, path: str) -> None:
    data = upgrade(path.encode()).replace(b"Host: localhost", b"Host: evil.example:8000")
    with server.socket() as client:
        answer = exchange(client, data)
    assert (answer.status, answer.error["code"]) == (403, "host_not_allowed")
    assert server.status()["totals"]["arrived"] == server.status()["totals"]["accepted"]


def test_page_of_another_site_gets_nothing(server: PoolServer) -> None:
    with server.socket() as client:
        answer = exchange(client, upgrade(b"/echo", b"Origin: https://evil.example"))
    assert (answer.status, answer.error["code"]) == (403, "origin_not_allowed")


def test_page_of_our_own_may_call(server: PoolServer) -> None:
    host, port = server.address
    with server.call(origin=f"http://{host}:{port}") as caller:
        assert hello(caller)
    server.until_idle()


# --- keys ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEY}"},
        {"api-key": KEY},
    ],
)
def test_key_opens_calls_and_status(guarded: PoolServer, headers: dict[str, str]) -> None:
    with guarded.call(additional_headers=headers) as caller:
        assert hello(caller)
        assert guarded.get("/status", **headers)[0] == 200
    guarded.until(
        lambda: guarded.get("/status", **headers)[1]["pool"]["states"]["idle"] == 1, "refilled"
    )
    assert KEY not in "".join(guarded.stderr)


def test_subprotocol_that_carries_the_key_is_not_chosen(guarded: PoolServer) -> None:
    names = [Subprotocol("realtime"), Subprotocol(f"openai-insecure-api-key.{KEY}")]
    with guarded.call(subprotocols=names) as caller:
        assert hello(caller)
        assert caller.subprotocol == "realtime"


@pytest.mark.parametrize("value", [None, "Bearer wrong", f"Bearer {KEY}x", f"Basic {KEY}"])
def test_without_the_key(guarded: PoolServer, value: str | None) -> None:
    line = [] if value is None else [f"Authorization: {value}".encode()]
    for data in (upgrade(b"/echo", *line), request(b"GET /status HTTP/1.1", *line)):
        with guarded.socket() as client:
            answer = exchange(client, data)
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.error["type"] == "invalid_request_error"
        assert answer.error["param"] is None
        assert answer.error["code"] == "invalid_api_key"
        assert KEY not in answer.error["message"]


def test_probes_need_no_key(guarded: PoolServer) -> None:
    assert guarded.get("/healthz")[0] == 200
    code, body = guarded.get("/readyz")
    assert (code, body["status"]) in ((200, "ready"), (503, "not ready"))


# --- readiness and status --------------------------------------------------------------------


def test_readyz_says_whether_a_new_caller_would_be_served_or_held(start_pool: Start) -> None:
    server = start_pool(workers=1, max_waiting=1, queue_timeout=3600)
    assert server.get("/readyz") == (200, {"status": "ready"})
    with server.call() as caller:
        hello(caller)
        assert server.get("/readyz")[0] == 200
        with server.socket() as waiting:
            waiting.sendall(upgrade())
            server.until_status(lambda s: s["pool"]["waiting"] == 1, "let the caller wait")
            assert server.get("/readyz") == (503, {"status": "not ready", "reason": "full"})
            assert server.get("/healthz")[0] == 200
            with pytest.raises(InvalidStatus) as refused:
                server.call()
            assert refused.value.response.status_code == 503
        server.until_status(lambda s: s["pool"]["waiting"] == 0, "noticed the hang-up")
        assert server.get("/readyz")[0] == 200


def test_server_that_has_not_started_yet(
    start_pool: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TROUBLE", str(tmp_path / "preloading"))
    server = start_pool(wait=False, app="tests.apps.troubled:HangsInPreload")
    server.stage("preloading")
    assert server.get("/healthz")[0] == 200
    assert server.get("/readyz") == (503, {"status": "not ready", "reason": "starting"})
    with server.socket() as early:
        answer = exchange(early, upgrade())
    assert (answer.status, answer.error["code"]) == (503, "starting")
    assert int(answer.headers["retry-after"]) > 0


def test_readyz_while_draining(start_pool: Start) -> None:
    server = start_pool(drain_timeout=3600)
    with server.call() as caller:
        hello(caller)
        server.signal(15)
        server.logged("draining")
        assert server.get("/readyz") == (503, {"status": "not ready", "reason": "draining"})
        assert server.get("/healthz")[0] == 200
        with server.socket() as late:
            answer = exchange(late, upgrade())
        assert (answer.status, answer.error["code"]) == (503, "draining")
    assert server.wait() == 0


def test_status_reaches_a_reader_who_takes_his_time(start_pool: Start) -> None:
    """With the smallest window there is, most of it waits in the supervisor meanwhile."""
    server = start_pool(workers=24, warmups=24)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        client.settimeout(60)
        client.connect(server.address)
        client.sendall(request(b"GET /status HTTP/1.1"))
        assert server.get("/healthz")[0] == 200
        data = b""
        while piece := client.recv(512):
            data += piece
    answer = parse(data)
    assert len(answer.body) == int(answer.headers["content-length"])
    assert len(json.loads(answer.body)["workers"]) == 24
