"""voicepool.figures: what a worker may tell of its call, and what is believed of it."""

from __future__ import annotations

import asyncio
import math
import threading
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicepool import figures, ipc
from voicepool.figures import COUNTS, LONGEST, MOST_COUNT, MOST_TIMES, TIMED, Figures, Recorder


def full() -> Recorder:
    """A recorder that has no room left."""
    recorder = Recorder()
    for name in TIMED:
        for number in range(MOST_TIMES):
            recorder.took(name, number / 7)
    for name in COUNTS:
        recorder.count(name, MOST_COUNT)
    return recorder


# --- the worker's side -----------------------------------------------------------------------


def test_what_was_taken_is_told_once() -> None:
    recorder = Recorder()
    assert recorder.take() is None
    recorder.count("turns")
    recorder.count("turns")
    recorder.took("stt", 0.25)
    assert recorder.take() == Figures({"turns": 2}, {"stt": (0.25,)})
    assert recorder.take() is None


def test_what_finds_no_room_is_counted() -> None:
    recorder = full()
    recorder.took("stt", 1.0)
    recorder.took("llm", 1.0)
    told = recorder.take()
    assert told is not None
    assert told.dropped == 2
    assert {name: len(times) for name, times in told.times.items()} == dict.fromkeys(
        TIMED, MOST_TIMES
    )
    recorder.took("stt", 1.0)
    assert recorder.take() == Figures({}, {"stt": (1.0,)})


def test_what_could_not_be_sent_is_told_later_as_far_as_there_is_room() -> None:
    recorder = full()
    unsent = recorder.take()
    assert unsent is not None
    recorder.count("turns")
    recorder.took("stt", 99.0)
    recorder.restore(unsent)
    told = recorder.take()
    assert told is not None
    assert told.counts["turns"] == MOST_COUNT + 1
    assert told.times["stt"][0] == 99.0
    assert len(told.times["stt"]) == MOST_TIMES
    assert told.times["llm"] == unsent.times["llm"]
    assert told.dropped == 1


def test_a_full_recorder_fits_into_a_message() -> None:
    told = full().take()
    message = msgspec.msgpack.encode(ipc.Ended(1 << 40, "completed", "message_size", 1 << 40, told))
    assert len(message) < ipc.MAX_MESSAGE // 8
    assert msgspec.msgpack.decode(message, type=ipc.FromWorker).figures == told


def test_it_may_be_told_by_any_thread() -> None:
    recorder = Recorder()

    def work() -> None:
        for _ in range(2000):
            recorder.count("turns")

    threads = [threading.Thread(target=work) for _ in range(4)]
    taken = 0
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        told = recorder.take()
        taken += told.counts["turns"] if told else 0
    rest = recorder.take()
    assert taken + (rest.counts["turns"] if rest else 0) == 8000


async def test_a_call_counts_wherever_its_tasks_and_threads_go() -> None:
    recorder = Recorder()

    async def call() -> None:
        figures.recorder.set(recorder)
        figures.count("turns")
        await asyncio.create_task(asyncio.to_thread(figures.took, "stt", 0.5))

    await asyncio.create_task(call())
    figures.count("turns")  # outside of any call, as in a rehearsal
    assert recorder.take() == Figures({"turns": 1}, {"stt": (0.5,)})


@pytest.mark.parametrize("name", ["turn", "responses", "responses.done", "", "stt"])
def test_what_is_no_count_is_an_error_even_where_nobody_listens(name: str) -> None:
    with pytest.raises(ValueError, match=r"is not counted; what is: .*engine_errors\.vad"):
        figures.count(name)


@pytest.mark.parametrize(
    ("name", "seconds"), [("turns", 1.0), ("stt", -0.1), ("stt", math.nan), ("stt", math.inf)]
)
def test_what_is_no_time_is_an_error(name: str, seconds: float) -> None:
    with pytest.raises(ValueError, match=r"is not timed|cannot take"):
        figures.took(name, seconds)


# --- the supervisor's side -------------------------------------------------------------------


def test_what_is_on_the_list_and_makes_sense_is_believed() -> None:
    told = Figures({"turns": 3, "engine_errors.stt": 1}, {"tts": (0.0, 0.5, LONGEST)}, 7)
    believed, dropped = figures.admit(told)
    assert believed.counts == told.counts
    assert {name: times for name, times in believed.times.items() if times} == told.times
    assert dropped == 7


@pytest.mark.parametrize(
    ("told", "dropped"),
    [
        (Figures({"secret words": 1}), 1),
        (Figures({"turns": -5}), 1),
        (Figures({}, {"secret words": (1.0, 2.0)}), 2),
        (Figures({}, {"stt": (math.nan, math.inf, -1.0, LONGEST + 1)}), 4),
        (Figures({}, {"stt": (1.0,) * (MOST_TIMES + 10)}), 10),
        (Figures(dropped=-3), 0),
        (Figures(dropped=1 << 60), MOST_COUNT),
        (Figures({"turns": 1 << 60}), 0),
    ],
)
def test_what_makes_no_sense_is_dropped_and_counted(told: Figures, dropped: int) -> None:
    believed, count = figures.admit(told)
    assert count == dropped
    assert believed.counts.keys() <= COUNTS
    assert all(0 < amount <= MOST_COUNT for amount in believed.counts.values())
    assert believed.times.keys() <= set(TIMED)
    assert all(len(times) <= MOST_TIMES for times in believed.times.values())
    assert all(0 <= time <= LONGEST for times in believed.times.values() for time in times)


_NAMES = st.sampled_from([*COUNTS, *TIMED]) | st.text(max_size=10)


@given(
    counts=st.dictionaries(_NAMES, st.integers(-(1 << 63), (1 << 64) - 1)),
    times=st.dictionaries(_NAMES, st.lists(st.floats(), max_size=100)),
    dropped=st.integers(-(1 << 63), (1 << 64) - 1),
)
def test_whatever_comes_stays_within_bounds(
    counts: dict[str, int], times: dict[str, Any], dropped: int
) -> None:
    wire = msgspec.msgpack.encode({"counts": counts, "times": times, "dropped": dropped})
    believed, lost = figures.admit(msgspec.msgpack.decode(wire, type=Figures))
    assert believed.counts.keys() <= COUNTS
    assert all(0 < amount <= MOST_COUNT for amount in believed.counts.values())
    kept = sum(map(len, believed.times.values()))
    assert 0 <= kept <= MOST_TIMES * len(TIMED)
    assert lost >= sum(map(len, times.values())) - kept
