"""When a call counts as unused, by the pure clockwork and in sessions over a real WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.instruments import Cue, ToneSynthesizer, engines, says
from tests.test_session import DEADLINE, Client, Host, hosting, sound
from voicepool.app import CallOver
from voicepool.engines.base import ChatRequest, Finished, TextDelta
from voicepool.idleness import Idleness
from voicepool.speech import SpeechApp

LIMIT = 600.0


@pytest.fixture
def idleness() -> Idleness:
    return Idleness(LIMIT, 0.0)


# --- the clockwork ---------------------------------------------------------------------------


def test_a_call_that_was_never_used(idleness: Idleness) -> None:
    assert idleness.left(0.0) == LIMIT
    assert idleness.left(LIMIT - 1) == 1
    assert idleness.left(LIMIT) == 0


def test_the_time_counts_from_the_last_use(idleness: Idleness) -> None:
    idleness.used(100.0)
    assert idleness.left(200.0) == LIMIT - 100


def test_speech_is_use_as_long_as_it_lasts(idleness: Idleness) -> None:
    idleness.speech_began(10.0)
    assert idleness.left(10 * LIMIT) == LIMIT
    idleness.speech_ended(10 * LIMIT)
    assert idleness.left(10 * LIMIT + 1) == LIMIT - 1


def test_waiting_for_a_reply_is_use(idleness: Idleness) -> None:
    idleness.reply_began("one")
    idleness.reply_began("two")
    idleness.reply_ended("one", 5.0)
    assert idleness.left(10 * LIMIT) == LIMIT, "another one is in the making"
    idleness.reply_ended("two", 10 * LIMIT)
    assert idleness.left(10 * LIMIT) == LIMIT


def test_listening_to_a_long_story_is_use_to_its_end(idleness: Idleness) -> None:
    idleness.reply_began("story")
    idleness.reply_ended("story", 60.0)
    idleness.hears(60.0 + 3 * LIMIT)
    assert idleness.left(60.0 + 3 * LIMIT) == LIMIT
    idleness.used(100.0)
    assert idleness.left(60.0 + 3 * LIMIT) == LIMIT, "whatever is asked for meanwhile"


def test_a_story_that_is_cut_off_is_heard_no_more(idleness: Idleness) -> None:
    idleness.hears(3 * LIMIT)
    idleness.speech_began(100.0)
    idleness.hears(100.0)
    idleness.speech_ended(101.0)
    assert idleness.left(101.0) == LIMIT


def test_what_the_assistant_says_to_an_empty_room_is_no_use(idleness: Idleness) -> None:
    idleness.prompted()
    idleness.reply_began("Are you there?")
    assert idleness.left(1.0) == LIMIT - 1
    idleness.reply_ended("Are you there?", 2.0)
    idleness.hears(4.0)
    assert idleness.left(4.0) == LIMIT - 4


def test_an_answer_to_it_is(idleness: Idleness) -> None:
    idleness.prompted()
    idleness.speech_began(50.0)
    idleness.speech_ended(51.0)
    idleness.reply_began("Good.")
    assert idleness.left(10 * LIMIT) == LIMIT


def test_the_end_of_a_reply_that_never_began_changes_nothing(idleness: Idleness) -> None:
    idleness.reply_ended("of a call before", 100.0)
    assert idleness.left(100.0) == LIMIT - 100


# --- sessions --------------------------------------------------------------------------------

SHORT = 0.8
"""Seconds. Nothing here waits for less: what is awaited is the end of an idle call."""

Busy = Callable[[Client, asyncio.Event], Coroutine[Any, Any, None]]
"""What a caller does until the event, by when an idle call has ended."""

story_goes_on = asyncio.Event()


def stories(request: ChatRequest) -> list[Cue]:
    told = str(request.messages[-1].content)
    if "slow" in told:
        return [story_goes_on, TextDelta("At last."), Finished()]
    if "long" in told:
        return [TextDelta("word " * 300 + "end."), Finished()]  # 30 s
    return [TextDelta("Hello."), Finished()]


@asynccontextmanager
async def server(limit: float = SHORT) -> AsyncIterator[tuple[Host, int]]:
    chosen = engines(stories, tts=ToneSynthesizer())
    async with hosting(SpeechApp(chosen, idle_limit=limit)) as (host, port):
        yield host, port


@asynccontextmanager
async def calling(port: int, **audio_input: Any) -> AsyncIterator[Client]:
    url = f"ws://127.0.0.1:{port}/v1/realtime?model=m"
    async with connect(url, compression=None) as websocket:
        client = Client(websocket)
        await client.send("session.update", session={"audio": {"input": audio_input}})
        await client.until("session.updated")
        yield client


async def until_closed(client: Client) -> ConnectionClosed:
    with pytest.raises(ConnectionClosed) as closed:
        await client.until("nothing that is ever told")
    return closed.value


async def send_silence(client: Client) -> None:
    """Until the connection is closed."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            await client.append(sound(100, 0.0))
            await asyncio.sleep(0.01)


async def test_who_streams_silence_is_idle_and_is_told() -> None:
    async with server() as (host, port), calling(port) as client:
        streaming = asyncio.create_task(send_silence(client))
        error = (await client.until("error"))["error"]
        assert error["code"] == "session_expired"
        assert error["message"].startswith("Your session was idle for ")
        closed = await until_closed(client)
        assert closed.rcvd is not None
        assert (closed.rcvd.code, closed.rcvd.reason) == (1001, "idle_limit")
        await streaming
        ended = (await host.ended()).exception()
        assert isinstance(ended, CallOver)
        assert str(ended) == "idle_limit"


async def test_who_makes_mistakes_is_idle() -> None:
    async with server() as (_, port), calling(port) as client:

        async def babble() -> None:
            with contextlib.suppress(ConnectionClosed):
                while True:
                    await client.websocket.send("no JSON")
                    await asyncio.sleep(0.01)

        babbling = asyncio.create_task(babble())
        closed = await until_closed(client)
        await babbling
        assert closed.rcvd is not None
        assert closed.rcvd.reason == "idle_limit"


async def test_an_assistant_that_speaks_up_by_itself_keeps_no_call_alive() -> None:
    """`idle_timeout_ms` is another thing: it makes the assistant ask who is there."""
    detection = {"type": "server_vad", "idle_timeout_ms": 1000}
    async with server(1.5) as (_, port), calling(port, turn_detection=detection) as client:
        await client.append(sound(600) + sound(900, 0.0))
        await client.until("response.done")
        streaming = asyncio.create_task(send_silence(client))
        closed = await until_closed(client)
        await streaming
        kinds = [event["type"] for event in client.seen]
        assert "input_audio_buffer.timeout_triggered" in kinds
        assert kinds.count("response.done") > 1, "it has spoken up"
        assert closed.rcvd is not None
        assert closed.rcvd.reason == "idle_limit"


async def speak(client: Client, over: asyncio.Event) -> None:
    while not over.is_set():
        await client.append(sound(50))
        await asyncio.sleep(0.05)


async def ask(client: Client, over: asyncio.Event) -> None:
    while not over.is_set():
        await client.send("session.update", session={})
        await client.until("session.updated")
        await asyncio.sleep(0.05)


async def wait_for_a_reply(client: Client, over: asyncio.Event) -> None:
    await client.create_text("a slow one")
    await client.send("response.create")
    await client.until("response.created")
    await over.wait()
    story_goes_on.set()
    assert (await client.until("response.done"))["response"]["status"] == "completed"


async def listen_to_a_long_story(client: Client, over: asyncio.Event) -> None:
    await client.create_text("a long one")
    await client.send("response.create")
    await client.until("response.done")
    await over.wait()


async def hold_the_button_down(client: Client, over: asyncio.Event) -> None:
    """Where the client commits turns itself, what it sends is to be heard."""
    while not over.is_set():
        await client.append(sound(50, 0.0))
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("busy", "detection"),
    [
        (speak, {"type": "server_vad"}),
        (ask, {"type": "server_vad"}),
        (wait_for_a_reply, {"type": "server_vad"}),
        (listen_to_a_long_story, {"type": "server_vad"}),
        (hold_the_button_down, None),
    ],
)
async def test_a_call_that_is_used_outlives_one_that_is_not(
    busy: Busy, detection: dict[str, Any] | None
) -> None:
    story_goes_on.clear()
    async with server() as (_, port), calling(port, turn_detection=detection) as client:
        over, begun = asyncio.Event(), asyncio.create_task(client.until("session.updated"))
        await client.send("session.update", session={})
        await begun
        using = asyncio.create_task(busy(client, over))
        for _ in range(2):  # the second begins when the first is over: by then it is in full use
            async with calling(port) as other:
                await until_closed(other)
        over.set()
        async with asyncio.timeout(DEADLINE):
            await using
        await client.send("session.update", session={})
        await client.until("session.updated")


async def test_without_a_limit_nobody_watches() -> None:
    async with hosting(SpeechApp(engines(says("Hello.")))) as (host, port), calling(port) as client:
        await host.began.wait()
        names = [repr(task.get_coro()) for task in asyncio.all_tasks()]
        assert any("Session._listen" in name for name in names)
        assert not any("Session._watch" in name for name in names)
        await client.send("session.update", session={})
        await client.until("session.updated")
