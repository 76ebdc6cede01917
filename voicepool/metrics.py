"""The metrics as they are kept and told: one registry per server, made from `metricspec.METRICS`.

What the server has anyway is read when somebody asks; only what passes (a hand-off, a refusal, what
a worker tells of its call) is counted as it happens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric as Family

from voicepool.bench.samples import percentile
from voicepool.figures import Figures, admit
from voicepool.metricspec import (
    LATENCIES,
    METRICS,
    MOST_REFUSALS,
    OTHER,
    OUTCOMES,
    REFUSALS,
    Kind,
    Metric,
    Source,
)

Value = float | Mapping[str, float]
"""Of a metric without a label; or by the values of its label."""
State = Mapping[str, Value]
"""The values of all metrics whose source is STATE, by name without prefix."""

RECENT: Final = 512
"""Observations of each latency that /status looks back on."""
_REQUEST_TIMEOUT: Final = (408, "timeout")
"""A request that did not arrive in time is no caller for whom no worker came in time."""


class Metrics:
    """What one server has observed, and its answers to /metrics. For the event loop alone."""

    def __init__(self, state: Callable[[], State]) -> None:
        """`state` is asked at every scrape."""
        # A gauge more for each series, which says when it began; a server's uptime says as much.
        disable_created_metrics()  # type: ignore[no-untyped-call, unused-ignore]
        self._registry = CollectorRegistry()
        self._registry.register(_StateCollector(state))
        ProcessCollector(registry=self._registry)
        self._counters = dict[str, Counter]()
        self._histograms = dict[str, Histogram]()
        for metric in METRICS:
            if metric.source is not Source.STATE:
                self._add(metric)
        self._refusals = {*REFUSALS, OTHER}
        self._recent = {place: deque[float](maxlen=RECENT) for place in LATENCIES.values()}

    def _add(self, metric: Metric) -> None:
        labels = (metric.label,) if metric.label else ()
        made: Counter | Histogram
        if metric.kind is Kind.COUNTER:
            made = Counter(metric.full_name, metric.help, labels, registry=self._registry)
            self._counters[metric.name] = made
        else:
            made = Histogram(
                metric.full_name,
                metric.help,
                labels,
                registry=self._registry,
                buckets=metric.buckets,
            )
            self._histograms[metric.name] = made
        for value in metric.values:
            made.labels(value)

    # -- what passes

    def count(self, name: str, label: str = "", amount: int = 1) -> None:
        """Add to a counter of METRICS. `label`: of the values that the table names."""
        counter = self._counters[name]
        (counter.labels(label) if label else counter).inc(amount)

    def observe(self, name: str, seconds: float, label: str = "") -> None:
        """Note a time in a histogram of METRICS, and for /status where it shows that."""
        histogram = self._histograms[name]
        (histogram.labels(label) if label else histogram).observe(seconds)
        recent = self._recent.get((name, label))
        if recent is not None:
            recent.append(seconds)

    def refused(self, status: int, code: str, count: int = 1) -> None:
        """So many requests were answered with this error."""
        reason = "request_timeout" if (status, code) == _REQUEST_TIMEOUT else code
        if reason not in self._refusals:
            if len(self._refusals) < MOST_REFUSALS:
                self._refusals.add(reason)
            else:
                reason = OTHER
        self.count("refusals_total", reason, count)

    def ended(self, outcome: str, seconds: float) -> None:
        """A call is over after so long. `outcome` is its worker's word."""
        self.count("calls_ended_total", outcome if outcome in OUTCOMES else "failed")
        self.observe("call_seconds", seconds)

    def take(self, told: Figures) -> None:
        """What a worker tells of its call."""
        figures, dropped = admit(told)
        for figure, amount in figures.counts.items():
            name, _, label = figure.partition(".")
            self.count(f"{name}_total", label, amount)
        for name, times in figures.times.items():
            metric, label = LATENCIES[name]
            for seconds in times:
                self.observe(metric, seconds, label)
        self.count("worker_figures_dropped_total", amount=dropped)

    # -- what is told of it

    def latency(self) -> dict[str, dict[str, float | int | None]]:
        """For /status: percentiles of the latest RECENT observations of each kind, in seconds."""
        return {name: _percentiles(self._recent[place]) for name, place in LATENCIES.items()}

    def expose(self, accept: str) -> tuple[bytes, str]:
        """All metrics and their content type: OpenMetrics or Prometheus's text format, by the
        Accept header."""
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # a version there that is no number
            encode, content_type = choose_encoder("")
        return encode(self._registry), content_type


def _percentiles(recent: Sequence[float]) -> dict[str, float | int | None]:
    samples = sorted(recent)  # for all percentiles, which sort what they get
    return {
        "p50": round(percentile(samples, 0.5), 6) if samples else None,
        "p95": round(percentile(samples, 0.95), 6) if samples else None,
        "count": len(samples),
    }


class _StateCollector:
    """Reads the server's state at a scrape."""

    def __init__(self, state: Callable[[], State]) -> None:
        self._state = state

    def describe(self) -> list[Family]:
        """Nothing: asked for when registered, when there is no state to read yet."""
        return []

    def collect(self) -> Iterator[Family]:
        state = self._state()
        for metric in METRICS:
            if metric.source is Source.STATE:
                yield _family(metric, state[metric.name])


def _family(metric: Metric, value: Value) -> Family:
    make = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
    if not isinstance(value, Mapping):
        return make(metric.full_name, metric.help, value=value)
    family = make(metric.full_name, metric.help, labels=(metric.label,))
    for label, amount in value.items():
        family.add_metric((label,), amount)
    return family
