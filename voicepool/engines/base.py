"""The four engine interfaces of a speech pipeline, and the life of an engine in a forked pool.

Life of an engine object, the same for all four kinds:

    factory(options)   in the zygote: check the options, touch nothing
    fetch(report)      in `voicepool prefetch`, where an engine has something to download
    preload()          in the zygote, once: check that all that is needed is there, import libraries
                       and load what survives a fork into host memory. No thread, no CUDA context,
                       nothing that hangs in a child.
    check()            in `voicepool doctor`, where `preload` would take long: judge as it would
    advise(callers)    in the zygote, after `preload`, where an engine has something to say
    load(device)       in the worker, in a thread: the rest. `device` is "host", or "cuda:0" for the
                       one GPU that this worker can see
    warm_up()          in the worker, in a thread: one real inference
    stream()/...       per caller

Sound inside the pipeline is mono float32 in [-1, 1]. Recognisers and detectors hear 16 kHz;
a synthesiser states its own rate. Every method says whether it blocks: one that blocks is called
in a thread that belongs to that engine, never on the event loop, and never twice at once.
All failures are `EngineError`; `EngineUnavailable` where trying again cannot help, and
`ConfigError` for an option that only the loaded library can judge. Both name the remedy.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]
"""Mono sound, shape (n,), float32 in [-1, 1]."""

INPUT_RATE = 16_000
"""Samples per second that detectors and recognisers hear."""


class Engine(Protocol):
    """What all four kinds share."""

    @property
    def name(self) -> str:
        """The engine's name in profiles and banners, for example "pocketsphinx"."""

    def preload(self) -> None:
        """In the zygote; see the module. Raises EngineUnavailable, ConfigError."""

    def load(self, device: str) -> None:
        """In the worker; blocks. Raises EngineUnavailable, ConfigError."""

    def warm_up(self) -> None:
        """In the worker, after `load`; blocks for one real inference."""


@runtime_checkable
class Checking(Protocol):
    """An engine that can tell within seconds whether its `preload` and workers would find all that
    they need. Of others `preload` itself takes no longer."""

    def check(self) -> None:
        """Look for packages, files and servers; load no model and import nothing heavy; blocks.

        Raises EngineUnavailable and ConfigError as `preload` would, and another EngineError for
        what a worker would wait for, such as a server that is away.
        """


@runtime_checkable
class Advising(Protocol):
    """An engine that can tell an operator what would make it serve better."""

    def advise(self, callers: int) -> Sequence[str]:
        """What should be changed before `callers` talk at once: a line each, with the remedy.

        In the zygote after `preload`, or in `voicepool doctor` after a check; blocks for some
        seconds at most.
        Raises nothing: a server that cannot be asked is a line too.
        """


@dataclass(frozen=True, slots=True)
class Download:
    """How far one file of an engine is."""

    name: str
    """What it is, for people: "faster-whisper base: model.bin"."""
    done: int
    """Bytes that are there."""
    total: int | None
    """Bytes in all, None where that is not known."""


@runtime_checkable
class Fetching(Protocol):
    """An engine whose model can be downloaded ahead of time."""

    def fetch(self, report: Callable[[Download], None]) -> None:
        """Download what is missing; blocks. Tells `report` of every file, at its end too.

        Raises EngineUnavailable: there is no such model, or no way to it.
        """


# --- voice activity --------------------------------------------------------------------------


class DetectorStream(Protocol):
    """One caller's detector; keeps the model's recurrent state."""

    def push(self, window: Samples) -> float:
        """The probability in [0, 1] that `window` (shape (window_size,), 16 kHz) is speech.

        Takes about a millisecond and is called on the event loop.
        """

    def reset(self) -> None:
        """Forget the past, as at a call's start."""


class VoiceActivityDetector(Engine, Protocol):
    @property
    def window_size(self) -> int:
        """Samples per window at 16 kHz (Silero: 512, 32 ms)."""

    def stream(self) -> DetectorStream:
        """A fresh detector for one caller. Only after `load`."""


# --- speech to text --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Transcript:
    """What a recogniser made of an utterance, or of its beginning."""

    text: str
    """"" where nothing was understood."""
    final: bool
    confidence: float | None = None
    """In [0, 1], where the engine has one."""
    rejected: str = ""
    """Why a recogniser with a closed phrase set did not take its best guess; "" if it did."""
    beginning: str = ""
    """What such a recogniser heard of a phrase that it expects to go on; `text` is "" then."""
    complete: bool = False
    """Whether `text` is known to be all of a phrase; without it only the words can tell."""
    language: str = ""
    """What it is in, as ISO 639-1; "" where the engine does not tell."""

    @property
    def unsaid(self) -> bool:
        """Whether there were no words: a cough, a door. Such a turn gets no reply."""
        return not (self.text.strip() or self.rejected)


class RecognizerStream(Protocol):
    """One utterance of one caller."""

    def feed(self, samples: Samples) -> Transcript | None:
        """Take sound (any length, 16 kHz); blocks. A partial transcript when it has changed."""

    def finish(self) -> Transcript:
        """The utterance is over: its final transcript; blocks. The stream is spent."""

    def snapshot(self) -> Transcript:
        """What `finish` would say if the utterance ended now; blocks. More may be fed after it.

        Where nothing is fed between the two, `finish` should have the answer ready: a confirmed
        turn waits for nothing else.
        """

    def close(self) -> None:
        """Drop the utterance unfinished. May be called twice, and after `finish`."""


class SpeechRecognizer(Engine, Protocol):
    def stream(self, *, language: str | None = None, prompt: str = "") -> RecognizerStream:
        """Begin an utterance; may block. `language` is ISO 639-1; engines that cannot use a hint
        ignore it. Several may be open at once (a clip to transcribe during a turn), but all calls
        on them come from one thread.
        """


# --- language model --------------------------------------------------------------------------

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A finished request of the model to call a tool."""

    call_id: str
    name: str
    arguments: str
    """A JSON object as text, as the model wrote it."""


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    """Of an assistant message."""
    tool_call_id: str = ""
    """Of a tool message: the call that it answers."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    """JSON Schema of the arguments object."""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    messages: Sequence[Message]
    """The conversation so far, the system prompt first, the caller's turn last."""
    tools: Sequence[Tool] = ()
    tool_choice: str = "auto"
    """"auto", "none", "required", or a tool's name."""
    max_tokens: int | None = None
    temperature: float | None = None


@dataclass(frozen=True, slots=True)
class TextDelta:
    text: str
    """"" from a model that thinks and says nothing yet: a sign of life for who waits for tokens."""


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a tool call's arguments as they stream; the first of a call has its name."""

    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The last item of a generation that was not cancelled."""

    reason: Literal["stop", "length", "content_filter", "tool_calls"] = "stop"
    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def cut_off(self) -> bool:
        """Whether the model was stopped in the middle of what it would have said."""
        return self.reason in ("length", "content_filter")


ChatDelta = TextDelta | ToolCallDelta | ToolCall | Finished
"""A generation is TextDelta | ToolCallDelta | ToolCall (when one is complete) ..., Finished."""


class LanguageModel(Engine, Protocol):
    def generate(self, request: ChatRequest) -> AsyncGenerator[ChatDelta, None]:
        """Stream a reply on the event loop, never blocking it.

        Cancelled by `aclose()`, or by cancelling the task that reads it; either must stop the
        generation on a remote server too. Raises EngineError.
        """


# --- text to speech --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WordTime:
    """Where a word sounds in a synthesised text."""

    text_start: int
    """Index of the word's first character in the text given to `synthesize`."""
    text_end: int
    """Index after its last character."""
    start: float
    """Seconds from the first sample of that text's sound to the word's beginning."""


@dataclass(frozen=True, slots=True)
class SpeechChunk:
    samples: Samples
    """At the synthesiser's `sample_rate`."""
    words: tuple[WordTime, ...] = ()
    """Words that begin in this chunk; () from an engine without word times."""


class SpeechSynthesizer(Engine, Protocol):
    @property
    def sample_rate(self) -> int:
        """Samples per second of its chunks. Known after `load`."""

    @property
    def voices(self) -> Sequence[str]:
        """Names that `synthesize` takes, the default first. Known after `load`."""

    def synthesize(
        self, text: str, *, voice: str = "", speed: float = 1.0
    ) -> Iterator[SpeechChunk]:
        """Speak one sentence or clause, in chunks of at most 200 ms as they are made; blocks.

        A voice it does not know is the default voice. Closing the generator between two chunks
        cancels the rest.
        """


@runtime_checkable
class Polyglot(Protocol):
    """A synthesiser that can tell what its voices speak. Others are taken to speak English."""

    def language_of(self, voice: str) -> str:
        """The language that `synthesize` speaks with this voice, as an ISO 639-1 code, with a
        region where it matters ("en", "pt-BR"). Known after `preload`; never blocks.

        Numbers and signs come as words of that language; "" leaves them to the synthesiser.
        """


@dataclass(frozen=True, slots=True)
class Engines:
    """One engine per stage: what a profile names, loaded once per worker."""

    vad: VoiceActivityDetector
    stt: SpeechRecognizer
    llm: LanguageModel
    tts: SpeechSynthesizer
