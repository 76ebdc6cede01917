"""/metrics of a running server, as Prometheus reads it."""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.pools import DEADLINE, PoolServer

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None and "CI" not in os.environ,
    reason="promtool is not installed (Debian: apt install prometheus)",
)


class Scrape(dict[str, float]):
    """Samples by name and label value: "voicepool_slots", "voicepool_workers idle". Prefix and
    `_total` are as exposed; buckets are left out."""

    def of(self, name: str) -> Mapping[str, float]:
        """One metric's samples by label value."""
        start = f"voicepool_{name} "
        return {
            key.removeprefix(start): value for key, value in self.items() if key.startswith(start)
        }


def parse(text: str) -> Scrape:
    scrape = Scrape()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if "le" not in sample.labels:
                scrape[" ".join([sample.name, *sample.labels.values()])] = sample.value
    return scrape


def get(server: PoolServer, method: str = "GET", **headers: str) -> tuple[int, str, str]:
    """Status, content type, body."""
    connection = (
        http.client.HTTPSConnection(*server.address, timeout=DEADLINE, context=server.trust)
        if server.trust
        else http.client.HTTPConnection(*server.address, timeout=DEADLINE)
    )
    try:
        connection.request(method, "/metrics", headers=headers)
        response = connection.getresponse()
        body = response.read().decode()
        return response.status, response.headers["Content-Type"], body
    finally:
        connection.close()


def scrape(server: PoolServer, **headers: str) -> Scrape:
    status, _, text = get(server, **headers)
    assert status == 200, text
    return parse(text)


def until(server: PoolServer, condition: Callable[[Scrape], bool], what: str) -> Scrape:
    """Wait until /metrics looks so."""
    seen: list[Scrape] = []

    def look() -> bool:
        seen.append(scrape(server))
        return condition(seen[-1])

    server.until(look, what)
    return seen[-1]


def promtool_says(text: str) -> str:
    """What promtool finds wrong with the metrics; "" where it is content."""
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0 or done.stderr, done
    return done.stdout + done.stderr
