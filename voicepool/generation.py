"""One reply in the making: language model to clauses to sound, as parts in a bounded queue.

What is written goes on as it is; what is spoken of it is made for the ear (`spoken`).

A generation tells nobody anything. It stops by itself when its queue is full, so one that was
begun ahead of its turn costs little until somebody reads it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Literal, TypeVar

from voicepool.engines.base import (
    ChatDelta,
    ChatRequest,
    Finished,
    LanguageModel,
    Samples,
    SpeechChunk,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    WordTime,
)
from voicepool.errors import EngineError
from voicepool.sentences import Clause, Clauses
from voicepool.spoken.reader import Reader, Spoken
from voicepool.stages import Span, Speaker, Stage, StageFailed, log_fault, stage_failed
from voicepool.tasks import TaskSet

E = TypeVar("E", bound=Exception)

MOST_PARTS = 64
MOST_CLAUSES = 4
"""Clauses that wait for the synthesiser; the language model waits then."""
LONGEST_THOUGHT = 120.0
"""Seconds from the request in which a model may think; each thought is a sign of life."""
LONGEST_SOUND = 0.2
"""Seconds of sound in one part."""


_THOUGHT = TextDelta("")


@dataclass(frozen=True, slots=True)
class Voice:
    """How a reply is spoken."""

    name: str = ""
    speed: float = 1.0


@dataclass(frozen=True, slots=True)
class Sound:
    """A piece of the clause told last, at most LONGEST_SOUND long."""

    samples: Samples
    rate: int
    words: tuple[WordTime, ...]
    """In the clause's spoken text."""

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate


@dataclass(frozen=True, slots=True)
class MessageEnd:
    """The message has all its text and sound; tool calls or another message may follow."""

    complete: bool = True
    """False: the model was cut off in it."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The last part of a generation that went wrong."""

    stage: Stage | Literal["pipeline"]
    message: str


Part = TextDelta | Spoken | Sound | MessageEnd | ToolCallDelta | ToolCall | Finished | Failed
"""(TextDelta, Spoken and Sound mixed, MessageEnd | ToolCallDelta..., ToolCall)..., then Finished
or Failed. A text's delta comes before the clause that ends in it, a clause before its sound, if it
has any."""


@dataclass(slots=True)
class Stamps:
    """When the engines worked on the way to the first sound (monotonic clock)."""

    llm: Span | None = None
    """From the request to the first token."""
    clause: Span | None = None
    """From the first token to the first clause that has something to say."""
    tts: Span | None = None
    """From that clause to its first chunk, in the synthesiser's own thread."""


class Generation:
    """The parts of one reply, made by tasks of its own until `cancel` or the end.

    `voice` None makes text alone. `deadline`: the seconds that the model may take for its next
    token. `tasks` outlive it. Needs a running event loop.
    """

    def __init__(
        self,
        model: LanguageModel,
        request: ChatRequest,
        *,
        speaker: Speaker,
        voice: Voice | None,
        deadline: float,
        tasks: TaskSet,
    ) -> None:
        self.stamps = Stamps()
        self.llm_generator: AsyncGenerator[ChatDelta, None] | None = None
        self._model = model
        self._request = request
        self._speaker = speaker
        self._voice = voice
        self._deadline = deadline
        self._parts: asyncio.Queue[Part] = asyncio.Queue(MOST_PARTS)
        self._clauses: asyncio.Queue[Spoken] = asyncio.Queue(MOST_CLAUSES)
        self._splitter = Clauses()
        self._reader: Reader | None = None
        """The message's; None before it has a clause."""
        self._in_message = False
        self._asked_to_speak = False
        self._spoken = 0.0
        """Seconds of sound of the message."""
        self._task = tasks.spawn(self._run())

    async def parts(self) -> AsyncGenerator[Part, None]:
        """All parts in order, for one reader."""
        while True:
            part = await self._parts.get()
            yield part
            if isinstance(part, Finished | Failed):
                return

    def cancel(self) -> None:
        """Stop all engines that work on it. May be called at any time, more than once."""
        self._task.cancel()

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                speaking = tasks.create_task(self._speak())
                finished = await self._write()
                speaking.cancel()
            await self._parts.put(finished)
        except* StageFailed as failures:
            first = next(_leaves(failures))
            await self._parts.put(Failed(first.stage, str(first)))
        except* Exception as faults:  # noqa: BLE001 - the call goes on
            log_fault("a fault while a reply was made", next(_leaves(faults)))
            await self._parts.put(Failed("pipeline", "The reply could not be made."))

    # -- the language model's side

    async def _write(self) -> Finished:
        finished = Finished()
        async with aclosing(self._deltas()) as deltas:
            async for delta in deltas:
                match delta:
                    case TextDelta(text):
                        await self._write_text(text)
                    case ToolCallDelta() | ToolCall():
                        await self._end_message()
                        await self._parts.put(delta)
                    case Finished():
                        finished = delta
                        break
        await self._end_message(complete=not finished.cut_off)
        return finished

    async def _deltas(self) -> AsyncGenerator[ChatDelta, None]:
        began = time.monotonic()
        try:
            self.llm_generator = self._model.generate(self._request)
            while True:
                async with asyncio.timeout(self._deadline):
                    delta = await anext(self.llm_generator)
                if self.stamps.llm is None:
                    self.stamps.llm = Span(began, time.monotonic())
                if delta == _THOUGHT and time.monotonic() - began > LONGEST_THOUGHT:
                    raise EngineError("the model thinks on and on")
                yield delta
        except StopAsyncIteration:
            return
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Not ours: a library below the model has cancelled itself. Whoever waits for the next
            # part would wait for ever.
            raise stage_failed("llm", EngineError("the request was cancelled")) from None
        except Exception as error:
            raise stage_failed("llm", error) from error
        finally:
            await self._close_model()

    async def _close_model(self) -> None:
        """The remote server must hear that nobody listens; a model that will not is left alone."""
        if self.llm_generator is not None:
            with suppress(Exception):
                async with asyncio.timeout(self._deadline):
                    await self.llm_generator.aclose()

    async def _write_text(self, text: str) -> None:
        if not self._in_message:
            # Many models write empty lines before they call a tool, or begin: they are no message.
            text = text.lstrip()
        if not text:
            return
        self._in_message = True
        await self._parts.put(TextDelta(text))
        if self._voice is not None:
            await self._hand_over(self._splitter.push(text))

    async def _hand_over(self, clauses: list[Clause]) -> None:
        for clause in clauses:
            spoken = self._read(clause)
            if spoken.text:
                if self.stamps.clause is None and self.stamps.llm is not None:
                    self.stamps.clause = Span(self.stamps.llm.ended, time.monotonic())
                self._asked_to_speak = True
            await self._clauses.put(spoken)

    def _read(self, clause: Clause) -> Spoken:
        if self._reader is None:
            voice = self._voice.name if self._voice else ""
            self._reader = Reader(self._speaker.language(voice))
        return self._reader.read(clause)

    async def _end_message(self, *, complete: bool = True) -> None:
        if not self._in_message:
            return
        await self._hand_over(self._splitter.flush())
        await self._clauses.join()
        if self._asked_to_speak and not self._spoken:
            raise stage_failed("tts", EngineError("no sound for a whole message"))
        await self._parts.put(MessageEnd(complete))
        self._in_message = self._asked_to_speak = False
        self._spoken = 0.0
        self._splitter = Clauses()
        self._reader = None

    # -- the synthesiser's side

    async def _speak(self) -> None:
        voice = self._voice or Voice()
        while True:
            spoken = await self._clauses.get()
            await self._parts.put(spoken)
            if spoken.text:
                await self._speak_text(spoken.text, voice)
            self._clauses.task_done()

    async def _speak_text(self, text: str, voice: Voice) -> None:
        speech = self._speaker.speak(text, voice=voice.name, speed=voice.speed)
        async with aclosing(speech) as chunks:
            async for done in chunks:
                if self.stamps.tts is None:
                    self.stamps.tts = done.span
                for sound in _cut(done.value, self._speaker.rate):
                    self._spoken += sound.seconds
                    await self._parts.put(sound)


def _cut(chunk: SpeechChunk, rate: int) -> Iterator[Sound]:
    """A chunk in parts of at most LONGEST_SOUND; all its words go with the first."""
    size = int(rate * LONGEST_SOUND)
    words = chunk.words
    for start in range(0, len(chunk.samples), size):
        yield Sound(chunk.samples[start : start + size], rate, words)
        words = ()


def _leaves(group: BaseExceptionGroup[E]) -> Iterator[E]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
