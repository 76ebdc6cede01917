"""Turn taking by spoken sound through a real server: every setting does what it says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from tests.caller import Caller, Event, calling, spoken, text_of
from tests.calls import until
from tests.llm_server import Script
from tests.openai_server import OpenAIServer
from tests.pools import PoolServer
from tests.servers import speech_server
from tests.speech import silence
from voicepool.engines.base import Samples

__all__ = ["speech_server"]

TIME = "what time is it"
COLOR = "what is your favorite color"
STARTED, STOPPED = "input_audio_buffer.speech_started", "input_audio_buffer.speech_stopped"
COMMITTED = "input_audio_buffer.committed"
TRANSCRIBED = "conversation.item.input_audio_transcription.completed"
WINDOW_MS = 32
TEXT = {"output_modalities": ["text"]}
"""Replies that interrupt nobody and are interrupted by nobody."""


@pytest.fixture
def server(speech_server: PoolServer) -> PoolServer:
    return speech_server


async def turn(caller: Caller, sound: Samples, **options: Any) -> Mapping[str, Event]:
    """The events of one turn, by type."""
    since = len(caller.seen)
    await caller.hear(sound, **options)
    await caller.until(TRANSCRIBED)
    return {event["type"]: event for event in caller.seen[since:]}


# --- server_vad ------------------------------------------------------------------------------


async def test_threshold(server: PoolServer) -> None:
    async with calling(server) as caller:
        await caller.listen_by("server_vad", threshold=1.0)
        await caller.hear(spoken(TIME, 1.0))
        await caller.listen_by("server_vad", threshold=0.5)
        heard = await turn(caller, spoken(COLOR, 1.0))
        assert heard[TRANSCRIBED]["transcript"] == COLOR
        assert len(caller.all(STARTED)) == 1, "nothing is certain enough to be speech at 1.0"


async def test_prefix_padding(server: PoolServer) -> None:
    sound = np.concatenate([silence(1.0), spoken(TIME, 1.0)])
    starts = {}
    for padding in (0, 300, 1000):
        async with calling(server) as caller:
            await caller.listen_by("server_vad", prefix_padding_ms=padding)
            starts[padding] = (await turn(caller, sound))[STARTED]["audio_start_ms"]
    assert starts[0] - starts[300] == pytest.approx(300, abs=1)
    assert starts[0] - starts[1000] == pytest.approx(1000, abs=1)


async def test_silence_duration(server: PoolServer) -> None:
    ends = {}
    for duration in (200, 500, 1000):
        async with calling(server) as caller:
            await caller.listen_by("server_vad", silence_duration_ms=duration)
            ends[duration] = (await turn(caller, spoken(TIME, 1.5)))[STOPPED]["audio_end_ms"]
    assert ends[500] - ends[200] == pytest.approx(300, abs=WINDOW_MS)
    assert ends[1000] - ends[200] == pytest.approx(800, abs=WINDOW_MS)


async def test_idle_timeout(server: PoolServer) -> None:
    async with calling(server) as caller:
        await caller.configure(**TEXT)
        await caller.listen_by("server_vad", idle_timeout_ms=1500)
        await caller.hear(silence(4.0))
        await turn(caller, spoken(TIME, 0.7))
        await caller.done()
        assert not caller.all("input_audio_buffer.timeout_triggered"), "before the first reply"
        await caller.hear(silence(2.0))
        timeout = await caller.until("input_audio_buffer.timeout_triggered")
        waited = timeout["audio_end_ms"] - timeout["audio_start_ms"]
        assert waited == pytest.approx(1500, abs=WINDOW_MS)
        committed = await caller.until(COMMITTED)
        assert committed["item_id"] == timeout["item_id"]
        assert text_of(await caller.done())


async def test_create_response(server: PoolServer) -> None:
    async with calling(server) as caller:
        await caller.configure(**TEXT)
        await caller.listen_by("server_vad", create_response=False)
        await turn(caller, spoken(TIME, 0.7))
        await turn(caller, spoken(COLOR, 0.7))
        assert not caller.all("response.created")
        response = await caller.response()
        assert "green" in text_of(response).lower() or "purple" in text_of(response).lower()
        assert len(caller.all("response.created")) == 1


async def test_interrupt_response(server: PoolServer) -> None:
    async with calling(server) as caller:
        await caller.listen_by("server_vad", interrupt_response=False)
        await caller.type_in("tell me a very long story")
        await caller.send("response.create")
        story = await caller.until("response.output_audio.delta")
        await caller.hear(spoken(TIME, 0.7))
        await caller.until(COMMITTED)
        told = await caller.done()
        assert (told["id"], told["status"]) == (story["response_id"], "completed")
        answer = await caller.done()
        assert answer["status"] == "completed"
        assert "It is" in text_of(answer)


# --- session.update in the middle of a turn --------------------------------------------------


def middle(sound: Samples) -> int:
    """Where the sound is loud, about half way."""
    loud = np.flatnonzero(np.abs(sound) > 0.05)
    return int(loud[len(loud) // 2])


@pytest.mark.parametrize(
    "detection",
    [
        {"type": "server_vad", "silence_duration_ms": 200},
        {"type": "server_vad", "silence_duration_ms": 900, "prefix_padding_ms": 0},
        {"type": "server_vad", "threshold": 0.9},
        {"type": "semantic_vad", "eagerness": "high"},
    ],
    ids=lambda detection: "-".join(map(str, detection.values())),
)
async def test_other_settings_in_the_middle_of_a_turn(
    server: PoolServer, detection: dict[str, Any]
) -> None:
    sound = spoken(COLOR, 1.5)
    async with calling(server) as caller:
        await caller.configure(**TEXT)
        await caller.listen_by("server_vad")
        await caller.hear(sound[: middle(sound)])
        await caller.until(STARTED)
        await caller.listen_by(detection.pop("type"), **detection)
        await caller.hear(sound[middle(sound) :])
        assert (await caller.until(TRANSCRIBED))["transcript"] == COLOR
        await caller.done()
        heard = await turn(caller, spoken(TIME, 1.5))
        assert heard[TRANSCRIBED]["transcript"] == TIME
        for kind in (STARTED, STOPPED, COMMITTED):
            assert len(caller.all(kind)) == 2


async def test_manual_turns_in_the_middle_of_a_turn_begin_with_nothing(server: PoolServer) -> None:
    sound = spoken(COLOR, 1.0)
    async with calling(server) as caller:
        await caller.configure(**TEXT)
        await caller.listen_by("server_vad")
        await caller.hear(sound[: middle(sound)])
        await caller.until(STARTED)
        await caller.listen_by(None)
        await caller.until(STOPPED)
        await caller.hear(spoken(TIME))
        await caller.send("input_audio_buffer.commit")
        assert (await caller.until(TRANSCRIBED))["transcript"] == TIME
        assert len(caller.all(COMMITTED)) == 1
        assert not caller.all("response.created")


# --- speculation ---------------------------------------------------------------------------


@pytest.mark.parametrize("speculate", [True, False])
async def test_a_server_speculates_unless_it_is_told_not_to(
    start_pool: Callable[..., PoolServer], speculate: bool
) -> None:
    """A caller who hesitates is asked about twice, or once; told is one answer in any case."""
    answers = {"please stop talking now": "Well.", "": "Early!"}
    with OpenAIServer({"local": Script(answers=answers)}) as llm:
        engine = {"engine": "openai", "base_url": llm.base_url}
        server = start_pool(
            app="", workers=1, profile="embedded", engines={"llm": engine}, speculate=speculate
        )
        warm = len(llm.generations)
        async with calling(server) as caller:
            await caller.configure(**TEXT)
            sound = spoken("please stop", 0.4, "talking now", 0.8)
            pause = len(spoken("please stop"))  # 0.3 s into it
            await caller.hear(sound[:pause])
            if speculate:
                await until(lambda: len(llm.generations) == warm + 1)
            await caller.hear(sound[pause:])
            assert text_of(await caller.done()) == "Well."
            assert len(caller.all("response.created")) == 1
            if not speculate:
                assert len(llm.generations) == warm + 1


# --- semantic_vad ----------------------------------------------------------------------------

ORDER = ("i would like to", 1.0, "order a mushroom pizza", 3.0)


async def test_a_caller_who_thinks_in_mid_sentence_is_let_finish(server: PoolServer) -> None:
    """The pause is shorter than what low eagerness waits for without a transcript, so that a slow
    machine changes nothing here; with one it would wait for 8 s."""
    async with calling(server) as caller:
        await caller.configure(**TEXT)
        await caller.listen_by("semantic_vad", eagerness="low")
        heard = await turn(caller, spoken(*ORDER), real_time=True)
        assert heard[TRANSCRIBED]["transcript"] == "i would like to order a mushroom pizza"
        await caller.done()
        assert len(caller.all(COMMITTED)) == len(caller.all("response.created")) == 1


async def test_a_fixed_silence_would_have_cut_in(server: PoolServer) -> None:
    async with calling(server) as caller:
        await caller.configure(**TEXT)
        await caller.listen_by("server_vad")
        await caller.hear(spoken(*ORDER))
        for _ in range(2):
            await caller.until(COMMITTED)


async def test_a_whole_sentence_is_answered_soon(server: PoolServer) -> None:
    async with calling(server) as fixed, calling(server) as semantic:
        await fixed.listen_by("server_vad", silence_duration_ms=1000)
        await semantic.listen_by("semantic_vad", eagerness="high")
        sound = spoken(TIME, 1.5)
        by_fixed, by_words = await asyncio.gather(
            turn(fixed, sound, real_time=True), turn(semantic, sound, real_time=True)
        )
        sooner = by_fixed[STOPPED]["audio_end_ms"] - by_words[STOPPED]["audio_end_ms"]
        # Without a transcript in time, high eagerness waits for 500 ms.
        assert 500 - WINDOW_MS <= sooner <= 750 + WINDOW_MS


async def test_semantic_turns_may_be_left_unanswered_too(server: PoolServer) -> None:
    async with calling(server) as caller:
        await caller.listen_by("semantic_vad", eagerness="high", create_response=False)
        await turn(caller, spoken(TIME, 2.5))
        await turn(caller, spoken(COLOR, 2.5))
        assert not caller.all("response.created")
