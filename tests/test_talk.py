"""The client: real calls to a real server, and every way in which a server can fail a caller.

A server that fails in a chosen way is scripted: a real WebSocket server with a wrong script.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import socket
import subprocess
import sys
import wave
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from tests.pools import PoolServer
from voicepool import talk as talking
from voicepool.dialogue import RATE, Line
from voicepool.engines import espeak
from voicepool.errors import CallError, ExitCode, WavError
from voicepool.talk import Report, TalkOptions, talk, utterances
from voicepool.wavfile import Pcm, write_wav

Script = Callable[[ServerConnection], Awaitable[None]]


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a WAV file of sentences (texts) and silences (seconds) by the embedded voice."""
    voice = espeak.create({})
    voice.preload()
    voice.load("host")
    folder = tmp_path_factory.mktemp("speech")

    def say(*parts: str | float) -> Path:
        pieces = []
        for part in parts:
            if isinstance(part, str):
                pieces += [chunk.samples for chunk in voice.synthesize(part)]
            else:
                pieces.append(np.zeros(int(part * voice.sample_rate), np.float32))
        sound = (np.concatenate(pieces) * 32767).astype(np.int16)
        path = folder / f"{abs(hash(parts))}.wav"
        write_wav(path, sound, voice.sample_rate)
        return path

    return say


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PoolServer]:
    """A voicepool server with the embedded engines."""
    pool = PoolServer(tmp_path_factory.mktemp("run"), app="", workers=2, log_level="info")
    pool.stage("serving")
    yield pool
    pool.close()


@asynccontextmanager
async def scripted(
    script: Script | None = None, refusal: Response | None = None
) -> AsyncIterator[str]:
    """A server on loopback that plays `script` to each caller, or refuses them all."""

    async def play(websocket: ServerConnection) -> None:
        assert script is not None
        await script(websocket)

    def refuse(_: ServerConnection, __: Request) -> Response | None:
        return refusal

    async with serve(play, "127.0.0.1", 0, process_request=refuse) as running:
        yield f"ws://127.0.0.1:{running.sockets[0].getsockname()[1]}/v1/realtime"


async def say(websocket: ServerConnection, kind: str, **fields: Any) -> None:
    await websocket.send(json.dumps({"type": kind, **fields}))


async def greet(websocket: ServerConnection) -> None:
    await say(websocket, "session.created", session={"type": "realtime"})
    assert json.loads(await websocket.recv())["type"] == "session.update"


async def hear(websocket: ServerConnection, item: str = "u") -> None:
    """Take one piece of sound and claim that it was a whole turn."""
    await websocket.recv()
    transcription = "conversation.item.input_audio_transcription.completed"
    await say(websocket, "input_audio_buffer.speech_started", item_id=item, audio_start_ms=0)
    await say(websocket, "input_audio_buffer.speech_stopped", item_id=item, audio_end_ms=10**6)
    await say(websocket, "input_audio_buffer.committed", item_id=item)
    await say(websocket, transcription, item_id=item, transcript="hello")


async def answer(websocket: ServerConnection, status: str = "completed") -> None:
    delta = base64.b64encode(np.full(RATE, 1000, "<i2").tobytes()).decode()
    await say(websocket, "response.created", response={"id": "r"})
    await say(websocket, "response.output_audio.delta", response_id="r", item_id="a", delta=delta)
    await say(websocket, "response.done", response={"id": "r", "status": status})


async def drain(websocket: ServerConnection) -> None:
    """Read on to the end: a server that reads nothing does not see the caller hang up either."""
    async for _ in websocket:
        pass


async def attempt(url: str, file: Path | None, out: Path, **options: Any) -> Report:
    report = Report()
    await talk(TalkOptions(url=url, file=file, out=out, **options), report, lambda _: None)
    return report


async def failure(url: str, file: Path, out: Path, **options: Any) -> CallError:
    with pytest.raises(CallError) as caught:
        await attempt(url, file, out, **options)
    return caught.value


def read(path: Path) -> Pcm:
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


@pytest.fixture
def short(tmp_path: Path) -> Path:
    """A tenth of a second of something loud."""
    path = tmp_path / "short.wav"
    write_wav(path, np.full(RATE // 10, 9000, np.int16), RATE)
    return path


# --- real calls ------------------------------------------------------------------------------


def command(*arguments: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "voicepool", *arguments],
        cwd=cwd,
        env={**os.environ, **environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def test_a_call_from_the_command_line(
    server: PoolServer, speech: Callable[..., Path], tmp_path: Path
) -> None:
    file = speech(0.2, "what time is it right now", 0.2)
    done = command("talk", str(file), "--json", "--out", "a.wav", "--url", server.url, cwd=tmp_path)
    assert done.returncode == ExitCode.OK, done.stderr
    result = json.loads(done.stdout)
    (turn,) = result["turns"]
    assert turn["status"] == "completed"
    assert turn["reply"] in done.stderr.replace("voice  ", "")
    assert len(read(tmp_path / "a.wav")) / RATE == pytest.approx(turn["reply_length"], abs=0.001)
    assert turn["first_sound_after"] > 0
    assert result["errors"] == []
    assert result["events"]["response.done"] == 1


async def test_fast_waits_for_each_reply_so_that_none_is_interrupted(
    server: PoolServer, speech: Callable[..., Path], tmp_path: Path
) -> None:
    file = speech("what time is it right now", 1.0, "how are you doing today")
    report = await attempt(server.url + "/v1/realtime", file, tmp_path / "a.wav", fast=True)
    replies = [turn.reply for turn in report.dialogue.turns]
    assert [reply and reply.status for reply in replies] == ["completed", "completed"]
    assert all(reply and reply.heard_ms is None for reply in replies)
    spoken = sum(len(reply.sound) // 2 for reply in replies if reply)
    assert len(read(tmp_path / "a.wav")) == spoken + talking.GAP


async def test_at_the_pace_of_speech_a_later_utterance_interrupts(
    server: PoolServer, speech: Callable[..., Path], tmp_path: Path
) -> None:
    # Nobody answers in a second what takes a second to say: the second sentence cuts in.
    file = speech("tell me a long story please", 2.0, "how are you doing today")
    report = await attempt(server.url + "/v1/realtime", file, tmp_path / "a.wav")
    first, last = report.dialogue.turns[0].reply, report.dialogue.turns[-1].reply
    assert first is not None
    assert last is not None
    assert first.heard_ms is not None
    assert len(first.heard) < len(first.sound)
    assert last.status == "completed"
    assert len(read(tmp_path / "a.wav")) < (len(first.sound) + len(last.sound)) // 2


# --- servers that fail -----------------------------------------------------------------------


async def test_no_server(short: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    error = await failure(f"ws://127.0.0.1:{port}/v1/realtime", short, tmp_path / "a.wav")
    assert error.code == ExitCode.UNREACHABLE
    url = f"ws://127.0.0.1:{port}/v1/realtime"
    assert str(error) == (
        f"no server at {url} (Connection refused); start one with: voicepool start; "
        "or say by --url, or VOICEPOOL_URL, where it is"
    )


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (401, '{"error": {"message": "wrong key"}}', ("VOICEPOOL_API_KEY", "wrong key")),
        (403, "no", ("allowed_hosts", "403 Forbidden")),
        (
            403,
            '{"error": {"message": "use one of those", "code": "insufficient_scope"}}',
            ("use one of those",),
        ),
        (404, "no", ("takes no calls at /v1/realtime", "404 Not Found")),
        (500, '{"error": []}', ("answered 500",)),
        (429, '{"error": {"message": "end one call"}}', ("end one call", "--wait")),
        (503, '{"error": {"message": "all busy\\u001b[2J"}}', ("all busy\\x1b[2J", "--wait")),
    ],
)
async def test_a_refusal_says_what_to_do(
    short: Path, tmp_path: Path, status: int, body: str, words: tuple[str, ...]
) -> None:
    async with scripted(refusal=_response(status, body)) as url:
        error = await failure(url, short, tmp_path / "a.wav")
    assert error.code == ExitCode.UNREACHABLE
    assert all(word in str(error) for word in words), str(error)


def _response(status: int, body: str, **headers: str) -> Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    length = {"Content-Length": str(len(body.encode())), "Connection": "close"}
    return Response(status, HTTPStatus(status).phrase, Headers(named | length), body.encode())


async def test_waiting_for_a_server_that_takes_the_call_later(short: Path, tmp_path: Path) -> None:
    limited = '{"error": {"message": "your address has a call; end it; try again in 1 s"}}'
    refusals = [_response(429, limited, Retry_After="1"), _response(503, "{}", Retry_After="1")]
    told: list[Line] = []

    async def play(websocket: ServerConnection) -> None:
        await greet(websocket)
        await hear(websocket)
        await answer(websocket)
        await drain(websocket)

    def refuse(_: ServerConnection, __: Request) -> Response | None:
        return refusals.pop() if refusals else None

    async with serve(play, "127.0.0.1", 0, process_request=refuse) as running:
        url = f"ws://127.0.0.1:{running.sockets[0].getsockname()[1]}/"
        options = TalkOptions(url=url, file=short, out=tmp_path / "a.wav", fast=True, wait=60)
        await talk(options, Report(), told.append)
    assert [line.text for line in told[:2]] == [
        "503 Service Unavailable; trying again in 1 s",
        "your address has a call; trying again in 1 s",
    ]
    assert len(read(tmp_path / "a.wav")) == RATE


async def test_patience_has_an_end(short: Path, tmp_path: Path) -> None:
    async with scripted(refusal=_response(503, "{}", Retry_After="1")) as url:
        error = await failure(url, short, tmp_path / "a.wav", wait=0.1)
    assert str(error) == (
        "no call now: 503 Service Unavailable; let talk try for you with: --wait 60"
    )


async def test_something_that_is_no_websocket_server(short: Path, tmp_path: Path) -> None:
    async def mumble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"220 mail.example ESMTP\r\n")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(mumble, "127.0.0.1", 0) as running:
        port = running.sockets[0].getsockname()[1]
        error = await failure(f"ws://127.0.0.1:{port}/", short, tmp_path / "a.wav")
    assert error.code == ExitCode.UNREACHABLE
    assert "is no WebSocket server" in str(error)


async def _silent(websocket: ServerConnection) -> None:
    await drain(websocket)


async def _stranger(websocket: ServerConnection) -> None:
    await say(websocket, "welcome")
    await drain(websocket)


async def _not_json(websocket: ServerConnection) -> None:
    await websocket.send("[" * 100_000)
    await drain(websocket)


async def _no_event(websocket: ServerConnection) -> None:
    await greet(websocket)
    await websocket.send("[1]")
    await drain(websocket)


async def _nonsense(websocket: ServerConnection) -> None:
    await greet(websocket)
    await say(websocket, "response.done", response=None)
    await drain(websocket)


async def _dies(websocket: ServerConnection) -> None:
    await greet(websocket)
    await hear(websocket)
    websocket.transport.abort()


async def _faults(websocket: ServerConnection) -> None:
    await greet(websocket)
    await hear(websocket)
    await websocket.close(1011, "engine \x1b[2J broke")


async def _hangs_up(websocket: ServerConnection) -> None:
    await greet(websocket)
    await hear(websocket)


async def _closes_early(websocket: ServerConnection) -> None:
    """A server that shuts down: all is answered so far, but not all is said."""
    await greet(websocket)
    await hear(websocket)
    await answer(websocket)
    await websocket.close(1001)


async def _never_replies(websocket: ServerConnection) -> None:
    await greet(websocket)
    await hear(websocket)
    await drain(websocket)


async def _fails(websocket: ServerConnection) -> None:
    await greet(websocket)
    await hear(websocket)
    await answer(websocket, "failed")
    await drain(websocket)


async def _deaf(websocket: ServerConnection) -> None:
    await greet(websocket)
    await drain(websocket)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (_silent, "said nothing for"),
        (_stranger, "its first event is 'welcome'"),
        (_not_json, "not JSON"),
        (_no_event, "not an object"),
        (_nonsense, "not the Realtime protocol"),
        (_dies, "the worker died, or the network did (close code 1006)"),
        (_faults, "fault of its own (close code 1011: engine \\x1b[2J broke)"),
        (_hangs_up, "hung up before it had answered"),
        (_never_replies, "no reply within 0.2 s"),
        (_fails, "the last reply failed"),
        (_deaf, "noticed no speech"),
    ],
)
async def test_a_call_that_fails_says_how(
    short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: Script, words: str
) -> None:
    monkeypatch.setattr(talking, "GREETING", 0.2 if script is _silent else 30.0)
    monkeypatch.setattr(talking, "NO_SPEECH", 0.2 if script is _deaf else 30.0)
    timeout = 0.2 if script is _never_replies else 30.0
    async with scripted(script) as url:
        error = await failure(url, short, tmp_path / "a.wav", timeout=timeout)
    assert error.code == ExitCode.CALL_FAILED
    assert words in str(error)


async def test_a_server_that_shuts_down_in_mid_call_is_no_success(tmp_path: Path) -> None:
    write_wav(tmp_path / "long.wav", np.full(RATE * 60, 9000, np.int16), RATE)
    async with scripted(_closes_early) as url:
        error = await failure(url, tmp_path / "long.wav", tmp_path / "a.wav")
    assert error.code == ExitCode.CALL_FAILED
    assert "the server shuts down" in str(error)
    assert len(read(tmp_path / "a.wav")) == RATE


async def test_no_microphone_no_call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(CallError, match="--mic needs sounddevice"):
        await attempt("ws://127.0.0.1:1/", None, tmp_path / "b.wav")


async def test_what_was_said_before_the_end_is_saved(short: Path, tmp_path: Path) -> None:
    async def half(websocket: ServerConnection) -> None:
        await greet(websocket)
        await hear(websocket)
        delta = base64.b64encode(np.ones(RATE // 2, "<i2").tobytes()).decode()
        await say(websocket, "response.created", response={"id": "r"})
        await say(
            websocket, "response.output_audio.delta", response_id="r", item_id="a", delta=delta
        )
        websocket.transport.abort()

    async with scripted(half) as url:
        await failure(url, short, tmp_path / "a.wav")
    assert len(read(tmp_path / "a.wav")) == RATE // 2


# --- pace and pieces -------------------------------------------------------------------------


async def test_the_sound_arrives_whole_and_in_order_and_then_silence(tmp_path: Path) -> None:
    sound = np.random.default_rng(1).integers(-9000, 9000, RATE // 2 + 77, dtype=np.int16)
    write_wav(tmp_path / "in.wav", sound, RATE)
    heard: list[bytes] = []

    async def record(websocket: ServerConnection) -> None:
        await greet(websocket)
        async for message in websocket:
            heard.append(base64.b64decode(json.loads(message)["audio"]))
            if len(heard) == 60:
                await hear(websocket)
                await answer(websocket)

    async with scripted(record) as url:
        await attempt(url, tmp_path / "in.wav", tmp_path / "a.wav")
    assert {len(piece) for piece in heard} == {2 * talking.PIECE}
    received = np.frombuffer(b"".join(heard), "<i2")
    np.testing.assert_allclose(received[: len(sound)], sound, atol=1)
    assert not received[len(sound) :].any()


async def test_fast_waits_although_the_server_notices_speech_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(talking, "NO_SPEECH", 1.0)  # half of what the answer takes
    # Long enough for the server to be heard while the utterance is sent.
    loud, quiet = np.full(RATE * 5, 8000, np.int16), np.zeros(RATE, np.int16)
    write_wav(tmp_path / "in.wav", np.concatenate((loud, quiet, loud)), RATE)
    heard: list[str] = []

    async def slow(websocket: ServerConnection) -> None:
        await greet(websocket)
        for item in ("u", "v"):
            await hear(websocket, item)
            quiet_pieces = 0
            while quiet_pieces < 100:  # then it answers: 40 after the 800 ms that end a turn
                sound = base64.b64decode(json.loads(await websocket.recv())["audio"])
                quiet_pieces = 0 if any(sound) else quiet_pieces + 1
                heard.append("loud" if any(sound) else "quiet")
            heard.append("answer")
            await answer(websocket)
        await drain(websocket)

    async with scripted(slow) as url:
        report = await attempt(url, tmp_path / "in.wav", tmp_path / "a.wav", fast=True)
    assert [turn.answered for turn in report.dialogue.turns] == [True, True]
    assert heard.index("answer") < len(heard) - 1 - heard[::-1].index("loud")
    assert [kind for kind, _ in itertools.groupby(heard) if kind != "quiet"] == [
        "loud",
        "answer",
        "loud",
        "answer",
    ]


def test_utterances_are_cut_in_long_pauses_only() -> None:
    loud = np.full(RATE, 8000, np.int16)

    def quiet(seconds: float) -> Pcm:
        return np.zeros(int(RATE * seconds), np.int16)

    sound = np.concatenate((quiet(0.5), loud, quiet(0.5), loud, quiet(1.0), loud, quiet(0.2)))
    first, second = utterances(sound)
    pause = RATE * talking.PAUSE_MS // 1000
    joined = np.concatenate((first[:-pause], second[:-pause]))
    np.testing.assert_array_equal(joined, sound)
    assert len(first) - pause == pytest.approx(4.0 * RATE, abs=RATE // 50)


async def test_a_file_that_is_no_wav_makes_no_call(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("text")
    with pytest.raises(WavError):
        await attempt("ws://127.0.0.1:1/", tmp_path / "a.wav", tmp_path / "b.wav")
