"""The speech app: what a worker hosts unless it is told otherwise.

One set of engines per worker, loaded before the caller arrives; one protocol, one pipeline and one
session per call, so that nothing of a call, or of a rehearsal, is left for the next.
"""

from __future__ import annotations

import base64
import json
import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.server import ServerConnection

from voicepool import logs
from voicepool.app import caller
from voicepool.audio import Resampler, Windows, to_pcm16
from voicepool.config import Settings
from voicepool.engines import registry
from voicepool.engines.base import INPUT_RATE, Engines, Samples
from voicepool.errors import EngineError
from voicepool.pipeline import SpeechPipelineManager
from voicepool.session import Session
from voicepool.wire.realtime.client import MAX_MESSAGE_BYTES
from voicepool.wire.realtime.config import DEFAULT_MODEL, RATE, Defaults
from voicepool.wire.realtime.protocol import RealtimeProtocol

PATHS = ("/v1/realtime", "/realtime")
SUBPROTOCOL = "realtime"
"""Browsers cannot send headers, so they offer this beside one that holds their key; the key is
never selected."""
MAX_MODEL_NAME = 256

REHEARSED_PHRASE = "Hello, what can you do?"
REHEARSED_SILENCE_MS = 200
"""What ends the rehearsed turn. Sent faster than real time, it costs nothing but its detection."""


def create(settings: Settings | None = None) -> SpeechApp:
    """The app for these settings. Raises ConfigError, EngineUnavailable."""
    settings = settings or Settings()
    choice = registry.resolve_profile(settings.profile, settings.engines)
    return SpeechApp(registry.build(choice), call_limit=settings.call_limit)


class SpeechApp:
    """Speech over the Realtime protocol, see `app.App`, `app.Rehearsing` and `app.Negotiating`."""

    def __init__(self, engines: Engines, *, call_limit: float = 3600.0) -> None:
        self._engines = engines
        self._call_limit = call_limit
        self._rehearsal = ""
        """Base64 of a spoken phrase and silence at the wire's rate."""

    @property
    def paths(self) -> Sequence[str]:
        return PATHS

    @property
    def subprotocols(self) -> Sequence[str]:
        return (SUBPROTOCOL,)

    @property
    def max_message_size(self) -> int:
        return MAX_MESSAGE_BYTES

    # -- before the caller

    def preload(self) -> None:
        for engine in self._all():
            engine.preload()

    def load(self, device: str) -> None:
        for engine in self._all():
            engine.load(device)

    def warm_up(self) -> None:
        """Every engine once for real: the synthesiser's words go to detector and recogniser."""
        for engine in self._all():
            engine.warm_up()
        speech = self._speak(REHEARSED_PHRASE)
        self._listen(speech)
        self._rehearsal = _wire_audio(speech)

    def _all(self) -> Sequence[Any]:
        engines = self._engines
        return (engines.vad, engines.stt, engines.llm, engines.tts)

    def _speak(self, text: str) -> Samples:
        """At INPUT_RATE. Raises EngineError where nothing comes of it."""
        resampler = Resampler(self._engines.tts.sample_rate, INPUT_RATE)
        chunks = [resampler.push(chunk.samples) for chunk in self._engines.tts.synthesize(text)]
        speech = np.concatenate([*chunks, resampler.flush()])
        if not len(speech):
            raise EngineError(f"the synthesiser {self._engines.tts.name} made no sound")
        return speech

    def _listen(self, speech: Samples) -> None:
        detector = self._engines.vad.stream()
        for window in Windows(self._engines.vad.window_size).push(speech):
            detector.push(window)
        recogniser = self._engines.stt.stream()
        try:
            recogniser.feed(speech)
            recogniser.finish()
        finally:
            recogniser.close()

    async def rehearse(self, client: ClientConnection) -> None:
        """A spoken turn through the worker's own server, up to the reply's first sound; then a
        cancellation, as after an interruption."""
        updates = {"input": {"turn_detection": _quick_turns(), "transcription": {"model": "any"}}}
        session = {"type": "realtime", "audio": updates}
        await client.send(json.dumps({"type": "session.update", "session": session}))
        append = {"type": "input_audio_buffer.append", "audio": self._rehearsal}
        await client.send(json.dumps(append))
        await _until(client, "response.output_audio.delta", "response.done")
        await client.send(json.dumps({"type": "response.cancel"}))
        await _until(client, "response.done", "error")

    # -- the caller

    async def serve(self, websocket: ServerConnection) -> None:
        session_id = _new_id("sess")
        defaults = Defaults(
            session_id=session_id,
            expires_at=int(time.time() + self._call_limit),
            model=_requested_model(websocket),
            voice=next(iter(self._engines.tts.voices), "default"),
        )
        protocol = RealtimeProtocol(defaults, _new_id)
        talker = caller.get(None)
        rehearsed = talker is not None and not talker.host
        with logs.context(session=session_id, connection=talker.connection if talker else None):
            async with SpeechPipelineManager(self._engines, protocol.settings) as pipeline:
                session = Session(
                    websocket,
                    protocol,
                    pipeline,
                    call_limit=self._call_limit,
                    log_level=logging.DEBUG if rehearsed else logging.INFO,
                )
                await session.run()


def _new_id(prefix: str) -> str:
    """At most 32 characters, which clients rely on; never guessed from another."""
    return f"{prefix}_{secrets.token_hex(10)}"


def _requested_model(websocket: ServerConnection) -> str:
    """The `model` of the URL, echoed; OpenAI's clients always send one of OpenAI's names."""
    path = websocket.request.path if websocket.request else ""
    names = parse_qs(urlsplit(path).query).get("model", [])
    name = names[0] if names else ""
    return name if name.isprintable() and 0 < len(name) <= MAX_MODEL_NAME else DEFAULT_MODEL


def _wire_audio(speech: Samples) -> str:
    """Base64 of `speech` (INPUT_RATE) and the silence that ends its turn, at the wire's rate."""
    silence = np.zeros(INPUT_RATE * 4 * REHEARSED_SILENCE_MS // 1000, np.float32)
    resampler = Resampler(INPUT_RATE, RATE)
    sound = np.concatenate([resampler.push(speech), resampler.push(silence), resampler.flush()])
    return base64.b64encode(to_pcm16(sound)).decode()


def _quick_turns() -> Mapping[str, Any]:
    return {"type": "server_vad", "silence_duration_ms": REHEARSED_SILENCE_MS}


async def _until(client: ClientConnection, *kinds: str) -> None:
    """Read until an event of one of these types. The host sets the deadline."""
    while json.loads(await client.recv())["type"] not in kinds:
        pass
