"""A real Prometheus scrapes two hosts as `deploy/` says, judges the rules, and answers every query
of the dashboard."""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from tests.metric_names import Metric, metrics, samples
from tests.pools import PoolServer
from tests.prometheus import Prometheus

KEY = "a-key-of-the-server"
DASHBOARD = Path(__file__).parent.parent / "deploy" / "grafana" / "voicepool.json"

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None and "CI" not in os.environ,
    reason="Prometheus is not installed (Debian: apt install prometheus)",
)


class Host(ThreadingHTTPServer):
    """Says at /metrics what a voicepool host with calls could say, to who has the key."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.registry = CollectorRegistry()
        self._families = [(metric, _family(metric, self.registry)) for metric in metrics().values()]

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def live_on(self) -> None:
        """Something of everything happens."""
        for metric, family in self._families:
            for child in _children(metric, family):
                match child:
                    case Counter():
                        child.inc()
                    case Gauge():
                        child.set(1)
                    case Histogram():
                        child.observe(0.3)


class _Answer(BaseHTTPRequestHandler):
    server: Host

    def do_GET(self) -> None:
        if self.headers["Authorization"] != f"Bearer {KEY}":
            self.send_error(HTTPStatus.UNAUTHORIZED)
            return
        self.server.live_on()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(generate_latest(self.server.registry))

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _family(metric: Metric, registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    kinds: dict[str, type[Counter | Gauge | Histogram]] = {
        "counter": Counter,
        "gauge": Gauge,
        "histogram": Histogram,
    }
    return kinds[metric.kind](metric.name, "Something.", tuple(metric.labels), registry=registry)


def _children(metric: Metric, family: Any) -> Iterator[Any]:
    if not metric.labels:
        yield family
    for values in metric.labels.values():  # one label at most
        for value in values or {"cuda:0"}:
            yield family.labels(value)


@pytest.fixture(scope="module")
def hosts() -> Iterator[list[str]]:
    """Where two hosts are."""
    servers = [Host(), Host()]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    yield [server.target for server in servers]
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def prometheus(hosts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """One that has seen both hosts twice, so that there are rates."""
    server = Prometheus(tmp_path_factory.mktemp("prometheus"), hosts, KEY)
    try:
        server.until(
            lambda: len(server.query("count_over_time(voicepool_ready[1m]) >= 2")) == len(hosts),
            "scraped both hosts twice",
        )
        yield server
    finally:
        server.close()


def test_the_hosts_are_scraped_with_the_key(prometheus: Prometheus, hosts: list[str]) -> None:
    up = prometheus.until(
        lambda: len(found := prometheus.query("up == 1")) == len(hosts) and found, "scraped both"
    )
    assert {each["metric"]["instance"] for each in up} == set(hosts)


def test_every_rule_can_be_evaluated(prometheus: Prometheus) -> None:
    def evaluated() -> list[dict[str, Any]]:
        rules = prometheus.rules()
        return rules if all(rule["health"] != "unknown" for rule in rules) else []

    rules = prometheus.until(evaluated, "evaluated every rule")
    assert len(rules) > 20
    assert {rule["name"]: rule.get("lastError") for rule in rules if rule["health"] != "ok"} == {}


def test_every_query_of_the_dashboard_has_an_answer(
    prometheus: Prometheus, hosts: list[str]
) -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    chosen = "|".join(map(re.escape, hosts)).replace("\\", "\\\\")
    queries = {
        target["expr"]: target.get("legendFormat", "")
        for panel in panels
        for target in panel.get("targets", [])
    }
    assert len(queries) > 50
    for query, legend in queries.items():
        asked = query.replace("$__rate_interval", "1m").replace("$instance", chosen)
        # A scrape that a busy machine was too slow for leaves it without one until the next.
        answer = prometheus.until(partial(prometheus.query, asked), f"answered {query}")
        labels = {name for each in answer for name in each["metric"]}
        assert set(re.findall(r"\{\{(\w+)\}\}", legend)) <= labels, query


def test_a_server_is_scraped_as_we_ship_it(
    start_pool: Callable[..., PoolServer], tmp_path: Path
) -> None:
    """With a key of scope admin; and it has all that the rules and the dashboard ask for."""
    server = start_pool(workers=1, admin_keys=[KEY])
    prometheus = Prometheus(tmp_path, ["{}:{}".format(*server.address)], KEY)
    try:
        prometheus.until(lambda: prometheus.query("voicepool_ready == 1"), "scraped the server")
        there = {each["metric"]["__name__"] for each in prometheus.query('{job="voicepool"}')}
    finally:
        prometheus.close()
    # There is no GPU, and there need not be an alert.
    assert set(samples()) - there - {"ALERTS"} == {"voicepool_workers_vram_bytes"}
