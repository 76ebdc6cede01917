"""voicepool.outbox: order, bounds, and taking back."""

from __future__ import annotations

import asyncio

import numpy as np

from voicepool.events import PipelineEvent, ResponseAudio, ResponseText, SpeechStopped
from voicepool.outbox import MOST_DELTAS, MOST_EVENTS, Outbox

RATE = 16_000


def text(number: int, item_id: str = "item") -> ResponseText:
    return ResponseText("resp", item_id, str(number))


def sound(seconds: float, item_id: str = "item") -> ResponseAudio:
    return ResponseAudio("resp", item_id, np.zeros(round(seconds * RATE), np.float32), RATE)


def note(number: int) -> SpeechStopped:
    return SpeechStopped("item", number)


async def drain(outbox: Outbox) -> list[PipelineEvent]:
    return [event for _ in range(len(outbox)) if (event := await outbox.take()) is not None]


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_events_come_out_in_order() -> None:
    outbox = Outbox()
    outbox.put(note(1))
    await outbox.put_delta(text(2))
    outbox.put(note(3))
    assert await drain(outbox) == [note(1), text(2), note(3)]


async def test_a_reader_waits_for_the_next_event() -> None:
    outbox = Outbox()
    reader = asyncio.create_task(outbox.take())
    await settle()
    assert not reader.done()
    outbox.put(note(1))
    assert await reader == note(1)


async def test_deltas_wait_for_room_and_other_events_do_not() -> None:
    outbox = Outbox()
    for number in range(MOST_DELTAS):
        await outbox.put_delta(text(number))
    writer = asyncio.create_task(outbox.put_delta(text(99)))
    await settle()
    assert not writer.done()
    outbox.put(note(1))
    assert len(outbox) == MOST_DELTAS + 1
    await outbox.take()
    await settle()
    assert writer.done()
    assert (await drain(outbox))[-2:] == [note(1), text(99)]


async def test_a_delta_knows_when_it_is_taken() -> None:
    outbox = Outbox()
    taken: list[float] = []
    await outbox.put_delta(sound(0.2), on_taken=taken.append)
    await outbox.put_delta(sound(0.1), on_taken=taken.append)
    await outbox.take()
    assert taken == [0.2]
    assert len(outbox.withdraw(lambda _: True)) == 1
    assert taken == [0.2]


async def test_deltas_are_taken_back_and_make_room() -> None:
    outbox = Outbox()
    for number in range(MOST_DELTAS):
        await outbox.put_delta(text(number, "a" if number % 2 else "b"))
    outbox.put(note(1))
    writer = asyncio.create_task(outbox.put_delta(text(99, "b")))
    await settle()
    withdrawn = outbox.withdraw(lambda delta: delta.item_id == "a")
    assert withdrawn == [text(number, "a") for number in range(1, MOST_DELTAS, 2)]
    await settle()
    assert writer.done()
    rest = await drain(outbox)
    assert rest[-2:] == [note(1), text(99, "b")]
    assert len(rest) == MOST_DELTAS // 2 + 2


async def test_sources_wait_while_the_reader_is_far_behind() -> None:
    outbox = Outbox()
    await outbox.ready()
    for number in range(MOST_EVENTS):
        outbox.put(note(number))
    waiting = asyncio.create_task(outbox.ready())
    await settle()
    assert not waiting.done()
    await outbox.take()
    await waiting


async def test_a_closed_outbox_is_read_to_its_end_and_holds_up_nobody() -> None:
    outbox = Outbox()
    for number in range(MOST_DELTAS):
        await outbox.put_delta(text(number))
    writer = asyncio.create_task(outbox.put_delta(text(99)))
    await settle()
    outbox.close()
    await writer
    outbox.put(note(1))
    await outbox.ready()
    assert len(await drain(outbox)) == MOST_DELTAS
    assert await outbox.take() is None
    assert await outbox.take() is None


async def test_closing_ends_a_reader_that_waits() -> None:
    outbox = Outbox()
    reader = asyncio.create_task(outbox.take())
    await settle()
    outbox.close()
    assert await reader is None
