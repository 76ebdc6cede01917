"""voicepool.tasks: tasks that end with their owner."""

from __future__ import annotations

import asyncio

import pytest

from voicepool.tasks import TaskSet


async def test_a_task_is_kept_until_it_ends_and_gives_its_result() -> None:
    tasks = TaskSet()
    go = asyncio.Event()

    async def work() -> str:
        await go.wait()
        return "done"

    task = tasks.spawn(work())
    assert len(tasks) == 1
    go.set()
    assert await task == "done"
    await asyncio.sleep(0)
    assert len(tasks) == 0


async def test_a_failure_is_for_who_awaits_it_and_nobody_else_hears_of_it() -> None:
    complaints: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    tasks = TaskSet()

    async def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await tasks.spawn(fail())
    tasks.spawn(fail())
    await tasks.close(10)
    assert complaints == []


async def test_closing_cancels_all_and_waits_for_their_last_words() -> None:
    tasks = TaskSet()
    ended: list[int] = []

    async def work(number: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(number)

    for number in range(3):
        tasks.spawn(work(number))
    await asyncio.sleep(0)
    await tasks.close(10)
    assert sorted(ended) == [0, 1, 2]
    await tasks.close(0)


async def test_a_task_that_will_not_end_does_not_hold_up_its_owner() -> None:
    tasks = TaskSet()
    go = asyncio.Event()

    async def stubborn() -> None:
        while not go.is_set():
            try:
                await go.wait()
            except asyncio.CancelledError:
                continue

    task = tasks.spawn(stubborn())
    await asyncio.sleep(0)
    await tasks.close(0.01)
    assert not task.done()
    go.set()
    await task
