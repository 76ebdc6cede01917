"""The caller's sound on its way in: windows to the detector, turns to the recogniser."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from voicepool.audio import SILENCE, Recent, Windows
from voicepool.engines.base import Samples, VoiceActivityDetector
from voicepool.errors import BufferTooSmall
from voicepool.events import TurnSettings
from voicepool.figures import count
from voicepool.stages import Utterance
from voicepool.turns import (
    Idled,
    Paused,
    Resumed,
    Started,
    Stopped,
    TurnDetector,
    TurnEvent,
    samples_of,
)

SHORTEST_TURN = samples_of(100)
"""What `commit` needs; the OpenAI Realtime limit."""
WINDOWS_AT_ONCE = 4
"""Windows after which other tasks get the event loop: a detector takes about 1 ms for each."""


class TurnHandler(Protocol):
    """Who hears of the caller's turns."""

    def turn_started(self, utterance: Utterance, start: int) -> None:
        """The caller has begun to speak at sample `start`."""

    def turn_paused(self, utterance: Utterance) -> None:
        """The turn is likely over."""

    def turn_resumed(self, utterance: Utterance) -> None:
        """It is not."""

    def turn_stopped(self, utterance: Utterance, end: int) -> None:
        """The turn is over and the handler's to transcribe; its sound ends before `end`."""

    def turn_dropped(self, utterance: Utterance, end: int) -> None:
        """The turn was started and is not wanted any more."""

    def idled(self, start: int, end: int) -> None:
        """Nobody has spoken for the idle timeout."""


class Listener:
    """The input side of one call. Sound is 16 kHz; positions are samples since the call began."""

    def __init__(
        self,
        vad: VoiceActivityDetector,
        settings: TurnSettings | None,
        open_utterance: Callable[[], Utterance],
        handler: TurnHandler,
    ) -> None:
        self._vad = vad.stream()
        self._manual = settings is None
        self._windows = Windows(vad.window_size)
        self._detector = TurnDetector(settings or TurnSettings(), vad.window_size)
        self._recent = Recent(0)
        self._open_utterance = open_utterance
        self._handler = handler
        self._utterance: Utterance | None = None
        """The turn in progress; in manual turns the buffer since the last commit."""
        self._at_once = 0
        self._configure_recent()

    @property
    def now(self) -> int:
        """Samples taken in so far."""
        return self._detector.now

    def configure(self, settings: TurnSettings | None) -> None:
        """Other settings from the next window on. A change between detected and manual turns
        begins with an empty buffer."""
        if (settings is None) != self._manual:
            self.clear()
            self._vad.reset()
            self._manual = settings is None
        if settings is not None:
            self._detector.settings = settings
            self._configure_recent()

    def expect_speech(self, after: float | None) -> None:
        """Count the idle time from `after` seconds from now; None: do not."""
        since = None if after is None else self.now + int(after * samples_of(1000))
        self._detector.expect_speech(since)

    def understand(self, completeness: float) -> None:
        """What was said before the present pause sounds so finished, see `TurnDetector`."""
        self._detector.understand(completeness)

    async def hear(self, samples: Samples) -> None:
        """Take sound of any length. Waits while the recogniser is far behind."""
        if self._manual:
            self._hear_manual(samples)
            await self._caught_up()
            return
        for window in self._windows.push(samples):
            self._hear_window(window)
            await self._caught_up()
            self._at_once += 1
            if self._at_once % WINDOWS_AT_ONCE == 0:
                await asyncio.sleep(0)

    def commit(self) -> Utterance:
        """End the turn now. Raises BufferTooSmall, and nothing has changed."""
        utterance = self._utterance
        rest = self._windows.take_rest()
        buffered = SILENCE if utterance else self._recent.last(len(self._recent))
        length = (utterance.samples if utterance else len(buffered)) + len(rest)
        if length < SHORTEST_TURN:
            # Nothing was lost: an unfinished window goes back.
            for _ in self._windows.push(rest):
                raise AssertionError("less than a window cannot fill one")
            raise BufferTooSmall(length * 1000 / samples_of(1000))
        if utterance is None:
            utterance = self._open_utterance()
            utterance.feed(buffered)
        utterance.release()
        utterance.feed(rest)
        self._detector.advance(len(rest))
        self._end()
        return utterance

    def clear(self) -> None:
        """Forget the buffered sound and a turn in progress."""
        self._detector.advance(len(self._windows.take_rest()))
        utterance = self._utterance
        stopped = self._end()
        if utterance is None:
            return
        utterance.discard()
        if stopped is not None:
            self._handler.turn_dropped(utterance, stopped.end)

    def _end(self) -> Stopped | None:
        self._utterance = None
        self._recent.clear()
        for event in self._detector.end_turn():
            if isinstance(event, Stopped):
                return event
        return None

    @property
    def in_turn(self) -> bool:
        """Whether a detected turn is in progress."""
        return self._detector.in_turn

    async def _caught_up(self) -> None:
        if self._utterance is not None:
            await self._utterance.ready()

    def _configure_recent(self) -> None:
        settings = self._detector.settings
        padding = settings.prefix_padding_ms + settings.minimum_speech_ms
        self._recent.capacity = max(samples_of(padding), SHORTEST_TURN) + 2 * self._windows.size

    def _hear_manual(self, samples: Samples) -> None:
        if not len(samples):
            return
        if self._utterance is None:
            self._utterance = self._open_utterance()
        self._utterance.feed(samples)
        self._detector.advance(len(samples))

    def _hear_window(self, window: Samples) -> None:
        if self._manual:  # the settings have changed while `hear` waited
            self._hear_manual(window)
            return
        probability = self._probability(window)
        if self._utterance is None:
            self._recent.push(window)
        else:
            self._utterance.feed(window)
        for event in self._detector.push(probability):
            self._tell(event)
        if self._utterance is not None and self._detector.speaking:
            self._utterance.spoke_until = time.monotonic()

    def _probability(self, window: Samples) -> float:
        try:
            return self._vad.push(window)
        except Exception:
            count("engine_errors.vad")
            raise

    def _tell(self, event: TurnEvent) -> None:
        match event:
            case Started(start):
                self._utterance = self._open_utterance()
                self._utterance.feed(self._recent.last(self._detector.now - start))
                self._recent.clear()
                self._handler.turn_started(self._utterance, start)
            case Idled(start, end):
                self._handler.idled(start, end)
            case _ if self._utterance is None:
                raise AssertionError("a turn has an utterance from its start")
            case Paused():
                self._handler.turn_paused(self._utterance)
            case Resumed():
                self._handler.turn_resumed(self._utterance)
            case Stopped(end):
                utterance, self._utterance = self._utterance, None
                self._handler.turn_stopped(utterance, end)
