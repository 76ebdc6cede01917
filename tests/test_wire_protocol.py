"""The protocol beyond its golden transcripts: bounds, races, and what is kept to itself."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

from tests.realtime import Wire
from voicepool import events
from voicepool.engines.base import Message
from voicepool.wire.actions import DeleteItem, HangUp, Respond, Send
from voicepool.wire.realtime import conversation, items
from voicepool.wire.realtime.requests import MAX_CLIPS, MAX_WORDS
from voicepool.wire.realtime.transcripts import MAX_TURNS, Transcripts


@pytest.fixture
def wire() -> Wire:
    wire = Wire()
    wire.open()
    return wire


def text_item(text: str, **fields: Any) -> dict[str, Any]:
    content = [{"type": "input_text", "text": text}]
    return {"type": "message", "role": "user", "content": content, **fields}


def spoken_reply(wire: Wire, text: str = "Hello.", item_id: str = "item_a") -> None:
    wire.hear(
        events.ResponseStarted("resp_1", events.ResponseRequest()),
        events.MessageStarted("resp_1", item_id, 0, None, spoken=True),
        events.ResponseText("resp_1", item_id, text),
        events.MessageDone("resp_1", item_id, 0, text, complete=True),
        events.ResponseDone("resp_1", "completed"),
    )


def test_a_conversation_that_grows_for_ever_forgets_its_oldest_items(wire: Wire) -> None:
    for number in range(conversation.MAX_ITEMS):
        wire.say("conversation.item.create", item=text_item("x", id=f"msg_{number}"))
    sent = wire.say("conversation.item.create", item=text_item("x", id="one_more"))
    assert sent[-1]["type"] == "conversation.item.deleted"
    assert sent[-1]["item_id"] == "msg_0"
    assert wire.actions[-1] == DeleteItem("msg_0")
    (error,) = wire.say("conversation.item.retrieve", item_id="msg_0")
    assert error["error"]["code"] == "item_retrieve_invalid_item_id"
    (kept,) = wire.say("conversation.item.retrieve", item_id="msg_1")
    assert kept["item"]["id"] == "msg_1"


def test_a_conversation_of_large_items_is_bounded_too(wire: Wire) -> None:
    for number in range(40):
        wire.say("conversation.item.create", item=text_item("x" * 400_000, id=f"msg_{number}"))
    deleted = [each for each in wire.sent if each["type"] == "conversation.item.deleted"]
    kept = 40 - len(deleted)
    assert 1 < kept * 800_000 <= conversation.MAX_CONVERSATION_BYTES


def test_sound_is_cut_into_deltas_of_at_most_200_ms(wire: Wire) -> None:
    wire.hear(
        events.ResponseStarted("resp_1", events.ResponseRequest()),
        events.MessageStarted("resp_1", "item_a", 0, None, spoken=True),
    )
    ramp = np.linspace(-1, 1, 12_001, dtype=np.float32)
    sent = wire.hear(events.ResponseAudio("resp_1", "item_a", ramp, 24_000))
    deltas = [base64.b64decode(each["delta"]) for each in sent]
    assert [len(each) // 2 for each in deltas] == [4_800, 4_800, 2_401]
    heard = np.frombuffer(b"".join(deltas), "<i2") / 32_768
    assert np.abs(heard - ramp).max() < 1e-4
    wire.hear(events.ResponseDone("resp_1", "completed"))


def test_sound_at_another_rate_is_a_fault_of_ours(wire: Wire) -> None:
    wire.hear(
        events.ResponseStarted("resp_1", events.ResponseRequest()),
        events.MessageStarted("resp_1", "item_a", 0, None, spoken=True),
    )
    with pytest.raises(ValueError, match="24000"):
        wire.hear(events.ResponseAudio("resp_1", "item_a", np.zeros(9, np.float32), 16_000))


@pytest.mark.parametrize("first", ["turn", "reply"])
def test_the_first_item_is_first_though_the_client_was_quicker(wire: Wire, first: str) -> None:
    """The pipeline had it before the client's, whose item is told without going through it."""
    wire.say("conversation.item.create", item=text_item("x", id="msg_1"))
    if first == "turn":
        wire.hear(events.TurnCommitted("item_t", None))
    else:
        spoken_reply(wire, item_id="item_t")
    added = [each for each in wire.sent if each["type"] == "conversation.item.added"]
    assert [(each["item"]["id"], each["previous_item_id"]) for each in added] == [
        ("msg_1", None),
        ("item_t", None),
    ]
    (last,) = wire.say("conversation.item.create", item=text_item("y", id="msg_2"))[:1]
    assert last["previous_item_id"] == "msg_1"


def test_sound_is_marked_with_its_item(wire: Wire) -> None:
    wire.hear(
        events.ResponseStarted("resp_1", events.ResponseRequest()),
        events.MessageStarted("resp_1", "item_a", 0, None, spoken=True),
    )
    sound = events.ResponseAudio("resp_1", "item_a", np.zeros(9, np.float32), 24_000)
    (sent,) = wire.protocol.emit(sound)
    assert isinstance(sent, Send)
    assert sent.audio_of == "item_a"
    (said,) = wire.protocol.emit(events.ResponseText("resp_1", "item_a", "x"))
    assert isinstance(said, Send)
    assert said.audio_of == ""


def test_two_responses_at_once_keep_their_own_brackets(wire: Wire) -> None:
    aside = events.ResponseRequest(remember=False, speak=False)
    wire.hear(
        events.ResponseStarted("resp_1", events.ResponseRequest()),
        events.ResponseStarted("resp_2", aside),
        events.MessageStarted("resp_1", "item_a", 0, None, spoken=True),
        events.MessageStarted("resp_2", "item_b", 0, None, spoken=False),
        events.ResponseText("resp_2", "item_b", "aside"),
        events.ResponseText("resp_1", "item_a", "aloud"),
        events.ResponseDone("resp_2", "cancelled", "client_cancelled"),
        events.ResponseDone("resp_1", "completed"),
    )
    added = [each["item"]["id"] for each in wire.sent if each["type"] == "conversation.item.added"]
    assert added == ["item_a"]
    assert not wire.brackets.open


def test_truncation_works_after_the_response_and_a_reference_asks_what_was_heard(
    wire: Wire,
) -> None:
    spoken_reply(wire, "Hello there, caller.")
    wire.say(
        "conversation.item.truncate", item_id="item_a", content_index=0, audio_end_ms=99_999_999_9
    )
    assert wire.sent[-1]["type"] == "error"
    wire.say("conversation.item.truncate", item_id="item_a", content_index=0, audio_end_ms=500)
    assert wire.sent[-1]["type"] == "conversation.item.truncated"
    wire.say("response.create", response={"input": [{"type": "item_reference", "id": "item_a"}]})
    asked = wire.actions[-1]
    assert isinstance(asked, Respond)
    assert asked.request.messages == [events.Said("item_a")]


def test_a_truncation_before_the_end_of_its_reply_is_not_forgotten(wire: Wire) -> None:
    wire.hear(
        events.ResponseStarted("resp_1", events.ResponseRequest()),
        events.MessageStarted("resp_1", "item_a", 0, None, spoken=True),
        events.ResponseText("resp_1", "item_a", "what was heard, and what was not"),
    )
    wire.say("response.cancel")
    wire.say("conversation.item.truncate", item_id="item_a", content_index=0, audio_end_ms=500)
    wire.hear(
        events.MessageDone("resp_1", "item_a", 0, "what was heard, and what was not", False),
        events.ResponseDone("resp_1", "cancelled", "client_cancelled"),
    )
    (retrieved,) = wire.say("conversation.item.retrieve", item_id="item_a")
    assert retrieved["item"]["content"][0]["transcript"] == "what was heard"
    wire.say("response.create", response={"input": [{"type": "item_reference", "id": "item_a"}]})
    asked = wire.actions[-1]
    assert isinstance(asked, Respond)
    assert asked.request.messages == [events.Said("item_a")]


def test_an_item_can_be_deleted_while_it_is_being_made(wire: Wire) -> None:
    wire.hear(
        events.ResponseStarted("resp_1", events.ResponseRequest()),
        events.MessageStarted("resp_1", "item_a", 0, None, spoken=True),
    )
    wire.say("conversation.item.delete", item_id="item_a")
    told = wire.hear(
        events.MessageDone("resp_1", "item_a", 0, "", complete=False),
        events.ResponseDone("resp_1", "cancelled", "client_cancelled"),
    )
    kinds = [event["type"] for event in told]
    assert kinds[-2:] == ["response.output_item.done", "response.done"]
    assert "conversation.item.done" not in kinds, "clients would put it into their history again"
    assert not wire.brackets.open
    (error,) = wire.say("conversation.item.retrieve", item_id="item_a")
    assert error["type"] == "error"


def test_without_transcription_nobody_is_told_the_words_but_they_are_kept(wire: Wire) -> None:
    sent = wire.hear(
        events.SpeechStarted("item_u", 0),
        events.TurnCommitted("item_u", None),
        events.PartialTranscript("item_u", "secret"),
        events.FinalTranscript("item_u", "secret", 1.0),
    )
    assert "secret" not in repr(sent)
    (shown,) = wire.say("conversation.item.retrieve", item_id="item_u")
    assert shown["item"]["content"] == [{"type": "input_audio", "transcript": None}]
    wire.say("response.create", response={"input": [{"type": "item_reference", "id": "item_u"}]})
    asked = wire.actions[-1]
    assert isinstance(asked, Respond)
    assert asked.request.messages == [Message("user", "secret")]


def test_a_client_cannot_take_the_id_of_a_turn_that_has_begun(wire: Wire) -> None:
    wire.hear(events.SpeechStarted("item_u", 0))
    (error,) = wire.say("conversation.item.create", item=text_item("x", id="item_u"))
    assert error["error"]["code"] == "item_create_duplicate_item_id"
    wire.hear(events.TurnCommitted("item_u", None))
    assert wire.sent[-1]["item"]["id"] == "item_u"


def test_an_error_of_the_servers_own_has_no_event_id(wire: Wire) -> None:
    (sent,) = wire.take(wire.protocol.expire(3600.0))
    assert wire.actions[-1] == HangUp(sent["error"]["message"])
    assert sent["error"] == {
        "type": "invalid_request_error",
        "code": "session_expired",
        "message": "Your session hit the maximum duration of 60 minutes.",
        "param": None,
        "event_id": None,
    }


@pytest.mark.parametrize(
    ("limit", "words"),
    [(600.0, "10 minutes"), (60.0, "1 minute"), (90.0, "90 seconds"), (0.5, "0.5 seconds")],
)
def test_a_call_that_nobody_uses_ends_with_a_code_that_clients_know(
    wire: Wire, limit: float, words: str
) -> None:
    (sent,) = wire.take(wire.protocol.idle(limit))
    assert sent["error"]["code"] == "session_expired"
    assert sent["error"]["message"] == f"Your session was idle for {words}."
    assert wire.actions[-1] == HangUp("idle_limit")


def test_turns_that_never_get_a_transcript_do_not_pile_up() -> None:
    transcripts = Transcripts()
    for number in range(MAX_TURNS + 5):
        transcripts.expect(f"item_{number}")
    assert "item_4" not in transcripts
    assert "item_5" in transcripts


def test_a_response_limits_its_tokens_as_it_likes(wire: Wire) -> None:
    wire.say("session.update", session={"max_output_tokens": 40})
    wire.say("response.create", response={"max_output_tokens": "inf"})
    asked = wire.actions[-1]
    assert isinstance(asked, Respond)
    assert asked.request.max_tokens == "inf"
    (created,) = wire.hear(events.ResponseStarted("resp_1", asked.request))
    assert created["response"]["max_output_tokens"] == "inf"


def test_a_response_answers_nothing_where_its_input_is_empty(wire: Wire) -> None:
    wire.say("response.create", response={"input": []})
    asked = wire.actions[-1]
    assert isinstance(asked, Respond)
    assert asked.request.messages == []
    assert asked.request.remember


def test_a_response_waits_for_the_words_of_the_item_that_it_refers_to(wire: Wire) -> None:
    wire.hear(events.SpeechStarted("item_u", 0), events.TurnCommitted("item_u", None))
    reference = {"type": "item_reference", "id": "item_u"}
    wire.say("response.create", response={"conversation": "none", "input": [reference]})
    asked = wire.actions[-1]
    assert isinstance(asked, Respond)
    assert asked.request.messages == [events.Said("item_u")]


def test_sound_in_too_many_items_of_an_input_is_refused(wire: Wire) -> None:
    part = {"type": "input_audio", "audio": "AAA="}
    item = {"type": "message", "role": "user", "content": [part]}
    wire.say("response.create", response={"input": [item] * MAX_CLIPS})
    asked = wire.actions[-1]
    assert isinstance(asked, Respond)
    assert sorted(asked.clips) == list(range(MAX_CLIPS))
    (error,) = wire.say("response.create", response={"input": [item] * (MAX_CLIPS + 1)})
    assert error["error"]["param"] == "response.input"


@pytest.mark.parametrize(
    "response",
    [
        {"instructions": "x" * (MAX_WORDS + 1)},
        {"tools": [{"type": "function", "name": "f", "description": "x" * MAX_WORDS}]},
        {"input": [text_item("x" * (MAX_WORDS // 4))] * 5},
        {"input": [{"type": "item_reference", "id": "long"}] * 5},
    ],
)
def test_a_response_is_asked_with_so_many_words(wire: Wire, response: dict[str, Any]) -> None:
    wire.say("conversation.item.create", item=text_item("x" * (MAX_WORDS // 4), id="long"))
    (error,) = wire.say("response.create", response=response)
    assert error["error"]["code"] == "string_above_max_length"


def test_tools_of_a_response_are_no_deeper_than_those_of_a_session(wire: Wire) -> None:
    nested: dict[str, Any] = {}
    for _ in range(items.MAX_DEPTH):
        nested = {"items": nested}
    tools = [{"type": "function", "name": "f", "parameters": nested}]
    (error,) = wire.say("response.create", response={"tools": tools})
    assert error["error"]["param"] == "response.tools"


def test_large_images_are_left_out_and_small_ones_are_not(wire: Wire) -> None:
    small, large = "data:" + "x" * 1_000, "data:" + "x" * items.MAX_IMAGE_CHARS
    parts = [{"type": "input_image", "image_url": url} for url in (small, large, small)]
    item = {"type": "message", "role": "user", "content": parts}
    added = wire.say("conversation.item.create", item=item)[0]
    assert [part.get("image_url") for part in added["item"]["content"]] == [small, None, None]


@pytest.mark.parametrize("length", [128, 129])
def test_ids_have_128_characters_at_most(wire: Wire, length: int) -> None:
    sent = wire.say("conversation.item.create", item=text_item("x", id="i" * length))
    assert (sent[0]["type"] == "error") == (length > 128)


def test_there_is_no_output_buffer_to_clear(wire: Wire) -> None:
    (error,) = wire.say("output_audio_buffer.clear", event_id="e")
    assert (error["error"]["code"], error["error"]["event_id"]) == ("invalid_value", "e")


def test_a_deleted_clips_id_is_free_once_nothing_can_come_of_it(wire: Wire) -> None:
    part = {"type": "input_audio", "audio": "AAA="}
    clip = {"id": "clip", "type": "message", "role": "user", "content": [part]}
    wire.say("conversation.item.create", item=clip)
    wire.say("conversation.item.delete", item_id="clip")
    (error,) = wire.say("conversation.item.create", item=clip)
    assert error["error"]["code"] == "item_create_duplicate_item_id"
    assert wire.hear(events.FinalTranscript("clip", "too late", 1.0)) == []
    (added, _) = wire.say("conversation.item.create", item=clip)
    assert added["item"]["content"] == [{"type": "input_audio", "transcript": None}]
