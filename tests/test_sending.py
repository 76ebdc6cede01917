"""The queue between a session and its socket."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from websockets.asyncio.server import ServerConnection

from voicepool.sending import ClientTooSlow, Sender


class Reader:
    """The far end of a WebSocket, which takes a message when it is `open`."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.got: list[bytes] = []

    async def send(self, message: bytes, text: bool) -> None:
        assert text
        await self.open.wait()
        self.got.append(message)


def sender_to(reader: Reader, deadline: float = 30.0) -> Sender:
    return Sender(cast(ServerConnection, reader), deadline)


async def test_order_is_kept_and_everything_counted() -> None:
    reader = Reader()
    sender = sender_to(reader)
    for number in range(5):
        sender.put(b"%d" % number)
    assert sender.pending == 5
    writing = asyncio.create_task(sender.run())
    reader.open.set()
    await sender.room(0)
    assert reader.got == [b"0", b"1", b"2", b"3", b"4"]
    assert (sender.pending, sender.sent) == (0, 5)
    sender.put(b"5")
    await sender.room(0)
    assert reader.got[-1] == b"5"
    writing.cancel()


async def test_who_put_a_message_is_told_when_the_socket_has_it() -> None:
    reader, told = Reader(), list[str]()
    sender = sender_to(reader)
    sender.put(b"first", on_sent=lambda: told.append("first"))
    sender.put(b"sound", "item", on_sent=lambda: told.append("sound"))
    sender.put(b"last")
    sender.drop_audio("item")
    writing = asyncio.create_task(sender.run())
    await asyncio.sleep(0)
    assert not told, "the socket has not taken it"
    reader.open.set()
    await sender.room(0)
    assert told == ["first"], "what was dropped was never sent"
    writing.cancel()


async def test_room_waits_for_the_reader() -> None:
    reader = Reader()
    sender = sender_to(reader)
    writing = asyncio.create_task(sender.run())
    await sender.room(0)
    sender.put(b"x" * 10)
    await sender.room(10)
    waiting = [asyncio.create_task(sender.room(limit)) for limit in (9, 0)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    reader.open.set()
    await asyncio.gather(*waiting)
    writing.cancel()


async def test_sound_of_an_interrupted_reply_is_dropped_and_all_else_kept() -> None:
    reader = Reader()
    sender = sender_to(reader)
    writing = asyncio.create_task(sender.run())
    sender.put(b"being written", audio_of="a")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    sender.put(b"sound of a", audio_of="a")
    sender.put(b"words of a")
    sender.put(b"sound of b", audio_of="b")
    sender.drop_audio("a")
    reader.open.set()
    await sender.room(0)
    assert reader.got == [b"being written", b"words of a", b"sound of b"]
    assert sender.pending == 0
    writing.cancel()


async def test_a_reader_that_takes_nothing_is_given_up() -> None:
    sender = sender_to(Reader(), deadline=0.01)
    sender.put(b"x")
    with pytest.raises(ClientTooSlow):
        await sender.run()
