"""Any client, any pipeline: the protocol never raises, and all that it sends is valid."""

from __future__ import annotations

import base64
import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.fuzzing import FUZZING
from tests.realtime import Wire
from tests.test_wire_audio import FORMATS
from voicepool import events
from voicepool.engines.chat.bounds import LONGEST_NAME, MOST_CALLS
from voicepool.wire.realtime import errors
from voicepool.wire.realtime.conversation import MAX_ITEMS
from voicepool.wire.realtime.responses import Wishes

IDS = st.sampled_from(["a", "b", "item_1", "root"])
RESPONSES = st.sampled_from(["resp_1", "resp_2"])
TEXT = st.text(max_size=40)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
AUDIO = st.binary(max_size=64).map(lambda data: base64.b64encode(data).decode()) | TEXT

TOOLS = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["function", "mcp", "x"]), "name": TEXT},
        optional={"description": TEXT, "parameters": JSON, "server_label": TEXT},
    ),
    max_size=3,
)
MODALITIES = st.lists(st.sampled_from(["audio", "text"]), max_size=2)
TOOL_CHOICE = st.sampled_from(["auto", "none", {"type": "function", "name": "f"}, {"type": "mcp"}])
FORMAT = st.sampled_from(
    [
        None,
        {"type": "audio/pcm"},
        {"type": "audio/pcm", "rate": 48_000},
        {"type": "audio/pcmu"},
        {"type": "audio/pcma", "rate": 8_000},
        {"type": "audio/opus"},
    ]
)
MAX_TOKENS = st.sampled_from(["inf", 1, 0, 4096, 1.5, None])
TURN_DETECTION = st.fixed_dictionaries(
    {"type": st.sampled_from(["server_vad", "semantic_vad", "none"])},
    optional={
        "threshold": st.floats(-1, 2),
        "silence_duration_ms": st.integers(0, 20_000),
        "create_response": st.booleans() | st.none(),
        "eagerness": st.sampled_from(["low", "auto", "x"]),
        "idle_timeout_ms": st.none() | st.integers(0, 10_000),
    },
)
BETA_FORMAT = st.sampled_from(["pcm16", "g711_ulaw", "g711_alaw", "opus", None])
SESSION = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["realtime", "transcription", None]),
        "instructions": TEXT | st.none(),
        "tools": TOOLS | st.none(),
        "tool_choice": TOOL_CHOICE | JSON,
        "output_modalities": MODALITIES,
        "max_output_tokens": MAX_TOKENS,
        "tracing": st.sampled_from([None, "auto", {"metadata": {"a": [1]}}]) | JSON,
        "truncation": st.sampled_from(["auto", {"type": "retention_ratio", "retention_ratio": 1}]),
        "prompt": JSON,
        "include": JSON,
        "reasoning": JSON,
        "model": TEXT | st.none(),
        "audio": st.fixed_dictionaries(
            {},
            optional={
                "input": st.fixed_dictionaries(
                    {},
                    optional={
                        "turn_detection": TURN_DETECTION | st.none(),
                        "transcription": st.sampled_from([None, {}, {"model": "m"}]) | JSON,
                        "noise_reduction": st.sampled_from([None, {"type": "near_field"}]) | JSON,
                        "format": FORMAT | JSON,
                    },
                ),
                "output": st.fixed_dictionaries(
                    {},
                    optional={
                        "format": FORMAT | JSON,
                        "voice": TEXT | JSON,
                        "speed": st.floats(0, 2) | st.none(),
                    },
                ),
            },
        ),
    },
)
PART_TYPES = [
    "input_text",
    "input_audio",
    "input_image",
    "output_text",
    "output_audio",
    "text",
    "x",
]
PART = st.fixed_dictionaries(
    {"type": st.sampled_from(PART_TYPES)},
    optional={
        "text": TEXT,
        "audio": AUDIO,
        "transcript": TEXT | st.none(),
        "image_url": TEXT | st.sampled_from([9, 300_000]).map(lambda size: "x" * size),
        "detail": st.sampled_from(["low", "x", None]),
    },
)
ITEM_TYPES = [
    "message",
    "function_call",
    "function_call_output",
    "mcp_list_tools",
    "mcp_call",
    "mcp_approval_request",
    "mcp_approval_response",
    "item_reference",
]
MCP_TOOLS = st.lists(st.fixed_dictionaries({"name": TEXT, "input_schema": JSON}), max_size=2)
ITEM = st.fixed_dictionaries(
    {"type": st.sampled_from(ITEM_TYPES)},
    optional={
        "id": IDS,
        "role": st.sampled_from(["user", "assistant", "system", "x"]),
        "content": st.lists(PART, max_size=3),
        "status": TEXT,
        "call_id": TEXT,
        "name": TEXT,
        "arguments": TEXT,
        "output": TEXT,
        "server_label": TEXT,
        "tools": MCP_TOOLS | JSON,
        "approve": st.booleans(),
        "approval_request_id": IDS,
        "error": st.none() | JSON | st.just({"type": "http_error", "code": 1, "message": ""}),
    },
)
RESPONSE = st.fixed_dictionaries(
    {},
    optional={
        "instructions": TEXT,
        "metadata": st.dictionaries(TEXT, TEXT, max_size=3) | JSON,
        "conversation": st.sampled_from(["auto", "none"]),
        "input": st.lists(
            ITEM | st.fixed_dictionaries({"type": st.just("item_reference"), "id": IDS}), max_size=3
        ),
        "tools": TOOLS,
        "tool_choice": TOOL_CHOICE,
        "output_modalities": MODALITIES,
        "max_output_tokens": MAX_TOKENS,
        "audio": JSON
        | st.fixed_dictionaries({"output": st.fixed_dictionaries({"format": FORMAT})}),
    },
)
BETA_SESSION = st.fixed_dictionaries(
    {},
    optional={
        "modalities": MODALITIES,
        "instructions": TEXT | st.none(),
        "voice": TEXT | st.none(),
        "input_audio_format": BETA_FORMAT,
        "output_audio_format": BETA_FORMAT,
        "input_audio_transcription": st.sampled_from([None, {}, {"model": "m", "delay": "low"}])
        | JSON,
        "input_audio_noise_reduction": st.sampled_from([None, {"type": "near_field"}]) | JSON,
        "turn_detection": TURN_DETECTION | st.none(),
        "tools": TOOLS | st.none(),
        "tool_choice": TOOL_CHOICE | JSON,
        "temperature": st.floats(0, 3) | st.none(),
        "max_response_output_tokens": MAX_TOKENS,
        "tracing": st.sampled_from([None, "auto"]) | JSON,
        "speed": st.floats(0, 2) | st.none(),
        "include": JSON,
    },
)
BETA_RESPONSE = st.fixed_dictionaries(
    {},
    optional={
        "modalities": MODALITIES,
        "output_audio_format": BETA_FORMAT,
        "voice": TEXT,
        "max_output_tokens": MAX_TOKENS,
        "input": st.lists(ITEM, max_size=3),
        "metadata": st.dictionaries(TEXT, TEXT, max_size=3),
    },
)
FIELDS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "session.update": st.fixed_dictionaries({"session": SESSION}),
    "input_audio_buffer.append": st.fixed_dictionaries({"audio": AUDIO}),
    "input_audio_buffer.commit": st.just({}),
    "input_audio_buffer.clear": st.just({}),
    "conversation.item.create": st.fixed_dictionaries(
        {"item": ITEM}, optional={"previous_item_id": IDS | st.none()}
    ),
    "conversation.item.retrieve": st.fixed_dictionaries({"item_id": IDS}),
    "conversation.item.delete": st.fixed_dictionaries({"item_id": IDS}),
    "conversation.item.truncate": st.fixed_dictionaries(
        {
            "item_id": IDS,
            "content_index": st.integers(0, 1),
            "audio_end_ms": st.integers(0, 9_999) | FLOATS,
        }
    ),
    "response.create": st.fixed_dictionaries({}, optional={"response": RESPONSE}),
    "response.cancel": st.fixed_dictionaries({}, optional={"response_id": RESPONSES}),
}
BETA_FIELDS = {
    **FIELDS,
    "session.update": st.fixed_dictionaries({"session": BETA_SESSION}),
    "transcription_session.update": st.fixed_dictionaries({"session": BETA_SESSION}),
    "response.create": st.fixed_dictionaries({}, optional={"response": BETA_RESPONSE}),
}
EventFields = dict[str, st.SearchStrategy[dict[str, Any]]]


def client_events(fields: EventFields) -> st.SearchStrategy[dict[str, Any]]:
    event_id: st.SearchStrategy[dict[str, str]] = st.sampled_from([{}, {"event_id": "e1"}])

    def of_type(name: str) -> st.SearchStrategy[dict[str, Any]]:
        return st.tuples(fields[name], event_id).map(
            lambda parts: {"type": name, **parts[0], **parts[1]}
        )

    return st.sampled_from(sorted(fields)).flatmap(of_type)


CLIENT_EVENTS = client_events(FIELDS)
BETA_CLIENT_EVENTS = client_events(BETA_FIELDS)


@st.composite
def mutated(draw: st.DrawFn, events: st.SearchStrategy[dict[str, Any]]) -> dict[str, Any]:
    """A client event with one of its fields, at any depth, replaced or removed."""
    event = json.loads(json.dumps(draw(events)))
    place: Any = event
    while True:
        keys = sorted(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return event  # type: ignore[no-any-return]
        key = draw(st.sampled_from(keys))
        if isinstance(place[key], dict | list) and draw(st.booleans()):
            place = place[key]
            continue
        if draw(st.booleans()):
            place[key] = draw(JSON)
        else:
            del place[key]
        return event  # type: ignore[no-any-return]


SOUND = st.integers(0, 12_000).map(lambda count: np.full(count, 0.5, np.float32))
SECONDS = st.floats(0, 100)
MS = st.integers(0, 100_000)
INDEX = st.integers(0, 3)
TURN_EVENTS = st.one_of(
    st.builds(events.SpeechStarted, IDS, MS),
    st.builds(events.SpeechStopped, IDS, MS),
    st.builds(events.IdleTimeout, IDS, MS, MS),
    st.builds(events.TurnCommitted, IDS, IDS | st.none()),
    st.builds(events.PartialTranscript, IDS, TEXT),
    st.builds(events.FinalTranscript, IDS, TEXT, SECONDS),
    st.builds(events.TranscriptFailed, IDS, TEXT),
)
REQUESTS = st.builds(
    events.ResponseRequest,
    speak=st.none() | st.booleans(),
    voice=st.none() | TEXT,
    remember=st.booleans(),
    max_tokens=st.none() | st.integers(1, 100),
    tag=st.builds(
        Wishes,
        st.none() | st.dictionaries(TEXT, TEXT, max_size=2),
        st.none() | st.sampled_from(FORMATS),
    ),
)
RESPONSE_EVENTS = st.one_of(
    st.builds(events.ResponseStarted, RESPONSES, REQUESTS),
    st.builds(events.MessageStarted, RESPONSES, IDS, INDEX, IDS | st.none(), st.booleans()),
    st.builds(events.ResponseText, RESPONSES, IDS, TEXT),
    st.builds(events.ResponseAudio, RESPONSES, IDS, SOUND, st.just(0)),
    st.builds(events.MessageDone, RESPONSES, IDS, INDEX, TEXT, st.booleans()),
    st.builds(events.ToolCallStarted, RESPONSES, IDS, INDEX, IDS | st.none(), TEXT, TEXT),
    st.builds(events.ToolCallArguments, RESPONSES, IDS, TEXT),
    st.builds(events.ToolCallDone, RESPONSES, IDS, INDEX, TEXT, TEXT, TEXT),
    st.builds(
        events.ResponseDone,
        RESPONSES,
        st.sampled_from(["completed", "cancelled", "failed", "incomplete"]),
        st.sampled_from(
            ["", "turn_detected", "client_cancelled", "max_output_tokens", "content_filter", "llm"]
        ),
        TEXT,
        st.integers(0, 100),
        st.integers(0, 100),
    ),
    st.builds(events.Interrupted, RESPONSES, IDS, MS),
)


class Call(RuleBasedStateMachine):
    """`Wire` validates every event against the SDK's models and follows the brackets."""

    is_beta = False

    def __init__(self) -> None:
        super().__init__()
        self.wire = Wire(is_beta=self.is_beta)
        self.wire.open()

    @rule(event=CLIENT_EVENTS | mutated(CLIENT_EVENTS))
    def client_says(self, event: dict[str, Any]) -> None:
        self.say(event)

    def say(self, event: dict[str, Any]) -> None:
        before = len(self.wire.actions)
        sent = self.wire.take(self.wire.protocol.receive(json.dumps(event)))
        assert sent or len(self.wire.actions) > before
        given_id = event.get("event_id")
        for each in sent:
            if each["type"] == "error":
                assert each["error"]["event_id"] == (
                    given_id if isinstance(given_id, str) else None
                )

    @rule(
        item_id=IDS,
        role=st.sampled_from(["user", "assistant"]),
        content=st.lists(PART, max_size=1),
        previous=IDS | st.none(),
    )
    def client_creates_a_message(
        self, item_id: str, role: str, content: list[Any], previous: str | None
    ) -> None:
        item = {"type": "message", "id": item_id, "role": role, "content": content}
        self.wire.say("conversation.item.create", item=item, previous_item_id=previous)

    @rule(garbage=st.text() | st.binary() | JSON.map(json.dumps))
    def client_sends_garbage(self, garbage: str | bytes) -> None:
        told = self.wire.take(self.wire.protocol.receive(garbage))
        # A binary message means nothing in this protocol.
        assert [each["type"] for each in told] == ["error"] * isinstance(garbage, str)

    @rule(event=TURN_EVENTS)
    def pipeline_tells_of_the_caller(self, event: Any) -> None:
        self.wire.hear(event)

    @rule(event=RESPONSE_EVENTS)
    def pipeline_tells_of_a_reply(self, event: Any) -> None:
        if isinstance(event, events.ResponseAudio):
            rate = self.wire.protocol.output_rate(event.response_id)
            event = dataclasses.replace(event, rate=rate)
        self.wire.hear(event)

    @rule()
    def pipeline_refuses(self) -> None:
        if self.wire.actions:
            refused = self.wire.protocol.refuse(self.wire.actions[-1], errors.no_active_response())
            self.wire.take(refused)

    @invariant()
    def the_conversation_is_bounded(self) -> None:
        conversation = self.wire.protocol._conversation
        assert len(conversation) <= MAX_ITEMS

    def teardown(self) -> None:
        for response_id in list(self.wire.brackets.open):
            self.wire.hear(events.ResponseDone(response_id, "completed"))
        assert not self.wire.brackets.open


class BetaCall(Call):
    """The same in the beta dialect, whose client may still say things of the other."""

    is_beta = True

    @rule(event=BETA_CLIENT_EVENTS | mutated(BETA_CLIENT_EVENTS))
    def beta_client_says(self, event: dict[str, Any]) -> None:
        self.say(event)

    def say(self, event: dict[str, Any]) -> None:
        session = event.get("session")
        if isinstance(session, dict):
            session.pop("type", None)  # it would be of the GA dialect from here on
        super().say(event)


TestCall = Call.TestCase
TestBetaCall = BetaCall.TestCase
TestCall.settings = TestBetaCall.settings = settings(
    FUZZING,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.mark.parametrize("character", ["a", "\x00", '"', "\u00e9", "\U0001f600"])
def test_no_text_of_a_model_makes_a_message_too_large(character: str) -> None:
    text, wire = character * 700_000, Wire()
    wire.hear(events.ResponseStarted("resp_1", events.ResponseRequest()))
    for index, item_id in enumerate(("a", "b")):
        wire.hear(
            events.MessageStarted("resp_1", item_id, index, None, True),
            events.ResponseText("resp_1", item_id, text),
            events.MessageDone("resp_1", item_id, index, text, True),
        )
    wire.hear(
        events.ToolCallStarted("resp_1", "c", 2, None, "call_1", "f"),
        events.ToolCallArguments("resp_1", "c", text),
        events.ToolCallDone("resp_1", "c", 2, "call_1", "f", text),
    )
    name = character * LONGEST_NAME
    for index in range(3, 2 + MOST_CALLS):
        call_id = f"call_{index}"
        wire.hear(
            events.ToolCallStarted("resp_1", f"c{index}", index, None, call_id, name),
            events.ToolCallDone("resp_1", f"c{index}", index, call_id, name, text),
        )
    wire.hear(events.ResponseDone("resp_1", "completed"))
    told = [each["delta"] for each in wire.sent if each["type"].endswith("transcript.delta")]
    assert "".join(told) == text * 2
