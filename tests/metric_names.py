"""The samples that Prometheus has of a voicepool host, and the labels and values they can have:
what the queries in `deploy/` are held to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache

from voicepool.metricspec import METRICS

Values = frozenset[str] | None
"""What a label can be; None: anything."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One family, by the name that the code knows it by: a counter's without `_total`."""

    name: str
    kind: str
    """counter, gauge or histogram."""
    labels: Mapping[str, Values] = field(default_factory=dict)


def _table() -> Iterator[Metric]:
    """Every metric of ours that is served at /metrics."""
    for each in METRICS:
        labels = {each.label: frozenset(each.values) or None} if each.label else {}
        yield Metric(each.full_name.removesuffix("_total"), each.kind.value, labels)


PROCESS = (
    Metric("process_cpu_seconds", "counter"),
    Metric("process_max_fds", "gauge"),
    Metric("process_open_fds", "gauge"),
    Metric("process_resident_memory_bytes", "gauge"),
    Metric("process_start_time_seconds", "gauge"),
    Metric("process_virtual_memory_bytes", "gauge"),
)
"""What prometheus_client's ProcessCollector tells of the supervisor."""

SCRAPE: Mapping[str, Values] = {"job": frozenset({"voicepool"}), "instance": None}
"""The labels that Prometheus itself puts on what it scrapes."""

_BY_PROMETHEUS = (
    Metric("up", "gauge"),
    Metric("ALERTS", "gauge", dict.fromkeys(("alertname", "alertstate", "severity"))),
)


@cache
def metrics() -> Mapping[str, Metric]:
    """Every family that is served, by its name."""
    return {metric.name: metric for metric in (*_table(), *PROCESS)}


@cache
def samples() -> Mapping[str, Mapping[str, Values]]:
    """Every sample by its name, with the labels that it has once it was scraped."""
    found: dict[str, Mapping[str, Values]] = {}
    for metric in (*metrics().values(), *_BY_PROMETHEUS):
        labels = {**SCRAPE, **metric.labels}
        for suffix, more in _SUFFIXES[metric.kind].items():
            found[metric.name + suffix] = {**labels, **more}
    return found


_SUFFIXES: Mapping[str, Mapping[str, Mapping[str, Values]]] = {
    "gauge": {"": {}},
    "counter": {"_total": {}},
    "histogram": {"_bucket": {"le": None}, "_sum": {}, "_count": {}},
}
