"""Who feeds the watchdog: a server that is well, and no other."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.pools import DEADLINE
from voicepool import forker, pool
from voicepool.health import OVERDUE_SECONDS, ailment
from voicepool.poolview import Snapshot
from voicepool.progress import Progress
from voicepool.reloader import Trial
from voicepool.rules import pool_settings
from voicepool.servicelink import ServiceLink, status_line
from voicepool.settings import Settings
from voicepool.systemd import Inheritance, Notifier


def real_pool(**settings: Any) -> pool.Pool:
    return pool.Pool(pool_settings(Settings(app="a:b", **settings)), random.Random(1))


# --- what well means -------------------------------------------------------------------------


async def server(**changes: Any) -> Any:
    """The parts of a supervisor that are looked at, all of them well."""
    machine = real_pool()
    loop = asyncio.get_running_loop()
    prober = loop.create_task(asyncio.sleep(DEADLINE))
    parts = {
        "prober": prober,
        "draining": False,
        "catching_up": False,
        "pool": machine,
        "tick": lambda: machine.handle(pool.Tick(), loop.time()),
        "forker": SimpleNamespace(alive=True),
    }
    return SimpleNamespace(**{**parts, **changes})


async def test_server_that_runs_is_well() -> None:
    assert ailment(await server()) == ""


async def test_pool_that_fails_is_not_well() -> None:
    def tick() -> None:
        raise KeyError("a bug")

    assert ailment(await server(tick=tick)) == "the pool fails"


async def test_missed_deadline_is_not_well() -> None:
    machine = real_pool()
    late = asyncio.get_running_loop().time() - OVERDUE_SECONDS - 1
    machine.handle(pool.ConnectionArrived(1), late - 8)
    overdue = await server(pool=machine, tick=lambda: None)  # a step that leads nowhere
    assert ailment(overdue) == "the pool's deadlines are not met"


async def test_probe_that_has_ended_is_not_well() -> None:
    ended = asyncio.get_running_loop().create_task(asyncio.sleep(0))
    await ended
    assert ailment(await server(prober=ended)) == "memory is not looked at any more"


async def test_no_zygote_is_not_well() -> None:
    assert ailment(await server(forker=SimpleNamespace(alive=False))) == "no zygote is coming"


async def test_zygote_that_a_bug_keeps_from_being_started_again_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = asyncio.Event()

    def fail() -> dict[str, str]:
        failed.set()
        raise KeyError("a bug")

    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    trial = Trial()
    broken = forker.Forker(Settings(app="tests.apps.echo:create"), tmp_path, trial)
    async with asyncio.timeout(DEADLINE):
        broken.start()
        await trial.ready.wait()
        assert ailment(await server(forker=broken)) == ""
        monkeypatch.setattr(forker, "child_environment", fail)
        assert broken.pid is not None
        os.kill(broken.pid, signal.SIGKILL)
        await failed.wait()
    assert ailment(await server(forker=broken)) == "no zygote is coming"
    await broken.retire()


@pytest.mark.parametrize("changes", [{"prober": None}, {"draining": True}])
async def test_server_that_begins_or_ends_is_not_judged(changes: dict[str, Any]) -> None:
    assert ailment(await server(forker=SimpleNamespace(alive=False), **changes)) == ""


# --- what is told ----------------------------------------------------------------------------


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as manager:
        manager.bind(str(tmp_path / "notify"))
        yield manager


async def until(manager: socket.socket, text: str) -> str:
    """The first message with this text."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(DEADLINE):
        while text not in (message := (await loop.sock_recv(manager, 65536)).decode()):
            pass
    return message


async def test_ill_server_starves_the_watchdog_until_it_is_well(
    manager: socket.socket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "voicepool")
    ills = ["", "the pool fails", "the pool fails", ""]
    told: list[str] = []

    def ask() -> str:
        told.append(ills[min(len(told), len(ills) - 1)])
        return told[-1]

    def view() -> tuple[Progress, Snapshot]:
        return Progress("preloading"), real_pool().snapshot()

    inherited = Inheritance(Notifier(str(tmp_path / "notify")), watchdog=0.03)
    link = ServiceLink(inherited, view, ask)
    link.start()
    for _ in range(2):
        await until(manager, "WATCHDOG=1")
    assert told[:4] == ills  # the two between had no sign of life
    link.close()
    health = [vars(record)["ailment"] for record in caplog.records if record.msg == "health"]
    assert health == ["the pool fails", ""]


def test_status_tells_what_matters_at_each_stage() -> None:
    snapshot = real_pool(workers=2).snapshot()
    for progress, line in (
        (Progress("preloading"), "loading what all workers share"),
        (Progress("warming", 0, 2), "warming up: 0 of 2 workers ready"),
        (Progress("trouble", 0, 2, "no model"), "trouble: no model"),
        (Progress("draining"), "draining: 0 calls to finish"),
        (Progress("serving", 2, 2), "0 calls of at most 2, 0 idle, 0 waiting"),
        (Progress("serving", 1, 2, "tight"), "0 calls of at most 2, 0 idle, 0 waiting; tight"),
    ):
        assert status_line(progress, snapshot) == line
