"""One response as its session sees it: parts of a generation become events and history."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from voicepool.engines.base import Finished, Message, TextDelta, ToolCall, ToolCallDelta
from voicepool.events import (
    Interrupted,
    MessageDone,
    MessageStarted,
    ResponseAudio,
    ResponseDone,
    ResponseRequest,
    ResponseStarted,
    ResponseText,
    Status,
    Timing,
    ToolCallArguments,
    ToolCallDone,
    ToolCallStarted,
)
from voicepool.figures import took
from voicepool.generation import Failed, Generation, MessageEnd, Part, Sound
from voicepool.history import Entry, History
from voicepool.outbox import Delta, Outbox
from voicepool.playback import Loudspeaker, Playback
from voicepool.spoken.reader import Spoken
from voicepool.stages import Span, StageFailed, log_fault


def new_id(prefix: str) -> str:
    """A unique id such as "item_5f0c..."; clients rely on at most 32 characters."""
    return f"{prefix}_{secrets.token_hex(10)}"


@dataclass(slots=True)
class Stopwatch:
    """When things happened on the way to a response (monotonic clock), for its Timing."""

    confirmed: float
    """The turn was over, or the response was asked for."""
    stt: Span | None = None
    transcript: float | None = None
    first_audio: float | None = None
    speculated: bool = False

    def timing(self, generation: Generation | None) -> Timing:
        """The figures, for the events."""
        stamps = generation.stamps if generation else None
        llm, clause, tts = (stamps.llm, stamps.clause, stamps.tts) if stamps else (None,) * 3
        audible = self._since_confirmed(self.first_audio)
        engines = sum(span.since(self.confirmed) for span in (self.stt, llm, clause, tts) if span)
        return Timing(
            transcript=self._since_confirmed(self.transcript),
            first_token=self._since_confirmed(llm.ended if llm else None),
            first_audio=audible,
            stt=self.stt.seconds if self.stt else None,
            llm=llm.seconds if llm else None,
            clause=clause.seconds if clause else None,
            tts=tts.seconds if tts else None,
            overhead=None if audible is None else max(0.0, audible - engines),
            speculated=self.speculated,
        )

    def _since_confirmed(self, moment: float | None) -> float | None:
        return None if moment is None else max(0.0, moment - self.confirmed)


@dataclass(slots=True)
class _Message:
    item_id: str
    output_index: int
    playback: Playback
    entry: Entry | None
    """Its place in the history, where it is remembered."""
    done: bool = False


@dataclass(slots=True)
class _Call:
    item_id: str
    output_index: int
    call: ToolCall
    """With the arguments told so far."""
    entry: Entry | None


@dataclass(slots=True)
class Channel:
    """What all responses of a conversation share."""

    outbox: Outbox
    history: History
    loudspeaker: Loudspeaker
    clock: Callable[[], float]
    """Seconds, for the sent-audio clock."""


@dataclass(slots=True, eq=False)
class Response:
    """One response, from its request to its ResponseDone; `run` it in a task.

    `prepare` gives the generation, whose parts nobody has read, or None where there is nothing to
    answer: nobody hears of such a response. It may wait for a transcript, and may raise
    StageFailed. `closed` is set by `close`, after which nothing more is told.
    """

    response_id: str
    request: ResponseRequest
    spoken: bool
    channel: Channel
    stopwatch: Stopwatch
    prepare: Callable[[Response], Awaitable[Generation | None]]
    on_closed: Callable[[Response], None]
    requested: bool = False
    """Somebody asked for it and is told at once that it begins; the answer to a turn begins with
    the turn's transcript, and may be dropped before in silence."""
    spoke_until: float | None = None
    """As in ResponseStarted."""
    overdue: bool = False
    """A reply gave way to this one's turn: it may owe an answer to what was said before."""
    started: bool = False
    closed: bool = False
    after: str | None = None
    """What it says comes after this entry of the history, the last that the model was told of; None
    or an entry that is gone: last."""
    generation: Generation | None = None
    task: asyncio.Task[None] | None = None
    _messages: list[_Message] = field(default_factory=list)
    _calls: dict[str, _Call] = field(default_factory=dict)
    _outputs: int = 0
    _usage: Finished = field(default_factory=Finished)

    async def run(self) -> None:
        """Make and tell the response."""
        try:
            self.generation = await self.prepare(self)
            if self.generation is None:
                self.close("cancelled")
                return
            self.start()
            async for part in self.generation.parts():
                await self._tell(part)
        except StageFailed as error:
            self.start()
            self.close("failed", reason=error.stage, message=str(error))
        except Exception as error:  # noqa: BLE001 - the call goes on
            log_fault("a fault while a reply was told", error)
            self.start()
            self.close("failed", reason="pipeline", message="The reply could not be made.")

    def start(self) -> None:
        """Tell that it has begun, if that was not told."""
        if not (self.started or self.closed):
            self.started = True
            self.channel.outbox.put(
                ResponseStarted(self.response_id, self.request, self.spoke_until)
            )

    def close(self, status: Status, *, reason: str = "", message: str = "") -> None:
        """The end, at once: nothing of it is told after its ResponseDone."""
        if self.closed:
            return
        self.closed = True
        if self.task is not None and self.task is not asyncio.current_task():
            self.task.cancel()
        if self.generation is not None:
            self.generation.cancel()
        if status == "cancelled":
            self._silence()
        if self._messages and not self._messages[-1].done:
            self._end_message(complete=False)
        if self.started:
            self._tell_done(status, reason, message)
        self.on_closed(self)

    def unplayed(self) -> float:
        """Seconds of its sound that the caller has yet to hear."""
        now = self.channel.clock()
        return sum(message.playback.unplayed(now) for message in self._messages)

    def interrupt(self) -> None:
        """The caller speaks over it: tell that, and keep in the history what was heard."""
        if self._messages and self.spoken:
            message = self._messages[-1]
            heard = message.playback.heard_ms(self.channel.clock())
            self.channel.outbox.put(Interrupted(self.response_id, message.item_id, heard))
        if self.closed:
            self._silence()
        else:
            self.close("cancelled", reason="turn_detected")

    def stopped_playing(self, item_id: str) -> None:
        """The caller's side plays no more of that message; what it cut is another's business."""
        for message in self._messages:
            if message.item_id == item_id and self.closed:
                self._withdraw(message)
                message.playback.stop(self.channel.clock())

    # -- parts

    async def _tell(self, part: Part) -> None:
        match part:
            case TextDelta(text):
                message = self._message()
                delta = ResponseText(self.response_id, message.item_id, text)
                await self.channel.outbox.put_delta(delta)
                message.playback.text += text
            case Spoken():
                self._message().playback.begin_clause(part)
            case Sound():
                await self._tell_sound(self._message(), part)
            case MessageEnd(complete):
                # What is held back may yet be interrupted: the message is not over before.
                await self.channel.outbox.let_go()
                self._end_message(complete=complete)
            case ToolCallDelta():
                self._call_delta(part)
                await self.channel.outbox.ready()  # a model may write arguments without end
            case ToolCall():
                self._call_done(part)
                await self.channel.outbox.ready()
            case Finished(reason):
                self._usage = part
                match reason:
                    case "length":
                        self.close("incomplete", reason="max_output_tokens")
                    case "content_filter":
                        self.close("incomplete", reason=reason)
                    case _:
                        self.close("completed")
            case Failed(stage, message_for_caller):
                self.close("failed", reason=stage, message=message_for_caller)

    async def _tell_sound(self, message: _Message, sound: Sound) -> None:
        playback = message.playback
        playback.add_sound(sound.seconds, sound.words)
        delta = ResponseAudio(self.response_id, message.item_id, sound.samples, sound.rate)
        await self.channel.outbox.put_delta(
            delta, on_taken=lambda seconds: playback.sent(seconds, self.channel.clock())
        )
        if self.stopwatch.first_audio is None:
            self.stopwatch.first_audio = time.monotonic()

    def _message(self) -> _Message:
        if self._messages and not self._messages[-1].done:
            return self._messages[-1]
        # What is out of band is not played in the conversation's line.
        remember = self.request.remember
        playback = Playback(self.channel.loudspeaker if remember else Loudspeaker())
        item_id = new_id("item")
        entry, previous = None, None
        if remember:
            entry = Entry(item_id, Message("assistant", ""), playback if self.spoken else None)
            previous = self._enter(entry)
        message = _Message(item_id, self._next_output(), playback, entry)
        self._messages.append(message)
        self.channel.outbox.put(
            MessageStarted(self.response_id, item_id, message.output_index, previous, self.spoken)
        )
        return message

    def _end_message(self, *, complete: bool) -> None:
        message = self._messages[-1]
        message.done = True
        message.playback.end_clause()
        text = message.playback.text
        if message.entry is not None:
            self.channel.history.settle(message.entry, Message("assistant", text))
        self.channel.outbox.put(
            MessageDone(self.response_id, message.item_id, message.output_index, text, complete)
        )

    def _call(self, call_id: str, name: str) -> _Call:
        if call_id in self._calls:
            return self._calls[call_id]
        item_id = new_id("item")
        entry, previous = None, None
        if self.request.remember:
            entry = Entry(item_id, Message("assistant", ""), pending=True)
            previous = self._enter(entry)
        open_call = _Call(item_id, self._next_output(), ToolCall(call_id, name, ""), entry)
        self._calls[call_id] = open_call
        self.channel.outbox.put(
            ToolCallStarted(
                self.response_id, item_id, open_call.output_index, previous, call_id, name
            )
        )
        return open_call

    def _call_delta(self, delta: ToolCallDelta) -> None:
        open_call = self._call(delta.call_id, delta.name)
        told = open_call.call
        open_call.call = ToolCall(told.call_id, told.name, told.arguments + delta.arguments)
        if delta.arguments:
            self.channel.outbox.put(
                ToolCallArguments(self.response_id, open_call.item_id, delta.arguments)
            )

    def _call_done(self, call: ToolCall) -> None:
        open_call = self._call(call.call_id, call.name)
        rest = call.arguments.removeprefix(open_call.call.arguments)
        if len(rest) + len(open_call.call.arguments) == len(call.arguments):
            self._call_delta(ToolCallDelta(call.call_id, call.name, rest))
        del self._calls[call.call_id]
        if open_call.entry is not None:
            self.channel.history.settle(
                open_call.entry, Message("assistant", "", tool_calls=(call,))
            )
        self.channel.outbox.put(
            ToolCallDone(
                self.response_id,
                open_call.item_id,
                open_call.output_index,
                call.call_id,
                call.name,
                call.arguments,
            )
        )

    def _enter(self, entry: Entry) -> str | None:
        """Give an output its place in the history; the id before it. The caller may have said more
        meanwhile, but no model answers what comes before its own last word."""
        history = self.channel.history
        previous = history.insert(entry, self.after if self.after in history else None)
        self.after = entry.item_id
        return previous

    def _next_output(self) -> int:
        self._outputs += 1
        return self._outputs - 1

    # -- the end

    def _silence(self) -> None:
        """Take back what nobody has read, and cut the history to what was heard."""
        now = self.channel.clock()
        for message in self._messages:
            self._withdraw(message)
            heard = message.playback.heard_ms(now)
            message.playback.stop(now)
            if message.entry is not None and self.spoken:
                message.entry.cut(heard)

    def _withdraw(self, message: _Message) -> None:
        def unwanted(delta: Delta) -> bool:
            # A finished message's text has been told as a whole: only its sound is taken back.
            told = message.done and isinstance(delta, ResponseText)
            return delta.item_id == message.item_id and not told

        withdrawn = self.channel.outbox.withdraw(unwanted)
        unread = sum(len(delta.delta) for delta in withdrawn if isinstance(delta, ResponseText))
        text = message.playback.text
        message.playback.text = text[: len(text) - unread]

    def _tell_done(self, status: Status, reason: str, message: str) -> None:
        usage = self._usage
        timing = self.stopwatch.timing(self.generation)
        for stage, seconds in (("llm", timing.llm), ("tts", timing.tts)):
            if seconds is not None:
                took(stage, seconds)
        self.channel.outbox.put(
            ResponseDone(
                self.response_id,
                status,
                reason,
                message,
                input_tokens=usage.input_tokens,
                output_tokens=usage.output_tokens,
                timing=timing,
            )
        )
