"""voicepool.outbox: order, bounds, and taking back."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.calls import ManualClock
from voicepool.events import (
    MessageDone,
    PipelineEvent,
    ResponseAudio,
    ResponseText,
    SpeechStopped,
)
from voicepool.outbox import MOST_DELTAS, MOST_EVENTS, PIECE, Outbox, Pace
from voicepool.playback import Loudspeaker

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


# --- sound that is held back -----------------------------------------------------------------

AHEAD = 0.3


class Paced(Outbox):
    """An outbox whose caller plays what was taken, by a clock that a test moves."""

    def __init__(self, ahead: float = AHEAD) -> None:
        self.clock = ManualClock()
        self.loudspeaker = Loudspeaker()
        super().__init__(Pace(self.loudspeaker, self.clock, ahead))

    async def put_sound(self, seconds: float) -> None:
        await self.put_delta(
            sound(seconds), lambda taken: void(self.loudspeaker.send(taken, self.clock()))
        )

    async def take_all(self) -> list[PipelineEvent]:
        """What may be taken now."""
        taken: list[PipelineEvent] = []

        async def read() -> None:
            while (event := await self.take()) is not None:
                taken.append(event)

        reader = asyncio.create_task(read())
        await settle()
        reader.cancel()
        return taken


def void(_: object) -> None:
    """Callbacks return nothing."""


def seconds_of(events: list[PipelineEvent]) -> float:
    return sum(len(each.samples) / each.rate for each in events if isinstance(each, ResponseAudio))


async def test_sound_goes_out_as_it_is_played() -> None:
    outbox = Paced()
    for _ in range(20):
        await outbox.put_sound(2 * PIECE)
    assert seconds_of(await outbox.take_all()) == pytest.approx(AHEAD)
    assert await outbox.take_all() == []
    outbox.clock.now += 2 * PIECE
    assert seconds_of(await outbox.take_all()) == pytest.approx(2 * PIECE)
    outbox.clock.now += PIECE / 2
    assert await outbox.take_all() == [], "there is no room for a whole piece"
    outbox.clock.now += 60
    assert seconds_of(await outbox.take_all()) == pytest.approx(AHEAD), "it had run dry"


async def test_what_follows_in_the_reply_waits_and_what_is_told_of_the_caller_does_not() -> None:
    outbox = Paced()
    await outbox.put_sound(0.5)
    await outbox.put_delta(text(1))
    outbox.put(MessageDone("resp", "item", 0, "1", True))
    outbox.put(note(1))
    outbox.put(note(2))
    taken = await outbox.take_all()
    assert [each for each in taken if not isinstance(each, ResponseAudio)] == [note(1), note(2)]
    outbox.clock.now += 1
    rest = await outbox.take_all()
    assert seconds_of(taken) + seconds_of(rest) == pytest.approx(0.5)
    assert rest[-2:] == [text(1), MessageDone("resp", "item", 0, "1", True)]


async def test_what_is_held_back_can_be_taken_back() -> None:
    outbox = Paced()
    await outbox.put_sound(1.0)
    taken = await outbox.take_all()
    outbox.put(note(1))
    left = outbox.withdraw(lambda _: True)
    assert seconds_of(taken) + seconds_of([*left]) == pytest.approx(1.0)
    assert await outbox.take_all() == [note(1)]


async def test_a_reader_who_waits_for_sound_gets_what_comes_in_its_place() -> None:
    outbox = Paced(ahead=1e9)
    await outbox.put_sound(PIECE)
    await outbox.take()
    outbox.loudspeaker.plays_until = outbox.clock() + 2e9
    await outbox.put_sound(1.0)
    reader = asyncio.create_task(outbox.take())
    await settle()
    assert not reader.done(), "it has decades to wait"
    outbox.withdraw(lambda _: True)
    outbox.put(note(1))
    assert await reader == note(1)


async def test_a_reader_is_woken_when_the_sound_is_due() -> None:
    outbox = Paced()
    outbox._pace = Pace(outbox.loudspeaker, asyncio.get_running_loop().time, 0.05)
    outbox.clock = asyncio.get_running_loop().time  # type: ignore[assignment]
    await outbox.put_sound(0.15)
    async with asyncio.timeout(20):
        taken = [await outbox.take() for _ in range(3)]
    assert seconds_of([each for each in taken if each]) == pytest.approx(0.15)


async def test_letting_go_is_waiting_until_nothing_is_held_back() -> None:
    unpaced = Outbox()
    await unpaced.put_delta(sound(9.0))
    await unpaced.let_go()
    outbox = Paced()
    await outbox.put_sound(0.5)
    waiting = asyncio.create_task(outbox.let_go())
    await outbox.take_all()
    assert not waiting.done()
    outbox.clock.now += 0.3
    await outbox.take_all()
    await settle()
    assert waiting.done()
    await outbox.put_sound(0.5)
    waiting = asyncio.create_task(outbox.let_go())
    await settle()
    outbox.close()
    await waiting


async def test_a_closed_outbox_holds_nothing_back() -> None:
    outbox = Paced()
    await outbox.put_sound(1.0)
    outbox.close()
    assert seconds_of(await outbox.take_all()) == pytest.approx(1.0)


@settings(deadline=None, max_examples=50)
@given(
    st.floats(0.01, 1.0),
    st.lists(st.floats(0.001, 0.5), max_size=20),
    st.lists(st.floats(0, 0.4), max_size=20),
)
def test_no_more_is_ahead_than_was_allowed(
    ahead: float, sounds: list[float], waits: list[float]
) -> None:
    async def play() -> None:
        outbox = Paced(ahead)
        for seconds in sounds:
            await outbox.put_sound(seconds)
        made = seconds_of([*(each.event for each in outbox._queue)])
        sent = 0.0
        for wait in (0.0, *waits, 1e6, *[1e6] * 1_000):
            outbox.clock.now += wait
            taken = seconds_of(await outbox.take_all())
            sent += taken
            # A piece longer than what is allowed goes out when nothing else is left to play.
            assert outbox.loudspeaker.remaining(outbox.clock()) <= max(ahead, PIECE) + 0.002
            if not len(outbox):
                break
        assert sent == pytest.approx(made)

    asyncio.run(play())
