"""The samples that Prometheus has of a voicepool host, and the labels and values they can have:
what the queries in `deploy/` are held to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache

from voicepool.poolspec import DEADLINES, Reason

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
    """Every metric of ours that is served at /metrics.

    To be replaced by the table that the metrics themselves are made from: this function, and the
    constants from here to PROCESS.
    """
    for line in _GAUGES.split():
        yield Metric(line, "gauge")
    for line in _COUNTERS.split():
        yield Metric(line, "counter")
    for line in _HISTOGRAMS.split():
        yield Metric(line, "histogram")
    for name, kind, label, values in _LABELLED:
        yield Metric(name, kind, {label: values})


_GAUGES = """
    voicepool_ready voicepool_draining voicepool_halted voicepool_idle_target
    voicepool_configured_workers voicepool_slots voicepool_calls voicepool_waiting_callers
    voicepool_waiting_limit voicepool_spawn_failures_in_a_row voicepool_workers_pss_bytes
"""
_COUNTERS = """
    voicepool_callers voicepool_calls_accepted voicepool_callers_gone voicepool_callers_retried
    voicepool_worker_spawns voicepool_worker_failures voicepool_zygote_restarts
    voicepool_relay_restarts voicepool_turns voicepool_interruptions
    voicepool_worker_figures_dropped voicepool_log_lines_dropped
"""
_HISTOGRAMS = """
    voicepool_queue_seconds voicepool_handoff_seconds voicepool_call_seconds
    voicepool_warmup_seconds voicepool_voice_to_voice_seconds
"""
_DOOR = """
    bad_request bad_host invalid_api_key host_not_allowed origin_not_allowed not_found
    request_timeout starting rate_limited overloaded other
"""
_LIMITS = "call_limit idle_limit worker_age message_size"
_MEMORY = "soft_limit hard_limit vram_soft_limit vram_hard_limit"
_REASONS = frozenset({*map(str, Reason), *_DOOR.split()})
_LABELLED: tuple[tuple[str, str, str, Values], ...] = (
    ("voicepool_build_info", "gauge", "version", None),
    ("voicepool_workers", "gauge", "state", frozenset(state.value for state in DEADLINES)),
    (
        "voicepool_calls_ended",
        "counter",
        "outcome",
        frozenset({"completed", "stopped", "failed", "lost"}),
    ),
    ("voicepool_refusals", "counter", "reason", _REASONS),
    ("voicepool_limits", "counter", "limit", frozenset(f"{_LIMITS} {_MEMORY}".split())),
    ("voicepool_worker_exits", "counter", "cause", None),
    ("voicepool_reloads", "counter", "result", frozenset({"done", "refused"})),
    (
        "voicepool_responses",
        "counter",
        "status",
        frozenset({"completed", "cancelled", "failed", "incomplete"}),
    ),
    ("voicepool_stage_seconds", "histogram", "stage", frozenset({"stt", "llm", "tts"})),
    ("voicepool_engine_errors", "counter", "stage", frozenset({"vad", "stt", "llm", "tts"})),
    ("voicepool_device_memory_bytes", "gauge", "device", None),
    ("voicepool_device_others_bytes", "gauge", "device", None),
    ("voicepool_device_reserved_bytes", "gauge", "device", None),
    ("voicepool_device_room_workers", "gauge", "device", None),
    ("voicepool_device_missing", "gauge", "device", None),
    ("voicepool_workers_vram_bytes", "gauge", "device", None),
)

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
