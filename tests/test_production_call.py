"""Whole calls through the production pipeline: faster-whisper, Ollama's client and Kokoro, in
forked workers behind a real supervisor; and what callers and operators hear when a part fails."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.sync.client import ClientConnection

from tests.apps.breaking import SETTINGS
from tests.llm_server import Script
from tests.models import kokoro, whisper
from tests.ollama_server import Model, OllamaServer
from tests.pools import DEADLINE, PoolServer

Start = Callable[..., PoolServer]

ROOT = Path(__file__).parent.parent
HELLO = ROOT / "examples/hello.wav"
PATH = "/v1/realtime"
REPLY = "It is Lisbon. I have **always** liked it."
MODEL = "llama3.2"
RESIDENT = f"{MODEL}:latest"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    whisper.make(folder / "whisper")
    kokoro.make(folder / "kokoro")
    return folder


@pytest.fixture
def ollama() -> Iterator[OllamaServer]:
    with OllamaServer({MODEL: Model(Script(reply=REPLY))}) as server:
        yield server


@pytest.fixture
def production(models: Path, ollama: OllamaServer) -> dict[str, Any]:
    """Settings of a server with small models."""
    return {
        "app": "",
        "profile": "cpu",
        "engines": {
            "stt": {"model": str(models / "whisper"), "language": "en"},
            "llm": {"host": ollama.url, "model": MODEL},
            "tts": {"model": str(models / "kokoro")},
        },
        "heartbeat_timeout": 30.0,
    }


def changed(settings: dict[str, Any], stage: str, **options: Any) -> dict[str, Any]:
    engines = {**settings["engines"], stage: {**settings["engines"][stage], **options}}
    return {**settings, "engines": engines}


# --- a caller ----------------------------------------------------------------------------------


class Caller:
    """A client that speaks one recorded utterance at a time."""

    def __init__(self, websocket: ClientConnection) -> None:
        self._websocket = websocket
        self.until("session.created")
        self.sound = b""

    def send(self, kind: str, **fields: Any) -> None:
        self._websocket.send(json.dumps({"type": kind, **fields}))

    def until(self, *kinds: str) -> dict[str, Any]:
        while True:
            event: dict[str, Any] = json.loads(self._websocket.recv(timeout=DEADLINE))
            if event["type"] == "response.output_audio.delta":
                self.sound += base64.b64decode(event["delta"])
            if event["type"] in kinds:
                return event

    def next(self, kind: str, patience: float) -> dict[str, Any] | None:
        """The next event of this kind, None where there is none in time."""
        end = time.monotonic() + patience
        while (left := end - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                event: dict[str, Any] = json.loads(self._websocket.recv(timeout=left))
                if event["type"] == kind:
                    return event
        return None

    def speak(self) -> None:
        """The first utterance of the example, and the silence that ends its turn."""
        with wave.open(str(HELLO)) as file:
            sound = file.readframes(round(3.0 * file.getframerate()))
        for start in range(0, len(sound), 48_000):
            piece = base64.b64encode(sound[start : start + 48_000]).decode()
            self.send("input_audio_buffer.append", audio=piece)

    def turn(self) -> dict[str, Any]:
        """Speak; the response."""
        self.speak()
        return dict(self.until("response.done")["response"])


def call(server: PoolServer) -> ClientConnection:
    return server.call(PATH)


# --- it works ----------------------------------------------------------------------------------


def test_a_spoken_call_from_wav_to_wav(
    start_pool: Start, production: dict[str, Any], ollama: OllamaServer, tmp_path: Path
) -> None:
    server = start_pool(workers=1, **production)
    out = tmp_path / "reply.wav"
    done = subprocess.run(
        [
            sys.executable, "-m", "voicepool", "talk", str(HELLO),
            "--url", server.url, "--out", str(out), "--json",
        ],
        capture_output=True,
        text=True,
        timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    turns = json.loads(done.stdout)["turns"]
    assert [turn["heard"] for turn in turns] == [whisper.TEXT] * 2
    assert [turn["status"] for turn in turns] == ["completed"] * 2
    assert turns[-1]["reply"] == REPLY, "what is shown is what the model wrote"
    with wave.open(str(out)) as file:
        sound = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        seconds = len(sound) / file.getframerate()
    assert seconds > 1.0
    assert np.abs(sound.astype(int)).max() > 500, "there is a voice in it"
    # The last but for what the next worker has asked to warm up.
    asked = max(
        (body for path, body in ollama.requests if path == "/api/chat"),
        key=lambda body: len(body["messages"]),
    )
    assert [message["role"] for message in asked["messages"]] == [
        "system", "user", "assistant", "user",
    ]  # fmt: skip
    assert asked["messages"][-1]["content"] == whisper.TEXT


def test_workers_share_the_weights(start_pool: Start, production: dict[str, Any]) -> None:
    server = start_pool(workers=2, **production)
    status = server.until_idle()
    weights = sum(
        path.stat().st_size for path in Path(production["engines"]["tts"]["model"]).rglob("*.pth")
    )
    for worker in status["workers"]:
        assert worker["private"] < weights, "Kokoro's weights would be private if they were copied"


def test_the_model_is_resident_before_the_first_caller(
    start_pool: Start, production: dict[str, Any], ollama: OllamaServer
) -> None:
    server = start_pool(workers=1, **production)
    loads = list(ollama.loads)
    assert loads
    with call(server) as websocket:
        assert Caller(websocket).turn()["status"] == "completed"
    assert list(ollama.loads) == loads, "the call's options are those that it was loaded with"


def test_partial_transcripts_come_while_the_caller_speaks(
    start_pool: Start, production: dict[str, Any]
) -> None:
    server = start_pool(workers=1, **production)
    with call(server) as websocket:
        caller = Caller(websocket)
        audio = {"input": {"transcription": {"model": "whisper-1", "delay": "low"}}}
        caller.send("session.update", session={"type": "realtime", "audio": audio})
        with wave.open(str(HELLO)) as file:
            file.setpos(file.getframerate() // 2)
            # It ends in the middle of a word: at a pause no partial transcript is begun.
            speech = base64.b64encode(file.readframes(file.getframerate() // 2)).decode()
        partial = "conversation.item.input_audio_transcription.delta"
        for _ in range(300):  # the caller speaks on and on, until somebody has followed
            caller.send("input_audio_buffer.append", audio=speech)
            if (seen := caller.next(partial, patience=0.2)) is not None:
                break
        assert seen is not None
        assert whisper.TEXT.startswith(seen["delta"])


# --- what is wrong before anybody can call -------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "options", "words"),
    [
        ("stt", {"model": "bse"}, "did you mean 'base'"),
        ("stt", {"model": "base"}, "voicepool prefetch --profile cpu"),
        ("stt", {"compute_type": "float16"}, "int8"),
        ("stt", {"language": "xx"}, "language"),
        ("tts", {"voice": "af_hart"}, "did you mean 'af_heart'"),
        ("tts", {"model": "/nowhere"}, "/nowhere"),
        ("llm", {"model": "lama3.2"}, "ollama pull lama3.2"),
        ("llm", {"options": {"num_ctxt": 5}}, "num_ctx"),
    ],
)
def test_a_bad_setting_ends_the_start_with_one_line(
    start_pool: Start, production: dict[str, Any], stage: str, options: dict[str, Any], words: str
) -> None:
    server = start_pool(workers=1, wait=False, **changed(production, stage, **options))
    assert server.wait() == 2
    (trouble,) = [step["detail"] for step in server.progress if step["stage"] == "trouble"]
    assert words in trouble
    assert "\n" not in trouble


def test_a_missing_file_is_named(
    start_pool: Start, production: dict[str, Any], models: Path, tmp_path: Path
) -> None:
    for file in (models / "whisper").iterdir():
        if file.name != "model.bin":
            (tmp_path / file.name).symlink_to(file)
    settings = changed(production, "stt", model=str(tmp_path))
    server = start_pool(workers=1, wait=False, **settings)
    assert server.wait() == 2
    assert "model.bin" in server.stage("trouble")["detail"]


def test_a_server_that_is_away_is_waited_for(
    start_pool: Start, production: dict[str, Any], ollama: OllamaServer
) -> None:
    ollama.stop()
    server = start_pool(workers=1, wait=False, **production)
    server.stage("warming")
    ollama.start()
    server.stage("serving")
    with call(server) as websocket:
        assert Caller(websocket).turn()["status"] == "completed"


def test_a_model_that_fails_at_warm_up_is_told_of_and_tried_again(
    start_pool: Start, production: dict[str, Any], ollama: OllamaServer
) -> None:
    ollama.models[RESIDENT] = Model(Script(status=500, error="llama runner process has terminated"))
    server = start_pool(workers=1, wait=False, **production)
    server.may_log_tracebacks = True
    assert "llama runner process has terminated" in server.stage("trouble")["detail"]
    status = server.until_status(lambda s: s["totals"]["failures"] >= 1, "had a failure")
    assert not status["pool"]["halted"]
    ollama.models[RESIDENT] = Model(Script(reply=REPLY))
    server.stage("serving")


# --- what goes wrong in a call -------------------------------------------------------------------


def test_a_language_model_that_dies_in_a_reply_is_told_and_the_call_goes_on(
    start_pool: Start, production: dict[str, Any], ollama: OllamaServer
) -> None:
    server = start_pool(workers=1, **production)
    with call(server) as websocket:
        caller = Caller(websocket)
        ollama.models[RESIDENT] = Model(Script(reply=REPLY, dies_after=2))
        failed = caller.turn()
        assert failed["status"] == "failed"
        assert failed["status_details"]["error"]["message"] == "The language model failed."
        ollama.models[RESIDENT] = Model(Script(reply=REPLY))
        assert caller.turn()["status"] == "completed"
    assert server.status()["totals"]["lost"] == 0


def test_an_interruption_stops_the_generation_on_the_server(
    start_pool: Start, production: dict[str, Any], ollama: OllamaServer
) -> None:
    server = start_pool(workers=1, **production)
    long = " ".join(f"This is sentence number {n} of many." for n in range(1, 200))
    ollama.models[RESIDENT] = Model(Script(reply=long, hold_after=60))
    with call(server) as websocket:
        caller = Caller(websocket)
        caller.speak()
        caller.until("response.output_audio.delta")
        caller.send("response.cancel")
        assert caller.until("response.done")["response"]["status"] == "cancelled"
        asyncio.run(ollama.until(lambda: ollama.states()[-1] == "cancelled", "was cancelled"))


@pytest.mark.parametrize(
    ("stage", "message"),
    [("stt", "The speech recogniser failed."), ("tts", "The speech synthesiser failed.")],
)
def test_a_library_that_breaks_in_a_call_is_told_and_the_pool_recovers(
    start_pool: Start,
    production: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    message: str,
) -> None:
    flag = tmp_path / "trouble"
    monkeypatch.setenv("TROUBLE", str(flag))
    speech = {name: production[name] for name in ("profile", "engines")}
    monkeypatch.setenv(SETTINGS, json.dumps(speech))
    server = start_pool(workers=1, app="tests.apps.breaking:create")
    server.may_log_tracebacks = True
    with call(server) as websocket:
        caller = Caller(websocket)
        flag.write_text(stage)
        caller.speak()
        if stage == "tts":
            failed = caller.until("response.done")["response"]
            assert failed["status"] == "failed"
            assert failed["status_details"]["error"]["message"] == message
        else:
            kind = "conversation.item.input_audio_transcription.failed"
            event = caller.until("response.done", kind, "error")
            assert message in json.dumps(event)
        flag.unlink()
        assert caller.turn()["status"] == "completed", "the session stays usable"
        flag.write_text(stage)
    # A worker that cannot infer does not come up; the next one does, once it can.
    server.until_status(lambda s: "out of memory" in s["pool"]["last_error"], "told why")
    flag.unlink()
    server.until_idle()


def test_a_worker_that_dies_in_a_call_takes_only_its_caller(
    start_pool: Start, production: dict[str, Any]
) -> None:
    server = start_pool(workers=2, **production)
    with call(server) as one:
        (worker,) = server.until(lambda: server.workers("serving"), "served")
        with call(server) as other:
            caller, survivor = Caller(one), Caller(other)
            caller.speak()
            caller.until("response.created")
            os.kill(worker["pid"], signal.SIGKILL)
            assert survivor.turn()["status"] == "completed"
    server.until_idle()
