"""A real voicepool server with the speech app, for tests that talk to it as users do."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest

from tests import speech
from tests.pools import PoolServer
from voicepool.audio import Resampler, to_pcm16
from voicepool.engines.base import INPUT_RATE
from voicepool.wire.realtime.audio import RATE

PIECE_MS = 40
"""Of sound in one append."""


@pytest.fixture(scope="module")
def speech_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PoolServer]:
    """Two warm workers with the embedded engines, on loopback."""
    server = PoolServer(tmp_path_factory.mktemp("runtime"), app="", workers=2, spare=2)
    try:
        server.stage("serving")
        yield server
    finally:
        server.close()


def spoken(text: str, *, pause: float = 0.6) -> list[str]:
    """`text` spoken in light noise and a pause after it, in pieces as a client sends them."""
    resampler = Resampler(INPUT_RATE, RATE)
    sound = [
        resampler.push(speech.noisy(speech.say(text), seed=1)),
        resampler.push(speech.silence(pause)),
        resampler.flush(),
    ]
    pcm = b"".join(to_pcm16(piece) for piece in sound)
    size = RATE * PIECE_MS // 1000 * 2
    return [base64.b64encode(pcm[at : at + size]).decode() for at in range(0, len(pcm), size)]
