"""RealtimeVoiceChat's page calls a whole server with the embedded engines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import soxr
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests import scraping
from tests.pools import PoolServer
from tests.rvc import Visitor
from tests.speech import noisy, say, silence
from voicepool.engines.base import INPUT_RATE, Samples


def spoken(text: str, rate: int, seed: int = 1) -> Samples:
    """`text` as the page's microphone hears it, with the silence that ends a turn."""
    sound = np.concatenate([noisy(say(text), seed=seed), silence(1.0)])
    resampled: Samples = soxr.resample(sound, INPUT_RATE, rate).astype(np.float32)
    return resampled


async def converse(server: PoolServer, rate: int, first: str, second: str) -> Visitor:
    """Ask something, and something else while the answer is spoken."""
    async with connect(f"{server.url}/ws", proxy=None, compression=None) as websocket:
        visitor = Visitor(websocket, rate)
        await visitor.say(spoken(first, rate))
        await visitor.until("tts_chunk")
        await visitor.say(spoken(second, rate, seed=2))
        await visitor.until("tts_interruption")
        await visitor.until("final_user_request")
        await visitor.until("final_assistant_answer")
    return visitor


async def test_two_pages_at_once_and_neither_hears_of_the_other(
    start_pool: Callable[..., PoolServer],
) -> None:
    server = start_pool(app="", profile="embedded", workers=2)
    story, help_ = "tell me a very long story", "what can you understand"
    pages = await asyncio.gather(
        converse(server, 44_100, story, "what time is it"),
        converse(server, 48_000, help_, "what time is it"),
    )
    for visitor, asked in zip(pages, (story, help_), strict=True):
        page, rate = visitor.page, visitor.microphone.rate
        assert [text for who, text in page.bubbles if who == "user"] == [asked, "what time is it"]
        assert [who for who, _ in page.bubbles] == ["user", "assistant"] * 2
        assert page.bubbles[1][1]
        cut_off = page.kinds.index("stop_tts")
        assert page.kinds[cut_off - 1 : cut_off + 2] == [
            *("final_assistant_answer", "stop_tts", "tts_interruption"),
        ]
        answer = page.sound[page.flushed // 2 :]
        assert 0.5 < len(answer) / rate < 10
        loud = np.flatnonzero(np.abs(answer) > 0.01)
        assert loud[0] / rate < 0.3, "it begins at once"
        assert (len(answer) - loud[-1]) / rate < 0.5, "and ends with its last word"
    assert pages[0].page.bubbles[1] != pages[1].page.bubbles[1]
    seen = scraping.until(
        server, lambda s: sum(s.of("calls_ended_total").values()) == 2, "saw both calls end"
    )
    assert seen["voicepool_turns_total"] == seen["voicepool_voice_to_voice_seconds_count"] == 4
    assert seen["voicepool_interruptions_total"] == 2


async def test_who_may_call(start_pool: Callable[..., PoolServer]) -> None:
    """Pages of other sites may not, nor may anybody without a key where the server has keys."""
    server = start_pool(app="", profile="embedded", workers=1, api_keys=["secret-of-the-house"])
    key = {"Authorization": "Bearer secret-of-the-house"}
    host, port = server.address

    async def status(**more: Any) -> int:
        try:
            async with connect(f"{server.url}/ws", proxy=None, **more):
                return 101
        except InvalidStatus as refused:
            return refused.response.status_code

    assert await status() == 401
    assert await status(additional_headers=key, origin="https://elsewhere.example") == 403
    assert await status(additional_headers=key, origin=f"http://{host}:{port}") == 101
