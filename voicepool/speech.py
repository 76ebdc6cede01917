"""The speech app: what a worker hosts unless it is told otherwise.

One set of engines per worker, loaded before the caller arrives; one protocol, one pipeline and one
session per call, so that nothing of a call, or of a rehearsal, is left for the next.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.server import ServerConnection

from voicepool import logs, rehearsal
from voicepool.app import Preview, caller
from voicepool.config import Settings
from voicepool.engines import registry
from voicepool.engines.base import Advising, Engines
from voicepool.errors import EngineUnavailable
from voicepool.pipeline import SpeechPipelineManager
from voicepool.request import path_of
from voicepool.session import Session
from voicepool.spoken import reader
from voicepool.stages import language_of
from voicepool.wire.codec import Codec
from voicepool.wire.realtime import handshake, presets
from voicepool.wire.realtime.client import MAX_MESSAGE_BYTES
from voicepool.wire.realtime.config import Defaults
from voicepool.wire.realtime.protocol import RealtimeProtocol
from voicepool.wire.rvc.protocol import AHEAD_SECONDS, RvcProtocol

log = logging.getLogger("voicepool.speech")

BROWSER_PATH = "/ws"
"""RealtimeVoiceChat's page calls here."""
PATHS = ("/v1/realtime", "/realtime", BROWSER_PATH)
SUBPROTOCOL = "realtime"
"""Browsers cannot send headers, so they offer this beside one that holds their key; the key is
never selected."""


def create(settings: Settings | None = None) -> SpeechApp:
    """The app for these settings. Raises ConfigError, EngineUnavailable."""
    settings = settings or Settings()
    choice = registry.resolve_profile(settings.profile, settings.engines)
    return SpeechApp(
        registry.build(choice),
        profile=choice.profile,
        call_limit=settings.call_limit,
        idle_limit=settings.idle_limit,
        callers=settings.max_connections,
        speculate=settings.speculate,
    )


class SpeechApp:
    """Speech over the protocol that the path names; see `app.App`, `Rehearsing`, `Negotiating`,
    `Attentive`."""

    def __init__(
        self,
        engines: Engines,
        *,
        profile: str = "",
        call_limit: float = 3600.0,
        idle_limit: float = 0.0,
        callers: int = 1,
        speculate: bool = True,
    ) -> None:
        """`callers`: how many may call at once, which engines may have advice about. `speculate`:
        see SpeechPipelineManager."""
        self._engines = engines
        self._profile = profile
        self._call_limit = call_limit
        self._idle_limit = idle_limit
        self._callers = callers
        self._speculate = speculate

    @property
    def paths(self) -> Sequence[str]:
        return PATHS

    @property
    def subprotocols(self) -> Sequence[str]:
        return (SUBPROTOCOL,)

    @property
    def max_message_size(self) -> int:
        return MAX_MESSAGE_BYTES

    @property
    def idle_limit(self) -> float:
        return self._idle_limit

    # -- before the caller

    def preload(self) -> None:
        try:
            for engine in self._all():
                engine.preload()
        except EngineUnavailable as error:
            message = registry.name_profile(str(error), self._profile)
            raise EngineUnavailable(message) from error
        rehearsal.preload()
        reader.prepare(language_of(self._engines.tts, ""))
        for engine in self._all():
            lines = engine.advise(self._callers) if isinstance(engine, Advising) else ()
            for line in lines:
                log.warning("advice", extra={"advice": line})

    def load(self, device: str) -> None:
        for engine in self._all():
            engine.load(device)

    def warm_up(self) -> None:
        """All at once: they compute on cores of their own, or wait for a server."""
        engines = ThreadPoolExecutor(thread_name_prefix="warm-up")
        try:
            warming = [engines.submit(engine.warm_up) for engine in self._all()]
            done, _ = wait(warming, return_when=FIRST_EXCEPTION)
            for warmed in done:
                warmed.result()
        finally:
            engines.shutdown(wait=False)  # one that fails shall not wait for a server that is away

    def _all(self) -> Sequence[Any]:
        engines = self._engines
        return (engines.vad, engines.stt, engines.llm, engines.tts)

    def preset(self, session: bytes, form: str) -> Preview:
        # Nobody calls yet, so the session does not expire.
        defaults = Defaults(_new_id("sess"), expires_at=0, voice=self._default_voice)
        return Preview(*presets.preset(session, form, defaults))

    @property
    def _default_voice(self) -> str:
        return next(iter(self._engines.tts.voices), "default")

    async def rehearse(self, client: ClientConnection) -> None:
        await rehearsal.play(client)

    # -- the caller

    async def serve(self, websocket: ServerConnection) -> None:
        session_id = _new_id("sess")
        codec, ahead = self._codec(websocket, session_id)
        talker = caller.get(None)
        rehearsed = talker is not None and not talker.host
        engines = rehearsal.rehearsing(self._engines) if rehearsed else self._engines
        with logs.context(session=session_id, connection=talker.connection if talker else None):
            async with SpeechPipelineManager(
                engines, codec.settings, speculate=self._speculate, ahead=ahead
            ) as pipeline:
                session = Session(
                    websocket,
                    codec,
                    pipeline,
                    call_limit=self._call_limit,
                    idle_limit=0.0 if rehearsed else self._idle_limit,
                    log_level=logging.DEBUG if rehearsed else logging.INFO,
                )
                await session.run()

    def _codec(self, websocket: ServerConnection, session_id: str) -> tuple[Codec, float | None]:
        """The protocol of the path, and by how much a reply's sound may be ahead of its playing."""
        voice = self._default_voice
        if path_of(_target(websocket)) == BROWSER_PATH:
            return RvcProtocol(voice=voice), AHEAD_SECONDS
        headers = websocket.request.headers.raw_items() if websocket.request else ()
        asked = handshake.read(_target(websocket), headers)
        defaults = Defaults(
            session_id=session_id,
            expires_at=int(time.time() + self._call_limit),
            model=asked.model,
            voice=voice,
            type=asked.type,
        )
        talker = caller.get(None)
        preset = talker.session if talker else b""
        return RealtimeProtocol(defaults, _new_id, session=preset, is_beta=asked.is_beta), None


def _new_id(prefix: str) -> str:
    """At most 32 characters, which clients rely on; never guessed from another."""
    return f"{prefix}_{secrets.token_hex(10)}"


def _target(websocket: ServerConnection) -> str:
    return websocket.request.path if websocket.request else ""
