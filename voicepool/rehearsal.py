"""The fake call that a speech worker plays before its caller comes.

It takes the caller's way through the worker: WebSocket, protocol, session, pipeline, detector and
language model are the real ones. Recogniser and synthesiser have made their one inference by then
(`Engine.warm_up`), and a second one of each would double the time that a refill takes. So here they
are stood in for by lines known by heart.
"""

from __future__ import annotations

import base64
import json
import wave
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
from websockets.asyncio.client import ClientConnection

from voicepool.engines.base import Engines, Samples, SpeechChunk, SpeechSynthesizer, Transcript
from voicepool.errors import EngineError
from voicepool.stages import language_of

RECORDING = "rehearsal.wav"
"""WORDS at the wire's rate, spoken; made by scripts/make-examples."""
WORDS = "Hello, what can you do?"
SILENCE_MS = 200
"""What ends the rehearsed turn. Sent faster than real time, it costs nothing but its detection."""
SOUND_SECONDS = 0.1


def rehearsing(engines: Engines) -> Engines:
    """The same engines, but for the two whose inference takes long."""
    recogniser: Any = _Recogniser()
    return replace(engines, stt=recogniser, tts=_Synthesizer(engines.tts))


class _Recogniser:
    """SpeechRecognizer and its own RecognizerStream: has understood before it has heard."""

    name = "rehearsal"

    def stream(self, *, language: str | None = None, prompt: str = "") -> _Recogniser:
        return self

    def feed(self, samples: Samples) -> Transcript | None:
        return Transcript(WORDS, final=False)

    def snapshot(self) -> Transcript:
        return Transcript(WORDS, final=True)

    finish = snapshot

    def close(self) -> None:
        """Nothing is kept."""


class _Synthesizer:
    """SpeechSynthesizer that hums at the rate of the real one."""

    name = "rehearsal"

    def __init__(self, real: SpeechSynthesizer) -> None:
        self.sample_rate = real.sample_rate
        self.voices = real.voices
        self._real = real

    def preload(self) -> None:
        """There is nothing to load, here and below."""

    def load(self, device: str) -> None: ...

    def warm_up(self) -> None: ...

    def language_of(self, voice: str) -> str:
        """The caller's replies will be read in it too: what that takes is in memory already."""
        return language_of(self._real, voice)

    def synthesize(
        self, text: str, *, voice: str = "", speed: float = 1.0
    ) -> Iterator[SpeechChunk]:
        phase = np.arange(int(self.sample_rate * SOUND_SECONDS), dtype=np.float32)
        yield SpeechChunk(np.sin(phase * 0.1, dtype=np.float32) * np.float32(0.1))


@cache
def _caller() -> str:
    """Base64 of the recording and the silence that ends its turn. Read once, in the zygote."""
    with (
        resources.files(__package__).joinpath(RECORDING).open("rb") as file,
        wave.open(file) as wav,
    ):
        sound = wav.readframes(wav.getnframes())
        silence = bytes(2 * 4 * wav.getframerate() * SILENCE_MS // 1000)
    return base64.b64encode(sound + silence).decode()


def preload() -> None:
    """In the zygote: read the recording."""
    _caller()


async def play(client: ClientConnection) -> None:
    """A spoken turn up to the reply's first sound; then a cancellation, as after an interruption.

    The host sets the deadline. Raises EngineError where no sound comes: the server's log says why.
    """
    updates = {"input": {"turn_detection": _quick_turns(), "transcription": {"model": "any"}}}
    session = {"type": "realtime", "audio": updates}
    await client.send(json.dumps({"type": "session.update", "session": session}))
    await client.send(json.dumps({"type": "input_audio_buffer.append", "audio": _caller()}))
    event = await _until(client, "response.output_audio.delta", "response.done")
    if event["type"] == "response.done":
        raise EngineError(f"no reply in the rehearsal: {_why(event)}")
    await client.send(json.dumps({"type": "response.cancel"}))
    await _until(client, "response.done", "error")


def _quick_turns() -> Mapping[str, Any]:
    return {"type": "server_vad", "silence_duration_ms": SILENCE_MS}


async def _until(client: ClientConnection, *kinds: str) -> dict[str, Any]:
    """Read until an event of one of these types."""
    while True:
        event: dict[str, Any] = json.loads(await client.recv())
        if event["type"] in kinds:
            return event


def _why(done: Mapping[str, Any]) -> str:
    details = done["response"].get("status_details") or {}
    return str((details.get("error") or {}).get("message") or done["response"]["status"])
