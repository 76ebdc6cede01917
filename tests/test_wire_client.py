"""What a hostile client can put into a message, and what becomes of it."""

from __future__ import annotations

import base64
import json
import tracemalloc

import pytest

from voicepool.wire.realtime import audio, client
from voicepool.wire.realtime.errors import WireError


def read(text: str | bytes) -> client.ClientEvent:
    return client.read_event(client.open_envelope(text), text)


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
    audio.check(sound, "audio")
    assert complaint(" " * (client.MAX_MESSAGE_BYTES + 1)).code == "invalid_json"


# --- audio -----------------------------------------------------------------------------------


def decoded(encoded: str) -> bytes:
    audio.check(encoded, "audio")
    return b"".join(audio.decode(encoded))


@pytest.mark.parametrize("size", [0, 2, 4, 6, 9_598, 9_600, 9_602, 100_000])
def test_sound_comes_through_in_slices_of_whole_samples(size: int) -> None:
    sound = bytes(n % 251 for n in range(size))
    encoded = base64.b64encode(sound).decode()
    assert decoded(encoded) == sound
    pieces = list(audio.decode(encoded))
    assert all(len(piece) % 2 == 0 and len(piece) <= 9_600 for piece in pieces)


@pytest.mark.parametrize(
    "encoded",
    ["AAA", "AA=AAAAA", "====AAAA", "AAAAAAA\n", "AAAA AAA", "AA==AAAA", "AAAAAAAé", "_-AAAAAA"],
)
def test_no_base64(encoded: str) -> None:
    with pytest.raises(WireError, match="base64"):
        decoded(encoded)


def test_padding_inside_a_long_sound_is_no_base64() -> None:
    piece = "A" * (audio.SLICE_CHARS - 4)
    with pytest.raises(WireError, match="base64"):
        decoded(piece + "AAA=" + "AAAAAAAA")


@pytest.mark.parametrize("size", [1, 3, 4_801])
def test_half_a_sample(size: int) -> None:
    with pytest.raises(WireError, match="even number"):
        decoded(base64.b64encode(bytes(size)).decode())


def test_too_much_sound() -> None:
    with pytest.raises(WireError, match="at most"):
        audio.check("A" * (audio.MAX_AUDIO_BYTES // 3 * 4 + 4), "audio")
