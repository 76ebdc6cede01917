"""Callers under fire: workers are killed and stopped in every state, and the books must balance."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tests.pools import PoolServer, hello

Start = Callable[..., PoolServer]

CALLERS = 200
AT_ONCE = 12
MESSAGES = 20


def call(server: PoolServer, seed: int) -> str:
    """One caller who streams bytes and checks all that come back: its one outcome."""
    rng = random.Random(seed)
    try:
        with server.call() as client:
            hello(client)
            for _ in range(MESSAGES):
                sent = rng.randbytes(rng.randrange(1, 8192))
                client.send(sent)
                got = client.recv(timeout=60)
                assert isinstance(got, bytes)
                if hashlib.sha256(got).digest() != hashlib.sha256(sent).digest():
                    return "corrupt"
        return "served"
    except (ConnectionClosed, InvalidHandshake, OSError) as error:
        return f"failed: {type(error).__name__}"


class Sniper(threading.Thread):
    """Kills or stops random workers while callers come and go."""

    def __init__(self, server: PoolServer, seed: int, signums: list[int]) -> None:
        super().__init__(daemon=True)
        self.server = server
        self.rng = random.Random(seed)
        self.signums = signums
        self.enough = threading.Event()
        self.shots: Counter[str] = Counter()

    def run(self) -> None:
        while not self.enough.wait(self.rng.uniform(0.02, 0.12)):
            with contextlib.suppress(OSError, IndexError):
                target = self.rng.choice(self.server.workers())
                if target["pid"]:
                    os.kill(target["pid"], self.rng.choice(self.signums))
                    self.shots[target["state"]] += 1


@pytest.mark.timeout(400)  # those who are stopped take their deadlines, one after another
@pytest.mark.parametrize(
    "signums", [[signal.SIGKILL], [signal.SIGKILL, signal.SIGSTOP]], ids=["kill", "kill-stop"]
)
def test_every_caller_has_one_outcome_under_random_kills(
    start_pool: Start, signums: list[int], record_property: Callable[[str, Any], None]
) -> None:
    server = start_pool(
        workers=4,
        spare=2,
        warmups=2,
        max_waiting=64,
        queue_timeout=60,
        # Whoever is stopped while it starts or warms up is found by its deadline alone.
        hello_timeout=3.0,
        warm_up_timeout=3.0,
        ack_timeout=0.5,
        heartbeat_timeout=1.5,
        stop_timeout=0.5,
        log_level="info",
    )
    before = server.until_idle(), server.fds(), len(server.family()), _private(server)
    sniper = Sniper(server, seed=7, signums=signums)
    sniper.start()
    with ThreadPoolExecutor(AT_ONCE) as callers:
        outcomes = Counter(callers.map(lambda seed: call(server, seed), range(CALLERS)))
    sniper.enough.set()
    sniper.join(60)
    status = server.until_idle()
    totals = status["totals"]
    record_property("outcomes", dict(outcomes))
    record_property("shots", dict(sniper.shots))
    failed = sum(count for outcome, count in outcomes.items() if outcome.startswith("failed"))
    assert sum(outcomes.values()) == CALLERS
    assert outcomes["corrupt"] == 0
    # Whoever failed had a worker that was lost while it served.
    assert failed <= totals["lost"] <= sum(sniper.shots.values())
    assert outcomes["served"] == CALLERS - failed
    # The supervisor's books: everybody arrived, and came to exactly one end.
    ends = totals["completed"] + totals["lost"] + totals["gone"]
    assert totals["arrived"] == CALLERS == ends + sum(totals["refused"].values())
    assert sniper.shots.total() > 10
    server.until(lambda: len(server.family()) == before[2], "was back to its processes")
    server.until(lambda: server.fds() <= before[1], "was back to its descriptors")
    assert server.until(lambda: _private(server) < 2 * before[3], "was back to its memory")
    assert "Z" not in server.family().values()


def _private(server: PoolServer) -> int:
    """Private bytes of the supervisor and all its workers."""
    total = 0
    for pid in server.family():
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Private_"):
                    total += int(line.split()[1]) * 1024
    return total


@pytest.mark.parametrize("target", ["zygote", "idle", "serving"])
def test_capacity_comes_back_by_itself(start_pool: Start, target: str) -> None:
    server = start_pool(workers=3, log_level="info")
    with contextlib.ExitStack() as calls:
        if target == "serving":
            for _ in range(3):
                hello(calls.enter_context(server.call()))
        status = server.status()
        victims = (
            [status["server"]["zygote"]["pid"]]
            if target == "zygote"
            else [worker["pid"] for worker in status["workers"] if worker["state"] == target]
        )
        assert victims
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
    server.until(lambda: not set(victims) & server.family().keys(), "buried the victims")
    server.until_status(
        lambda s: s["server"]["zygote"]["pid"] not in (None, *victims), "has a zygote"
    )
    server.until_idle()
    with server.call() as caller:
        assert hello(caller)
