"""What a pipeline tells its session, and the settings and requests it takes. No wire protocol here.

Times in `_ms` are milliseconds of the caller's sound since the call began (input events) or of the
response's own sound (output events). Sound is mono float32, see `engines/base.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from voicepool.engines.base import Message, Samples, Tool
from voicepool.patience import Patience

if TYPE_CHECKING:
    from asyncio import Task

Status = Literal["completed", "cancelled", "failed", "incomplete"]
CancelReason = Literal["turn_detected", "client_cancelled"]


# --- settings --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TurnSettings:
    """How turns are found. Defaults are the OpenAI Realtime ones."""

    threshold: float = 0.5
    """Probability from which a window counts as speech."""
    prefix_padding_ms: int = 300
    """Sound kept from before the detected start."""
    minimum_speech_ms: int = 96
    """Speech shorter than this starts no turn."""
    silence_duration_ms: int = 500
    """Silence that ends a turn."""
    patience: Patience | None = None
    """The silence that ends a turn depends on what has been said: this instead of
    `silence_duration_ms`."""
    idle_timeout_ms: int | None = None
    create_response: bool = True
    interrupt_response: bool = True


@dataclass(frozen=True, slots=True)
class PipelineSettings:
    """What a session may change at any time; a running response keeps those it began with."""

    turns: TurnSettings | None = TurnSettings()
    """None: the session commits turns and asks for responses itself."""
    transcribe: bool = True
    """Whether the session wants Partial/FinalTranscript events (turns are transcribed anyway)."""
    language: str | None = None
    prompt: str = ""
    """A hint for the recogniser."""
    instructions: str = ""
    tools: Sequence[Tool] = ()
    tool_choice: str = "auto"
    speak: bool = True
    """False: text replies only."""
    voice: str = ""
    speed: float = 1.0
    max_tokens: int | None = None
    temperature: float | None = None


@dataclass(frozen=True, slots=True)
class Said:
    """The message of an entry of the history, as soon as it is known; nothing where it never is."""

    item_id: str


@dataclass(frozen=True, slots=True)
class ResponseRequest:
    """One response to make. Fields that are None come from the PipelineSettings."""

    instructions: str | None = None
    tools: Sequence[Tool] | None = None
    tool_choice: str | None = None
    speak: bool | None = None
    voice: str | None = None
    max_tokens: int | Literal["inf"] | None = None
    temperature: float | None = None
    messages: Sequence[Message | Said | Task[str]] | None = None
    """Answer these instead of the history; a task makes a caller's words of a clip, see
    `SpeechPipelineManager.transcribe`."""
    remember: bool = True
    """False: the reply does not enter the history."""
    tag: object = None
    """The session's own; comes back in ResponseStarted untouched."""


# --- input events ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    item_id: str
    """The id of the turn that has begun; its history entry will have it."""
    start_ms: int
    """Prefix padding included."""


@dataclass(frozen=True, slots=True)
class SpeechStopped:
    item_id: str
    end_ms: int


@dataclass(frozen=True, slots=True)
class IdleTimeout:
    """Nobody has spoken for idle_timeout_ms after the last reply was played out."""

    item_id: str
    start_ms: int
    end_ms: int


@dataclass(frozen=True, slots=True)
class TurnCommitted:
    """The turn is over and has its place in the history; its transcript follows."""

    item_id: str
    previous_id: str | None
    """The entry before it, None for the first."""


@dataclass(frozen=True, slots=True)
class PartialTranscript:
    """The caller's words so far (whole text, not a difference); may come before TurnCommitted."""

    item_id: str
    text: str


@dataclass(frozen=True, slots=True)
class FinalTranscript:
    item_id: str
    text: str
    """"" where nothing was understood."""
    seconds: float
    """Length of the transcribed sound."""


@dataclass(frozen=True, slots=True)
class TranscriptFailed:
    item_id: str
    message: str


# --- output events ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ResponseStarted:
    response_id: str
    request: ResponseRequest
    """With `speak`, `voice` and `max_tokens` as they were settled when it was asked for."""
    spoke_until: float | None = None
    """When the caller's speech ended that it is the first to answer (monotonic clock, seconds);
    None where it answers no speech."""


@dataclass(frozen=True, slots=True)
class MessageStarted:
    """An assistant message begins; its history entry (if remembered) has this id."""

    response_id: str
    item_id: str
    output_index: int
    previous_id: str | None
    spoken: bool


@dataclass(frozen=True, slots=True)
class ResponseText:
    """More of the reply's text; comes before the sound that speaks it."""

    response_id: str
    item_id: str
    delta: str


@dataclass(frozen=True, slots=True)
class ResponseAudio:
    """More of the reply's sound, at most 200 ms."""

    response_id: str
    item_id: str
    samples: Samples
    rate: int


@dataclass(frozen=True, slots=True)
class MessageDone:
    response_id: str
    item_id: str
    output_index: int
    text: str
    """All that was sent of it as ResponseText."""
    complete: bool


@dataclass(frozen=True, slots=True)
class ToolCallStarted:
    response_id: str
    item_id: str
    output_index: int
    previous_id: str | None
    call_id: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolCallArguments:
    response_id: str
    item_id: str
    delta: str


@dataclass(frozen=True, slots=True)
class ToolCallDone:
    response_id: str
    item_id: str
    output_index: int
    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time went until the first sound of a response, in seconds; None where the stage
    did not run.

    The first three count from the confirmed end of the caller's turn (or from the request where
    there was none) to the stage's first result; 0 where speculation had it before. The next four
    are what the engines themselves took, whenever they ran. `overhead` is what the pipeline added:
    `first_audio` less the engines' time that fell into it.
    """

    transcript: float | None = None
    first_token: float | None = None
    first_audio: float | None = None
    stt: float | None = None
    """The recogniser's final pass over the turn."""
    llm: float | None = None
    """From the request to the model's first token."""
    clause: float | None = None
    """From the first token to the first clause that can be spoken."""
    tts: float | None = None
    """From the clause to the synthesiser's first chunk."""
    overhead: float | None = None
    speculated: bool = False
    """Whether the reply was begun before the turn was confirmed."""


@dataclass(frozen=True, slots=True)
class ResponseDone:
    """The last event of a response, whatever became of it.

    A tool call that was started and not done by then has been given up.
    """

    response_id: str
    status: Status
    reason: str = ""
    """A CancelReason, "max_output_tokens", "content_filter" (the model's server does not let it say
    the rest), or the failed stage ("stt", "llm", "tts")."""
    message: str = ""
    """For the caller, where it failed; says nothing of the inside."""
    input_tokens: int = 0
    output_tokens: int = 0
    timing: Timing = field(default_factory=Timing)


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The caller spoke over the reply: stop playing. Comes right after SpeechStarted.

    If the response was still being made, its MessageDone and ResponseDone follow at once. Left out
    where the response has no message yet, or is text alone.
    """

    response_id: str
    item_id: str
    heard_ms: int
    """What the sent-audio clock says the caller can have heard of it."""


@dataclass(frozen=True, slots=True)
class Forgotten:
    """A new conversation begins; whatever was told before was of the old one. Transcripts of its
    turns may still come."""


PipelineEvent = (
    SpeechStarted
    | SpeechStopped
    | IdleTimeout
    | TurnCommitted
    | PartialTranscript
    | FinalTranscript
    | TranscriptFailed
    | ResponseStarted
    | MessageStarted
    | ResponseText
    | ResponseAudio
    | MessageDone
    | ToolCallStarted
    | ToolCallArguments
    | ToolCallDone
    | ResponseDone
    | Interrupted
    | Forgotten
)
