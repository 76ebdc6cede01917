"""Limits of rates, keys and calls by real servers. A trusted proxy says whose requests they are."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import ClientConnection

from tests.pools import DEADLINE, PoolServer, hello
from tests.proxying import line
from tests.rawhttp import Answer, exchange, parse, read_all, upgrade
from tests.scraping import parse as parse_metrics

Start = Callable[..., PoolServer]

KEY, ADMIN = "a-key-that-is-long-enough", "another-that-is-long-enough"
HERE, THERE = "203.0.113.7", "2001:db8::7"


def ask(
    server: PoolServer, path: str = "/status", *, of: str = HERE, key: str | None = None
) -> Answer:
    """A request of that address; a call where `path` is one's."""
    lines = [f"X-Forwarded-For: {of}".encode()] if of else []
    lines += [f"Authorization: Bearer {key}".encode()] if key else []
    request = b"\r\n".join((f"GET {path} HTTP/1.1".encode(), b"Host: localhost", *lines, b"", b""))
    with server.socket() as client:
        return exchange(client, upgrade(b"/echo", *lines) if path == "/echo" else request)


def limited(answer: Answer, code: str, *, at_most: int = 60) -> None:
    assert (answer.status, answer.error["code"]) == (429, code)
    seconds = int(answer.headers["retry-after"])
    assert 1 <= seconds <= at_most
    assert f"try again in {seconds} s" in answer.error["message"]


def refusals(server: PoolServer) -> dict[str, float]:
    """What the metrics have of them; asked for by the proxy itself."""
    answer = ask(server, "/metrics", of="", key=ADMIN)
    assert answer.status == 200
    counted = parse_metrics(answer.body.decode()).of("refusals_total")
    return {code: count for code, count in counted.items() if count}


@pytest.fixture
def start(start_pool: Start) -> Start:
    def begin(**settings: Any) -> PoolServer:
        return start_pool(trusted_proxies=["127.0.0.1"], **settings)

    return begin


def test_rates_hold_before_any_key_is_asked_for(start: Start) -> None:
    server = start(api_keys=[KEY], admin_keys=[ADMIN], address_rate=2)
    assert [ask(server).status for _ in range(2)] == [401, 401]
    for path in ("/status", "/echo"):
        limited(ask(server, path, key=KEY), "rate_limited", at_most=30)
    # An address in the same /64 is the same customer's; others are not held to it.
    assert ask(server, "/status", of=THERE, key=KEY).status == 200
    assert ask(server, "/status", of="2001:db8::8", key=KEY).status == 200
    limited(ask(server, "/echo", of=THERE, key=KEY), "rate_limited")
    # Who asks whether the server lives is always told, and pages are for everybody.
    for path in ("/healthz", "/readyz", "/nothing"):
        assert {ask(server, path).status for _ in range(5)} <= {200, 404}
    line = server.logged("request refused by a limit")
    assert (line["code"], line["address"]) == ("rate_limited", HERE)

    server.reload(address_rate=0, total_rate=1)
    server.logged("reloaded")
    assert ask(server, "/echo").status == 401
    limited(ask(server, "/echo", of=THERE, key=KEY), "total_rate_limited")
    assert ask(server, of=THERE, key=ADMIN).status == 200  # an operator sees what goes on
    # What was counted before counts still: the two of HERE have not all flowed back.
    server.reload(address_rate=1, total_rate=0)
    server.until(lambda: sum(line["event"] == "reloaded" for line in server.logs) == 2, "reloaded")
    limited(ask(server), "rate_limited")
    assert refusals(server) == {
        "invalid_api_key": 3,
        "rate_limited": 4,
        "total_rate_limited": 1,
        "not_found": 5,
    }


def test_wrong_keys_are_not_looked_at_any_more(start: Start) -> None:
    server = start(api_keys=[KEY], admin_keys=[ADMIN], address_failed_keys=2)
    assert [ask(server, key=KEY).status for _ in range(4)] == [200] * 4
    assert [ask(server).status for _ in range(4)] == [401] * 4  # no key is not a wrong one
    assert [ask(server, path, key="wrong").status for path in ("/status", "/echo")] == [401, 401]
    for key in ("wrong", KEY):
        limited(ask(server, key=key), "too_many_failed_keys", at_most=30)
        limited(ask(server, "/echo", key=key), "too_many_failed_keys", at_most=30)
    assert ask(server).status == 401
    assert ask(server, of=THERE, key=KEY).status == 200
    # Behind the proxy there may be anybody: where it does not say who, nobody is locked out.
    assert [ask(server, of="", key="wrong").status for _ in range(5)] == [401] * 5
    assert ask(server, of="", key=KEY).status == 200
    assert refusals(server) == {"invalid_api_key": 4 + 2 + 1 + 5, "too_many_failed_keys": 4}


@contextlib.contextmanager
def calls(server: PoolServer, count: int, of: str = HERE) -> Iterator[list[ClientConnection]]:
    """So many calls of that address, which ends them."""
    with contextlib.ExitStack() as stack:
        made = [
            stack.enter_context(server.call(additional_headers={"X-Forwarded-For": of}))
            for _ in range(count)
        ]
        assert [hello(call)["caller"][1] for call in made] == [of] * count
        yield made


def test_calls_of_an_address_are_counted_until_they_end_however_they_end(start: Start) -> None:
    server = start(workers=2, spare=2, max_waiting=2, queue_timeout=3.0, address_calls=2)

    def full(of: str = HERE) -> None:
        limited(ask(server, "/echo", of=of), "too_many_calls_from_address")

    with calls(server, 2):
        full()
    server.until_idle()
    with calls(server, 2) as made:  # the caller had hung up; now the worker dies
        made[0].send("!die")
        with pytest.raises(ConnectionClosedError):
            made[0].recv(DEADLINE)
    server.until_idle()
    with calls(server, 2), ThreadPoolExecutor() as pool, server.socket() as leaves:
        full()
        # Two of others wait, which counts: one hangs up, the other is refused.
        leaves.sendall(upgrade(b"/echo", f"X-Forwarded-For: {THERE}".encode()))
        server.until_status(lambda s: s["pool"]["waiting"] == 1, "let one wait")
        late = pool.submit(ask, server, "/echo", of=THERE)
        server.until_status(lambda s: s["pool"]["waiting"] == 2, "let two wait")
        full(of=THERE)
        leaves.shutdown(socket.SHUT_RDWR)
        server.until_status(lambda s: s["totals"]["gone"] == 1, "noticed")
        assert late.result(DEADLINE).error["code"] == "timeout"
    server.until_idle()
    # Nobody is here any more, and each address has all of its calls again.
    for address in (HERE, THERE):
        with calls(server, 2, of=address):
            full(of=address)
        server.until_idle()


def test_a_lower_limit_holds_for_those_who_come_and_ends_no_call(start: Start) -> None:
    server = start(workers=2)
    with calls(server, 1) as (caller,):
        server.reload(address_calls=1)
        server.logged("reloaded")
        limited(ask(server, "/echo"), "too_many_calls_from_address")
        caller.send("still here")
        assert caller.recv(DEADLINE) == "still here"
    assert refusals(server) == {"too_many_calls_from_address": 1}


def test_who_begins_too_many_requests_is_told_and_counted(start: Start) -> None:
    server = start(proxy_protocol=True, address_heads=1, head_timeout=3600)
    with server.socket() as first, server.socket() as second:
        first.sendall(line(HERE, 1) + b"GET /status")
        second.sendall(line(HERE, 2) + b"GET /status")
        answer = parse(read_all(first))
    assert (answer.status, answer.error["code"]) == (429, "too_many_heads_from_address")
    assert answer.headers["retry-after"] == "1"
    with server.socket() as client:
        seen = exchange(
            client, line(THERE, 3) + b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
        )
    counted = parse_metrics(seen.body.decode()).of("refusals_total")
    assert counted["too_many_heads_from_address"] == 1


def test_a_page_can_read_when_to_come_again(start: Start) -> None:
    server = start(address_rate=1, allowed_origins=["https://pages.example"])
    lines = (b"Origin: https://pages.example", f"X-Forwarded-For: {HERE}".encode())
    request = b"\r\n".join((b"GET /status HTTP/1.1", b"Host: localhost", *lines, b"", b""))
    with server.socket() as client:
        assert exchange(client, request).status == 200
    with server.socket() as client:
        answer = exchange(client, request)
    limited(answer, "rate_limited")
    assert answer.headers["access-control-allow-origin"] == "https://pages.example"
    assert answer.headers["access-control-expose-headers"] == "Retry-After"
