"""The looks at RAM and GPUs that a server takes all the time."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest

from voicepool import hostprobe, linux
from voicepool.budget import HOST, Reading
from voicepool.config import Settings
from voicepool.hostprobe import HostProbe
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
    assert [record.message for record in caplog.records] == ["memory cannot be looked at"]
