"""voicepool.wire.rvc.protocol: what the page is told, and when."""

from __future__ import annotations

import json
from collections.abc import Iterable

import numpy as np
import pytest

from tests.rvc import BLOCK, Microphone, Page, block
from voicepool.audio import to_pcm16
from voicepool.errors import NothingToCancel
from voicepool.events import (
    FinalTranscript,
    Forgotten,
    Interrupted,
    MessageDone,
    MessageStarted,
    PartialTranscript,
    PipelineEvent,
    ResponseAudio,
    ResponseDone,
    ResponseRequest,
    ResponseStarted,
    ResponseText,
    SpeechStarted,
    SpeechStopped,
    TranscriptFailed,
    TurnCommitted,
)
from voicepool.patience import paced
from voicepool.wire.actions import Action, AppendAudio, Cancel, Configure, Forget, Send
from voicepool.wire.rvc.protocol import MOST_TURNS, RvcProtocol

RATE = 48_000


class Wire:
    """A protocol, and the page that it talks to."""

    def __init__(self) -> None:
        self.protocol = RvcProtocol(voice="tone", instructions="Be brief.")
        self.page = Page()
        self.actions: list[Action] = []
        self.take(self.protocol.open())

    def take(self, actions: Iterable[Action]) -> list[str]:
        """Carry out `actions`; what the page was told by it."""
        told = []
        for action in actions:
            if isinstance(action, Send):
                told.append(self.page.take(action.data))
            else:
                self.actions.append(action)
        return told

    def say(self, type: str, **fields: object) -> list[str]:
        """The page sends a wish."""
        return self.take(self.protocol.receive(json.dumps({"type": type, **fields})))

    def hear(self, *events: PipelineEvent) -> list[str]:
        """The pipeline tells of events."""
        return [told for event in events for told in self.take(self.protocol.emit(event))]

    def begin_reply(self, text: str = "Hello there.", seconds: float = 0.1) -> list[str]:
        """A reply that has text and sound, and goes on."""
        return self.hear(
            ResponseStarted("resp", ResponseRequest()),
            MessageStarted("resp", "reply", 0, None, True),
            ResponseText("resp", "reply", text),
            sound(seconds),
        )


def sound(seconds: float, rate: int = RATE, response_id: str = "resp") -> ResponseAudio:
    samples = np.full(round(seconds * rate), 0.25, np.float32)
    return ResponseAudio(response_id, "reply", samples, rate)


BARGE_IN = (SpeechStarted("turn 2", 900), Interrupted("resp", "reply", 40))
CUT_OFF = (
    MessageDone("resp", "reply", 0, "Hello there.", False),
    ResponseDone("resp", "cancelled", "turn_detected"),
)


def test_a_turn_and_its_answer() -> None:
    wire = Wire()
    told = wire.hear(
        SpeechStarted("turn", 0),
        PartialTranscript("turn", "hel"),
        PartialTranscript("turn", "hello"),
        SpeechStopped("turn", 900),
        TurnCommitted("turn", None),
        FinalTranscript("turn", "hello you", 0.9),
        ResponseStarted("resp", ResponseRequest()),
        MessageStarted("resp", "reply", 0, "turn", True),
        ResponseText("resp", "reply", "Hello "),
        sound(0.1),
        ResponseText("resp", "reply", "there."),
        sound(0.1),
    )
    assert told == [
        *("partial_user_request", "partial_user_request", "final_user_request"),
        *("partial_assistant_answer", "tts_chunk", "partial_assistant_answer", "tts_chunk"),
    ]
    assert wire.page.typing == {"user": "", "assistant": "Hello there."}
    wire.hear(
        MessageDone("resp", "reply", 0, "Hello there.", True), ResponseDone("resp", "completed")
    )
    assert wire.page.bubbles == [("user", "hello you"), ("assistant", "Hello there.")]
    assert wire.page.typing == {"user": "", "assistant": ""}
    assert wire.page.seconds(RATE) == 0.2


def test_nothing_is_said_before_the_page_has_spoken() -> None:
    assert RvcProtocol().open() == []
    assert Wire().say("tts_stop") == []


# --- barge-in --------------------------------------------------------------------------------


def test_an_interrupted_page_is_told_the_text_then_to_stop_then_to_listen_again() -> None:
    wire = Wire()
    wire.begin_reply()
    told = wire.hear(*BARGE_IN)
    assert told == ["final_assistant_answer", "stop_tts", "tts_interruption"]
    assert wire.hear(*CUT_OFF) == [], "all of it has been said"
    assert wire.page.bubbles == [("assistant", "Hello there.")]


def test_the_next_reply_after_an_interruption_is_heard() -> None:
    wire = Wire()
    wire.begin_reply()
    wire.hear(*BARGE_IN, *CUT_OFF)
    wire.begin_reply()
    assert wire.page.seconds(RATE) == 0.2
    assert wire.hear(SpeechStarted("turn 3", 0), Interrupted("resp", "reply", 9)) == [
        *("final_assistant_answer", "stop_tts", "tts_interruption"),
    ]


def test_a_reply_that_was_made_and_still_plays_is_stopped() -> None:
    wire = Wire()
    wire.begin_reply()
    wire.hear(
        MessageDone("resp", "reply", 0, "Hello there.", True), ResponseDone("resp", "completed")
    )
    assert wire.hear(*BARGE_IN) == ["stop_tts", "tts_interruption"]


def test_a_page_that_plays_longer_than_our_clock_says_is_stopped_as_well() -> None:
    wire = Wire()
    wire.begin_reply()
    wire.hear(ResponseDone("resp", "completed"))
    wire.take(wire.protocol.receive(block(0, bytes(4), playing=True)))
    assert wire.hear(SpeechStarted("turn 2", 0)) == ["stop_tts", "tts_interruption"]
    assert wire.hear(SpeechStarted("turn 3", 0)) == [], "once is enough"


@pytest.mark.parametrize("word", ["message", "flag"])
def test_a_page_that_has_run_dry_is_left_alone(word: str) -> None:
    wire = Wire()
    wire.begin_reply()
    wire.hear(ResponseDone("resp", "completed"))
    wire.say("tts_start")
    if word == "message":
        wire.say("tts_stop")
    else:
        wire.take(wire.protocol.receive(block(0, bytes(4))))
    assert wire.hear(SpeechStarted("turn 2", 0)) == []


def test_an_interruption_before_the_first_sound_silences_nothing() -> None:
    wire = Wire()
    wire.begin_reply(seconds=0)
    assert wire.hear(*BARGE_IN) == ["final_assistant_answer"]


# --- texts -----------------------------------------------------------------------------------


def test_partial_texts_hold_no_tag_and_final_ones_are_as_they_were_said() -> None:
    text = 'if a < b && c > "d" <img src=x onerror=alert(1)>'
    wire = Wire()
    wire.hear(SpeechStarted("turn", 0), PartialTranscript("turn", text))
    assert wire.page.typing["user"] == text.replace("<", "\u2039")
    wire.hear(FinalTranscript("turn", text, 1.0))
    wire.begin_reply(text)
    assert wire.page.typing["assistant"] == text.replace("<", "\u2039")
    wire.hear(MessageDone("resp", "reply", 0, text, True))
    assert wire.page.bubbles == [("user", text), ("assistant", text)]


@pytest.mark.parametrize("end", [FinalTranscript("turn", "", 0.4), TranscriptFailed("turn", "no")])
def test_a_turn_without_words_leaves_no_typing_bubble(end: PipelineEvent) -> None:
    wire = Wire()
    wire.hear(SpeechStarted("turn", 0), PartialTranscript("turn", "hm"), end)
    assert wire.page.typing["user"] == ""
    assert wire.page.bubbles == []


def test_partials_after_the_final_text_are_not_shown() -> None:
    wire = Wire()
    wire.hear(SpeechStarted("turn", 0), FinalTranscript("turn", "hello", 0.4))
    assert wire.hear(PartialTranscript("turn", "hel")) == []


def test_of_turns_that_never_end_only_the_latest_are_kept() -> None:
    wire = Wire()
    for number in range(MOST_TURNS + 1):
        wire.hear(SpeechStarted(f"turn {number}", 0))
    assert wire.hear(PartialTranscript("turn 0", "old")) == []
    assert wire.hear(PartialTranscript("turn 1", "new")) == ["partial_user_request"]


def test_all_partials_of_a_long_reply_are_no_more_than_64_times_as_long() -> None:
    wire = Wire()
    wire.begin_reply("")
    sizes = []
    for _ in range(20_000):
        wire.hear(ResponseText("resp", "reply", "ab "))
        sizes.append(len(wire.page.typing["assistant"]))
    assert sizes[-1] > 59_000
    assert sum(set(sizes)) < 66 * 60_000


def test_a_failed_reply_is_told_in_the_assistants_place() -> None:
    wire = Wire()
    wire.begin_reply()
    wire.hear(
        MessageDone("resp", "reply", 0, "Hello there.", False),
        ResponseDone("resp", "failed", "llm", "The language model does not answer."),
        ResponseStarted("resp 2", ResponseRequest()),
        ResponseDone("resp 2", "failed", "llm"),
    )
    assert wire.page.bubbles == [
        ("assistant", "Hello there."),
        ("assistant", "The language model does not answer."),
        ("assistant", "Sorry, the reply could not be made."),
    ]


def test_a_reply_in_text_alone() -> None:
    wire = Wire()
    wire.begin_reply(seconds=0)
    wire.hear(
        MessageDone("resp", "reply", 0, "Hello there.", True), ResponseDone("resp", "completed")
    )
    assert wire.page.bubbles == [("assistant", "Hello there.")]
    assert wire.page.pcm == b""


def test_a_call_at_its_limit_ends_with_a_word() -> None:
    wire = Wire()
    wire.take(wire.protocol.expire(3600))
    assert wire.page.bubbles == [("assistant", "The call ends here, after 60 minutes.")]


def test_a_call_that_nobody_uses_ends_with_a_word() -> None:
    wire = Wire()
    wire.take(wire.protocol.idle(600))
    said = "The call ends here: nobody has said anything for 10 minutes."
    assert wire.page.bubbles == [("assistant", said)]


# --- sound -----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 9_599, 9_600, 9_601, 200_000])
def test_sound_of_any_length_goes_out_in_chunks_of_bounded_length(count: int) -> None:
    wire = Wire()
    wire.begin_reply(seconds=0)
    rng = np.random.default_rng(count)
    samples = rng.uniform(-1.5, 1.5, count).astype(np.float32)
    told = wire.hear(ResponseAudio("resp", "reply", samples, RATE))
    assert len(told) == -(-count // 9_600)
    assert wire.page.pcm == to_pcm16(samples)


def test_sound_that_is_withdrawn_can_be_told_by_its_item() -> None:
    protocol = RvcProtocol()
    protocol.emit(ResponseStarted("resp", ResponseRequest()))
    (sent,) = protocol.emit(sound(0.1))
    assert isinstance(sent, Send)
    assert sent.audio_of == "reply"


def test_sound_at_another_rate_than_was_asked_for_is_a_fault() -> None:
    wire = Wire()
    wire.begin_reply()
    with pytest.raises(ValueError, match="48000"):
        wire.hear(sound(0.1, rate=24_000))


def test_replies_are_played_at_the_rate_of_the_microphone() -> None:
    wire = Wire()
    assert wire.protocol.output_rate("any") == 48_000
    wire.hear(ResponseStarted("early", ResponseRequest()))
    for message in Microphone(44_100).blocks(np.zeros(44_100 * 2, np.float32)):
        wire.take(wire.protocol.receive(message))
    assert wire.protocol.output_rate("early") == 48_000, "a reply keeps the rate it began with"
    wire.hear(ResponseStarted("late", ResponseRequest()))
    assert wire.protocol.output_rate("late") == 44_100
    heard = [action.clip.rate for action in wire.actions if isinstance(action, AppendAudio)]
    assert heard[0] == 48_000
    assert heard[-1] == 44_100


def test_sound_is_passed_on_as_it_came() -> None:
    wire = Wire()
    sounded = np.linspace(-1, 1, BLOCK, dtype=np.float32)
    for message in Microphone(48_000).blocks(sounded):
        wire.take(wire.protocol.receive(message))
    (action,) = wire.actions
    assert isinstance(action, AppendAudio)
    np.testing.assert_allclose(np.concatenate(list(action.clip.pieces())), sounded, atol=1e-4)


# --- wishes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("speed", "slowness"), [(0, 0.0), (25, 0.25), (100, 1.0), (-7, 0.0), (1e6, 1.0)]
)
def test_the_slider_sets_the_pace_of_turns(speed: float, slowness: float) -> None:
    wire = Wire()
    wire.say("set_speed", speed=speed)
    (action,) = wire.actions
    assert isinstance(action, Configure)
    assert action.settings == wire.protocol.settings
    assert action.settings.turns is not None
    assert action.settings.turns.patience == paced(slowness)
    assert (action.settings.voice, action.settings.instructions) == ("tone", "Be brief.")


def test_a_new_conversation_silences_the_page_and_hears_no_more_of_the_old_one() -> None:
    wire = Wire()
    wire.hear(SpeechStarted("turn", 0), FinalTranscript("turn", "hello", 0.4))
    wire.begin_reply()
    wire.hear(SpeechStarted("open", 0), PartialTranscript("open", "and now"))
    wire.page.clear()
    assert wire.say("clear_history") == ["stop_tts", "tts_interruption"]
    assert wire.actions == [Forget()]
    old = (Interrupted("resp", "reply", 40), *CUT_OFF, PartialTranscript("open", "and now for"))
    assert wire.hear(sound(0.1), *old) == []
    assert wire.hear(Forgotten()) == ["partial_user_request", "partial_assistant_answer"]
    assert wire.hear(FinalTranscript("open", "and now for something else", 2.0), *old) == []
    assert (wire.page.bubbles, wire.page.typing) == ([], {"user": "", "assistant": ""})
    wire.begin_reply()
    assert wire.page.typing["assistant"] == "Hello there."


def test_two_wishes_for_a_new_conversation_wait_for_both() -> None:
    wire = Wire()
    wire.say("clear_history")
    wire.say("clear_history")
    wire.hear(Forgotten())
    assert wire.begin_reply() == []
    wire.hear(Forgotten())
    assert wire.begin_reply() != []


def test_what_the_pipeline_refuses_is_not_told() -> None:
    wire = Wire()
    assert wire.take(wire.protocol.refuse(Cancel(), NothingToCancel())) == []
