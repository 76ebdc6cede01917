"""What a client makes of a server's events. Times are given, so every figure is exact."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from voicepool.dialogue import _HANDLERS, RATE, Dialogue, Line, ProtocolError, Side


def sound(seconds: float) -> str:
    return base64.b64encode(bytes(int(RATE * seconds) * 2)).decode()


class Call:
    """A dialogue fed by short names, on a clock that the test sets."""

    def __init__(self, plays: bool = True) -> None:
        self.dialogue = Dialogue(lambda ms: ms / 1000, plays=plays)
        self.shown: list[Line] = []

    def at(self, now: float, kind: str, **fields: Any) -> None:
        self.shown += self.dialogue.handle({"type": kind, **fields}, now)

    def hear(self, item: str, start: float, end: float, text: str) -> None:
        transcription = "conversation.item.input_audio_transcription"
        audio = "input_audio_buffer"
        self.at(start, f"{audio}.speech_started", item_id=item, audio_start_ms=start * 1000)
        self.at(end, f"{transcription}.delta", item_id=item, delta=text[:3])
        self.at(end + 0.5, f"{audio}.speech_stopped", item_id=item, audio_end_ms=end * 1000)
        self.at(end + 0.5, f"{audio}.committed", item_id=item)
        self.at(end + 0.6, f"{transcription}.completed", item_id=item, transcript=text)

    def reply(self, name: str, now: float, text: str, seconds: float) -> None:
        self.at(now, "response.created", response={"id": name})
        self.at(now, "response.output_audio_transcript.delta", response_id=name, delta=text)
        self.at(
            now, "response.output_audio.delta", response_id=name, item_id="a", delta=sound(seconds)
        )

    def done(self, name: str, now: float, status: str = "completed", **details: Any) -> None:
        response = {"id": name, "status": status, "status_details": details or None}
        self.at(now, "response.done", response=response)

    def finals(self) -> list[tuple[str, str]]:
        return [(line.side.value, line.text) for line in self.shown if line.final]


def test_a_turn_with_its_latencies() -> None:
    call = Call()
    call.hear("u", 1.0, 2.0, "what time is it")
    before = call.dialogue.settled
    call.reply("r", 2.7, "Ten past four.", 1.5)
    call.done("r", 2.8)
    assert (before, call.dialogue.settled) == (False, True)
    (turn,) = call.dialogue.turns
    assert turn.since_speech(turn.transcript_at) == pytest.approx(0.6)
    assert turn.reply is not None
    assert turn.since_speech(turn.reply.first_audio_at) == pytest.approx(0.7)
    assert (turn.reply.received_ms, turn.reply.heard_ms) == (1500, None)
    assert call.finals() == [
        ("you", "what time is it"),
        ("voice", "Ten past four."),
        ("note", "transcript 600 ms, first sound 700 ms after the end of speech"),
    ]
    assert Line(Side.CALLER, "wha", final=False) in call.shown


def test_speaking_over_a_reply_cuts_it_to_what_was_played() -> None:
    call = Call()
    call.hear("u", 1.0, 2.0, "tell me a story")
    call.reply("r", 3.0, "Once upon a time", 10.0)
    call.done("r", 3.1)
    call.hear("v", 7.25, 8.0, "stop")
    first = call.dialogue.turns[0].reply
    assert first is not None
    assert first.heard_ms == 4250
    assert len(first.heard) == 2 * RATE * 4250 // 1000
    truncate = {
        "type": "conversation.item.truncate",
        "item_id": "a",
        "content_index": 0,
        "audio_end_ms": 4250,
    }
    assert call.dialogue.truncations() == [truncate]
    assert call.dialogue.truncations() == []
    assert ("note", "interrupted after 4.2 s") in call.finals()


def test_sound_of_an_interrupted_reply_that_was_on_its_way_is_dropped() -> None:
    call = Call()
    call.hear("u", 1.0, 2.0, "tell me a story")
    call.reply("r", 3.0, "Once", 2.0)
    call.hear("v", 4.0, 5.0, "stop")
    call.at(4.1, "response.output_audio.delta", response_id="r", item_id="a", delta=sound(5))
    call.done("r", 4.2, "cancelled", reason="turn_detected")
    reply = call.dialogue.turns[0].reply
    assert reply is not None
    assert (reply.received_ms, reply.heard_ms, reply.status) == (2000, 1000, "cancelled")


def test_a_reply_that_was_played_out_is_not_interrupted() -> None:
    call = Call()
    call.hear("u", 1.0, 2.0, "hello")
    call.reply("r", 3.0, "Hello!", 1.0)
    call.at(5.0, "response.output_audio.delta", response_id="r", item_id="a", delta=sound(1))
    call.hear("v", 6.5, 7.0, "bye")
    assert call.dialogue.truncations() == []


def test_a_caller_who_takes_replies_whole_interrupts_none() -> None:
    call = Call(plays=False)
    call.hear("u", 1.0, 2.0, "hello")
    call.reply("r", 3.0, "Hello!", 100.0)
    call.hear("v", 4.0, 5.0, "bye")
    assert call.dialogue.truncations() == []


def test_only_the_last_turn_must_be_answered() -> None:
    call = Call()
    call.hear("u", 1.0, 2.0, "one")
    call.hear("v", 3.0, 4.0, "two")
    call.reply("r", 5.0, "Two.", 1.0)
    call.done("r", 5.0)
    assert call.dialogue.settled
    assert call.dialogue.turns[0].reply is None


@pytest.mark.parametrize(
    ("details", "why"),
    [
        ({"error": {"message": "the model is gone"}}, "the model is gone"),
        ({"reason": "max_output_tokens"}, "max_output_tokens"),
        ({}, "no reason given"),
    ],
)
def test_a_failed_reply_says_why(details: dict[str, Any], why: str) -> None:
    call = Call()
    call.hear("u", 1.0, 2.0, "one")
    call.at(3.0, "response.created", response={"id": "r"})
    call.done("r", 3.0, "failed", **details)
    assert call.dialogue.errors == [f"the reply failed: {why}"]
    assert call.dialogue.settled


def test_errors_and_failed_transcripts_are_told() -> None:
    call = Call()
    call.at(0.0, "error", error={"message": "bad event"})
    call.at(1.0, "input_audio_buffer.speech_started", item_id="u", audio_start_ms=0)
    call.at(
        2.0,
        "conversation.item.input_audio_transcription.failed",
        item_id="u",
        error={"message": "no model"},
    )
    assert call.dialogue.errors == [
        "the server reports: bad event",
        "transcription failed: no model",
    ]


def test_events_of_unknown_types_are_counted() -> None:
    call = Call()
    call.at(0.0, "rate_limits.updated")
    call.at(0.0, "rate_limits.updated")
    assert call.dialogue.counts["rate_limits.updated"] == 2


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["id", "status", "error", "message", "status_details", "x"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=3,
)
names = ["response", "item_id", "response_id", "delta", "audio_end_ms", "transcript", "error"]


# Under load, drawing the nested values is slow for a while; it is not the test that is at fault.
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(list(_HANDLERS)),
            st.dictionaries(st.sampled_from(names), anything, max_size=4),
        ),
        max_size=5,
    )
)
def test_whatever_a_server_sends_is_taken_or_refused(events: list[tuple[str, Any]]) -> None:
    dialogue = Dialogue(lambda ms: None)
    for kind, fields in events:
        try:
            lines = dialogue.handle({"type": kind, **fields}, 0.0)
        except ProtocolError:
            continue
        assert all(isinstance(line.text, str) for line in lines)
