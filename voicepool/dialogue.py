"""What a client of /v1/realtime makes of the server's events: turns, texts, sound, latencies.

Pure: events and the time go in, what is worth showing comes out. Times are seconds of one
monotonic clock. The sound that arrives counts as played from its arrival on, as a person at the
other end would hear it, so a reply that the caller speaks over is cut to what was heard.
"""

from __future__ import annotations

import base64
import enum
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

RATE = 24_000
"""Samples per second of both directions: 16-bit mono, little-endian."""


class ProtocolError(Exception):
    """The server sent something that is not the Realtime protocol."""


class Side(enum.Enum):
    CALLER = "you"
    VOICE = "voice"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Line:
    """Something to show. A later line with the same side replaces one that is not final."""

    side: Side
    text: str
    final: bool = True


@dataclass(slots=True)
class Reply:
    """One response of the server."""

    text: str = ""
    sound: bytearray = field(default_factory=bytearray)
    item_id: str = ""
    status: str = "in_progress"
    heard_ms: int | None = None
    """How much of it was played when the caller spoke over it; None where nobody did."""
    shown: bool = False
    first_text_at: float | None = None
    first_audio_at: float | None = None
    plays_until: float = 0.0

    @property
    def received_ms(self) -> int:
        return len(self.sound) * 1000 // (2 * RATE)

    @property
    def heard(self) -> bytes:
        """The sound up to where the caller spoke over it."""
        if self.heard_ms is None:
            return bytes(self.sound)
        return bytes(self.sound[: self.heard_ms * RATE // 1000 * 2])


@dataclass(slots=True)
class Turn:
    """One utterance of the caller and what came back."""

    item_id: str
    text: str = ""
    transcribed: bool = False
    end_ms: int = 0
    """The server's speech_stopped, in the caller's sound."""
    spoke_until: float | None = None
    """When the last loud sample before the server's speech_stopped was sent."""
    stopped_at: float | None = None
    """When the server's speech_stopped arrived."""
    committed: bool = False
    transcript_at: float | None = None
    reply: Reply | None = None
    measured: bool = False
    """Whether its latencies have been shown."""

    @property
    def answered(self) -> bool:
        return self.transcribed and self.reply is not None and self.reply.status != "in_progress"

    @property
    def unsaid(self) -> bool:
        """Whether no word was understood, and no reply has begun."""
        return self.transcribed and not self.text and self.reply is None

    def since_speech(self, moment: float | None) -> float | None:
        """Seconds from the end of the utterance to `moment`."""
        return None if moment is None or self.spoke_until is None else moment - self.spoke_until


class Dialogue:
    """One call as its client sees it."""

    def __init__(self, spoke_until: Callable[[int], float | None], *, plays: bool = True) -> None:
        """`spoke_until(ms)`: when the last loud sound before that point of the call was sent.

        `plays=False` for a caller who takes every reply whole, however long it sounds.
        """
        self._plays = plays
        self.turns: list[Turn] = []
        self.counts: Counter[str] = Counter()
        self.errors: list[str] = []
        self._spoke_until = spoke_until
        self._replies: dict[str, Reply] = {}
        self._truncations: list[dict[str, Any]] = []

    @property
    def settled(self) -> bool:
        """Whether the caller's last words have been transcribed and answered."""
        return bool(self.turns) and self.turns[-1].answered

    def truncations(self) -> list[dict[str, Any]]:
        """Client events, not yet returned, that tell the server what was heard of its replies."""
        due, self._truncations = self._truncations, []
        return due

    def handle(self, event: Mapping[str, Any], now: float) -> list[Line]:
        """Take one server event. Raises ProtocolError; unknown types are counted and ignored."""
        try:
            kind = event["type"]
            self.counts[kind] += 1
            handler = _HANDLERS.get(kind)
            lines = handler(self, event, now) if handler else []
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise ProtocolError(f"{type(error).__name__}: {error}") from error
        return lines + self._latencies()

    def _latencies(self) -> list[Line]:
        """Said once a turn, when it has been answered."""
        turn = self.turns[-1] if self.turns else None
        if turn is None or turn.measured or not turn.answered:
            return []
        turn.measured = True
        times = {
            "transcript": turn.since_speech(turn.transcript_at),
            "first sound": turn.since_speech(turn.reply.first_audio_at if turn.reply else None),
        }
        known = [f"{name} {took * 1000:.0f} ms" for name, took in times.items() if took is not None]
        text = ", ".join(known) + " after the end of speech"
        return [Line(Side.NOTE, text)] if known else []

    # -- the caller's side

    def _speech_started(self, event: Mapping[str, Any], now: float) -> list[Line]:
        lines = self._interrupt(now)
        self.turns.append(Turn(item_id=event["item_id"]))
        return lines

    def _interrupt(self, now: float) -> list[Line]:
        reply = self.turns[-1].reply if self.turns else None
        playing = reply is not None and reply.heard_ms is None and reply.plays_until > now
        if reply is None or not playing or not self._plays:
            return []
        unplayed = round((reply.plays_until - now) * 1000)
        reply.heard_ms = max(0, reply.received_ms - unplayed)
        self._truncations.append(
            {
                "type": "conversation.item.truncate",
                "item_id": reply.item_id,
                "content_index": 0,
                "audio_end_ms": reply.heard_ms,
            }
        )
        seconds = reply.heard_ms / 1000
        return [*self._show_reply(reply), Line(Side.NOTE, f"interrupted after {seconds:.1f} s")]

    def _speech_stopped(self, event: Mapping[str, Any], now: float) -> list[Line]:
        turn = self._turn(event)
        turn.end_ms = int(event["audio_end_ms"])
        turn.spoke_until = self._spoke_until(turn.end_ms)
        turn.stopped_at = now
        return []

    def _committed(self, event: Mapping[str, Any], now: float) -> list[Line]:
        self._turn(event).committed = True
        return []

    def _transcript_delta(self, event: Mapping[str, Any], now: float) -> list[Line]:
        turn = self._turn(event)
        turn.text += event.get("delta") or ""
        return [Line(Side.CALLER, turn.text, final=False)]

    def _transcript(self, event: Mapping[str, Any], now: float) -> list[Line]:
        turn = self._turn(event)
        turn.text = str(event["transcript"])
        turn.transcribed, turn.transcript_at = True, now
        return [Line(Side.CALLER, turn.text or "(nothing understood)")]

    def _transcript_failed(self, event: Mapping[str, Any], now: float) -> list[Line]:
        self._turn(event).transcribed = True
        return self._note(f"transcription failed: {event['error'].get('message', '')}")

    def _turn(self, event: Mapping[str, Any]) -> Turn:
        for turn in reversed(self.turns):
            if turn.item_id == event["item_id"]:
                return turn
        raise ValueError("an item that no speech_started began")

    # -- the server's side

    def _response_created(self, event: Mapping[str, Any], now: float) -> list[Line]:
        reply = self._replies[event["response"]["id"]] = Reply()
        for turn in reversed(self.turns):
            if turn.committed:
                turn.reply = reply
                break
        return []

    def _text_delta(self, event: Mapping[str, Any], now: float) -> list[Line]:
        reply = self._replies[event["response_id"]]
        reply.text += event["delta"]
        if reply.first_text_at is None:
            reply.first_text_at = now
        # Some servers run ahead with text of a reply that the caller has already cut off.
        return [] if reply.shown else [Line(Side.VOICE, reply.text, final=False)]

    def _audio_delta(self, event: Mapping[str, Any], now: float) -> list[Line]:
        reply = self._replies[event["response_id"]]
        if reply.heard_ms is None:
            sound = base64.b64decode(event["delta"], validate=True)
            if reply.first_audio_at is None:
                reply.first_audio_at = now
            reply.item_id = event["item_id"]
            reply.sound += sound
            reply.plays_until = max(reply.plays_until, now) + len(sound) / (2 * RATE)
        return []

    def _response_done(self, event: Mapping[str, Any], now: float) -> list[Line]:
        response = event["response"]
        reply = self._replies[response["id"]]
        reply.status = str(response["status"])
        lines = self._show_reply(reply)
        if reply.status in ("failed", "incomplete"):
            details = response.get("status_details") or {}
            error = details.get("error") or {}
            why = error.get("message") or details.get("reason") or "no reason given"
            lines += self._note(f"the reply {reply.status}: {why}")
        return lines

    def _show_reply(self, reply: Reply) -> list[Line]:
        if reply.shown or not reply.text:
            return []
        reply.shown = True
        return [Line(Side.VOICE, reply.text)]

    def _error(self, event: Mapping[str, Any], now: float) -> list[Line]:
        return self._note(f"the server reports: {event['error'].get('message', '')}")

    def _note(self, text: str) -> list[Line]:
        self.errors.append(text)
        return [Line(Side.NOTE, text)]


_Handler = Callable[[Dialogue, Mapping[str, Any], float], list[Line]]
_HANDLERS: Mapping[str, _Handler] = {
    "input_audio_buffer.speech_started": Dialogue._speech_started,
    "input_audio_buffer.speech_stopped": Dialogue._speech_stopped,
    "input_audio_buffer.committed": Dialogue._committed,
    "conversation.item.input_audio_transcription.delta": Dialogue._transcript_delta,
    "conversation.item.input_audio_transcription.completed": Dialogue._transcript,
    "conversation.item.input_audio_transcription.failed": Dialogue._transcript_failed,
    "response.created": Dialogue._response_created,
    "response.output_text.delta": Dialogue._text_delta,
    "response.output_audio_transcript.delta": Dialogue._text_delta,
    "response.output_audio.delta": Dialogue._audio_delta,
    "response.done": Dialogue._response_done,
    "error": Dialogue._error,
}
