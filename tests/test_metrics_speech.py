"""/metrics after spoken calls: what workers tell of turns, replies and latencies."""

from __future__ import annotations

import asyncio

from tests import scraping
from tests.caller import calling, spoken
from tests.pools import PoolServer
from tests.scraping import Scrape, scrape
from tests.servers import speech_server

__all__ = ["speech_server"]


def spent(server: PoolServer, before: Scrape) -> Scrape:
    """What has been added since, once the call is over."""
    calls = sum(before.of("calls_ended_total").values())
    after = scraping.until(
        server, lambda s: sum(s.of("calls_ended_total").values()) > calls, "saw the call end"
    )
    return Scrape({name: value - before.get(name, 0.0) for name, value in after.items()})


def speech_of(added: Scrape) -> dict[str, float]:
    """The counts of speech that are not 0."""
    names = ("turns", "responses", "interruptions", "engine_errors", "worker_figures_dropped")
    return {
        name.removeprefix("voicepool_"): value
        for name, value in added.items()
        if value and name.removeprefix("voicepool_").startswith(names)
    }


@scraping.needs_promtool
async def test_a_spoken_turn(speech_server: PoolServer) -> None:
    before = scrape(speech_server)
    assert before["voicepool_warmup_seconds_count"] >= 2
    assert before["voicepool_turns_total"] == 0, "the rehearsals of all workers had one each"
    assert before["voicepool_voice_to_voice_seconds_count"] == 0
    loop = asyncio.get_running_loop()
    async with calling(speech_server) as caller:
        await caller.listen_by("server_vad")
        began = loop.time()
        sound = spoken("what time is it", 0.8)
        hearing = asyncio.create_task(caller.hear(sound, real_time=True))
        await caller.until("response.output_audio.delta")
        waited = loop.time() - began
        await caller.done()
        await hearing
    added = spent(speech_server, before)
    assert speech_of(added) == {"turns_total": 1, "responses_total completed": 1}
    assert added["voicepool_voice_to_voice_seconds_count"] == 1
    voice_to_voice = added["voicepool_voice_to_voice_seconds_sum"]
    assert 0 < voice_to_voice < waited, "what was said before it is not in it"
    for stage in ("stt", "llm", "tts"):
        assert added[f"voicepool_stage_seconds_count {stage}"] == 1
    latency = speech_server.status()["latency"]
    for name in ("voice_to_voice", "stt", "llm", "tts"):
        assert latency[name]["count"] == 1
        assert latency[name]["p50"] == latency[name]["p95"] is not None
    assert abs(latency["voice_to_voice"]["p50"] - voice_to_voice) < 1e-5
    _, _, text = scraping.get(speech_server)
    assert scraping.promtool_says(text) == ""
    assert "what time is it" not in text


async def test_a_turn_that_the_client_commits_and_one_that_it_types(
    speech_server: PoolServer,
) -> None:
    before = scrape(speech_server)
    async with calling(speech_server) as caller:
        await caller.listen_by(None)
        await caller.hear(spoken("what time is it"))
        await caller.send("input_audio_buffer.commit")
        await caller.response()
        # Neither what is said again to the same turn nor what is typed is an answer to a voice.
        await caller.response(conversation="none")
        await caller.type_in("what time is it")
        await caller.response()
    added = spent(speech_server, before)
    assert speech_of(added) == {"turns_total": 1, "responses_total completed": 3}
    assert added["voicepool_voice_to_voice_seconds_count"] == 1
    assert added["voicepool_stage_seconds_count stt"] == 1
    assert added["voicepool_stage_seconds_count llm"] == 3
    assert added["voicepool_stage_seconds_count tts"] == 3


async def test_a_text_reply_makes_no_sound(speech_server: PoolServer) -> None:
    before = scrape(speech_server)
    async with calling(speech_server) as caller:
        await caller.configure(output_modalities=["text"])
        await caller.listen_by("server_vad")
        await caller.hear(spoken("what time is it", 0.8))
        await caller.done()
    added = spent(speech_server, before)
    assert speech_of(added) == {"turns_total": 1, "responses_total completed": 1}
    assert added["voicepool_voice_to_voice_seconds_count"] == 0
    assert added["voicepool_stage_seconds_count tts"] == 0
    assert added["voicepool_stage_seconds_count llm"] == 1


async def test_a_caller_who_interrupts(speech_server: PoolServer) -> None:
    before = scrape(speech_server)
    async with calling(speech_server) as caller:
        await caller.listen_by("server_vad")
        await caller.hear(spoken("tell me a very long story", 0.8))
        await caller.until("response.output_audio.delta")
        await caller.hear(spoken("what time is it", 0.8))
        await caller.until("response.done", having=lambda e: e["response"]["status"] == "completed")
    added = spent(speech_server, before)
    assert added["voicepool_turns_total"] == 2
    assert added["voicepool_interruptions_total"] == 1
    assert added["voicepool_voice_to_voice_seconds_count"] == 2
