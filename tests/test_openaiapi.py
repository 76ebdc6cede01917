"""What a request for a client secret says, and the answers, against the SDK's own models."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types import Model
from openai.types.beta.realtime import SessionCreateResponse

from tests.rawhttp import parse
from voicepool.openaiapi import BadOrder, Order, models, read_order, secret_made
from voicepool.request import Head


@pytest.mark.parametrize("body", [b"", b" \r\n", b"{}", b'{"session":null,"expires_after":null}'])
def test_everything_is_optional(body: bytes) -> None:
    assert read_order("realtime", body) == Order(b"{}", 600)


def test_everything_said() -> None:
    body = b'{"expires_after":{"anchor":"created_at","seconds":10},"session": {"a": [1]} ,"x":1}'
    assert read_order("realtime", body) == Order(b'{"a": [1]}', 10)


def test_beta_dialect_has_the_session_for_a_body() -> None:
    body = b'{"voice":"a","client_secret":{"expires_after":{"seconds":7200}}}'
    assert read_order("session", body) == Order(body, 7200)
    assert read_order("transcription_session", b"") == Order(b"{}", 600)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{", None),
        (b"[]", None),
        (b'"x"', None),
        (b"\xff", None),
        (b'{"session":[]}', "session"),
        (b'{"session":1}', "session"),
        (b'{"expires_after":{"seconds":9}}', "expires_after.seconds"),
        (b'{"expires_after":{"seconds":7201}}', "expires_after.seconds"),
        (b'{"expires_after":{"seconds":"60"}}', "expires_after.seconds"),
        (b'{"expires_after":{"anchor":"now"}}', "expires_after.anchor"),
        (b'{"session":' + b'{"a":' * 50_000, None),
    ],
)
def test_mistakes(body: bytes, param: str | None) -> None:
    with pytest.raises(BadOrder) as bad:
        read_order("realtime", body)
    assert bad.value.param == param
    assert str(bad.value)


def test_answer_of_the_beta_dialect() -> None:
    shown = b'{"id":"sess_1","modalities":["text"],"client_secret":null}'
    answer = parse(secret_made("session", "ek_1", 99, shown))
    made = SessionCreateResponse.model_validate(answer.json)
    assert made.client_secret.model_dump() == {"value": "ek_1", "expires_at": 99}
    assert made.modalities == ["text"]


def head(path: str, method: str = "GET") -> Head:
    return Head(method, path, ())


def test_models() -> None:
    listing: dict[str, Any] = parse(models(head("/v1/models"), 7)).json
    assert listing["object"] == "list"
    (model,) = listing["data"]
    assert Model.model_validate(model, strict=True).created == 7
    assert parse(models(head("/v1/models/voicepool"), 7)).json == model
    assert parse(models(head("/v1/models", "HEAD"), 7)).body == b""


def test_other_models() -> None:
    for name in ("x", "", "voicepool/", "x" * 5000):
        answer = parse(models(head(f"/v1/models/{name}"), 7))
        assert (answer.status, answer.error["code"]) == (404, "model_not_found")
        assert len(json.dumps(answer.json)) < 1000
