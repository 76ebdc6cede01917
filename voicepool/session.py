"""One caller: a WebSocket, a codec and a pipeline, joined.

Three tasks share the call: `_listen` reads the client's messages, `_tell` the pipeline's events,
and the `Sender` writes. The codec is told of both as they come, on the event loop, so it needs no
lock, and the order in which it puts messages is the order in which the client gets them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.protocol import State

from voicepool import errors, events
from voicepool.app import CallOver
from voicepool.audio import Resampler
from voicepool.engines.base import INPUT_RATE, Samples
from voicepool.idleness import Idleness
from voicepool.pipeline import SpeechPipelineManager
from voicepool.sending import HARD_LIMIT, HIGH_WATER, ClientTooSlow, Sender
from voicepool.tally import Tally
from voicepool.turns import LONGEST_TURN
from voicepool.wire import actions
from voicepool.wire.actions import Action
from voicepool.wire.codec import ClientFault, Clip, Codec

log = logging.getLogger("voicepool.session")

FAREWELL_SECONDS = 0.5
CALL_LIMIT = "call_limit"
"""The message of a cancellation that ends a call for its length."""
IDLE_LIMIT = "idle_limit"
"""Why a call ends that nobody uses."""


class Session:
    """One call from its first event to its end. The host closes the WebSocket, unless the codec
    asked for it."""

    def __init__(
        self,
        websocket: ServerConnection,
        codec: Codec,
        pipeline: SpeechPipelineManager,
        *,
        call_limit: float = 3600.0,
        idle_limit: float = 0.0,
        log_level: int = logging.INFO,
    ) -> None:
        """`idle_limit`: seconds for which nobody may use the call; 0: as long as it lasts."""
        self._log_level = log_level
        self._websocket = websocket
        self._codec = codec
        self._pipeline = pipeline
        self._call_limit = call_limit
        self._idle_limit = idle_limit
        self._clock = asyncio.get_running_loop().time
        self._idleness = Idleness(idle_limit, self._clock())
        self._sender = Sender(websocket)
        self._ear = _Ear()
        self._voices: dict[str, Resampler] = {}
        self._tally = Tally()
        self._counts = {"messages": 0, "turns": 0, "responses": 0}

    async def run(self) -> None:
        """Serve until the client hangs up. Raises CallOver; any other exception is our fault."""
        began = self._clock()
        log.log(self._log_level, "session began")
        ended = "fault"
        try:
            await self._race()
            ended = "hang-up"
        except ConnectionClosed:
            ended = "hang-up"
        except ClientTooSlow:
            ended = "client too slow"
            # What is in the socket's buffer will never leave: no closing handshake can.
            self._websocket.transport.abort()
        except asyncio.CancelledError as cancelled:
            ended = "stopped"
            if cancelled.args == (CALL_LIMIT,):
                await self._bid_farewell(self._codec.expire(self._call_limit))
            raise
        except CallOver:
            ended = "idle"
            await self._bid_farewell(self._codec.idle(self._idle_limit))
            raise
        finally:
            seconds = round(self._clock() - began, 3)
            figures = {**self._counts, "sent": self._sender.sent, "seconds": seconds}
            log.log(self._log_level, "session ended", extra={"ended": ended, **figures})

    async def _race(self) -> None:
        """All tasks until one ends, which ends the call; raises what that one raised."""
        for action in self._codec.open():
            await self._do(action)
        tasks: list[asyncio.Task[None]] = [
            asyncio.create_task(self._listen()),
            asyncio.create_task(self._tell()),
            asyncio.create_task(self._sender.run()),
            # What a client sent before it left is many messages at most, but may be an hour of
            # sound: nobody waits for what comes of it.
            asyncio.create_task(self._websocket.wait_closed()),
        ]
        if self._idle_limit:
            tasks.append(asyncio.create_task(self._watch()))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            # A failure while cancelling must not hide the first one.
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    async def _watch(self) -> None:
        """Raises CallOver once nobody has used the call for too long."""
        while True:
            left = self._idleness.left(self._clock())
            if left > 0:
                await asyncio.sleep(left)
            elif self._websocket.state is State.OPEN:
                raise CallOver(IDLE_LIMIT)
            else:  # the caller has said goodbye: nobody has to be told
                await self._websocket.wait_closed()
                return

    async def _bid_farewell(self, words: Sequence[Action]) -> None:
        """Say why, as the codec words it, before the host closes."""
        with contextlib.suppress(ConnectionClosed, TimeoutError):
            async with asyncio.timeout(FAREWELL_SECONDS):
                for action in words:
                    match action:
                        case actions.Send():
                            await self._websocket.send(action.data, text=True)
                        case actions.HangUp():
                            await self._websocket.close(CloseCode.GOING_AWAY, action.reason)

    # -- both directions

    async def _listen(self) -> None:
        async for message in self._websocket:
            self._counts["messages"] += 1
            # What a message asks for is told through the pipeline or straight to the sender: a
            # client that reads neither is not asked for its next one.
            await self._pipeline.ready()
            wanted = self._codec.receive(message)
            await self._do_all(wanted)
            if any(self._is_use(action) for action in wanted):
                self._idleness.used(self._clock())
                self._look_at_playback()
            await self._sender.room(HARD_LIMIT)

    async def _tell(self) -> None:
        async for event in self._pipeline.events():
            self._tally.note(event)
            self._note(event)
            for each in self._resampled(event):
                await self._do_all(self._codec.emit(each))
            await self._sender.room(HIGH_WATER)

    def _is_use(self, action: Action) -> bool:
        """Whether the caller asks for something by it: an answer of ours alone is a mistake or a
        question, and sound may be silence. Where the client commits turns itself, it sends sound
        to be heard."""
        if isinstance(action, actions.AppendAudio):
            return self._codec.settings.turns is None
        return not isinstance(action, actions.Send)

    def _look_at_playback(self) -> None:
        self._idleness.hears(self._clock() + self._pipeline.unheard)

    def _mind(self, event: events.PipelineEvent) -> None:
        """What the event says of how the call is used."""
        match event:
            case events.SpeechStarted():
                self._idleness.speech_began(self._clock())
            case events.SpeechStopped():
                self._idleness.speech_ended(self._clock())
            case events.IdleTimeout():
                self._idleness.prompted()
            case events.ResponseStarted():
                self._idleness.reply_began(event.response_id)
            case events.ResponseDone():
                self._idleness.reply_ended(event.response_id, self._clock())
                self._look_at_playback()
            case events.Interrupted():
                self._look_at_playback()

    def _note(self, event: events.PipelineEvent) -> None:
        self._mind(event)
        match event:
            case events.TurnCommitted():
                self._counts["turns"] += 1
            case events.ResponseStarted():
                self._counts["responses"] += 1
            case events.Interrupted():
                self._sender.drop_audio(event.item_id)
                self._voices.pop(event.item_id, None)

    def _resampled(self, event: events.PipelineEvent) -> Iterator[events.PipelineEvent]:
        """The event as the codec takes it: sound at its rate, all of it before its message ends."""
        match event:
            case events.ResponseAudio(item_id=item_id, rate=rate):
                voice = self._voices.get(item_id)
                if voice is None:
                    voice = Resampler(rate, self._codec.output_rate(event.response_id))
                    self._voices[item_id] = voice
                yield _sound(event.response_id, item_id, voice, voice.push(event.samples))
            case events.MessageDone(item_id=item_id):
                spoken = self._voices.pop(item_id, None)
                if spoken is not None:
                    yield _sound(event.response_id, item_id, spoken, spoken.flush())
                yield event
            case _:
                yield event

    # -- what the codec asks for

    async def _do_all(self, wanted: Iterable[Action]) -> None:
        for action in wanted:
            await self._do(action)

    async def _do(self, action: Action) -> None:
        try:
            outcome = await self._carry_out(action)
        except (errors.PipelineError, ClientFault) as error:
            outcome = self._codec.refuse(action, error)
        for each in outcome:
            await self._do(each)

    async def _carry_out(self, action: Action) -> list[Action]:
        pipeline = self._pipeline
        match action:
            case actions.Send():
                sent = self._tally.sending(action.audio_of) if action.audio_of else None
                self._sender.put(action.data, action.audio_of, sent)
            case actions.HangUp():
                await self._websocket.close(CloseCode.GOING_AWAY, action.reason)
            case actions.Configure():
                pipeline.configure(action.settings)
            case actions.AppendAudio():
                async for samples in _hear(action.clip, self._ear):
                    await pipeline.push_audio(samples)
            case actions.Commit():
                await pipeline.push_audio(self._ear.flush())
                await pipeline.commit()
            case actions.Clear():
                self._ear.flush()
                await pipeline.clear()
            case actions.Forget():
                self._ear.flush()
                await pipeline.forget()
            case actions.Respond():
                pipeline.respond(await self._understood(action))
            case actions.Cancel():
                if not pipeline.cancel(action.response_id):
                    raise errors.NothingToCancel
            case actions.InsertItem():
                return await self._insert(action)
            case actions.DeleteItem():
                # An item of an out-of-band response has no entry, one forgotten has none any more.
                with contextlib.suppress(errors.UnknownItem):
                    pipeline.delete(action.item_id)
            case actions.TruncateItem():
                left = pipeline.truncate(action.item_id, action.audio_end_ms)
                return self._codec.truncated(action, left)
        return []

    async def _insert(self, action: actions.InsertItem) -> list[Action]:
        if action.clip is None:
            self._pipeline.insert(action.item_id, action.message, action.after)
            return self._codec.inserted(action)
        samples = await self._clip(action.clip)
        self._pipeline.insert_clip(action.item_id, samples, action.after)
        return self._codec.inserted(action)

    async def _understood(self, action: actions.Respond) -> events.ResponseRequest:
        """The request with its clips on their way to be words. Raises ClientFault."""
        if not action.clips:
            return action.request
        messages = list(action.request.messages or ())
        for index, clip in action.clips.items():
            messages[index] = self._pipeline.transcribe(await self._clip(clip))
        return replace(action.request, messages=messages)

    async def _clip(self, clip: Clip) -> Samples:
        """It at INPUT_RATE, as long as a turn may be, once the pipeline has room for it. Raises
        ClientFault."""
        await self._pipeline.clip_room()
        ear, heard, length = _Ear(), list[Samples](), 0
        async with contextlib.aclosing(_hear(clip, ear)) as pieces:
            async for samples in pieces:
                heard.append(samples)
                length += len(samples)
                if length >= LONGEST_TURN:  # 15 MiB may be half an hour
                    break
        return np.concatenate([*heard, ear.flush()])[:LONGEST_TURN]


class _Ear:
    """A client's sound at whatever rate it comes, as one stream at INPUT_RATE."""

    def __init__(self) -> None:
        self._rate = INPUT_RATE
        self._resampler = Resampler(INPUT_RATE, INPUT_RATE)

    def push(self, samples: Samples, rate: int) -> Iterator[Samples]:
        """The pieces that are certain now. At another rate than before, a new stream begins."""
        if rate != self._rate:
            yield self.flush()
            self._rate, self._resampler = rate, Resampler(rate, INPUT_RATE)
        yield self._resampler.push(samples)

    def flush(self) -> Samples:
        """The rest of the stream."""
        return self._resampler.flush()


async def _hear(clip: Clip, ear: _Ear) -> AsyncGenerator[Samples, None]:
    """The sound of one message at INPUT_RATE, in pieces. Raises ClientFault before the first.

    A message may hold minutes: the loop gets its turn between slices, and no more than one of them
    is decoded at a time.
    """
    for number, _ in enumerate(clip.pieces()):
        if number:
            await asyncio.sleep(0)
    for piece in clip.pieces():
        for samples in ear.push(piece, clip.rate):
            yield samples
        await asyncio.sleep(0)


def _sound(
    response_id: str, item_id: str, voice: Resampler, samples: Samples
) -> events.ResponseAudio:
    return events.ResponseAudio(response_id, item_id, samples, voice.to_rate)
