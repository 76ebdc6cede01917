"""The speech app as a worker uses it: loaded, warmed, rehearsed; with the embedded engines."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import replace
from typing import Any

import pytest
from websockets.asyncio.client import connect

from tests.instruments import LoudnessDetector, ScriptedModel, ScriptedRecognizer, ToneSynthesizer
from tests.instruments import engines as instruments
from tests.test_session import DEADLINE, hosting
from voicepool.app import App, Attentive, Negotiating, Rehearsing
from voicepool.config import Settings
from voicepool.engines.base import Engines
from voicepool.errors import ConfigError, EngineError
from voicepool.speech import SpeechApp, create
from voicepool.wire.realtime.client import MAX_MESSAGE_BYTES


def test_it_is_what_a_worker_hosts() -> None:
    app = create(Settings(profile="embedded"))
    assert isinstance(app, App)
    assert isinstance(app, Rehearsing)
    assert isinstance(app, Negotiating)
    assert isinstance(app, Attentive)
    assert list(app.paths) == ["/v1/realtime", "/realtime", "/ws"]
    assert app.max_message_size == MAX_MESSAGE_BYTES


def test_a_wrong_setting_is_named() -> None:
    with pytest.raises(ConfigError, match="embeded"):
        create(Settings(profile="embeded"))


class Diary:
    """Notes which engine was asked what."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self._name, self._notes = name, notes

    def preload(self) -> None:
        self._notes.append(f"{self._name} preload")

    def load(self, device: str) -> None:
        self._notes.append(f"{self._name} load {device}")

    def warm_up(self) -> None:
        self._notes.append(f"{self._name} warm_up")


def noting(engine: Any, name: str, notes: list[str]) -> Any:
    diary = Diary(name, notes)
    engine.preload, engine.load, engine.warm_up = diary.preload, diary.load, diary.warm_up
    return engine


def test_the_life_of_all_engines() -> None:
    notes: list[str] = []
    app = SpeechApp(
        Engines(
            vad=noting(LoudnessDetector(), "vad", notes),
            stt=noting(ScriptedRecognizer(), "stt", notes),
            llm=noting(ScriptedModel(lambda _: []), "llm", notes),
            tts=noting(ToneSynthesizer(), "tts", notes),
        )
    )
    app.preload()
    app.load("cuda:1")
    app.warm_up()
    stages = ("vad", "stt", "llm", "tts")
    loaded = [f"{stage} {step}" for step in ("preload", "load cuda:1") for stage in stages]
    assert notes[: len(loaded)] == loaded
    assert sorted(notes[len(loaded) :]) == sorted(f"{stage} warm_up" for stage in stages)


def test_a_server_that_is_away_does_not_hold_up_the_news_of_another_engine() -> None:
    class Away(ScriptedModel):
        def warm_up(self) -> None:
            assert released.wait(60)

    class Broken(ToneSynthesizer):
        def warm_up(self) -> None:
            raise EngineError("no sound")

    released = threading.Event()
    broken = replace(instruments(tts=Broken()), llm=Away(lambda _: []))
    with pytest.raises(EngineError, match="no sound"):
        SpeechApp(broken).warm_up()
    released.set()


def test_an_engines_advice_is_logged_once_before_any_fork(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Wise(ToneSynthesizer):
        def advise(self, callers: int) -> list[str]:
            return [f"make room for {callers}"]

    with caplog.at_level("WARNING", "voicepool.speech"):
        SpeechApp(instruments(tts=Wise()), callers=3).preload()
    (record,) = caplog.records
    assert (record.message, vars(record)["advice"]) == ("advice", "make room for 3")


async def test_rehearsals_are_real_calls_that_leave_nothing_for_the_caller() -> None:
    app = create(Settings(profile="embedded"))
    app.preload()
    app.load("host")
    app.warm_up()
    async with hosting(app) as (host, port):
        url = f"ws://127.0.0.1:{port}"
        for _ in range(3):
            async with connect(f"{url}/v1/realtime", subprotocols=None) as rehearsal:
                await app.rehearse(rehearsal)
        async with connect(f"{url}/v1/realtime?model=gpt-realtime") as caller:
            session = json.loads(await caller.recv())["session"]
            assert session["model"] == "gpt-realtime"
            assert session["audio"]["input"]["transcription"] is None
            assert session["audio"]["input"]["turn_detection"]["silence_duration_ms"] == 500
            item = {"type": "message", "role": "user", "content": []}
            await caller.send(json.dumps({"type": "conversation.item.create", "item": item}))
            added = json.loads(await caller.recv())
            assert added["previous_item_id"] is None
    assert len({id(call) for call in host.calls}) == 4
    assert all(call.exception() is None for call in host.calls if not call.cancelled())


async def test_a_browser_gets_the_subprotocol_and_never_its_key_back() -> None:
    async with hosting(SpeechApp(instruments())) as (_, port):
        offered: Any = ["openai-insecure-api-key.secret", "realtime"]
        async with connect(f"ws://127.0.0.1:{port}/realtime", subprotocols=offered) as browser:
            assert browser.subprotocol == "realtime"


async def test_a_target_with_a_host_that_is_none_is_served_by_its_path() -> None:
    async with hosting(SpeechApp(instruments())) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"GET http://[bad/v1/realtime?model=a HTTP/1.1\r\nHost: localhost\r\n"
            b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        async with asyncio.timeout(DEADLINE):
            await reader.readuntil(b'"model":"a"')
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("query", ["", "?model=", "?model=%00", f"?model={'x' * 300}", "?a=b"])
async def test_a_model_that_cannot_be_echoed_is_the_servers_own(query: str) -> None:
    async with (
        hosting(SpeechApp(instruments())) as (_, port),
        connect(f"ws://127.0.0.1:{port}/v1/realtime{query}") as caller,
    ):
        assert json.loads(await caller.recv())["session"]["model"] == "voicepool"
