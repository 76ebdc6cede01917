"""Bad input to the speech app on a running server: each sender gets a clear answer, and nobody else
notices.

In every test a well-behaved caller talks before and after, and at the end the server has the
descriptors and processes that it began with. What happens below WebSocket messages is in
test_bad_input.py.
"""

from __future__ import annotations

import base64
import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK
from websockets.frames import Frame, Opcode
from websockets.sync.client import ClientConnection

from tests.pools import DEADLINE, PoolServer
from tests.rawhttp import upgrade
from tests.realtime import validate
from tests.servers import speech_server, spoken
from voicepool.wire.realtime.client import MAX_MESSAGE_BYTES, MAX_PLAIN_BYTES

__all__ = ["speech_server"]

PATH = "/v1/realtime"
QUESTION = spoken("tell me a very long story")
RESET = b"\1\0\0\0\0\0\0\0"
"""SO_LINGER that makes close send RST."""


def event(kind: str, **fields: Any) -> str:
    return json.dumps({"type": kind, **fields})


def typed(text: str, **fields: Any) -> str:
    part = {"type": "input_text", "text": text}
    item = {"type": "message", "role": "user", "content": [part], **fields}
    return event("conversation.item.create", item=item)


def frame(message: str) -> bytes:
    """A message as a client puts it on the wire."""
    return Frame(Opcode.TEXT, message.encode()).serialize(mask=True)


def append(pcm: bytes) -> str:
    return event("input_audio_buffer.append", audio=base64.b64encode(pcm).decode())


def until(client: ClientConnection, *kinds: str) -> dict[str, Any]:
    """Read on until an event of one of these types; each is validated."""
    while True:
        told = validate(client.recv(timeout=DEADLINE, decode=False))
        if told["type"] in kinds:
            return told


def answered(client: ClientConnection) -> None:
    """A typed turn that is answered, and nothing else on the way."""
    client.send(typed("What is the square of seven?"))
    client.send(event("response.create", response={"output_modalities": ["text"]}))
    done = until(client, "response.done", "error")
    assert "49" in done["response"]["output"][0]["content"][0]["text"]


@contextlib.contextmanager
def undisturbed(server: PoolServer) -> Iterator[ClientConnection]:
    """A caller whose call goes on whatever happens beside it; then all is as it was."""
    server.until_idle()
    descriptors, family = server.fds(), len(server.family())
    with server.call(PATH) as caller:
        answered(caller)
        yield caller
        answered(caller)
    server.until_idle()
    server.until(
        lambda: server.fds() <= descriptors and len(server.family()) <= family,
        f"had {descriptors} descriptors and {family} processes again",
    )


# --- messages --------------------------------------------------------------------------------

SILENCE = base64.b64encode(bytes(4_800)).decode()
UNKNOWN = {"item_id": "item_x"}

NO_EVENTS = [
    ("", "invalid_json"),
    ("\0", "invalid_json"),
    ("{", "invalid_json"),
    ("hello", "invalid_json"),
    ('{"type": "response.cancel"} {"type": "response.cancel"}', "invalid_json"),
    ('{"type": NaN}', "invalid_json"),
    ('{"type": "\\ud800"}', "invalid_json"),
    ("[" * 100_000, "invalid_value"),
    ('{"type":' * 100_000, "invalid_json"),
    ("[],[]," * (MAX_PLAIN_BYTES // 3), "invalid_json"),
    ("[]", "invalid_value"),
    ("null", "invalid_value"),
    ("{}", "missing_required_parameter"),
    ('{"type": 7}', "invalid_value"),
]

BAD_EVENTS = [
    (event("no.such.event"), "invalid_value"),
    (event("session.created"), "invalid_value"),
    (event("output_audio_buffer.clear"), "invalid_value"),
    (event("x" * 100_000), "invalid_value"),
    (event("session.update"), "missing_required_parameter"),
    (event("session.update", session=7), "invalid_value"),
    (event("session.update", session={"instructions": "x" * MAX_PLAIN_BYTES}), "invalid_value"),
    (event("session.update", session={"instructions": "x" * 600_000}), "string_above_max_length"),
    (event("session.update", session={"audio": {"output": {"speed": 1e9}}}), "invalid_value"),
    (event("input_audio_buffer.append"), "missing_required_parameter"),
    (event("input_audio_buffer.append", audio=[1, 2]), "invalid_value"),
    (event("input_audio_buffer.append", audio="no base64!!!"), "invalid_value"),
    (event("input_audio_buffer.append", audio=SILENCE[:-1]), "invalid_value"),
    (event("input_audio_buffer.append", audio=SILENCE + "===="), "invalid_value"),
    (append(bytes(4_801)), "invalid_value"),
    (append(bytes((15 << 20) + 2)), "invalid_value"),
    (event("input_audio_buffer.commit"), "input_audio_buffer_commit_empty"),
    (typed("twice", id="item_twice"), ""),
    (typed("twice", id="item_twice"), "item_create_duplicate_item_id"),
    (typed("x", id=""), "invalid_value"),
    (typed("x", role="nobody"), "invalid_value"),
    (typed("x", type="reasoning"), "invalid_value"),
    (typed("x" * 600_000), "string_above_max_length"),
    (event("conversation.item.create"), "missing_required_parameter"),
    (
        event(
            "conversation.item.create", item=json.loads(typed("x"))["item"], previous_item_id="x"
        ),
        "item_create_invalid_previous_item_id",
    ),
    (event("conversation.item.retrieve", **UNKNOWN), "item_retrieve_invalid_item_id"),
    (event("conversation.item.delete", **UNKNOWN), "item_delete_invalid_item_id"),
    (
        event("conversation.item.truncate", **UNKNOWN, content_index=0, audio_end_ms=0),
        "item_truncate_invalid_item_id",
    ),
    (
        event("conversation.item.truncate", item_id="item_twice", content_index=0, audio_end_ms=-1),
        "invalid_value",
    ),
    (event("response.create", response={"metadata": {"k": "x" * 600}}), "invalid_value"),
    (event("response.cancel"), "response_cancel_not_active"),
    (event("response.cancel", response_id="resp_x"), "response_cancel_not_active"),
]


def test_messages_that_are_no_events(speech_server: PoolServer) -> None:
    with undisturbed(speech_server), speech_server.call(PATH) as client:
        until(client, "session.created")
        for message, code in NO_EVENTS:
            client.send(message)
            error = validate(client.recv(timeout=DEADLINE, decode=False))["error"]
            assert (error["code"], error["event_id"]) == (code, None), message[:80]
        client.send(b"\xff" * 1_000)  # a binary message is ignored
        answered(client)


def test_events_that_cannot_be_obeyed(speech_server: PoolServer) -> None:
    with undisturbed(speech_server), speech_server.call(PATH) as client:
        until(client, "session.created")
        for number, (message, code) in enumerate(BAD_EVENTS):
            named = json.dumps({**json.loads(message), "event_id": f"mine_{number}"})
            client.send(named)
            told = validate(client.recv(timeout=DEADLINE, decode=False))
            if not code:
                until(client, "conversation.item.done")
                continue
            assert told["type"] == "error", message[:80]
            error = told["error"]
            assert (error["code"], error["event_id"]) == (code, f"mine_{number}"), message[:80]
            assert len(error["message"]) < 1_000
        answered(client)


def test_a_turn_goes_on_through_bad_messages(speech_server: PoolServer) -> None:
    with undisturbed(speech_server), speech_server.call(PATH) as client:
        heard = {"transcription": {"model": "any"}}
        client.send(event("session.update", session={"audio": {"input": heard}}))
        for piece in QUESTION:
            client.send(event("input_audio_buffer.append", audio=piece))
            client.send(event("input_audio_buffer.append", audio=piece[:-1]))
            client.send("{")
        transcript = until(client, "conversation.item.input_audio_transcription.completed")
        assert transcript["transcript"] == "tell me a very long story"
        assert until(client, "response.done")["response"]["status"] == "completed"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(
            b"\x81\xff" + (MAX_MESSAGE_BYTES + 1).to_bytes(8, "big") + bytes(4),
            1009,
            id="too large",
        ),
        pytest.param(Frame(Opcode.TEXT, b"\xff").serialize(mask=True), 1007, id="not UTF-8"),
    ],
)
def test_messages_that_end_the_call(speech_server: PoolServer, data: bytes, code: int) -> None:
    with undisturbed(speech_server), speech_server.call(PATH) as client:
        until(client, "session.created")
        client.socket.sendall(data)
        with pytest.raises(ConnectionClosedError) as closed:
            until(client, "error")
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == code


# --- clients that vanish, and one that never reads -------------------------------------------


def nothing(client: ClientConnection) -> None:
    """Not even its first event is read."""


def half_an_append(client: ClientConnection) -> None:
    client.socket.sendall(frame(append(bytes(48_000)))[:30_000])


def much_sound(client: ClientConnection) -> None:
    client.send(append(bytes(15 << 20)))


def speech(client: ClientConnection) -> None:
    for piece in QUESTION[: len(QUESTION) // 2]:
        client.send(event("input_audio_buffer.append", audio=piece))
    until(client, "input_audio_buffer.speech_started")


def commit(client: ClientConnection) -> None:
    speech(client)
    client.send(event("input_audio_buffer.commit"))
    client.send(event("response.create"))


def reply(client: ClientConnection) -> None:
    for piece in QUESTION:
        client.send(event("input_audio_buffer.append", audio=piece))
    until(client, "response.output_audio.delta")


def interruption(client: ClientConnection) -> None:
    reply(client)
    for piece in QUESTION:
        client.send(event("input_audio_buffer.append", audio=piece))
    until(client, "input_audio_buffer.speech_started")


def close(client: ClientConnection) -> None:
    client.socket.close()


def reset(client: ClientConnection) -> None:
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    client.socket.shutdown(socket.SHUT_RD)
    client.socket.close()


@pytest.mark.parametrize(
    "step", [nothing, half_an_append, much_sound, speech, commit, reply, interruption]
)
def test_client_that_vanishes(
    speech_server: PoolServer, step: Callable[[ClientConnection], None]
) -> None:
    with undisturbed(speech_server):
        for leave in (close, reset):
            with speech_server.call(PATH) as client:
                step(client)
                leave(client)


def test_client_that_never_reads(speech_server: PoolServer) -> None:
    """The worker stops reading too, and its memory stays bounded."""
    with undisturbed(speech_server) as caller, speech_server.socket() as client:
        client.sendall(upgrade(PATH.encode()))
        assert client.recv(12) == b"HTTP/1.1 101"
        client.settimeout(2.0)
        client.sendall(frame(typed("x" * 500_000, id="a")))
        asks = frame(event("conversation.item.retrieve", item_id="a")) * 1_000

        def flood() -> None:
            for _ in range(1_000):
                client.sendall(asks)

        # A million answers of half a megabyte are never made: it is held up before.
        with pytest.raises(TimeoutError):
            flood()
        answered(caller)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def test_call_that_is_too_long(start_pool: Callable[..., PoolServer]) -> None:
    """Told in the protocol's words, then closed as a client that reconnects expects it."""
    server = start_pool(app="", workers=1, call_limit=1.0)
    with server.call(PATH) as client:
        for piece in QUESTION:  # whose answer is in the making, or being told, when time is up
            client.send(event("input_audio_buffer.append", audio=piece))
        error = until(client, "error")["error"]
        assert error["code"] == "session_expired"
        assert error["message"].startswith("Your session hit the maximum duration of ")
        with pytest.raises(ConnectionClosedOK) as closed:
            client.recv(timeout=DEADLINE)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
    server.until_idle()


def test_no_words_in_the_logs_of_a_pool(speech_server: PoolServer) -> None:
    """At debug level, after all that the tests above have done."""
    with undisturbed(speech_server), speech_server.call(PATH) as client:
        reply(client)
        until(client, "response.done")
    speech_server.logged("session ended", responses=1)
    log = "".join(speech_server.stderr).lower()
    for words in ("long story", "once upon", "square of seven", SILENCE[:40].lower()):
        assert words not in log
    rehearsed = [line for line in speech_server.logs if line.get("connection") == 0]
    assert {line["level"] for line in rehearsed} == {"debug"}
