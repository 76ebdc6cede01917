"""Limits on real servers: what each ends, what the caller is told, and where it shows.

Those of the length of a call and of memory are in test_worker.py and test_gpu_pool.py.
"""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from websockets.exceptions import ConnectionClosed, ConnectionClosedError
from websockets.sync.client import ClientConnection

from tests.apps.echo import Echo
from tests.pools import DEADLINE, PoolServer, hello
from tests.realtime import validate
from voicepool.callserver import MAX_MESSAGE_SIZE, largest_message
from voicepool.speech import SpeechApp
from voicepool.wire.realtime.client import MAX_MESSAGE_BYTES

Start = Callable[..., PoolServer]
KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PoolServer]:
    """Without any limit that a test would reach."""
    server = PoolServer(tmp_path_factory.mktemp("runtime"), workers=1)
    try:
        server.stage("serving")
        yield server
    finally:
        server.close()


def until_closed(client: ClientConnection) -> tuple[int, str]:
    """Code and reason."""

    def read_on() -> None:
        while True:
            client.recv(timeout=DEADLINE)

    with pytest.raises(ConnectionClosed) as closed:
        read_on()
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, closed.value.rcvd.reason


@contextmanager
def repeating(step: Callable[[], object]) -> Iterator[None]:
    """Do it again and again in the background, until the connection is closed or nobody cares."""
    over = threading.Event()

    def repeat() -> None:
        with contextlib.suppress(ConnectionClosed):
            while not over.wait(0.02):
                step()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(DEADLINE)


# --- calls that nobody uses ------------------------------------------------------------------


def test_a_call_without_messages_is_idle_whatever_is_pinged(start_pool: Start) -> None:
    server = start_pool(workers=2, idle_limit=0.5)
    with server.call() as caller:
        hello(caller)
        with repeating(caller.ping):
            assert until_closed(caller) == (1001, "idle_limit")
    totals = server.until_idle()["totals"]
    assert totals["limits"]["idle_limit"] == 1
    assert totals["completed"] == 1
    assert server.logged("call ended", limit="idle_limit")["allowed"] == 0.5


@pytest.mark.parametrize("whose", ["the caller's", "the app's"])
def test_messages_in_either_direction_are_use(start_pool: Start, whose: str) -> None:
    server = start_pool(workers=2, max_connections=3, idle_limit=1.0)
    # What it is told and does not read keeps it from hearing the server's goodbye.
    with server.call(close_timeout=0.1) as user:
        hello(user)
        if whose == "the app's":
            user.send("!tell")
            assert user.recv(timeout=DEADLINE) == "and then"
        with repeating(lambda: user.send("still here") if whose == "the caller's" else None):
            for _ in range(2):
                with server.call() as other:
                    hello(other)
                    assert until_closed(other) == (1001, "idle_limit")
            assert len(server.workers("serving")) >= 1
            assert user.recv(timeout=DEADLINE) in ("still here", "and then")
    assert server.until_idle()["totals"]["limits"]["idle_limit"] == 2


def test_a_spoken_call_that_nobody_uses_is_ended_in_the_words_of_its_protocol(
    start_pool: Start,
) -> None:
    server = start_pool(app="", workers=2, idle_limit=1.0, call_limit=4.0)
    silence = base64.b64encode(bytes(4_800)).decode()
    append = json.dumps({"type": "input_audio_buffer.append", "audio": silence})
    with server.call("/v1/realtime") as caller, repeating(lambda: caller.send(append)):
        told = [validate(caller.recv(timeout=DEADLINE, decode=False)) for _ in range(2)]
        assert [event["type"] for event in told] == ["session.created", "error"]
        assert told[1]["error"]["code"] == "session_expired"
        assert until_closed(caller) == (1001, "idle_limit")
    with server.call("/ws") as page, repeating(lambda: page.send(bytes(8 + 4_096))):
        assert json.loads(page.recv(timeout=DEADLINE)) == {
            "type": "final_assistant_answer",
            "content": "The call ends here: nobody has said anything for 1 minute.",
        }
        assert until_closed(page) == (1001, "idle_limit")
    wish = json.dumps({"type": "set_speed", "speed": 50})
    with server.call("/ws") as page, repeating(lambda: page.send(wish)):
        assert json.loads(page.recv(timeout=DEADLINE)) == {
            "type": "final_assistant_answer",
            "content": "The call ends here, after 1 minute.",
        }
        assert until_closed(page) == (1001, "call_limit")
    totals = server.until_idle()["totals"]
    assert totals["limits"]["idle_limit"] == 2
    assert totals["limits"]["call_limit"] == 1
    assert totals["completed"] == 3
    assert server.logged("session ended", ended="idle")


@pytest.mark.parametrize(
    ("name", "told", "counted"),
    [
        ("idle_limit", "idle_limit", 1),
        ("call_limit", "call_limit", 0),
        ("\N{SNOWMAN}" * 200, "\N{SNOWMAN}" * 30, 0),
    ],
)
def test_an_app_ends_its_call_for_a_limit_and_only_those_that_are_its_own_count(
    server: PoolServer, name: str, told: str, counted: int
) -> None:
    before = server.until_idle()["totals"]["limits"]
    with server.call() as caller:
        hello(caller)
        caller.send(f"!over {name}")
        assert until_closed(caller) == (1001, told)
    after = server.until_idle()["totals"]["limits"]
    assert sum(after.values()) - sum(before.values()) == counted
    assert after["idle_limit"] - before["idle_limit"] == counted


# --- messages that are too large -------------------------------------------------------------


def test_a_message_above_the_setting_ends_the_call(start_pool: Start) -> None:
    server = start_pool(workers=1, max_message_size=256 * KIB)
    with server.call() as caller:
        hello(caller)
        caller.send(b"x" * 256 * KIB)
        assert len(caller.recv(timeout=DEADLINE)) == 256 * KIB
        with contextlib.suppress(ConnectionClosed):
            caller.send(b"x" * (256 * KIB + 1))
        with pytest.raises(ConnectionClosedError) as closed:
            caller.recv(timeout=DEADLINE)
        assert closed.value.rcvd
        assert closed.value.rcvd.code == 1009
    assert server.until_idle()["totals"]["limits"]["message_size"] == 1
    assert server.logged("call ended", limit="message_size")["allowed"] == 256 * KIB


class Plain:
    """An app that says nothing of its messages."""


@pytest.mark.parametrize(
    ("app", "setting", "largest"),
    [
        (Plain(), None, MAX_MESSAGE_SIZE),
        (Plain(), 256 * KIB, 256 * KIB),
        (Plain(), 64 * MIB, 64 * MIB),
        (Echo(), None, Echo.max_message_size),
        (Echo(), 256 * KIB, 256 * KIB),
        (Echo(), 64 * MIB, Echo.max_message_size),
        (SpeechApp.__new__(SpeechApp), None, MAX_MESSAGE_BYTES),
        (SpeechApp.__new__(SpeechApp), 64 * MIB, MAX_MESSAGE_BYTES),
    ],
)
def test_a_setting_only_lowers_what_an_app_says_it_takes(
    app: object, setting: int | None, largest: int
) -> None:
    assert largest_message(app, setting) == largest


# --- workers that grow old -------------------------------------------------------------------


def test_an_old_idle_worker_is_replaced_by_one_that_is_warm_and_calls_go_on(
    start_pool: Start,
) -> None:
    server = start_pool(workers=1, max_connections=3, worker_age=1.0)
    with server.call() as caller:
        mine = hello(caller)["pid"]
        old = server.until(lambda: server.workers("idle"), "had an idle worker")[0]
        stopped = server.logged("worker told to stop", reason="worker_age")
        assert stopped["age"] > 0.9
        ready = [line["worker"] for line in server.logs if line["event"] == "worker ready"]
        assert ready[-1] > stopped["worker"], "the new one was warm before"
        server.until(lambda: old["pid"] not in server.family(), "had replaced it")
        caller.send("all well")
        assert caller.recv(timeout=DEADLINE) == "all well"
        assert mine in server.family()
    # It is gone before the supervisor has heard of it.
    totals = server.until_status(
        lambda s: s["totals"]["exits"].get("worker_age"), "counted its end"
    )["totals"]
    assert totals["limits"]["worker_age"] >= 1
    assert totals["failures"] == 0


# --- memory ----------------------------------------------------------------------------------


def test_a_soft_limit_in_a_call_is_logged_and_counted_and_the_caller_hears_nothing(
    start_pool: Start,
) -> None:
    server = start_pool(workers=1, ram_soft_limit=120 << 20, heartbeat_interval=0.05)
    with server.call() as caller:
        hello(caller)
        caller.send("!eat")
        line = server.logged("worker above a soft limit in its call", reason="soft_limit")
        assert line["private"] > 120 << 20
        caller.send("all well")
        assert caller.recv(timeout=DEADLINE) == "all well"
    totals = server.until_idle()["totals"]
    assert totals["limits"]["soft_limit"] == 1
    assert totals["exits"] == {"ended": 1}
