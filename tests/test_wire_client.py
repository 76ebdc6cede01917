"""What a hostile client can put into a message, and what becomes of it."""

from __future__ import annotations

import base64
import json
import tracemalloc

import pytest

from voicepool.wire.realtime import audio, client
from voicepool.wire.realtime.errors import WireError


def read(text: str | bytes) -> client.ClientEvent:
    event: client.ClientEvent = client.read_event(client.open_envelope(text), text)
    return event


def complaint(text: str | bytes) -> WireError:
    with pytest.raises(WireError) as caught:
        read(text)
    return caught.value


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "invalid_json"),
        ("{", "invalid_json"),
        (b'{"type": "\xff"}', "invalid_json"),
        ('{"type": "response.create", "response": {"instructions": "\\ud800"}}', "invalid_json"),
        ('{"type": NaN}', "invalid_json"),
        ("[" * 100_000, "invalid_value"),
        ('{"a":' * 100_000, "invalid_json"),
        ('{"type": "session.update", "session": {"model": ' + "9" * 5_000 + "}}", "invalid_value"),
        ('{"type": 1e999}', "invalid_value"),
        ("null", "invalid_value"),
        ('"text"', "invalid_value"),
        ("{}", "missing_required_parameter"),
        ('{"type": null}', "missing_required_parameter"),
        ('{"type": ["session.update"]}', "invalid_value"),
        ('{"type": "session.update", "session": []}', "invalid_value"),
        ('{"type": "conversation.item.retrieve", "item_id": ""}', "invalid_value"),
    ],
)
def test_no_event(text: str | bytes, code: str) -> None:
    error = complaint(text)
    assert (error.code, error.type) == (code, "invalid_request_error")
    assert len(error.message) < 700


def test_unknown_fields_are_ignored() -> None:
    event = read('{"type": "input_audio_buffer.commit", "event_id": "x", "new": [{}], "_": 1}')
    assert event == client.BufferCommit()


def test_where_the_mistake_is() -> None:
    error = complaint('{"type": "session.update", "session": {"audio": {"output": {"speed": 9}}}}')
    assert error.param == "session.audio.output.speed"
    error = complaint('{"type": "conversation.item.create", "item": {"content": [{}]}}')
    assert error.param == "item.content[0].type"
    error = complaint('{"type": "session.update", "session": {"type": "a - at `$.b` - at"}}')
    assert error.param == "session.type"
    long = json.dumps({"type": "response.create", "response": {"metadata": {"k" * 65: ""}}})
    assert complaint(long).param == "response.metadata"


@pytest.mark.parametrize("event_id", [5, None, {"a": 1}, "x" * 513])
def test_an_event_id_that_cannot_be_echoed_is_none(event_id: object) -> None:
    envelope = client.open_envelope(json.dumps({"type": "x", "event_id": event_id}))
    assert envelope.event_id is None


def test_a_message_of_many_objects_is_never_built() -> None:
    text = '{"type": "conversation.item.create", "item": {"content": [' + "{}," * 2_000_000 + "]}}"
    tracemalloc.start()
    try:
        assert complaint(text).code == "invalid_json"
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_only_audio_may_be_large() -> None:
    long = "x" * client.MAX_PLAIN_BYTES
    update = {"type": "session.update", "session": {"instructions": long}}
    assert complaint(json.dumps(update)).code == "invalid_value"
    sound = base64.b64encode(bytes(audio.MAX_AUDIO_BYTES)).decode()
    event = read(json.dumps({"type": "input_audio_buffer.append", "audio": sound}))
    assert event == client.BufferAppend(sound)
    audio.EncodedClip(sound, audio.PCM, "audio").check()
    assert complaint(" " * (client.MAX_MESSAGE_BYTES + 1)).code == "invalid_json"
