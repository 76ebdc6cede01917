"""voicepool.tally: what a call's events add to the metrics."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from tests.calls import ManualClock
from voicepool import events, figures
from voicepool.events import PipelineEvent, ResponseRequest, Status
from voicepool.figures import Figures, Recorder
from voicepool.tally import Tally

SOUND = np.zeros(10, np.float32)


class Call:
    """A tally whose sound goes to a socket when a test says so."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.tally = Tally(self.clock)
        self.recorder = Recorder()

    def hear(self, *told: PipelineEvent) -> None:
        for event in told:
            self.tally.note(event)

    def begin(self, response: str = "r", since: float | None = None) -> None:
        self.hear(events.ResponseStarted(response, ResponseRequest(), since))

    def sound(self, response: str = "r", item: str = "i") -> None:
        """A piece of the reply's sound reaches the socket."""
        self.hear(events.ResponseAudio(response, item, SOUND, 16000))
        if sent := self.tally.sending(item):
            sent()

    @property
    def told(self) -> Figures:
        return self.recorder.take() or Figures()


@pytest.fixture
def call() -> Iterator[Call]:
    made = Call()
    token = figures.recorder.set(made.recorder)
    yield made
    figures.recorder.reset(token)


def test_turns_are_those_of_the_caller(call: Call) -> None:
    call.hear(events.TurnCommitted("a", None))
    call.hear(events.IdleTimeout("b", 0, 1), events.TurnCommitted("b", "a"))
    call.hear(events.TurnCommitted("c", "b"))
    assert call.told.counts == {"turns": 2}


@pytest.mark.parametrize("status", ["completed", "cancelled", "failed", "incomplete"])
def test_responses_by_what_became_of_them(call: Call, status: Status) -> None:
    call.hear(events.ResponseDone("r", status))
    assert call.told == Figures({f"responses.{status}": 1})


def test_voice_to_voice_is_from_the_end_of_speech_to_the_first_sound_sent(call: Call) -> None:
    call.begin(since=call.clock.now)
    call.clock.now += 0.5
    call.hear(events.ResponseAudio("r", "i", SOUND, 16000))
    sent = call.tally.sending("i")
    assert sent is not None
    call.clock.now += 0.25  # until the socket takes it
    sent()
    call.sound()
    call.sound(item="next message")
    assert call.told.times == {"voice_to_voice": (0.75,)}


def test_a_reply_that_nobody_spoke_for_is_not_timed(call: Call) -> None:
    call.begin()
    call.sound()
    assert call.told == Figures()


def test_sound_that_is_dropped_before_it_is_sent_is_not_timed(call: Call) -> None:
    call.begin(since=call.clock.now)
    call.hear(events.ResponseAudio("r", "i", SOUND, 16000))
    call.hear(events.Interrupted("r", "i", 0))
    assert call.tally.sending("i") is None
    assert call.told == Figures({"interruptions": 1})


def test_nothing_is_left_of_replies_that_are_over(call: Call) -> None:
    for number in range(100):
        call.begin(f"r{number}", call.clock.now)
        if number % 2:
            call.sound(f"r{number}", f"i{number}")
        call.hear(events.ResponseDone(f"r{number}", "completed"))
    assert not call.tally._awaited
    assert not call.tally._first
