"""When the caller's turns begin and end: a pure state machine over speech probabilities.

Time is samples of the caller's sound since the call began; there is no other clock here. One
probability comes per window of sound. A window is SPEECH from the threshold upwards and SILENCE
from 0.15 below it downwards (the hysteresis of Silero's own iterator); between the two it is
UNSURE, which starts nothing and ends nothing.

    state     window           next
    QUIET     SPEECH           RISING
    RISING    SPEECH, UNSURE   RISING, or SPEAKING after the minimum speech       Started
    RISING    SILENCE          QUIET: a click, not a turn
    SPEAKING  SILENCE          TRAILING
    TRAILING  SPEECH           SPEAKING                                           Resumed
    TRAILING  SILENCE, UNSURE  TRAILING, from the short silence on likely over    Paused
                               QUIET after the silence that ends a turn           Stopped

Resumed is told only after a Paused. Everything not in the table changes nothing. Started and
Stopped alternate, a turn never ends before it begins, and times never run backwards.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from voicepool.engines.base import INPUT_RATE
from voicepool.events import TurnSettings

HYSTERESIS = 0.15
PAUSE = INPUT_RATE * 160 // 1000
"""Silence after which a turn is likely over: long enough to pass over the closure of a plosive
(about 100 ms), short enough to leave most of the usual half second to work ahead in."""
LONGEST_TURN = INPUT_RATE * 600
"""A turn is cut here, so that a stuck detector cannot fill the memory."""


class State(enum.Enum):
    QUIET = enum.auto()
    RISING = enum.auto()
    SPEAKING = enum.auto()
    TRAILING = enum.auto()


@dataclass(frozen=True, slots=True)
class Started:
    """A turn has begun, at sample `start`; prefix padding included."""

    start: int


@dataclass(frozen=True, slots=True)
class Paused:
    """The turn is likely over."""

    at: int


@dataclass(frozen=True, slots=True)
class Resumed:
    """It was not: the caller goes on."""

    at: int


@dataclass(frozen=True, slots=True)
class Stopped:
    """The turn is over; its sound ends before sample `end`, the closing silence included."""

    end: int


@dataclass(frozen=True, slots=True)
class Idled:
    """Nobody has spoken from `start`, when the last reply was played out, up to `end`."""

    start: int
    end: int


TurnEvent = Started | Paused | Resumed | Stopped | Idled


def samples_of(milliseconds: int) -> int:
    """Milliseconds as a number of samples."""
    return milliseconds * INPUT_RATE // 1000


def milliseconds_of(samples: int) -> int:
    """A number of samples as milliseconds."""
    return samples * 1000 // INPUT_RATE


class TurnDetector:
    """The machine for one caller. `push` and the other methods return what has happened."""

    def __init__(self, settings: TurnSettings, window_size: int) -> None:
        self.settings = settings
        self._window = window_size
        self._state = State.QUIET
        self._now = 0
        self._earliest = 0
        """No turn begins before the last one's end."""
        self._rise = 0
        """Where the first speech window of this turn begins."""
        self._start = 0
        """Where this turn begins, padding included."""
        self._silence = 0
        """Where the closing silence begins."""
        self._paused = False
        self._completeness: float | None = None
        """Of what was said up to that silence, once that is known."""
        self._idle_from: int | None = None

    @property
    def now(self) -> int:
        """Samples heard so far."""
        return self._now

    @property
    def speaking(self) -> bool:
        """Whether the last window belongs to the turn's speech, and not to a silence in it."""
        return self._state is State.SPEAKING

    @property
    def in_turn(self) -> bool:
        """Whether a turn has started and not stopped."""
        return self._state in (State.SPEAKING, State.TRAILING)

    def push(self, probability: float) -> list[TurnEvent]:
        """One more window of sound, and how likely it is speech."""
        begin = self._now
        self._now += self._window
        speech = probability >= self.settings.threshold
        silence = probability < max(self.settings.threshold - HYSTERESIS, 0.01)
        match self._state:
            case State.QUIET:
                return self._quiet(begin, speech)
            case State.RISING:
                return self._rising(silence)
            case State.SPEAKING:
                return self._speaking(begin, silence)
            case State.TRAILING:
                return self._trailing(speech)

    def advance(self, samples: int) -> None:
        """Time passes without a probability: sound that fills no window, or a manual turn's. It is
        no time in which nobody speaks: that counts anew from its end."""
        self._now += samples
        if self._idle_from is not None and samples:
            self._idle_from = max(self._idle_from, self._now)

    def understand(self, completeness: float) -> None:
        """What was said before the present silence sounds so finished, see `Patience`. Counts from
        the next window on, and only in this silence."""
        if self._state is State.TRAILING:
            self._completeness = completeness

    def end_turn(self) -> list[TurnEvent]:
        """End the turn in progress, if any, and forget the sound so far."""
        events: list[TurnEvent] = [Stopped(self._now)] if self.in_turn else []
        self._state = State.QUIET
        self._earliest = self._now
        return events

    def expect_speech(self, since: int | None) -> None:
        """Count the idle time from sample `since` (it may be yet to come); None: do not."""
        self._idle_from = since

    # -- one method per state

    def _quiet(self, begin: int, speech: bool) -> list[TurnEvent]:
        if speech:
            self._state = State.RISING
            self._rise = begin
            return self._rising(silence=False)
        return self._idle()

    def _rising(self, silence: bool) -> list[TurnEvent]:
        if silence:
            self._state = State.QUIET
            return self._idle()
        if self._now - self._rise < samples_of(self.settings.minimum_speech_ms):
            return []
        self._state = State.SPEAKING
        self._idle_from = None
        padded = self._rise - samples_of(self.settings.prefix_padding_ms)
        self._start = max(padded, self._earliest)
        return [Started(self._start)]

    def _speaking(self, begin: int, silence: bool) -> list[TurnEvent]:
        if silence:
            self._state = State.TRAILING
            self._silence = begin
            self._paused = False
            self._completeness = None
            return self._trailing(speech=False)
        return self.end_turn() if self._now - self._start >= LONGEST_TURN else []

    def _trailing(self, speech: bool) -> list[TurnEvent]:
        if speech:
            self._state = State.SPEAKING
            return [Resumed(self._now)] if self._paused else []
        silence = self._now - self._silence
        if silence >= self._closing_silence():
            return self.end_turn()
        if silence >= PAUSE and not self._paused:
            self._paused = True
            return [Paused(self._now)]
        return []

    def _closing_silence(self) -> int:
        """The silence that ends this turn, in samples; at least one window."""
        patience = self.settings.patience
        if patience is None:
            return samples_of(self.settings.silence_duration_ms)
        return samples_of(patience.silence_ms(self._completeness))

    def _idle(self) -> list[TurnEvent]:
        timeout = self.settings.idle_timeout_ms
        if timeout is None or self._idle_from is None:
            return []
        if self._now - self._idle_from < samples_of(timeout):
            return []
        start, self._idle_from = self._idle_from, None
        return [Idled(start, self._now)]
