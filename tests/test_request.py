"""Request heads: complete ones are understood, hostile ones refused, and nothing else happens."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.rawhttp import upgrade
from voicepool.request import MAX_HEAD, BadRequest, Head, parse_head

GET = b"GET /status?verbose=1 HTTP/1.1\r\nHost: localhost:8000\r\n\r\n"


def verdict(data: bytes) -> Head | int | None:
    """What `parse_head` makes of it, with a refusal as its status. Other exceptions pass."""
    try:
        return parse_head(data)
    except BadRequest as error:
        return error.status


def headed(*lines: bytes) -> Head:
    head = parse_head(b"\r\n".join((b"GET / HTTP/1.1", b"Host: h", *lines, b"", b"")))
    assert head is not None
    return head


def test_complete_head() -> None:
    head = parse_head(GET + b"the body, or the first frame")
    assert head == Head("GET", "/status?verbose=1", (("host", "localhost:8000"),))
    assert head.path == "/status"


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/", "/"),
        ("/echo", "/echo"),
        ("/echo?a=/b", "/echo"),
        ("http://localhost:8000/echo?a", "/echo"),
        ("HTTPS://localhost/echo", "/echo"),
        ("http://localhost", "/"),
        ("http://localhost?x", "/"),
        ("//localhost/echo", "//localhost/echo"),
        ("/http://localhost/echo", "/http://localhost/echo"),
        ("localhost:80", "localhost:80"),
        ("*", "*"),
        ("?x", ""),
    ],
)
def test_path_of_every_form_of_target(target: str, path: str) -> None:
    assert Head("GET", target, ()).path == path


def test_header_that_occurs_twice_has_no_single_value() -> None:
    head = headed(b"Origin: http://a", b"X-Forwarded-For: 1.1.1.1, 2.2.2.2", b"Origin: http://b")
    assert head.get("origin") is None
    assert list(head.all("origin")) == ["http://a", "http://b"]
    assert head.tokens("x-forwarded-for") == ["1.1.1.1", "2.2.2.2"]
    assert head.get("nothing") is None


@pytest.mark.parametrize(
    ("data", "upgrades"),
    [
        (upgrade(), True),
        (upgrade().replace(b"Upgrade: websocket", b"UPGRADE: h2c, WebSocket"), True),
        (upgrade().replace(b"Connection: Upgrade", b"Connection: keep-alive, upgrade"), True),
        (upgrade().replace(b"GET", b"POST"), False),
        (upgrade().replace(b"Upgrade: websocket\r\n", b""), False),
        (upgrade().replace(b"Connection: Upgrade", b"Connection: close"), False),
        (upgrade().replace(b"Upgrade: websocket", b"Upgrade: h2c"), False),
        (GET, False),
    ],
)
def test_what_asks_for_a_websocket(data: bytes, upgrades: bool) -> None:
    head = parse_head(data)
    assert head is not None
    assert head.upgrades is upgrades


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),  # a TLS ClientHello
        (b"\0" * 100, 400),
        (b"\x81\x82", 400),  # a WebSocket frame
        (b"hello\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\tfolded\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\n", 400),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: ten\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * MAX_HEAD, 431),
        (b"GET /" + b"x" * MAX_HEAD, 431),
    ],
)
def test_refusals(data: bytes, status: int) -> None:
    assert verdict(data) == status


def test_line_ends_of_a_body_are_no_business_of_the_head() -> None:
    assert isinstance(verdict(GET + b"a\n b\n"), Head)


def test_body() -> None:
    assert not headed().has_body
    assert not headed(b"Content-Length: 0").has_body
    assert headed(b"Content-Length: 5").has_body
    assert headed(b"Transfer-Encoding: chunked").has_body


def test_a_refusal_does_not_send_back_a_whole_head() -> None:
    with pytest.raises(BadRequest) as refused:
        parse_head(b"GET / HTTP/1.1\r\n" + b"x" * 10_000 + b"\r\n\r\n")
    assert len(refused.value.message) < 300


def test_longest_head() -> None:
    padding = MAX_HEAD - len(upgrade(b"/echo", b"X: "))
    assert isinstance(verdict(upgrade(b"/echo", b"X: " + b"x" * padding)), Head)
    assert verdict(upgrade(b"/echo", b"X: " + b"x" * (padding + 1))) == 431


VALID = st.sampled_from([GET, upgrade(), GET.replace(b"\r\n", b"\n"), upgrade(b"/v1/realtime?m=x")])


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid request with some bytes replaced, lost or put in."""
    data = bytearray(draw(VALID))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(data)


@given(st.one_of(st.binary(), mutated(), st.tuples(VALID, st.binary()).map(b"".join)))
@example(b"")
@example(b"\r")
@example(b"\r\n")
@example(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
def test_any_bytes_in_any_split_give_one_verdict(data: bytes) -> None:
    whole = verdict(data)
    for end in range(len(data)):
        part = verdict(data[:end])
        # While it is incomplete there is no verdict; once there is one it stays.
        if part is not None:
            assert part == whole
