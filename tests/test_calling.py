"""Addresses, as people write them, and where they lead."""

from __future__ import annotations

import pytest

from voicepool.calling import call_url, http_url


@pytest.mark.parametrize(
    ("given", "call", "status"),
    [
        ("127.0.0.1:8000", "ws://127.0.0.1:8000/v1/realtime", "http://127.0.0.1:8000/status"),
        ("ws://h/", "ws://h/v1/realtime", "http://h/status"),
        ("https://h", "wss://h/v1/realtime", "https://h/status"),
        ("wss://h/ws", "wss://h/ws", "https://h/status"),
        ("ws://h/v1/realtime?model=x", "ws://h/v1/realtime?model=x", "http://h/status"),
        ("https://h/voice/", "wss://h/voice/v1/realtime", "https://h/voice/status"),
        ("wss://h/voice/v1/realtime", "wss://h/voice/v1/realtime", "https://h/voice/status"),
    ],
)
def test_an_address_leads_to_calls_and_to_the_status(given: str, call: str, status: str) -> None:
    assert (call_url(given), http_url(given, "/status")) == (call, status)
