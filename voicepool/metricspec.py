"""The metrics: every name, type, label and bucket, in one table. Pure.

`metrics.py` makes the registry from it, scripts/make-metrics-table the table in docs/metrics.md.
Names follow Prometheus's conventions: base units, counters end in `_total`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal

from voicepool.figures import COUNTED
from voicepool.poolspec import LIMITS, Reason
from voicepool.pooltables import DEADLINES
from voicepool.ratelimits import CODES

PREFIX: Final = "voicepool_"


class Kind(Enum):
    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


class Source(Enum):
    """Where a value comes from."""

    STATE = "state"
    """The server has it anyway; it is read when somebody asks (`metricstate.py`)."""
    EVENT = "event"
    """It is counted or timed as it happens (`metrics.Metrics`)."""
    WORKER = "worker"
    """The same, by the workers: it comes as `figures.Figures`."""


Group = Literal["server", "pool", "callers", "workers", "speech", "devices", "logs"]

QUICK: Final = (
    *(0.00025, 0.0005, 0.00075, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075),
    *(0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0, 10.0),
)
"""A hand-off takes a millisecond, and at most `ack_timeout`."""
WAITS: Final = (
    *(0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0),
)
"""Nothing at all, or up to `queue_timeout`."""
REPLIES: Final = (
    *(0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
    *(1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.5, 10.0, 20.0),
)
"""What people notice in a conversation, fine around the half second that they expect."""
WARM_UPS: Final = (
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0),
    *(60.0, 120.0, 180.0, 300.0, 450.0, 600.0),
)
CALLS: Final = (
    1.0,
    5.0,
    15.0,
    30.0,
    60.0,
    120.0,
    180.0,
    300.0,
    600.0,
    900.0,
    1800.0,
    2700.0,
    3600.0,
)

OTHER: Final = "other"
"""The label of what has none of its own."""
OUTCOMES: Final = ("completed", "stopped", "failed", "lost")
REFUSED_FOR: Final = (Reason.FULL, Reason.TIMEOUT, Reason.UNAVAILABLE, Reason.DRAINING)
"""What the pool refuses callers for."""
STATES: Final = tuple(state.value for state in DEADLINES)
EXITS: Final = (
    *("ended", "crashed", "spawn_failed"),
    *(reason.value for reason in Reason if reason not in (*REFUSED_FOR[:3],)),
)
"""Why workers are gone."""
REFUSALS: Final = (
    *(reason.value for reason in REFUSED_FOR),
    *(
        "starting",
        "invalid_api_key",
        "insufficient_scope",
        "host_not_allowed",
        "origin_not_allowed",
        "bad_host",
        "bad_request",
    ),
    *(
        "request_timeout",
        "invalid_session",
        "overloaded",
        "not_found",
        "tls_required",
        "bad_proxy_header",
    ),
    *(*CODES, "too_many_heads_from_address"),
)
"""Reasons that are there from the start, so that their first time is seen as an increase."""
MOST_REFUSALS: Final = 64
"""Reasons that are told apart. They are words of the program's own, and few; this is for the day
on which one of them is not."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric family."""

    name: str
    """With PREFIX it is what Prometheus sees."""
    group: Group
    kind: Kind
    help: str
    source: Source = Source.STATE
    label: str = ""
    """The name of its one label, "" where it has none."""
    values: tuple[str, ...] = ()
    """The label's values that are there from the start."""
    buckets: tuple[float, ...] = ()

    @property
    def full_name(self) -> str:
        return PREFIX + self.name


def _state(
    group: Group, name: str, help: str, *, label: str = "", values: tuple[str, ...] = ()
) -> Metric:
    kind = Kind.COUNTER if name.endswith("_total") else Kind.GAUGE
    return Metric(name, group, kind, help, label=label, values=values)


def _count(
    group: Group,
    name: str,
    help: str,
    *,
    label: str = "",
    values: tuple[str, ...] = (),
    source: Source = Source.EVENT,
) -> Metric:
    return Metric(name, group, Kind.COUNTER, help, source, label, values)


def _times(
    group: Group,
    name: str,
    help: str,
    buckets: tuple[float, ...],
    *,
    label: str = "",
    values: tuple[str, ...] = (),
    source: Source = Source.EVENT,
) -> Metric:
    return Metric(name, group, Kind.HISTOGRAM, help, source, label, values, buckets)


_WORKER: Final = Source.WORKER

METRICS: Final = (
    _state("server", "build_info", "Always 1; the label has the version.", label="version"),
    _state("server", "ready", "1 where a new caller would be served or held, as /readyz says."),
    _state("server", "draining", "1 once the server serves nobody new."),
    _state("server", "halted", "1 where no worker starts until the configuration is mended."),
    _state("pool", "workers", "Live workers by state.", label="state", values=STATES),
    _state("pool", "idle_target", "Idle workers that there should be now."),
    _state("pool", "configured_workers", "The setting `workers`."),
    _state("pool", "slots", "The setting `max_connections`: callers served at once."),
    _state("pool", "calls", "Calls in progress, hand-offs included."),
    _state("pool", "waiting_callers", "Callers who wait for a worker."),
    _state("pool", "waiting_limit", "The setting `max_waiting`: callers that may wait."),
    _state(
        "pool",
        "spawn_failures_in_a_row",
        "Rounds of starting workers that failed in a row; there are pauses between them.",
    ),
    _state("callers", "callers_total", "WebSocket callers who were let in to the pool."),
    _state("callers", "calls_accepted_total", "Callers whom a worker has taken."),
    _count(
        "callers",
        "calls_ended_total",
        "Calls that ended: by themselves (completed), by the server (stopped), by an error of the "
        "app's (failed), with their worker's death (lost).",
        label="outcome",
        values=OUTCOMES,
    ),
    _state("callers", "callers_gone_total", "Callers who hung up before they were served."),
    _state(
        "callers",
        "callers_retried_total",
        "Callers who waited again, for their worker died before it took them.",
    ),
    _count(
        "callers",
        "refusals_total",
        "Requests that were refused, by error.code of the answer; request_timeout where the "
        "request itself came too late, invalid_session where a client secret was asked for with a "
        "session that is none.",
        label="reason",
        values=(*REFUSALS, OTHER),
    ),
    _state(
        "callers",
        "limits_total",
        "Times that a limit was reached: what ended a call or a worker, or will when it is idle.",
        label="limit",
        values=tuple(limit.value for limit in LIMITS),
    ),
    _times(
        "callers",
        "queue_seconds",
        "From a caller's complete request head to the choice of a worker, of those accepted.",
        WAITS,
    ),
    _times(
        "callers",
        "handoff_seconds",
        "From the choice of a worker to its acknowledgement that it has the caller's socket.",
        QUICK,
    ),
    _times("callers", "call_seconds", "From the acknowledgement to the end of the call.", CALLS),
    _state("workers", "worker_spawns_total", "Workers that were asked for."),
    _times("workers", "warmup_seconds", "From the spawn of a worker until it is ready.", WARM_UPS),
    _state(
        "workers",
        "worker_exits_total",
        "Workers that are gone: after their call (ended), unasked (crashed), never forked "
        "(spawn_failed), or for the reason for which they were stopped or killed.",
        label="cause",
        values=EXITS,
    ),
    _state(
        "workers",
        "worker_failures_total",
        "Workers lost before they took a caller, by no decision of the pool.",
    ),
    _state("workers", "zygote_restarts_total", "Zygotes started after one had died."),
    _state("workers", "relay_restarts_total", "TLS relays started after one had died."),
    _state(
        "workers",
        "reloads_total",
        "Reloads by what became of them.",
        label="result",
        values=("done", "refused"),
    ),
    _count("speech", "turns_total", "Turns that callers have finished.", source=_WORKER),
    _count(
        "speech",
        "responses_total",
        "Responses that have ended, by their status.",
        label="status",
        values=COUNTED["responses"],
        source=_WORKER,
    ),
    _count(
        "speech",
        "interruptions_total",
        "Replies that a caller has spoken over.",
        source=_WORKER,
    ),
    _times(
        "speech",
        "voice_to_voice_seconds",
        "From the end of the caller's speech to the first sound of the reply, as it is handed to "
        "the socket.",
        REPLIES,
        source=_WORKER,
    ),
    _times(
        "speech",
        "stage_seconds",
        "What the stages take: from the end of a turn to its transcript (stt), from the request "
        "to the model's first token (llm), from a clause to its first sound (tts).",
        REPLIES,
        label="stage",
        values=("stt", "llm", "tts"),
        source=_WORKER,
    ),
    _count(
        "speech",
        "engine_errors_total",
        "Failures of engines in calls.",
        label="stage",
        values=COUNTED["engine_errors"],
        source=_WORKER,
    ),
    _count(
        "speech",
        "worker_figures_dropped_total",
        "Observations of workers that found no room in a message, or made no sense.",
        source=_WORKER,
    ),
    _state("devices", "device_memory_bytes", "What the device has.", label="device"),
    _state("devices", "device_others_bytes", "Used there by others.", label="device"),
    _state(
        "devices",
        "device_reserved_bytes",
        "Held there by our workers: what they use, at least what was expected.",
        label="device",
    ),
    _state(
        "devices",
        "device_room_workers",
        "How many more workers this device alone would take.",
        label="device",
    ),
    _state("devices", "device_missing", "1 where it cannot be read.", label="device"),
    _state(
        "devices",
        "workers_pss_bytes",
        "Host memory of all live workers: the sum of their PSS, as they last measured it.",
    ),
    _state(
        "devices",
        "workers_vram_bytes",
        "VRAM of all live workers there, as far as it is known.",
        label="device",
    ),
    _state(
        "logs",
        "log_lines_dropped_total",
        "Log lines of the supervisor that were lost because their reader stalled.",
    ),
)

LATENCIES: Final[Mapping[str, tuple[str, str]]] = {
    "queue": ("queue_seconds", ""),
    "handoff": ("handoff_seconds", ""),
    "warm_up": ("warmup_seconds", ""),
    "voice_to_voice": ("voice_to_voice_seconds", ""),
    "stt": ("stage_seconds", "stt"),
    "llm": ("stage_seconds", "llm"),
    "tts": ("stage_seconds", "tts"),
}
"""What `latency` in /status shows: the histogram, and its label."""
