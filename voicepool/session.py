"""One caller: a WebSocket, a protocol and a pipeline, joined.

Three tasks share the call: `_listen` reads the client's messages, `_tell` the pipeline's events,
and the `Sender` writes. The protocol is told of both as they come, on the event loop, so it needs
no lock, and the order in which it puts events is the order in which the client gets them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Iterator

import numpy as np
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from voicepool import errors, events
from voicepool.audio import Resampler, from_pcm16
from voicepool.engines.base import INPUT_RATE, Message, Samples
from voicepool.pipeline import SpeechPipelineManager
from voicepool.sending import HARD_LIMIT, HIGH_WATER, ClientTooSlow, Sender
from voicepool.wire.realtime import actions, audio
from voicepool.wire.realtime import errors as wire
from voicepool.wire.realtime.actions import Action
from voicepool.wire.realtime.config import RATE
from voicepool.wire.realtime.protocol import RealtimeProtocol

log = logging.getLogger("voicepool.session")

TRANSCRIBE_SECONDS = 60.0
"""For a clip in an item that the client creates; its next message waits for it."""
FAREWELL_SECONDS = 0.5
CALL_LIMIT = "call_limit"
"""The message of a cancellation that ends a call for its length."""


class Session:
    """One call from its first event to its end. Does not close the WebSocket: its host does."""

    def __init__(
        self,
        websocket: ServerConnection,
        protocol: RealtimeProtocol,
        pipeline: SpeechPipelineManager,
        *,
        call_limit: float = 3600.0,
        log_level: int = logging.INFO,
    ) -> None:
        self._log_level = log_level
        self._websocket = websocket
        self._protocol = protocol
        self._pipeline = pipeline
        self._call_limit = call_limit
        self._sender = Sender(websocket)
        self._ear = Resampler(RATE, INPUT_RATE)
        self._voices: dict[str, Resampler] = {}
        self._counts = {"messages": 0, "turns": 0, "responses": 0}

    async def run(self) -> None:
        """Serve until the client hangs up. Any other exception is a fault of ours."""
        began = asyncio.get_running_loop().time()
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
            await self._bid_farewell(cancelled)
            raise
        finally:
            seconds = round(asyncio.get_running_loop().time() - began, 3)
            figures = {**self._counts, "sent": self._sender.sent, "seconds": seconds}
            log.log(self._log_level, "session ended", extra={"ended": ended, **figures})

    async def _race(self) -> None:
        """All tasks until one ends, which ends the call; raises what that one raised."""
        for action in self._protocol.open():
            await self._do(action)
        tasks: list[asyncio.Task[None]] = [
            asyncio.create_task(self._listen()),
            asyncio.create_task(self._tell()),
            asyncio.create_task(self._sender.run()),
            # What a client sent before it left is many messages at most, but may be an hour of
            # sound: nobody waits for what comes of it.
            asyncio.create_task(self._websocket.wait_closed()),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            # A failure while cancelling must not hide the first one.
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    async def _bid_farewell(self, cancelled: asyncio.CancelledError) -> None:
        """Say why, where the protocol has words for it, before the host closes."""
        if cancelled.args != (CALL_LIMIT,):
            return
        expired = self._protocol.error(wire.session_expired(self._call_limit / 60))
        with contextlib.suppress(ConnectionClosed, TimeoutError):
            async with asyncio.timeout(FAREWELL_SECONDS):
                for action in expired:
                    if isinstance(action, actions.Send):
                        await self._websocket.send(action.data, text=True)

    # -- both directions

    async def _listen(self) -> None:
        async for message in self._websocket:
            self._counts["messages"] += 1
            if isinstance(message, str):
                # What a message asks for is told through the pipeline or straight to the sender:
                # a client that reads neither is not asked for its next one.
                await self._pipeline.ready()
                await self._do_all(self._protocol.receive(message))
                await self._sender.room(HARD_LIMIT)

    async def _tell(self) -> None:
        async for event in self._pipeline.events():
            self._note(event)
            for each in self._resampled(event):
                await self._do_all(self._protocol.emit(each))
            await self._sender.room(HIGH_WATER)

    def _note(self, event: events.PipelineEvent) -> None:
        match event:
            case events.TurnCommitted():
                self._counts["turns"] += 1
            case events.ResponseStarted():
                self._counts["responses"] += 1
            case events.Interrupted():
                self._sender.drop_audio(event.item_id)
                self._voices.pop(event.item_id, None)

    def _resampled(self, event: events.PipelineEvent) -> Iterator[events.PipelineEvent]:
        """The event as the wire takes it: sound at 24 kHz, all of it before its message ends."""
        match event:
            case events.ResponseAudio(item_id=item_id, rate=rate):
                voice = self._voices.setdefault(item_id, Resampler(rate, RATE))
                yield self._sound(event.response_id, item_id, voice.push(event.samples))
            case events.MessageDone(item_id=item_id, complete=complete):
                spoken = self._voices.pop(item_id, None)
                if spoken is not None and complete:
                    yield self._sound(event.response_id, item_id, spoken.flush())
                yield event
            case _:
                yield event

    def _sound(self, response_id: str, item_id: str, samples: Samples) -> events.ResponseAudio:
        return events.ResponseAudio(response_id, item_id, samples, RATE)

    # -- what the protocol asks for

    async def _do_all(self, wanted: Iterable[Action]) -> None:
        for action in wanted:
            await self._do(action)

    async def _do(self, action: Action) -> None:
        try:
            outcome = await self._carry_out(action)
        except errors.PipelineError as error:
            outcome = self._protocol.refuse(action, _in_wire_terms(action, error))
        except wire.WireError as error:
            outcome = self._protocol.refuse(action, error)
        for each in outcome:
            await self._do(each)

    async def _carry_out(self, action: Action) -> list[Action]:
        pipeline = self._pipeline
        match action:
            case actions.Send():
                self._sender.put(action.data, action.audio_of)
            case actions.Configure():
                pipeline.configure(action.settings)
            case actions.AppendAudio():
                for samples in await self._hear(self._ear, action.audio, "audio"):
                    await pipeline.push_audio(samples)
            case actions.Commit():
                await pipeline.push_audio(self._ear.flush())
                await pipeline.commit()
            case actions.Clear():
                self._ear.flush()
                await pipeline.clear()
            case actions.Respond():
                pipeline.respond(action.request)
            case actions.Cancel():
                if not pipeline.cancel(action.response_id):
                    raise wire.no_active_response()
            case actions.InsertItem():
                return await self._insert(action)
            case actions.DeleteItem():
                # An item of an out-of-band response has no entry, one forgotten has none any more.
                with contextlib.suppress(errors.UnknownItem):
                    pipeline.delete(action.item_id)
            case actions.TruncateItem():
                left = pipeline.truncate(action.item_id, action.audio_end_ms)
                return self._protocol.truncated(action, left)
        return []

    async def _insert(self, action: actions.InsertItem) -> list[Action]:
        if not action.audio:
            self._pipeline.insert(action.item_id, action.message, action.after)
            return self._protocol.inserted(action)
        param, ear = "item.content[0].audio", Resampler(RATE, INPUT_RATE)
        clip = [*await self._hear(ear, action.audio, param), ear.flush()]
        text, failure = "", ""
        try:
            async with asyncio.timeout(TRANSCRIBE_SECONDS):
                text = await self._pipeline.transcribe(np.concatenate(clip))
        except TimeoutError:
            failure = "The audio could not be transcribed in time."
        except errors.EngineError:
            failure = "The audio could not be transcribed."
        self._pipeline.insert(action.item_id, Message("user", text), action.after)
        told = self._protocol.inserted(action, text)
        if failure:
            told += self._protocol.emit(events.TranscriptFailed(action.item_id, failure))
        return told

    async def _hear(self, ear: Resampler, encoded: str, param: str) -> list[Samples]:
        """The sound in one event, at 16 kHz. All of it is decoded first: bad sound is no sound.

        A message may hold minutes: the loop gets its turn between slices. Raises WireError.
        """
        pieces: list[bytes] = []
        for piece in audio.decode(encoded, param):
            pieces.append(piece)
            if len(pieces) > 1:
                await asyncio.sleep(0)
        heard: list[Samples] = []
        for piece in pieces:
            heard.append(ear.push(from_pcm16(piece)))
            if len(heard) > 1:
                await asyncio.sleep(0)
        return heard


def _in_wire_terms(action: Action, error: errors.PipelineError) -> wire.WireError:
    match error:
        case errors.BufferTooSmall():
            return wire.commit_empty(error.milliseconds)
        case errors.ResponseActive():
            return wire.response_active(error.response_id)
        case errors.DuplicateItem():
            return wire.duplicate_item(error.item_id)
        case errors.UnknownItem() if isinstance(action, actions.TruncateItem):
            return wire.unknown_item("truncat", error.item_id)
        case errors.UnknownItem():
            return wire.unknown_previous(error.item_id)
        case _:
            return wire.WireError("server_error", str(error), type="server_error")
