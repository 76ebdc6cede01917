"""The supervisor's own HTTP answers, read back by h11 as a client reads them."""

from __future__ import annotations

import json
from email.utils import parsedate_to_datetime

import h11
import pytest

from voicepool.answers import Rejection, refuse, respond, with_headers


def received(data: bytes, method: str = "GET") -> tuple[h11.Response, bytes]:
    """What a client makes of `data`; that nothing is left over is part of it."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "h")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    client.receive_data(b"")
    response, body = client.next_event(), b""
    assert isinstance(response, h11.Response)
    while isinstance(event := client.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert isinstance(client.next_event(), h11.ConnectionClosed)
    return response, body


def test_response() -> None:
    response, body = received(respond(200, {"status": "l\xe9bt \u2603"}, {"Retry-After": "3"}))
    headers = dict(response.headers)
    assert response.status_code == 200
    assert json.loads(body) == {"status": "l\xe9bt \u2603"}
    assert headers[b"content-type"] == b"application/json"
    assert headers[b"connection"] == b"close"
    assert headers[b"cache-control"] == b"no-store"
    assert headers[b"retry-after"] == b"3"
    assert parsedate_to_datetime(headers[b"date"].decode()).tzinfo is not None


def test_answer_to_head_tells_the_length_and_sends_nothing() -> None:
    full, body = received(respond(200, {"a": 1}))
    response, nothing = received(respond(200, {"a": 1}, head=True), "HEAD")
    assert nothing == b""
    assert dict(response.headers)[b"content-length"] == str(len(body)).encode()
    assert dict(response.headers)[b"content-length"] == dict(full.headers)[b"content-length"]


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "invalid_request_error"), (431, "invalid_request_error"), (503, "server_error")],
)
def test_refusal_has_the_shape_that_openai_clients_read(status: int, kind: str) -> None:
    response, body = received(refuse(status, 'say "please"', "some_code", {"Allow": "GET"}))
    assert response.status_code == status
    assert dict(response.headers)[b"allow"] == b"GET"
    assert json.loads(body) == {
        "error": {"message": 'say "please"', "type": kind, "param": None, "code": "some_code"}
    }
    assert received(refuse(status, "x", "y", head=True), "HEAD")[1] == b""


def test_refusal_knows_what_it_is_also_with_more_headers() -> None:
    plain = refuse(429, "later", "rate_limited")
    more = with_headers(plain, {"Vary": "Origin"})
    for refusal in (plain, more):
        assert isinstance(refusal, Rejection)
        assert received(refusal)[0].status_code == refusal.status == 429
        assert refusal.code == "rate_limited"
    assert not isinstance(with_headers(respond(200, {}), {"Vary": "Origin"}), Rejection)
