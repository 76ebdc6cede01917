"""Small real engines that tests can play: they implement the protocols of `engines/base.py`.

The caller's sound is its own script: loud samples are speech, zeros are silence, so a test says
exactly when the caller speaks. Every engine does what it is told when it is told; nothing sleeps.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from voicepool.engines.base import (
    ChatDelta,
    ChatRequest,
    Engines,
    Finished,
    Samples,
    SpeechChunk,
    TextDelta,
    Transcript,
    WordTime,
)

WINDOW = 512
RATE = 16_000


def speech(milliseconds: int) -> Samples:
    """Sound that LoudnessDetector takes for speech."""
    return np.full(RATE * milliseconds // 1000, 0.5, np.float32)


def silence(milliseconds: int) -> Samples:
    return np.zeros(RATE * milliseconds // 1000, np.float32)


class Loaded:
    """The life of an engine that has nothing to load."""

    name = "instrument"

    def preload(self) -> None:
        """Nothing to import."""

    def load(self, device: str) -> None:
        """Nothing to load."""

    def warm_up(self) -> None:
        """Nothing to warm."""


class LoudnessStream:
    def push(self, window: Samples) -> float:
        assert window.shape == (WINDOW,)
        return float(min(1.0, 2 * np.abs(window).mean()))

    def reset(self) -> None:
        """It has no memory."""


class LoudnessDetector(Loaded):
    """Twice the mean loudness is the probability."""

    window_size = WINDOW

    def stream(self) -> LoudnessStream:
        return LoudnessStream()


@dataclass
class ScriptedStream:
    recognizer: ScriptedRecognizer
    samples: int = 0
    closed: bool = False

    def feed(self, samples: Samples) -> Transcript | None:
        self.recognizer.gate.wait(10)
        assert not self.closed
        self.samples += len(samples)
        self.recognizer.heard.append(samples)
        return Transcript(f"{self.samples} samples", final=False)

    def snapshot(self) -> Transcript:
        text = self.recognizer.next_snapshot()
        return Transcript(text, final=False, rejected=self.recognizer.rejected)

    def finish(self) -> Transcript:
        text = self.recognizer.next_final()
        return Transcript(text, final=True, rejected=self.recognizer.rejected)

    def close(self) -> None:
        self.closed = True


@dataclass
class ScriptedRecognizer(Loaded):
    """Says the next of `finals` (the last one for ever) at the end of each turn.

    `snapshots` likewise, where given; else what the next final will be. A text that is an
    exception is raised. While `gate` is clear it hears nothing (for at most 10 s).
    """

    finals: list[str | Exception] = field(default_factory=lambda: ["hello"])
    snapshots: list[str | Exception] = field(default_factory=list)
    rejected: str = ""
    """Why it does not believe what it makes of a turn."""
    gate: threading.Event = field(default_factory=threading.Event)
    heard: list[Samples] = field(default_factory=list)
    streams: list[ScriptedStream] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gate.set()

    def stream(self, *, language: str | None = None, prompt: str = "") -> ScriptedStream:
        self.streams.append(ScriptedStream(self))
        return self.streams[-1]

    def next_final(self) -> str:
        return _said(self.finals)

    def next_snapshot(self) -> str:
        return _said(self.snapshots) if self.snapshots else _said(self.finals[:1])


def _said(script: list[str | Exception]) -> str:
    text = script.pop(0) if len(script) > 1 else script[0]
    if isinstance(text, Exception):
        raise text
    return text


Cue = ChatDelta | asyncio.Event | Exception


@dataclass
class ScriptedModel(Loaded):
    """Streams what `reply` gives for a request; an event in it is waited for, an exception raised.

    `requests` are those it got, `stopped` how many of its streams were closed before their end.
    """

    reply: Callable[[ChatRequest], Sequence[Cue]]
    requests: list[ChatRequest] = field(default_factory=list)
    stopped: int = 0

    async def generate(self, request: ChatRequest) -> AsyncGenerator[ChatDelta, None]:
        self.requests.append(request)
        done = False
        try:
            for cue in self.reply(request):
                if isinstance(cue, asyncio.Event):
                    await cue.wait()
                elif isinstance(cue, Exception):
                    raise cue
                else:
                    yield cue
            done = True
        finally:
            self.stopped += not done


def says(*texts: str) -> Callable[[ChatRequest], Sequence[Cue]]:
    """A model's reply: these deltas, whatever it is asked."""
    return lambda request: [*map(TextDelta, texts), Finished(input_tokens=3, output_tokens=4)]


@dataclass
class ToneSynthesizer(Loaded):
    """Speaks 100 ms of tone a word, a chunk a word, with word times unless `timed` is false.

    While `gate` is clear it says nothing (for at most 10 s).
    """

    sample_rate: int = 16_000
    voices: Sequence[str] = ("tone",)
    timed: bool = True
    gate: threading.Event = field(default_factory=threading.Event)
    spoken: list[str] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)
    cancelled: int = 0

    def __post_init__(self) -> None:
        self.gate.set()

    def synthesize(
        self, text: str, *, voice: str = "", speed: float = 1.0
    ) -> Iterator[SpeechChunk]:
        self.spoken.append(text)
        self.threads.add(threading.get_ident())
        done = False
        try:
            for number, word in enumerate(re.finditer(r"\S+", text)):
                self.gate.wait(10)
                times = (WordTime(word.start(), word.end(), number * 0.1),) if self.timed else ()
                yield SpeechChunk(np.full(self.sample_rate // 10, 0.25, np.float32), times)
            done = True
        finally:
            self.cancelled += not done


def engines(
    reply: Callable[[ChatRequest], Sequence[Cue]] | None = None,
    *,
    stt: ScriptedRecognizer | None = None,
    tts: ToneSynthesizer | None = None,
) -> Engines:
    """A set of instruments."""
    return Engines(
        vad=LoudnessDetector(),
        stt=stt or ScriptedRecognizer(),
        llm=ScriptedModel(reply or says("Hello there. ", "How are you today?")),
        tts=tts or ToneSynthesizer(),
    )
