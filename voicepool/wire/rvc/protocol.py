"""The protocol of RealtimeVoiceChat's page for one call, without I/O. A `wire.codec.Codec`.

    page → server   blocks of sound; tts_start, tts_stop, clear_history, set_speed
    server → page   partial_user_request*, final_user_request,
                    (partial_assistant_answer | tts_chunk)*, final_assistant_answer
    barge-in        final_assistant_answer, stop_tts, tts_interruption

What the page asks for that no message says:

- `stop_tts` makes it deaf for sound until `tts_interruption`: they go together, in this order.
- It plays chunks at the rate of its sound card, and cannot bear one that is empty.
- Partial texts are put into its HTML as they are: they must hold no tag.
- It loses chunks until its player is ready, some 300 ms after its first block. A reply needs a turn
  before it, which lasts longer, and nothing is said before the caller has spoken.
- It knows no errors: what went wrong is said in the assistant's place.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass

import msgspec

from voicepool import events
from voicepool.audio import to_pcm16
from voicepool.errors import PipelineError
from voicepool.patience import paced
from voicepool.wire import actions
from voicepool.wire.actions import Action, Send
from voicepool.wire.codec import ClientFault
from voicepool.wire.rvc import frames
from voicepool.wire.rvc.rates import RateMeter

AHEAD_SECONDS = 0.3
"""Sound that a page may have yet to play: enough for an ordinary network's hiccups, and little of a
reply is lost when the caller interrupts it."""
CHUNKS_A_SECOND = 5
"""No chunk is longer than their share of a second."""
MOST_TURNS = 16
"""Turns that wait for their transcripts; of older ones the page hears no more."""

_NO_REPLY = "Sorry, the reply could not be made."


@dataclass(slots=True)
class _Reply:
    """A response that is not over."""

    rate: int
    """Of all its sound, in samples per second."""
    text: str = ""
    """Of its message so far."""
    shown: int = 0
    """How many characters of it the page has been told."""
    final: bool = False
    """The page has the message; there is no more to tell of it."""


class RvcProtocol:
    """One call's state on the wire. `voice` is the synthesiser's."""

    def __init__(self, *, voice: str = "", instructions: str = "") -> None:
        self._voice = voice
        self._instructions = instructions
        self._meter = RateMeter()
        self._slowness = 0.0
        self._turns: dict[str, None] = {}
        """Turns whose words the page waits for, the oldest first."""
        self._replies: dict[str, _Reply] = {}
        self._clearing = 0
        """Wishes for a new conversation that the pipeline has yet to confirm: until then all that
        it tells belongs to the old one."""
        self._playing = False
        """The page's own word. It may stick at True after a `stop_tts` that met its first sample
        half-way."""
        self._silent = True
        """The page was sent no sound since it was last told to be silent."""

    @property
    def settings(self) -> events.PipelineSettings:
        """What the speed slider means for the pipeline."""
        return events.PipelineSettings(
            turns=events.TurnSettings(patience=paced(self._slowness)),
            voice=self._voice,
            instructions=self._instructions,
        )

    def open(self) -> list[Action]:
        """Nothing: the page has yet to make its player."""
        return []

    # -- what the page says

    def receive(self, message: str | bytes) -> list[Action]:
        """Take one message; those that make no sense are ignored, as is what they would mean."""
        if isinstance(message, bytes):
            block = frames.read_block(message)
            return [] if block is None else self._hear(block)
        wish = frames.read_wish(message)
        return [] if wish is None else self._obey(wish)

    def _hear(self, block: frames.Block) -> list[Action]:
        self._playing = block.playing
        # Sound from before the rate is known is heard as if it came at the usual one. Where that is
        # wrong, a second's speech is 9 % too high and too fast, which recognisers bear; holding it
        # back would cost every caller that second.
        self._meter.hear(block.milliseconds, block.samples)
        return [actions.AppendAudio(frames.BlockClip(block.pcm, self._meter.rate))]

    def _obey(self, wish: frames.Wish) -> list[Action]:
        match wish:
            case frames.Playing():
                self._playing = True
            case frames.Dry():
                self._playing = False
            case frames.SetSpeed(speed):
                self._slowness = min(max(speed, 0.0), 100.0) / 100
                return [actions.Configure(self.settings)]
            case frames.ClearHistory():
                self._clearing += 1
                return [*self._silence(), actions.Forget()]
        return []

    # -- how the pipeline took an action; the page hears of none

    def refuse(self, action: Action, error: PipelineError | ClientFault) -> list[Action]:
        return []

    def inserted(self, action: actions.InsertItem) -> list[Action]:
        return []

    def truncated(self, action: actions.TruncateItem, text: str) -> list[Action]:
        return []

    def expire(self, limit: float) -> list[Action]:
        """The call is closed next."""
        said = f"The call ends here, after {_minutes(limit)}."
        return [self._tell("final_assistant_answer", said)]

    def idle(self, limit: float) -> list[Action]:
        """The call is closed next, for nobody has used it for `limit` seconds."""
        said = f"The call ends here: nobody has said anything for {_minutes(limit)}."
        return [self._tell("final_assistant_answer", said)]

    # -- what the pipeline says

    def output_rate(self, response_id: str) -> int:
        """Samples per second of what `emit` takes of that response: what the page plays at."""
        reply = self._replies.get(response_id)
        return reply.rate if reply else self._meter.rate

    def emit(self, event: events.PipelineEvent) -> list[Action]:
        """Take one event of the pipeline."""
        if isinstance(event, events.Forgotten):
            return self._begin_anew()
        if self._clearing:
            return []
        match event:
            case events.SpeechStarted():
                return self._start_turn(event.item_id)
            case events.PartialTranscript():
                if event.item_id not in self._turns:
                    return []
                return [self._tell("partial_user_request", _harmless(event.text))]
            case events.FinalTranscript():
                return self._end_turn(event.item_id, event.text)
            case events.TranscriptFailed():
                return self._end_turn(event.item_id, "")
            case events.Interrupted():
                return self._interrupt()
            case events.ResponseStarted():
                self._replies[event.response_id] = _Reply(self._meter.rate)
                return []
            case (
                events.MessageStarted()
                | events.ResponseText()
                | events.ResponseAudio()
                | events.MessageDone()
                | events.ResponseDone()
            ):
                return self._respond(event)
            case _:
                return []  # times of turns, tool calls: the page shows neither

    def _begin_anew(self) -> list[Action]:
        self._clearing = max(0, self._clearing - 1)
        self._turns.clear()
        self._replies.clear()
        # Partial texts may have been on their way when the page emptied itself.
        return [self._tell("partial_user_request", ""), self._tell("partial_assistant_answer", "")]

    def _start_turn(self, item_id: str) -> list[Action]:
        self._turns[item_id] = None
        while len(self._turns) > MOST_TURNS:
            del self._turns[next(iter(self._turns))]
        # The pipeline knows what was sent, the page what it plays: where its clock is behind ours,
        # there is something to silence that the pipeline takes for heard.
        return self._interrupt() if self._playing else []

    def _end_turn(self, item_id: str, text: str) -> list[Action]:
        """The words of a turn; where there are none the page takes its bubble away."""
        if item_id not in self._turns:
            return []
        del self._turns[item_id]
        return [self._tell("final_user_request", text)]

    def _interrupt(self) -> list[Action]:
        finals = [action for reply in self._replies.values() for action in self._finish(reply)]
        return [*finals, *self._silence()]

    def _silence(self) -> list[Action]:
        if self._silent:
            return []
        self._silent = True
        return [self._tell("stop_tts", ""), self._tell("tts_interruption", "")]

    # -- what the pipeline says of its replies

    def _respond(self, event: _OfResponse) -> list[Action]:
        reply = self._replies.get(event.response_id)
        if reply is None:
            return []
        match event:
            case events.MessageStarted():
                reply.text, reply.shown, reply.final = "", 0, False
                return []
            case events.ResponseText():
                reply.text += event.delta
                return self._show(reply)
            case events.ResponseAudio():
                return self._play(reply, event)
            case events.MessageDone():
                reply.text = event.text
                return self._finish(reply)
            case events.ResponseDone():
                del self._replies[event.response_id]
                if event.status != "failed":
                    return []
                return [self._tell("final_assistant_answer", event.message or _NO_REPLY)]

    def _show(self, reply: _Reply) -> list[Action]:
        """The text so far, once it has grown by a 64th: all partials of a reply together are then
        no more than 64 times as long as the reply."""
        if reply.final or len(reply.text) - reply.shown < max(1, reply.shown // 64):
            return []
        reply.shown = len(reply.text)
        return [self._tell("partial_assistant_answer", _harmless(reply.text))]

    def _finish(self, reply: _Reply) -> list[Action]:
        if reply.final or not reply.text:
            return []
        reply.final = True
        return [self._tell("final_assistant_answer", reply.text)]

    def _play(self, reply: _Reply, event: events.ResponseAudio) -> list[Action]:
        if event.rate != reply.rate:
            raise ValueError(f"the page plays {reply.rate} samples per second, not {event.rate}")
        size = event.rate // CHUNKS_A_SECOND
        chunks = [event.samples[at : at + size] for at in range(0, len(event.samples), size)]
        self._silent = self._silent and not chunks
        return [
            self._tell("tts_chunk", b64encode(to_pcm16(chunk)).decode(), audio_of=event.item_id)
            for chunk in chunks
        ]

    def _tell(self, kind: str, content: str, audio_of: str = "") -> Send:
        return Send(msgspec.json.encode({"type": kind, "content": content}), audio_of)


_OfResponse = (
    events.MessageStarted
    | events.ResponseText
    | events.ResponseAudio
    | events.MessageDone
    | events.ResponseDone
)


def _harmless(text: str) -> str:
    """`text` without a tag in it. The page escapes "&" itself, so an entity would be shown as it
    stands; a look-alike is shown until the final text takes its place."""
    return text.replace("<", "\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}")


def _minutes(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return "1 minute" if minutes == 1 else f"{minutes} minutes"
