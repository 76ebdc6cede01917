"""The looks at RAM and GPUs that a server takes all the time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from dataclasses import replace

import pytest

from voicepool import hostprobe, linux
from voicepool.budget import HOST, Reading
from voicepool.config import Settings
from voicepool.gpu import Gpu
from voicepool.gpuprobe import FIRST_PATIENCE, GpuProbe
from voicepool.hostprobe import HostProbe
from voicepool.ipc import Sight
from voicepool.pool import BudgetChanged, Pool
from voicepool.rules import pool_settings


async def test_one_look_that_fails_is_not_the_last(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(hostprobe, "PROBE_SECONDS", 0.01)
    reading = Reading(8 << 30, 1 << 30)
    looks = iter([ValueError("a figure that nobody has thought of")])

    def host_memory() -> Reading:
        for error in looks:
            raise error
        return reading

    monkeypatch.setattr(linux, "host_memory", host_memory)
    settings = Settings(profile="embedded")
    pool = Pool(pool_settings(settings), random.Random(1))
    told: asyncio.Future[BudgetChanged] = asyncio.get_running_loop().create_future()

    def tell(event: BudgetChanged) -> None:
        if not told.done():
            told.set_result(event)

    probe = HostProbe(settings, tell, pool.snapshot, lambda _: None)
    probe.open(zygote=0)
    looking = asyncio.create_task(probe.run())
    try:
        async with asyncio.timeout(10):
            assert (await told).readings == {HOST: reading}
    finally:
        looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await looking
        await probe.close()
    errors = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert errors == ["memory cannot be looked at"]


async def test_ram_is_watched_while_the_driver_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostprobe, "PROBE_SECONDS", 0.01)
    card = Gpu("GPU-1", "0", "A10G", total=24 << 30, used=1 << 30)
    answers = asyncio.Event()

    async def look(_: GpuProbe, patience: float = 0.0) -> Sight:
        if patience < FIRST_PATIENCE:
            await answers.wait()
        return Sight(gpus=(card,))

    monkeypatch.setattr(GpuProbe, "look", look)
    settings = Settings(app="a.b:c", gpus="auto")
    pool = Pool(pool_settings(settings), random.Random(1))
    told: asyncio.Queue[BudgetChanged] = asyncio.Queue()
    probe = HostProbe(settings, told.put_nowait, pool.snapshot, lambda _: None)
    await probe.prepare()
    probe.open(zygote=0)
    looking = asyncio.create_task(probe.run())
    try:
        async with asyncio.timeout(10):
            for _ in range(3):
                event = await told.get()
                assert event.readings[HOST] is not None
                assert event.readings["cuda:0"] == Reading(card.total, card.used)
            card = replace(card, used=9 << 30)
            answers.set()
            while event.readings["cuda:0"] != Reading(card.total, card.used):
                event = await told.get()
    finally:
        looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await looking
        await probe.close()
