"""How long callers wait for an answer, with speculation and without, and what interrupts it.

Callers speak in real time over a WebSocket to two servers, which differ in `speculate` alone, one
after the other, in turn.
"""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from benchmarks.figures import Figure, Target, absolute, compare
from benchmarks.servers import Pool
from voicepool.audio import Resampler, to_pcm16
from voicepool.dialogue import RATE
from voicepool.engines import espeak
from voicepool.engines.base import Samples

FIRST_TOKEN_MS, TOKEN_MS = 150.0, 20.0
"""Of the slow language model: about what a small one takes on a GPU of its own."""
REPLY: Final = " ".join(f"This is sentence number {n} of a long answer." for n in range(1, 40))
PIECE_SECONDS: Final = 0.02
ANSWER_SECONDS: Final = 30.0
QUESTION: Final = "what time is it"
HALVES: Final = ("tell me", "a very long story")
HESITATION: Final = 0.35
"""Seconds; less than the 500 ms of server_vad, and more than it takes to begin to speculate."""
THOUGHT: Final = 1.2
"""Seconds of a pause in mid-sentence that a fixed 500 ms would cut into."""
ORDER: Final = ("i would like to", "order a mushroom pizza")


PAUSES_EVERY: Final = 4
"""Calls of which one has the turns with pauses, which take long and are to differ in nothing."""


def voices_phrasebook(samples: int) -> Iterator[Figure]:
    """With the phrasebook, which answers at once; `samples` calls of each kind."""
    yield from asyncio.run(_compared("phrasebook", {}, samples))


def voices_model(samples: int) -> Iterator[Figure]:
    """With a language model that takes its time."""
    with _slow_model() as slow:
        yield from asyncio.run(_compared("LLM of 150 ms", {"llm": slow}, samples))


async def _compared(name: str, engines: Mapping[str, Any], samples: int) -> list[Figure]:
    """With and without, in turn."""
    settings: dict[str, Any] = {"profile": "embedded", "engines": engines}
    settings |= {"workers": 2, "max_connections": 2}
    with Pool(**settings, speculate=True) as ahead, Pool(**settings, speculate=False) as after:
        found: dict[tuple[str, bool], list[float]] = {}
        for number in range(samples):
            for pool in (ahead, after) if number % 2 else (after, ahead):
                pool.expect()
                url = f"ws://{pool.address[0]}:{pool.address[1]}/v1/realtime"
                taken = await _measure(url, pauses=number % PAUSES_EVERY == 0)
                pool.settle(1)
                for case, value in taken.items():
                    found.setdefault((case, pool is ahead), []).append(value)
    return list(_figures(name, found))


def _figures(name: str, found: Mapping[tuple[str, bool], list[float]]) -> Iterator[Figure]:
    for case in ("server_vad", "semantic_vad"):
        both = found[case, True], found[case, False]
        yield compare("voice", f"voice to voice, {case}, {name}", "ms", *both, "no speculation")
    for speculated in (True, False):
        how = "speculated" if speculated else "not speculated"
        for case in ("hesitation", "thought"):
            early = found[case, speculated]
            none = Target("p99", 0.0)
            yield absolute("voice", f"early answers, {case}, {name}, {how}", "", early, none)
        cut = found["silenced", speculated]
        yield absolute(
            "voice", f"interrupted to silent, {name}, {how}", "ms", cut, Target("p99", 100.0)
        )
        yield absolute(
            "voice", f"sound to interrupted, {name}, {how}", "ms", found["noticed", speculated]
        )


async def _measure(url: str, *, pauses: bool) -> dict[str, float]:
    """One call with one turn of each kind."""
    taken: dict[str, float] = {}
    async with _calling(url) as call:
        for case, detection in (
            ("server_vad", {"type": "server_vad"}),
            ("semantic_vad", {"type": "semantic_vad"}),
        ):
            await call.listen_by(detection)
            taken[case] = await call.voice_to_voice(_spoken(QUESTION))
        if pauses:
            thought = _spoken(ORDER[0], THOUGHT, ORDER[1])
            taken["thought"] = await call.early_answers(thought)
        await call.listen_by({"type": "server_vad"})
        if pauses:
            hesitation = _spoken(HALVES[0], HESITATION, HALVES[1])
            taken["hesitation"] = await call.early_answers(hesitation)
        taken["noticed"], taken["silenced"] = await call.interrupt(_spoken(QUESTION))
    return taken


# --- a caller ----------------------------------------------------------------------------------


@dataclass(slots=True)
class _Caller:
    """A client that notes when what came. Seconds are the event loop's clock."""

    websocket: ClientConnection
    events: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def read(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            async for message in self.websocket:
                self.events.append((loop.time(), json.loads(message)))
                async with self.news:
                    self.news.notify_all()
        except ConnectionClosed:
            return

    async def send(self, kind: str, **fields: Any) -> None:
        await self.websocket.send(json.dumps({"type": kind, **fields}))

    async def until(self, kind: str, since: int) -> tuple[float, dict[str, Any]]:
        """The first event of that type from number `since` on, and when it came."""
        async with asyncio.timeout(ANSWER_SECONDS), self.news:
            while True:
                for at, event in self.events[since:]:
                    if event["type"] == kind:
                        return at, event
                await self.news.wait()

    async def listen_by(self, detection: Mapping[str, Any]) -> None:
        since = len(self.events)
        audio = {"input": {"turn_detection": detection}}
        await self.send("session.update", session={"type": "realtime", "audio": audio})
        await self.until("session.updated", since)

    async def speak(self, sound: Samples) -> tuple[float, float]:
        """In real time; when the first and the last loud piece were sent."""
        loop = asyncio.get_running_loop()
        began, size = loop.time(), round(RATE * PIECE_SECONDS)
        loud: list[float] = []
        for number, at in enumerate(range(0, len(sound), size)):
            await asyncio.sleep(began + number * PIECE_SECONDS - loop.time())
            piece = sound[at : at + size]
            data = base64.b64encode(to_pcm16(piece)).decode()
            await self.send("input_audio_buffer.append", audio=data)
            if np.abs(piece).max() > 0.01:
                loud.append(loop.time())
        return loud[0], loud[-1]

    async def voice_to_voice(self, sound: Samples) -> float:
        """Milliseconds from the end of the caller's sound to the first of the reply's."""
        since = len(self.events)
        speaking = asyncio.create_task(self.speak(sound))
        heard, delta = await self.until("response.output_audio.delta", since)
        _, spoken = await speaking
        await self._hush(delta["response_id"], since)
        return 1000 * (heard - spoken)

    async def early_answers(self, sound: Samples) -> float:
        """How many answers more than one the caller gets who pauses and goes on."""
        since = len(self.events)
        await self.speak(sound)
        _, created = await self.until("response.created", since)
        await self._hush(created["response"]["id"], since)
        told = [event["type"] for _, event in self.events[since:]]
        turns = told.count("input_audio_buffer.committed")
        return float(max(turns, told.count("response.created")) - 1)

    async def _hush(self, response_id: str, since: int) -> None:
        """End the response, if it has not ended, so that the next turn begins in silence."""
        await self.send("response.cancel", response_id=response_id)
        await self.until("response.done", since)

    async def interrupt(self, sound: Samples) -> tuple[float, float]:
        """Milliseconds from the caller's first sound to the server's speech_started, and from that
        to the last of the reply that came over the wire."""
        since = len(self.events)
        item = {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": " ".join(HALVES)}],
        }
        await self.send("conversation.item.create", item=item)
        await self.send("response.create")
        _, delta = await self.until("response.output_audio.delta", since)
        began, _ = await self.speak(sound)
        noticed, _ = await self.until("input_audio_buffer.speech_started", since)
        told = [at for at, event in self.events if event.get("response_id") == delta["response_id"]]
        return 1000 * (noticed - began), 1000 * max(0.0, told[-1] - noticed)


@asynccontextmanager
async def _calling(url: str) -> AsyncIterator[_Caller]:
    async with connect(url, proxy=None, max_size=None, max_queue=None) as websocket:
        caller = _Caller(websocket)
        reading = asyncio.create_task(caller.read())
        await caller.until("session.created", 0)
        yield caller
    await reading


def _spoken(*parts: str | float) -> Samples:
    """Texts and pauses in seconds, in light noise, and the silence in which the answer comes."""
    sounds = [_say(it) if isinstance(it, str) else _silence(it) for it in parts]
    sound = np.concatenate([_silence(0.3), *sounds, _silence(1.2)])
    noise = np.random.default_rng(1).standard_normal(len(sound)) * 1e-3
    return (sound + noise).astype(np.float32)


def _silence(seconds: float) -> Samples:
    return np.zeros(round(seconds * RATE), np.float32)


def _say(text: str) -> Samples:
    synthesizer = espeak.create({})
    synthesizer.preload()
    resampler = Resampler(synthesizer.sample_rate, RATE)
    chunks = [resampler.push(chunk.samples) for chunk in synthesizer.synthesize(text)]
    sound = np.concatenate([*chunks, resampler.flush()])
    loud = np.flatnonzero(np.abs(sound) > 0.01)
    return sound[loud[0] : loud[-1] + 1]


@contextmanager
def _slow_model() -> Iterator[dict[str, Any]]:
    """The [llm] table of a server whose model takes its time."""
    command = [sys.executable, "-m", "tests.ollama_server", "--slots", "16", "--reply", REPLY]
    command += ["--first-token-ms", str(FIRST_TOKEN_MS), "--token-ms", str(TOKEN_MS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as ollama:
        assert ollama.stdout is not None
        try:
            yield {"engine": "ollama", "host": ollama.stdout.readline().strip()}
        finally:
            ollama.terminate()
