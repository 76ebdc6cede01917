"""Any page, any pipeline: the protocol never raises, and nothing that it sends spoils the page."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.fuzzing import FUZZING
from tests.rvc import Page, block
from voicepool import events
from voicepool.wire import actions
from voicepool.wire.rvc.protocol import MOST_TURNS, RvcProtocol
from voicepool.wire.rvc.rates import COMMON_RATES

TURNS = st.sampled_from(["a", "b", "c"])
RESPONSES = st.sampled_from(["resp_1", "resp_2"])
TEXT = st.text(max_size=20) | st.sampled_from(["<b>", "a < b", "<!--", "&lt;"])
MS = st.integers(0, 100_000)
COUNT = st.integers(0, 30_000)
TURN_EVENTS = st.one_of(
    st.builds(events.SpeechStarted, TURNS, MS),
    st.builds(events.SpeechStopped, TURNS, MS),
    st.builds(events.IdleTimeout, TURNS, MS, MS),
    st.builds(events.TurnCommitted, TURNS, st.none()),
    st.builds(events.PartialTranscript, TURNS, TEXT),
    st.builds(events.FinalTranscript, TURNS, TEXT, st.just(1.0)),
    st.builds(events.TranscriptFailed, TURNS, TEXT),
    st.just(events.Forgotten()),
)
RESPONSE_EVENTS = st.one_of(
    st.builds(events.ResponseStarted, RESPONSES, st.just(events.ResponseRequest())),
    st.builds(events.MessageStarted, RESPONSES, TURNS, st.just(0), st.none(), st.booleans()),
    st.builds(events.ResponseText, RESPONSES, TURNS, TEXT),
    st.builds(events.MessageDone, RESPONSES, TURNS, st.just(0), TEXT, st.booleans()),
    st.builds(events.ToolCallStarted, RESPONSES, TURNS, st.just(0), st.none(), TEXT, TEXT),
    st.builds(events.ToolCallArguments, RESPONSES, TURNS, TEXT),
    st.builds(events.ToolCallDone, RESPONSES, TURNS, st.just(0), TEXT, TEXT, TEXT),
    st.builds(
        events.ResponseDone,
        RESPONSES,
        st.sampled_from(["completed", "cancelled", "failed", "incomplete"]),
        st.just(""),
        TEXT,
    ),
    st.builds(events.Interrupted, RESPONSES, TURNS, MS),
)
WISHES = st.one_of(
    st.sampled_from([{"type": kind} for kind in ("tts_start", "tts_stop", "clear_history")]),
    st.fixed_dictionaries(
        {"type": st.just("set_speed"), "speed": st.floats() | st.integers() | TEXT}
    ),
)


class Call(RuleBasedStateMachine):
    """`Page` fails at whatever would spoil the real one."""

    def __init__(self) -> None:
        super().__init__()
        self.protocol = RvcProtocol()
        self.page = Page()
        self.clock = 0

    def take(self, wanted: list[actions.Action]) -> list[str]:
        sent = [each for each in wanted if isinstance(each, actions.Send)]
        for each in wanted:
            if isinstance(each, actions.AppendAudio):
                assert each.clip.rate in COMMON_RATES
                assert all(len(piece) for piece in each.clip.pieces())
        return [self.page.take(each.data) for each in sent]

    @rule(wish=WISHES)
    def the_page_wishes(self, wish: dict[str, Any]) -> None:
        told = self.take(self.protocol.receive(json.dumps(wish)))
        assert set(told) <= {"stop_tts", "tts_interruption"}

    @rule(garbage=st.text() | st.binary())
    def the_page_sends_garbage(self, garbage: str | bytes) -> None:
        assert self.take(self.protocol.receive(garbage)) == []

    @rule(
        late=st.integers(-50, 3_000), playing=st.booleans(), count=st.integers(0, 4_096), odd=COUNT
    )
    def the_page_sends_sound(self, late: int, playing: bool, count: int, odd: int) -> None:
        self.clock += count * 1000 // 44_100 + (late if late > 2_900 else 0)
        message = block(self.clock, bytes(2 * count + odd % 2), playing=playing)
        assert self.take(self.protocol.receive(message)) == []

    @rule(event=TURN_EVENTS)
    def the_pipeline_tells_of_the_caller(self, event: Any) -> None:
        self.take(self.protocol.emit(event))

    @rule(event=RESPONSE_EVENTS)
    def the_pipeline_tells_of_a_reply(self, event: Any) -> None:
        told = self.take(self.protocol.emit(event))
        if isinstance(event, events.Interrupted) and "stop_tts" in told:
            assert told[-2:] == ["stop_tts", "tts_interruption"]

    @rule(response_id=RESPONSES, count=COUNT)
    def the_pipeline_speaks(self, response_id: str, count: int) -> None:
        samples = np.full(count, 0.5, np.float32)
        rate = self.protocol.output_rate(response_id)
        self.take(self.protocol.emit(events.ResponseAudio(response_id, "a", samples, rate)))

    @invariant()
    def the_page_is_never_left_deaf(self) -> None:
        assert not self.page.deaf

    @invariant()
    def little_is_kept(self) -> None:
        assert len(self.protocol._turns) <= MOST_TURNS

    def teardown(self) -> None:
        """When the caller barges in, nothing goes on sounding and nobody goes on typing."""
        for _ in range(self.protocol._clearing):
            self.take(self.protocol.emit(events.Forgotten()))
        self.take(self.protocol.emit(events.Interrupted("resp_1", "a", 0)))
        assert self.page.flushed == len(self.page.pcm)


Call.TestCase.settings = settings(
    FUZZING,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestCall = Call.TestCase
