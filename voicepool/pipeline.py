"""One caller's conversation: sound in, typed events out, over four engines.

    sound → listening (turns) → stages (recogniser) → history
                                                        ↓
    events ← outbox ← response ← generation (language model → clauses → synthesiser)

`SpeechPipelineManager` holds all per-call state and knows no wire protocol. It lives on one event
loop; recogniser and synthesiser have a thread each.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from voicepool.engines.base import (
    INPUT_RATE,
    ChatDelta,
    ChatRequest,
    Engines,
    Message,
    Samples,
)
from voicepool.errors import ResponseActive
from voicepool.events import (
    CancelReason,
    FinalTranscript,
    IdleTimeout,
    PartialTranscript,
    PipelineEvent,
    PipelineSettings,
    ResponseRequest,
    SpeechStarted,
    SpeechStopped,
    TranscriptFailed,
    TurnCommitted,
)
from voicepool.generation import Generation, Voice
from voicepool.history import Entry, History
from voicepool.listening import Listener
from voicepool.outbox import Outbox
from voicepool.playback import Loudspeaker
from voicepool.response import Channel, Response, Stopwatch, new_id
from voicepool.stages import EngineThread, Span, Speaker, StageFailed, Utterance
from voicepool.turns import milliseconds_of

MOST_REQUESTS = 16
"""Responses that wait."""
MOST_ASIDE = 4
"""Out-of-band responses that are made at once."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a pipeline waits for its engines, in seconds."""

    job: float = 30.0
    """One call of a blocking engine, the wait for its thread included."""
    token: float = 30.0
    """The language model's next token."""
    close: float = 2.0
    """The end of everything when the pipeline is closed."""


@dataclass(slots=True)
class _Turn:
    """A turn of the caller that is over."""

    entry: Entry
    confirmed: float
    """When it was (monotonic clock)."""
    transcribing: asyncio.Task[str] = field(init=False)
    stt: Span | None = None
    transcribed: float | None = None


@dataclass(slots=True)
class _Speculation:
    """The reply to a turn that is likely over; nobody has been told of it."""

    task: asyncio.Task[None]
    request: ChatRequest | None = None
    voice: Voice | None = None
    generation: Generation | None = None

    def discard(self) -> None:
        self.task.cancel()
        if self.generation is not None:
            self.generation.cancel()


class SpeechPipelineManager:
    """State of one call: `history`, `requests_queue`, `running_generation`, `llm_generator`.

    The engines are loaded and may be shared; nothing of the call is kept in them. `clock` (seconds,
    monotonic) is what the caller is taken to listen by.
    """

    def __init__(
        self,
        engines: Engines,
        settings: PipelineSettings | None = None,
        *,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.history = History()
        self.requests_queue: deque[Response] = deque()
        """Responses that wait for the running one to end."""
        self._engines = engines
        self._settings = settings or PipelineSettings()
        self._limits = limits or Limits()
        self._outbox = Outbox()
        self._loudspeaker = Loudspeaker()
        self._channel = Channel(self._outbox, self.history, self._loudspeaker, clock)
        self._stt = EngineThread("stt", self._limits.job)
        self._tts = EngineThread("tts", self._limits.job)
        self._speaker = Speaker(self._tts, engines.tts)
        self._listener = Listener(
            engines.vad, self._settings.turns, self._open_utterance, handler=self
        )
        self._input = asyncio.Lock()
        self._active: Response | None = None
        self._aside: set[Response] = set()
        self._finished: list[Response] = []
        """Responses that are made but may still be playing."""
        self._queued_answer: Response | None = None
        self._last_turn: _Turn | None = None
        self._speculation: _Speculation | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    @property
    def running_generation(self) -> Generation | None:
        """The reply in the making."""
        return self._active.generation if self._active else None

    @property
    def llm_generator(self) -> AsyncGenerator[ChatDelta, None] | None:
        """The running generation's stream of tokens."""
        return self.running_generation.llm_generator if self.running_generation else None

    async def __aenter__(self) -> SpeechPipelineManager:
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Cancel everything, join the engine threads within a deadline, close the streams."""
        self._closed = True
        self._outbox.close()
        self._listener.clear()
        self._discard_speculation()
        for response in (*self.requests_queue, *self._aside, self._active):
            if response is not None:
                response.close("cancelled")
        for task in self._tasks:
            task.cancel()
        deadline = time.monotonic() + self._limits.close
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._limits.close)
        for thread in (self._stt, self._tts):
            await thread.close(max(0.0, deadline - time.monotonic()))

    async def events(self) -> AsyncIterator[PipelineEvent]:
        """All events in order, bounded, for one reader; ends when the pipeline is closed."""
        while (event := await self._outbox.take()) is not None:
            yield event

    def configure(self, settings: PipelineSettings) -> None:
        """Change the settings at once; a running response keeps those it began with."""
        self._settings = settings
        self._listener.configure(settings.turns)

    # -- the caller's sound

    async def push_audio(self, samples: Samples) -> None:
        """16 kHz, any length. Waits (back-pressure) while too much is unprocessed."""
        async with self._input:
            await self._outbox.ready()
            if not self._closed:
                await self._listener.hear(np.asarray(samples, np.float32))

    async def commit(self) -> str:
        """End the turn now, as a manual client does; returns the item id.

        No response is made by it. Raises BufferTooSmall (with `.milliseconds`) when less than
        100 ms are buffered."""
        async with self._input:
            in_turn = self._listener.in_turn
            utterance = self._listener.commit()
            self._discard_speculation()
            if in_turn:
                self._tell_stopped(utterance, self._listener.now)
            self._commit(utterance)
            return utterance.item_id

    async def clear(self) -> None:
        """Drop the buffered sound and a turn in progress (its SpeechStopped is told)."""
        async with self._input:
            self._listener.clear()

    async def transcribe(self, samples: Samples) -> str:
        """The text of a whole clip (16 kHz), for audio items that a client supplies.

        Raises StageFailed, an EngineError."""
        utterance = self._open_utterance(on_partial=False)
        utterance.feed(samples)
        return (await utterance.finish()).value.text.strip()

    # -- responses

    def respond(self, request: ResponseRequest) -> str:
        """Queue a response and return its id.

        A response that is remembered begins at once, or raises ResponseActive (`.response_id`)
        while there is another. Those out of band are made beside it, a few at a time; too many
        that wait raise ResponseActive too.
        """
        blocker = self._active if request.remember else None
        if blocker is None and len(self.requests_queue) >= MOST_REQUESTS:
            blocker = self.requests_queue[0]
        if blocker is not None:
            raise ResponseActive(blocker.response_id)
        self._discard_speculation()
        response = self._response(request, time.monotonic(), self._prepare_requested)
        self._submit(response)
        return response.response_id

    def cancel(
        self, response_id: str | None = None, reason: CancelReason = "client_cancelled"
    ) -> bool:
        """Cancel the given or the active response; False if there is none.

        Its ResponseDone is told at once. The history keeps what was heard by then.
        """
        for response in (self._active, *self._aside, *self.requests_queue):
            if response is None or response_id not in (None, response.response_id):
                continue
            if response_id is None and not response.request.remember:
                continue
            response.start()
            response.close("cancelled", reason=reason)
            return True
        return False

    # -- the history (sync, immediate)

    def insert(self, item_id: str, message: Message, after: str | None = None) -> str | None:
        """Put a message after entry `after` ("root": first; None: last); returns the id before it.

        Raises DuplicateItem, UnknownItem."""
        return self.history.insert(Entry(item_id, message), after)

    def delete(self, item_id: str) -> None:
        """Raises UnknownItem."""
        self.history.delete(item_id)

    def truncate(self, item_id: str, audio_end_ms: int) -> str:
        """Cut an assistant entry to what was heard up to then; returns the text that is left.

        Never lengthens. Works on finished items, and on one that is still being made. Raises
        UnknownItem."""
        return self.history.truncate(item_id, audio_end_ms)

    # -- what the listener tells

    def turn_started(self, utterance: Utterance, start: int) -> None:
        """The caller speaks; a reply in the making or playing gives way."""
        self._outbox.put(SpeechStarted(utterance.item_id, milliseconds_of(start)))
        turns = self._settings.turns
        if turns is not None and turns.interrupt_response:
            self._interrupt()

    def turn_paused(self, utterance: Utterance) -> None:
        """The turn is likely over: begin the reply, and tell nobody."""
        turns = self._settings.turns
        if turns is None or not (self._settings.speculate and turns.create_response):
            return
        if self._active is None and not self.requests_queue:
            self._discard_speculation()
            self._speculation = _Speculation(self._spawn(self._speculate(utterance)))

    def turn_resumed(self) -> None:
        """It was not over."""
        self._discard_speculation()

    def turn_stopped(self, utterance: Utterance, end: int) -> None:
        """The turn is confirmed: transcribe and answer it."""
        self._tell_stopped(utterance, end)
        turn = self._commit(utterance)
        if self._settings.turns is not None and self._settings.turns.create_response:
            self._answer(turn)

    def turn_dropped(self, utterance: Utterance, end: int) -> None:
        """Nobody wants the turn any more."""
        self._discard_speculation()
        self._tell_stopped(utterance, end)

    def idled(self, start: int, end: int) -> None:
        """Nobody speaks: an empty turn, for the assistant to say something."""
        item_id = new_id("item")
        self._outbox.put(IdleTimeout(item_id, milliseconds_of(start), milliseconds_of(end)))
        previous = self.history.append(Entry(item_id, Message("user", "")))
        self._outbox.put(TurnCommitted(item_id, previous))
        if self._settings.transcribe:
            self._outbox.put(FinalTranscript(item_id, "", 0.0))
        if self._settings.turns is not None and self._settings.turns.create_response:
            self._submit(
                self._response(ResponseRequest(), time.monotonic(), self._prepare_requested)
            )

    # -- turns

    def _open_utterance(self, *, on_partial: bool = True) -> Utterance:
        return Utterance(
            new_id("item"),
            self._stt,
            self._engines.stt,
            language=self._settings.language,
            prompt=self._settings.prompt,
            on_partial=self._tell_partial if on_partial else _ignore,
        )

    def _tell_partial(self, item_id: str, text: str) -> None:
        if self._settings.transcribe:
            self._outbox.put(PartialTranscript(item_id, text))

    def _tell_stopped(self, utterance: Utterance, end: int) -> None:
        self._outbox.put(SpeechStopped(utterance.item_id, milliseconds_of(end)))

    def _commit(self, utterance: Utterance) -> _Turn:
        entry = Entry(utterance.item_id, Message("user", ""), pending=True)
        previous = self.history.append(entry)
        self._outbox.put(TurnCommitted(entry.item_id, previous))
        turn = _Turn(entry, time.monotonic())
        turn.transcribing = self._spawn(self._transcribe(turn, utterance))
        self._last_turn = turn
        return turn

    async def _transcribe(self, turn: _Turn, utterance: Utterance) -> str:
        item_id = utterance.item_id
        try:
            done = await utterance.finish()
        except StageFailed as error:
            if self._settings.transcribe:
                self._outbox.put(TranscriptFailed(item_id, str(error)))
            raise
        turn.stt, turn.transcribed = done.span, time.monotonic()
        text = done.value.text.strip()
        self.history.settle(turn.entry, Message("user", text))
        if self._settings.transcribe:
            self._outbox.put(FinalTranscript(item_id, text, utterance.samples / INPUT_RATE))
        return text

    async def _speculate(self, utterance: Utterance) -> None:
        """Begin the reply to what has been said so far."""
        speculation = self._speculation
        assert speculation is not None
        try:
            text = (await utterance.snapshot()).text.strip()
        except StageFailed:
            return  # told when the turn is transcribed
        request = ResponseRequest()
        said = [*self.history.messages(), Message("user", text)]
        speculation.request = self._chat_request(request, said)
        speculation.voice = self._voice(request)
        speculation.generation = self._generate(speculation.request, speculation.voice)

    def _discard_speculation(self) -> None:
        if self._speculation is not None:
            self._speculation.discard()
            self._speculation = None

    def _answer(self, turn: _Turn) -> None:
        """Answer the turn; one that still waits for its answer is answered along with it."""
        self._drop_queued_answer()
        response = self._response(
            ResponseRequest(), turn.confirmed, lambda response: self._prepare_answer(response, turn)
        )
        self._queued_answer = response
        self._submit(response)

    # -- making replies

    async def _prepare_answer(self, response: Response, turn: _Turn) -> Generation:
        await self._transcribed(response, turn)
        request = self._chat_request(response.request, self.history.messages())
        voice = self._voice(response.request)
        speculation, self._speculation = self._speculation, None
        if speculation is not None:
            # The same conversation, the same words, the same settings: the reply is the same.
            same = (speculation.request, speculation.voice) == (request, voice)
            if same and speculation.generation is not None:
                response.stopwatch.speculated = True
                return speculation.generation
            speculation.discard()
        return self._generate(request, voice)

    async def _prepare_requested(self, response: Response) -> Generation:
        response.start()
        request = response.request
        if request.messages is not None:
            said: Sequence[Message] = request.messages
        else:
            turn = self._last_turn
            if turn is not None and turn.entry.pending and turn.entry.item_id in self.history:
                await self._transcribed(response, turn)
            said = self.history.messages()
        return self._generate(self._chat_request(request, said), self._voice(request))

    async def _transcribed(self, response: Response, turn: _Turn) -> None:
        await asyncio.shield(turn.transcribing)
        response.stopwatch.stt, response.stopwatch.transcript = turn.stt, turn.transcribed

    def _generate(self, request: ChatRequest, voice: Voice | None) -> Generation:
        return Generation(
            self._engines.llm,
            request,
            speaker=self._speaker,
            voice=voice,
            deadline=self._limits.token,
        )

    def _chat_request(self, request: ResponseRequest, said: Sequence[Message]) -> ChatRequest:
        settings = self._settings
        instructions = _given(request.instructions, settings.instructions)
        system = [Message("system", instructions)] if instructions else []
        return ChatRequest(
            messages=(*system, *said),
            tools=tuple(_given(request.tools, settings.tools)),
            tool_choice=_given(request.tool_choice, settings.tool_choice),
            max_tokens=_given(request.max_tokens, settings.max_tokens),
            temperature=_given(request.temperature, settings.temperature),
        )

    def _voice(self, request: ResponseRequest) -> Voice | None:
        if not _given(request.speak, self._settings.speak):
            return None
        return Voice(_given(request.voice, self._settings.voice), self._settings.speed)

    # -- responses in their order

    def _response(
        self,
        request: ResponseRequest,
        asked: float,
        prepare: Callable[[Response], Coroutine[Any, Any, Generation]],
    ) -> Response:
        return Response(
            new_id("resp"),
            request,
            spoken=self._voice(request) is not None,
            channel=self._channel,
            stopwatch=Stopwatch(asked),
            prepare=prepare,
            on_closed=self._response_closed,
        )

    def _submit(self, response: Response) -> None:
        self.requests_queue.append(response)
        self._start_waiting()

    def _start_waiting(self) -> None:
        for response in tuple(self.requests_queue):
            if response.request.remember:
                if self._active is not None:
                    continue
                self._active = response
                self._listener.expect_speech(None)
            elif len(self._aside) < MOST_ASIDE:
                self._aside.add(response)
            else:
                continue
            self.requests_queue.remove(response)
            response.task = self._spawn(response.run())

    def _response_closed(self, response: Response) -> None:
        if response in self.requests_queue:
            self.requests_queue.remove(response)
        self._aside.discard(response)
        if response is self._active:
            self._active = None
            self._discard_speculation()
            self._finished = [r for r in (*self._finished, response) if r.audible()]
            unplayed = sum(r.unplayed() for r in self._finished)
            self._listener.expect_speech(unplayed)
        if not self._closed:
            self._start_waiting()

    def _drop_queued_answer(self) -> None:
        if self._queued_answer is not None and self._queued_answer in self.requests_queue:
            self.requests_queue.remove(self._queued_answer)
        self._queued_answer = None

    def _interrupt(self) -> None:
        for response in self._finished:
            if response.audible():
                response.interrupt()
        self._finished.clear()
        self._drop_queued_answer()
        if self._active is not None:
            self._active.interrupt()

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._reap)
        return task

    def _reap(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # read, or asyncio complains: who awaits it has it, and it is logged


def _given(value: Any, default: Any) -> Any:
    return default if value is None else value


def _ignore(item_id: str, text: str) -> None:
    """Nobody wants the partial transcripts of a clip."""
