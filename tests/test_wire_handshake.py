"""What URLs and headers ask for."""

from __future__ import annotations

import pytest

from voicepool.wire.realtime.handshake import MAX_QUERY_FIELDS, Handshake, read


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        ("", Handshake()),
        ("?model=gpt-realtime", Handshake("gpt-realtime")),
        ("?model=", Handshake()),
        ("?model=a%0Ab", Handshake()),
        ("?model=" + "x" * 257, Handshake()),
        ("?model=a&model=b", Handshake("a")),
        ("?intent=transcription", Handshake(type="transcription")),
        ("?intent=singing&agent=7&%FF=&;;", Handshake()),
        ("?" + "a=b&" * (MAX_QUERY_FIELDS + 1), Handshake()),
        ("?[::1", Handshake()),
    ],
)
def test_queries(query: str, asked: Handshake) -> None:
    assert read("/v1/realtime" + query, []) == asked


def test_an_absolute_target_has_its_query_whatever_its_host() -> None:
    assert read("http://[bad/v1/realtime?model=a", []) == Handshake("a")


@pytest.mark.parametrize(
    ("name", "value", "is_beta"),
    [
        ("OpenAI-Beta", "realtime=v1", True),
        ("openai-beta", "assistants=v2, realtime=v1", True),
        ("OpenAI-Beta", "realtime=v2", False),
        ("Sec-WebSocket-Protocol", "realtime, openai-beta.realtime-v1", True),
        ("Sec-WebSocket-Protocol", "realtime, openai-insecure-api-key.k", False),
        ("X-Other", "realtime=v1", False),
    ],
)
def test_dialects(name: str, value: str, is_beta: bool) -> None:
    assert read("/v1/realtime", [("Host", "x"), (name, value)]).is_beta == is_beta
