"""Figures of three nodes behind HAProxy: what scripts/try-haproxy runs.

The configuration is as shipped, with its own times. Every row says how many callers were served,
refused and cut, and how long they waited from connect() to their first message.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from websockets.asyncio.client import connect

from tests.balancing import (
    NAMES,
    Call,
    Cluster,
    Crowd,
    call,
    hang_a_node,
    lose_a_node,
    upgrade_all,
)
from tests.pools import DEADLINE

FRAME = "x" * 1320
"""20 ms of 24 kHz PCM, as /v1/realtime carries it."""
FRAMES_PER_SECOND = 50


async def turnover(cluster: Cluster, callers: int, rounds: int = 5) -> Crowd:
    """Twice as many callers as slots, who all come and go at the same moments."""
    crowd = Crowd(cluster.url, callers)
    for _ in range(rounds):
        pending = (call(cluster.url, 0.2) for _ in range(callers))
        crowd.calls += await asyncio.gather(*pending)
    return crowd


def row(name: str, calls: Sequence[Call], note: str = "") -> str:
    verdicts = [done.verdict for done in calls]
    waits = sorted(done.waited for done in calls if done.verdict == "served")
    columns = [
        name,
        *(str(verdicts.count(verdict)) for verdict in ("served", "refused", "cut")),
        f"{1000 * statistics.median(waits):.0f} ms" if waits else "",
        f"{1000 * waits[-1]:.0f} ms" if waits else "",
        note,
    ]
    return "| " + " | ".join(columns) + " |"


HEADER = """\
| what happens | served | refused | cut | wait p50 | longest | |
|---|---|---|---|---|---|---|"""


async def first_message(url: str) -> float:
    """Seconds from connect() to the first message."""
    began = time.perf_counter()
    async with connect(url, proxy=None, open_timeout=DEADLINE) as client:
        await client.recv()
        return time.perf_counter() - began


async def latency(cluster: Cluster, samples: int) -> str:
    """Callers one at a time, alternately to a node and through the balancer."""
    node = cluster.nodes[NAMES[0]]
    urls = {"direct": node.url + "/echo", "balanced": cluster.url}
    taken: dict[str, list[float]] = {name: [] for name in urls}
    for number in range(samples):
        for name in sorted(urls, reverse=bool(number % 2)):
            await asyncio.to_thread(_until_warm, cluster)
            taken[name].append(await first_message(urls[name]))
    direct, balanced = (1000 * statistics.median(taken[name]) for name in ("direct", "balanced"))
    return (
        f"connect to first message, p50 of {samples}: {direct:.2f} ms straight to a node, "
        f"{balanced:.2f} ms through HAProxy"
    )


def _until_warm(cluster: Cluster) -> None:
    for node in cluster.nodes.values():
        node.until_idle()


async def cost(cluster: Cluster, calls: int, seconds: float) -> str:
    """CPU time of HAProxy for calls that carry audio both ways."""
    ready = asyncio.Barrier(calls + 1)

    async def talk() -> None:
        async with connect(cluster.url, proxy=None, open_timeout=DEADLINE) as client:
            await client.recv()
            await ready.wait()
            begin = time.monotonic()
            for number in range(int(seconds * FRAMES_PER_SECOND)):
                await asyncio.sleep(begin + number / FRAMES_PER_SECOND - time.monotonic())
                await client.send(FRAME)
                await client.recv()
            await ready.wait()

    async with asyncio.TaskGroup() as group:
        for _ in range(calls):
            group.create_task(talk())
        await ready.wait()
        before, began = cluster.balancer.cpu(), time.monotonic()
        await ready.wait()
        used, took = cluster.balancer.cpu() - before, time.monotonic() - began
    each = 1000 * used / (calls * took)
    return (
        f"{calls} calls with {FRAMES_PER_SECOND} messages a second each way, for {took:.0f} s: "
        f"{each:.2f} ms of HAProxy's CPU time per second of a call"
    )


async def in_a_cluster(
    work: Callable[[Cluster], Awaitable[None]], slots: int, **settings: Any
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cluster = await asyncio.to_thread(
            lambda: Cluster(Path(folder), slots=slots, log_level="warning", **settings)
        )
        try:
            await work(cluster)
        finally:
            await asyncio.to_thread(cluster.close)


async def main(slots: int, samples: int) -> None:
    total = slots * len(NAMES)

    async def holding(cluster: Cluster) -> None:
        print(await latency(cluster, samples), flush=True)
        print(await cost(cluster, min(total, 12), 10.0), flush=True)
        print(f"\n{len(NAMES)} nodes of {slots} slots\n\n{HEADER}")
        crowd = await turnover(cluster, 2 * total)
        print(row(f"{2 * total} callers on {total} slots, come and go at once", crowd.calls))
        for name, trial in (
            ("kill -9 of a node", lose_a_node),
            ("a supervisor hangs (SIGSTOP)", hang_a_node),
            ("upgrade of all nodes in turn", upgrade_all),
        ):
            crowd = await trial(cluster, total)
            cut = {done.node for done in crowd.calls if done.verdict == "cut"}
            note = f"cut on {', '.join(sorted(cut))}" if cut else ""
            print(row(f"{name}, {total} callers", crowd.calls, note), flush=True)

    async def refusing(cluster: Cluster) -> None:
        crowd = await turnover(cluster, 2 * total)
        name = "the same come and go, nodes that refuse instead of holding"
        print(row(name, crowd.calls, "max_waiting = 0"))

    await in_a_cluster(holding, slots, drain_notice=2.0)
    await in_a_cluster(refusing, slots, drain_notice=2.0, max_waiting=0, queue_timeout=0.0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slots", type=int, default=8, help="callers that each node takes")
    parser.add_argument("--samples", type=int, default=100, help="of the latency")
    given = parser.parse_args()
    asyncio.run(main(given.slots, given.samples))
