"""`voicepool talk`: a caller for any OpenAI Realtime server, from a WAV file or a microphone."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from voicepool.calling import connect
from voicepool.dialogue import RATE, Dialogue, Line, ProtocolError, Side
from voicepool.errors import CallError, ExitCode
from voicepool.logs import escape
from voicepool.microphone import microphone, sounddevice_module
from voicepool.wavfile import Loudness, Pcm, read_wav, write_wav

PIECE_MS = 20
PIECE = RATE * PIECE_MS // 1000
SILENCE: Pcm = np.zeros(PIECE, np.int16)
PAUSE_MS = 800
"""Quiet in a file that `fast` takes for the end of an utterance; longer than servers' usual 500."""
NO_SPEECH = 5.0
"""Seconds of silence after which a server that has noticed no speech never will."""
UNANSWERED = 3.0
"""Seconds after which a turn without a word in it will get no reply: few servers answer a cough."""
GREETING = 10.0
"""Seconds that a server has for its session.created."""
GAP = RATE // 2
"""Samples of silence between two replies in the file that is written."""

Show = Callable[[Line], None]


@dataclass(frozen=True, slots=True)
class TalkOptions:
    """What the command line asks for. Times are seconds."""

    url: str
    file: Path | None
    """None: the microphone."""
    out: Path | None
    """Where the reply goes; None: nowhere."""
    api_key: str = ""
    cafile: Path | None = None
    """PEM file with the authorities to trust; None: the system's."""
    fast: bool = False
    wait: float = 0.0
    """How long to try again while the server is full."""
    timeout: float = 30.0
    """How long a server may stay silent while a reply is due."""


@dataclass(slots=True)
class Report:
    """What became of a call; filled in as it goes, so that it holds after a failure too."""

    connect: float | None = None
    """Seconds from dialling to the server's first message."""
    whole: float = 0.0
    out: Path | None = None
    """The WAV file with the replies, once it is written."""
    dialogue: Dialogue = field(default_factory=lambda: Dialogue(lambda _: None))


async def talk(options: TalkOptions, report: Report, show: Show) -> None:
    """Make one call and write what the voice said to `options.out`, also when the call fails.

    A call from a microphone goes on until it is cancelled. Raises CallError and WavError.
    """
    if options.file is None:
        sounddevice_module()  # a machine without one shall not take a worker to find out
        sound = None
    else:
        sound = read_wav(options.file, RATE)
    began = time.monotonic()

    def tell(text: str) -> None:
        show(Line(Side.NOTE, text))

    async with connect(
        options.url, options.api_key, options.wait, tell, options.cafile
    ) as websocket:
        call = _Call(websocket, options, report, show)
        try:
            await call.greet()
            report.connect = time.monotonic() - began
            tell(f"connected in {report.connect * 1000:.0f} ms")
            await call.run(sound)
        finally:
            report.whole = time.monotonic() - began
            if options.out is not None:
                _save(report, options.out)


def _save(report: Report, out: Path) -> None:
    replies = [turn.reply for turn in report.dialogue.turns if turn.reply and turn.reply.sound]
    if not replies:
        return
    gap = bytes(2 * GAP)
    try:
        write_wav(out, np.frombuffer(gap.join(reply.heard for reply in replies), "<i2"), RATE)
    except OSError as error:
        raise CallError(f"{out}: cannot be written: {error.strerror}", ExitCode.USAGE) from error
    report.out = out


class _Call:
    """One call in progress: a task that speaks and one that listens."""

    def __init__(
        self, websocket: ClientConnection, options: TalkOptions, report: Report, show: Show
    ) -> None:
        self._websocket = websocket
        self._options = options
        self._show = show
        self._sent: list[float] = []
        """When each piece was sent."""
        self._loudness = Loudness(RATE)
        self._news = time.monotonic()
        """When the server last said something."""
        self._all_said = False
        """Whether there is nothing left to send but silence."""
        self._dialogue = Dialogue(self._spoke_until, plays=not options.fast)
        report.dialogue = self._dialogue

    async def greet(self) -> None:
        """Wait for session.created, and ask for transcripts."""
        try:
            async with asyncio.timeout(GREETING):
                event = _parsed(await self._websocket.recv())
        except TimeoutError:
            raise CallError(
                f"the server took the call but said nothing for {GREETING:.0f} s",
                ExitCode.CALL_FAILED,
            ) from None
        except ConnectionClosed as closed:
            raise _broken_off(self._websocket) from closed
        self._take(event)
        if event.get("type") != "session.created":
            raise CallError(
                "the server does not speak the OpenAI Realtime protocol: its first event is "
                f"{event.get('type')!r}",
                ExitCode.CALL_FAILED,
            )
        pcm = {"type": "audio/pcm", "rate": RATE}
        audio = {
            "input": {"format": pcm, "transcription": {"model": "whisper-1"}},
            "output": {"format": pcm},
        }
        await self._send(
            {"type": "session.update", "session": {"type": "realtime", "audio": audio}}
        )

    async def run(self, sound: Pcm | None) -> None:
        """Speak and listen until everything is answered. Raises CallError."""
        speaking = asyncio.create_task(self._speak(sound))
        listening = asyncio.create_task(self._listen())
        tasks = (listening, speaking)
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            # Listening first: where both have failed it knows what the server's last words were.
            await next(task for task in tasks if task in done)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        last = self._dialogue.turns[-1].reply
        if last is not None and last.status == "failed":
            raise CallError("the last reply failed", ExitCode.CALL_FAILED)

    # -- listening

    async def _listen(self) -> None:
        try:
            async for message in self._websocket:
                self._take(_parsed(message))
                for event in self._dialogue.truncations():
                    await self._send(event)
        except ConnectionClosed as closed:
            raise _broken_off(self._websocket) from closed
        # A polite end raises nothing, but may come too soon.
        if not (self._all_said and self._dialogue.settled):
            raise _broken_off(self._websocket)

    def _take(self, event: dict[str, Any]) -> None:
        self._news = time.monotonic()
        try:
            lines = self._dialogue.handle(event, self._news)
        except ProtocolError as error:
            raise _not_realtime(str(error)) from error
        for line in lines:
            self._show(line)

    # -- speaking

    async def _speak(self, sound: Pcm | None) -> None:
        if sound is None:
            async with aclosing(microphone(RATE, PIECE)) as pieces:
                async for piece in pieces:
                    await self._send_sound(piece)
        elif self._options.fast:
            parts = list(utterances(sound))
            for number, utterance in enumerate(parts, 1):
                known = len(self._dialogue.turns)  # before a server can notice this one
                for piece in _pieces(utterance):
                    await self._send_sound(piece)
                    await asyncio.sleep(0)  # sending alone may never let the listener run
                self._all_said = number == len(parts)
                await self._until_answered(known)
        else:
            await self._send_paced(_pieces(sound))
            self._all_said = True
            await self._until_answered(0)
        if not self._dialogue.turns:
            raise CallError("the server noticed no speech in the sound", ExitCode.CALL_FAILED)

    async def _send_paced(self, pieces: Iterator[Pcm]) -> None:
        """At the pace of speech. The schedule is absolute, so a late piece delays no later one."""
        start = time.monotonic()
        for number, piece in enumerate(pieces):
            await asyncio.sleep(max(0.0, start + number * PIECE_MS / 1000 - time.monotonic()))
            await self._send_sound(piece)

    async def _until_answered(self, known: int) -> None:
        """Send silence until all that was said after the first `known` turns is answered."""
        began = time.monotonic()
        silence = itertools.takewhile(
            lambda _: not self._answered(known, began), itertools.repeat(SILENCE)
        )
        await self._send_paced(silence)

    def _answered(self, known: int, began: float) -> bool:
        """Whether there is nothing left to wait for. Raises CallError after the time-out."""
        now, turns = time.monotonic(), self._dialogue.turns
        nothing_more = now - began > NO_SPEECH
        if len(turns) <= known:
            return nothing_more
        if self._dialogue.settled:
            loud = self._loudness.last_loud_ms(float("inf")) or 0
            # Else some speech at the end has not been noticed yet, or is too short to be speech.
            return nothing_more or turns[-1].end_ms >= loud - PAUSE_MS
        quiet = now - max(began, self._news)
        if quiet > UNANSWERED and turns[-1].unsaid:
            return True
        if quiet > self._options.timeout:
            raise CallError(f"no reply within {self._options.timeout:g} s", ExitCode.CALL_FAILED)
        return False

    async def _send_sound(self, piece: Pcm) -> None:
        data = base64.b64encode(piece.astype("<i2").tobytes()).decode()
        await self._send({"type": "input_audio_buffer.append", "audio": data})
        self._loudness.append(piece)
        self._sent.append(time.monotonic())

    async def _send(self, event: dict[str, Any]) -> None:
        try:
            await self._websocket.send(json.dumps(event))
        except ConnectionClosed as closed:
            raise _broken_off(self._websocket) from closed

    def _spoke_until(self, before_ms: int) -> float | None:
        loud = self._loudness.last_loud_ms(before_ms)
        return None if loud is None else self._sent[(loud - 1) // PIECE_MS]


def utterances(sound: Pcm) -> Iterator[Pcm]:
    """`sound` cut where it is quiet for PAUSE_MS or more, each piece with that much quiet after."""
    loudness = Loudness(RATE)
    loudness.append(sound)
    pause = np.zeros(RATE * PAUSE_MS // 1000, np.int16)
    begin = 0
    for end_ms in (*loudness.pauses(PAUSE_MS), None):
        end = len(sound) if end_ms is None else end_ms * RATE // 1000
        yield np.concatenate((sound[begin:end], pause))
        begin = end


def _pieces(sound: Pcm) -> Iterator[Pcm]:
    for begin in range(0, len(sound), PIECE):
        piece = sound[begin : begin + PIECE]
        yield np.pad(piece, (0, PIECE - len(piece)))


def _parsed(message: str | bytes) -> dict[str, Any]:
    try:
        event = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise _not_realtime("not JSON") from error
    if not isinstance(event, dict):
        raise _not_realtime("not an object")
    return event


def _not_realtime(why: str) -> CallError:
    return CallError(
        f"the server sent something that is not the Realtime protocol: {escape(why)}",
        ExitCode.CALL_FAILED,
    )


def _broken_off(websocket: ClientConnection) -> CallError:
    """The connection ended without our asking."""
    code = websocket.close_code or 1006
    meaning = {
        1000: "the server hung up before it had answered",
        1001: "the server ended the call" if websocket.close_reason else "the server shuts down",
        1006: "the connection broke: the worker died, or the network did",
        1009: "the server found a message too large",
        1011: "the server met a fault of its own",
    }.get(code, "the server ended the call")
    reason = f": {escape(websocket.close_reason)}" if websocket.close_reason else ""
    return CallError(f"{meaning} (close code {code}{reason})", ExitCode.CALL_FAILED)
