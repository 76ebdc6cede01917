"""What voicepool itself adds between a confirmed turn and the first sound of the reply."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import numpy as np

from benchmarks.figures import Figure, Target, absolute
from voicepool.audio import Resampler
from voicepool.engines import registry
from voicepool.engines.base import INPUT_RATE, Engines, Samples
from voicepool.events import ResponseDone, Timing
from voicepool.pipeline import SpeechPipelineManager

PHRASES = ("what time is it", "what can you understand", "tell me a very long story")
PIECE_SECONDS = 0.02
_TURN_SECONDS = 30.0


def turns(samples: int) -> Iterator[Figure]:
    """Turns spoken in real time to the embedded engines, with and without speculation, in turn.

    `overhead` is the pipeline's own: what the engines took in that time is not in it. The wait for
    silence that ends a turn comes before.
    """
    with_it, without = asyncio.run(_collect(samples))
    for name, timings in (("speculated", with_it), ("not speculated", without)):
        own = [1000 * timing.overhead for timing in timings if timing.overhead is not None]
        audible = [
            1000 * timing.first_audio for timing in timings if timing.first_audio is not None
        ]
        yield absolute("turn", f"voicepool's own, {name}", "ms", own, Target("p50", 20.0, 5.0))
        yield absolute("turn", f"confirmed to first audio, {name}", "ms", audible)


async def _collect(samples: int) -> tuple[list[Timing], list[Timing]]:
    engines = registry.build(registry.resolve_profile("embedded", {}))
    for engine in (engines.vad, engines.stt, engines.llm, engines.tts):
        engine.preload()
        engine.load("host")
        engine.warm_up()
    spoken = [_say(engines, phrase) for phrase in PHRASES]
    timings: tuple[list[Timing], list[Timing]] = ([], [])
    for i in range(-1, samples):
        for speculate, found in zip((True, False), timings, strict=True):
            timing = await _turn(engines, spoken[i % len(spoken)], speculate)
            if i >= 0:  # the first one warms up
                found.append(timing)
    return timings


def _say(engines: Engines, text: str) -> Samples:
    """A phrase in light noise, with the silence that ends its turn."""
    resampler = Resampler(engines.tts.sample_rate, INPUT_RATE)
    speech = [resampler.push(chunk.samples) for chunk in engines.tts.synthesize(text)]
    pause = np.zeros(INPUT_RATE * 3 // 10, np.float32)
    sound = np.concatenate([pause, *speech, resampler.flush(), pause, pause, pause])
    noise = np.random.default_rng(1).standard_normal(len(sound)) * 1e-3
    return (sound + noise).astype(np.float32)


async def _turn(engines: Engines, sound: Samples, speculate: bool) -> Timing:
    making = SpeechPipelineManager(engines, speculate=speculate)
    async with asyncio.timeout(_TURN_SECONDS), making as pipeline:
        speaking = asyncio.create_task(_speak(pipeline, sound))
        try:
            async for event in pipeline.events():
                if isinstance(event, ResponseDone):
                    return event.timing
        finally:
            speaking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await speaking
    raise RuntimeError("the turn got no response")


async def _speak(pipeline: SpeechPipelineManager, sound: Samples) -> None:
    loop = asyncio.get_running_loop()
    began, size = loop.time(), round(INPUT_RATE * PIECE_SECONDS)
    for number, at in enumerate(range(0, len(sound), size)):
        await asyncio.sleep(began + number * PIECE_SECONDS - loop.time())
        await pipeline.push_audio(sound[at : at + size])
