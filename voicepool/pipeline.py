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
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import numpy as np

from voicepool import asking
from voicepool.clips import Clips
from voicepool.engines.base import ChatDelta, ChatRequest, Engines, Message, Samples
from voicepool.events import (
    CancelReason,
    FinalTranscript,
    Forgotten,
    IdleTimeout,
    PipelineEvent,
    PipelineSettings,
    ResponseRequest,
    Said,
    SpeechStarted,
    SpeechStopped,
    TurnCommitted,
)
from voicepool.generation import Generation, Voice
from voicepool.history import Entry, History, told
from voicepool.listening import Listener
from voicepool.outbox import Outbox, Pace
from voicepool.pausing import Pause
from voicepool.playback import Loudspeaker
from voicepool.replies import Replies
from voicepool.response import Channel, Response, Stopwatch, new_id
from voicepool.speculation import Speculator
from voicepool.stages import EngineThread, Speaker, Utterance
from voicepool.tasks import TaskSet
from voicepool.transcribing import Transcriber, Turn
from voicepool.turns import milliseconds_of


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a pipeline waits for its engines, in seconds."""

    job: float = 30.0
    """One call of a blocking engine, the wait for its thread included."""
    token: float = 30.0
    """The language model's next token."""
    close: float = 2.0
    """The end of everything when the pipeline is closed."""


class SpeechPipelineManager:
    """State of one call: `history`, `requests_queue`, `running_generation`, `llm_generator`.

    The engines are loaded and may be shared; nothing of the call is kept in them. `speculate`:
    begin a reply at a short silence, before the turn is confirmed; nothing of it is told unless the
    final transcript is the one it answers. Never for turns that the session commits. `ahead`: the
    most seconds of a reply's sound that the caller's side may have yet to play; None: sound goes
    out as it is made. `clock` (seconds, monotonic) is what the caller is taken to listen by.
    """

    def __init__(
        self,
        engines: Engines,
        settings: PipelineSettings | None = None,
        *,
        speculate: bool = True,
        limits: Limits | None = None,
        ahead: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.history = History()
        self._engines = engines
        self._settings = settings or PipelineSettings()
        self._speculate = speculate
        self._limits = limits or Limits()
        self._tasks = TaskSet()
        loudspeaker = self._loudspeaker = Loudspeaker()
        self._clock = clock
        pace = None if ahead is None else Pace(loudspeaker, clock, ahead)
        self._outbox = Outbox(pace)
        self._channel = Channel(self._outbox, self.history, loudspeaker, clock)
        self._stt = EngineThread("stt", self._limits.job)
        self._tts = EngineThread("tts", self._limits.job)
        self._speaker = Speaker(self._tts, engines.tts)
        self._transcriber = Transcriber(
            self._stt,
            engines.stt,
            settings=lambda: self._settings,
            history=self.history,
            outbox=self._outbox,
            tasks=self._tasks,
        )
        self._listener = Listener(
            engines.vad, self._settings.turns, self._transcriber.utterance, handler=self
        )
        self._replies = Replies(self._tasks, self._reply_begun, self._reply_ended)
        self.requests_queue = self._replies.waiting
        """Responses that wait for the running one to end; bounded."""
        self._clips = Clips(
            self._tasks, self.history, self._transcriber.tell, self._transcriber.clip
        )
        self._input = asyncio.Lock()
        self._speculator = Speculator(self._generate)
        self._pause = Pause(self._tasks, self._listener.understand)
        self._closed = False

    @property
    def running_generation(self) -> Generation | None:
        """The reply in the making."""
        return self._replies.active.generation if self._replies.active else None

    @property
    def llm_generator(self) -> AsyncGenerator[ChatDelta, None] | None:
        """The running generation's stream of tokens."""
        return self.running_generation.llm_generator if self.running_generation else None

    @property
    def unheard(self) -> float:
        """Seconds of sound that the caller's side has been given and has yet to play."""
        return self._loudspeaker.remaining(self._clock())

    async def __aenter__(self) -> SpeechPipelineManager:
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Cancel everything, join the engine threads within a deadline, close the streams."""
        deadline = time.monotonic() + self._limits.close
        self._closed = True
        self._outbox.close()
        self._listener.clear()
        self._speculator.discard()
        self._replies.close()
        # The threads last: what the tasks leave behind is cleaned up in them.
        await self._tasks.close(self._limits.close)
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

    async def ready(self) -> None:
        """Wait while the reader of the events is far behind.

        `push_audio` does; a session awaits it before other requests of a client that may flood."""
        await self._outbox.ready()

    # -- the caller's sound

    async def push_audio(self, samples: Samples) -> None:
        """16 kHz, any length. Waits (back-pressure) while too much is unprocessed."""
        async with self._input:
            await self._outbox.ready()
            if not self._closed:
                await self._listener.hear(np.asarray(samples, np.float32))

    async def commit(self) -> str:
        """End the turn now, as a manual client does; returns the item id.

        No response is made by it. Between detected turns only the sound that a turn would begin
        with is buffered. Raises BufferTooSmall (with `.milliseconds`) when less than 100 ms are."""
        async with self._input:
            in_turn = self._listener.in_turn
            utterance = self._listener.commit()
            self._speculator.discard()
            if in_turn:
                self._tell_stopped(utterance, self._listener.now)
            self._commit(utterance)
            return utterance.item_id

    async def clear(self) -> None:
        """Drop the buffered sound and a turn in progress (its SpeechStopped is told)."""
        async with self._input:
            self._listener.clear()

    async def forget(self) -> None:
        """Begin a new conversation: the history is empty, the turn in progress and all replies are
        given up. Told by Forgotten, after the ends of what was open."""
        async with self._input:
            self._listener.clear()
            self._speculator.discard()
            self._replies.forget()
            self.history.clear()
            self._transcriber.forget()
            self._outbox.put(Forgotten())

    # -- sound that is sent as a message

    async def clip_room(self) -> None:
        """Wait until another clip may be sent: a few are transcribed at once, beside the call."""
        await self._clips.room()

    def transcribe(self, samples: Samples) -> asyncio.Task[str]:
        """Begin to transcribe a whole clip (16 kHz); its words, or StageFailed."""
        return self._clips.transcribe(samples)

    def insert_clip(self, item_id: str, samples: Samples, after: str | None = None) -> None:
        """As `insert`, with a clip (16 kHz): FinalTranscript or TranscriptFailed tells of its
        words, and responses that are asked for later wait for them."""
        self._clips.insert(item_id, samples, after)

    # -- responses

    def respond(self, request: ResponseRequest) -> str:
        """Queue a response and return its id.

        A response that is remembered begins at once, or raises ResponseActive (`.response_id`)
        while there is another, unless that is the answer to a turn and nobody has been told of it:
        then this one answers the turn. Those out of band are made beside it, a few at a time; too
        many that wait raise ResponseActive too.
        """
        self._replies.check(request)
        self._speculator.discard()
        response = self._requested(request)
        self._replies.request(response)
        return response.response_id

    def cancel(
        self, response_id: str | None = None, reason: CancelReason = "client_cancelled"
    ) -> bool:
        """Cancel the given or the active response; False if there is none.

        Its ResponseDone is told at once. The history keeps what was heard by then.
        """
        return self._replies.cancel(response_id, reason)

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
        left = self.history.truncate(item_id, audio_end_ms)
        self._replies.stopped_playing(item_id)
        return left

    # -- what the listener tells

    def turn_started(self, utterance: Utterance, start: int) -> None:
        """The caller speaks; a reply in the making or playing gives way."""
        self._outbox.put(SpeechStarted(utterance.item_id, milliseconds_of(start)))
        turns = self._settings.turns
        if turns is not None and turns.interrupt_response:
            self._replies.interrupt()

    def turn_paused(self, utterance: Utterance) -> None:
        """The turn is likely over: look how finished it is, begin the reply, and tell nobody."""
        turns = self._settings.turns
        if turns is None:
            return
        # The model is asked one thing at a time: ahead of its turn only while it has nothing to do.
        ahead = self._speculate and turns.create_response and not self._replies.busy
        if not ahead and turns.patience is None:
            return
        language = self._settings.language
        if ahead:
            self._pause.begin(utterance, language, self._speculator.begin(self._ask_ahead))
        else:
            self._pause.begin(utterance, language)

    def turn_resumed(self, utterance: Utterance) -> None:
        """It was not over."""
        utterance.release()
        self._pause.break_off()
        self._speculator.discard()

    def turn_stopped(self, utterance: Utterance, end: int) -> None:
        """The turn is confirmed: transcribe and answer it."""
        self._tell_stopped(utterance, end)
        turn = self._commit(utterance)
        if self._settings.turns is not None and self._settings.turns.create_response:
            self._answer(turn)
        else:
            self._speculator.discard()  # begun under other settings

    def turn_dropped(self, utterance: Utterance, end: int) -> None:
        """Nobody wants the turn any more."""
        self._pause.break_off()
        self._speculator.discard()
        self._tell_stopped(utterance, end)

    def idled(self, start: int, end: int) -> None:
        """Nobody speaks: an empty turn, for the assistant to say something."""
        item_id = new_id("item")
        self._outbox.put(IdleTimeout(item_id, milliseconds_of(start), milliseconds_of(end)))
        previous = self.history.append(Entry(item_id, Message("user", "")))
        self._outbox.put(TurnCommitted(item_id, previous))
        self._transcriber.tell(FinalTranscript(item_id, "", 0.0))
        if self._settings.turns is not None and self._settings.turns.create_response:
            self._replies.answer(self._requested(ResponseRequest()))

    def _tell_stopped(self, utterance: Utterance, end: int) -> None:
        self._outbox.put(SpeechStopped(utterance.item_id, milliseconds_of(end)))

    def _commit(self, utterance: Utterance) -> Turn:
        self._pause.end()
        return self._transcriber.commit(utterance)

    # -- making replies

    def _ask_ahead(self, text: str) -> asking.Asked:
        said = [*self.history.messages(), Message("user", text)]
        return asking.asked(self._settings, ResponseRequest(), said)

    def _answer(self, turn: Turn) -> None:
        settings = self._settings

        async def prepare(response: Response) -> Generation | None:
            await self._transcriber.transcribed(turn, response.stopwatch)
            if turn.unsaid and not (response.overdue and self.history.awaits_answer):
                return None
            await self._clips.settled()
            asked = asking.asked(settings, response.request, self._said(response))
            ready = self._speculator.take(asked)
            response.stopwatch.speculated = ready is not None
            return ready or self._generate(*asked)

        response = self._response(ResponseRequest(), turn.confirmed, prepare)
        turn.answered = True
        response.spoke_until = turn.spoke_until
        self._replies.answer(response)

    def _requested(self, request: ResponseRequest) -> Response:
        settings = self._settings

        async def prepare(response: Response) -> Generation:
            await self._understood(response, request)
            said = self._said(response)
            if request.messages is not None:
                given = [await self._messages(each) for each in request.messages]
                said = told(message for messages in given for message in messages)
            return self._generate(*asking.asked(settings, request, said))

        response = self._response(request, time.monotonic(), prepare)
        response.requested = True
        if request.remember and request.messages is None:
            turn = self._transcriber.take_unanswered()
            response.spoke_until = turn.spoke_until if turn else None
        return response

    def _said(self, response: Response) -> list[Message]:
        """The conversation that the response answers."""
        response.after = self.history.last_id
        return self.history.messages()

    async def _understood(self, response: Response, request: ResponseRequest) -> None:
        """Wait for the words that the request is about."""
        given = request.messages
        items = None
        if given is not None:
            named = [message.item_id for message in given if isinstance(message, Said)]
            items = [item_id for item_id in named if self.history.pending(item_id)]
        if items != []:
            await self._transcriber.last_transcribed(response.stopwatch, items)
            await self._clips.settled()

    async def _messages(self, given: Message | Said | asyncio.Task[str]) -> list[Message]:
        match given:
            case Message():
                return [given]
            case Said(item_id):
                return self.history.said(item_id)
            case _:
                # Shielded: a response that is cancelled leaves the clip's words to others.
                return [Message("user", await asyncio.shield(given))]

    def _generate(self, request: ChatRequest, voice: Voice | None) -> Generation:
        return Generation(
            self._engines.llm,
            request,
            speaker=self._speaker,
            voice=voice,
            deadline=self._limits.token,
            tasks=self._tasks,
        )

    def _response(
        self,
        request: ResponseRequest,
        asked: float,
        prepare: Callable[[Response], Awaitable[Generation | None]],
    ) -> Response:
        return Response(
            new_id("resp"),
            asking.settled(self._settings, request),
            spoken=asking.voice(self._settings, request) is not None,
            channel=self._channel,
            stopwatch=Stopwatch(asked),
            prepare=prepare,
            on_closed=self._replies.closed,
        )

    def _reply_begun(self) -> None:
        self._listener.expect_speech(None)

    def _reply_ended(self, unplayed: float) -> None:
        self._speculator.discard()  # where the response ended before it took it
        if not self._listener.in_turn:
            self._listener.expect_speech(unplayed)
