"""/metrics of real servers with a tiny app, and how the metrics are kept."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests import scraping
from tests.pools import PoolServer, hello
from tests.rawhttp import exchange, read_all, upgrade
from tests.scraping import Scrape, scrape
from voicepool.access import INSUFFICIENT_SCOPE
from voicepool.figures import COUNTS, TIMED, Figures
from voicepool.frontdoor import CROWDED, refuse_header
from voicepool.metrics import RECENT, Metrics, State, Value
from voicepool.metricspec import LATENCIES, METRICS, MOST_REFUSALS, Kind, Metric, Source
from voicepool.proxyheader import BadHeader
from voicepool.ratelimits import Limits, RateRules

Start = Callable[..., PoolServer]

KEY = "a-key-that-is-long-enough"
CALL_KEY = "a-key-that-opens-calls-only"


# --- the registry ----------------------------------------------------------------------------


def state() -> State:
    """Something for every metric that is read at a scrape."""
    return {metric.name: _value(metric) for metric in METRICS if metric.source is Source.STATE}


def _value(metric: Metric) -> Value:
    return {"some": 1.0} if metric.label else 2.0


def exposed(metrics: Metrics) -> Scrape:
    return scraping.parse(metrics.expose("")[0].decode())


def test_what_is_declared_is_exposed_and_nothing_else() -> None:
    metrics = Metrics(state)
    text = metrics.expose("")[0].decode()
    families = {line.split()[2]: line.split()[3] for line in text.splitlines() if "# TYPE" in line}
    ours = {name: kind for name, kind in families.items() if name.startswith("voicepool_")}
    assert ours == {metric.full_name: metric.kind.value for metric in METRICS}
    assert all(name.startswith("process_") for name in families.keys() - ours.keys())
    text = metrics.expose(OPENMETRICS)[0].decode()
    parsed = list(openmetrics(text))  # type: ignore[no-untyped-call, unused-ignore]
    assert {family.name for family in parsed} == {name.removesuffix("_total") for name in families}


def test_series_are_there_before_anything_happens() -> None:
    seen = exposed(Metrics(state))
    for metric in METRICS:
        name = metric.full_name + ("_count" if metric.kind is Kind.HISTOGRAM else "")
        for value in metric.values if metric.source is not Source.STATE else ():
            assert seen[f"{name} {value}"] == 0


def test_what_workers_may_count_has_its_metric() -> None:
    metrics = Metrics(state)
    metrics.take(Figures(dict.fromkeys(COUNTS, 3), dict.fromkeys(TIMED, (0.1, 0.2)), 5))
    seen = exposed(metrics)
    for figure in COUNTS:
        name, _, label = figure.partition(".")
        assert seen[f"voicepool_{name}_total {label}".strip()] == 3
    for name in TIMED:
        metric, label = LATENCIES[name]
        assert seen[f"voicepool_{metric}_count {label}".strip()] == 2
        assert seen[f"voicepool_{metric}_sum {label}".strip()] == pytest.approx(0.3)
    assert seen["voicepool_worker_figures_dropped_total"] == 5


def test_what_a_worker_makes_up_changes_nothing_but_its_count() -> None:
    metrics = Metrics(state)
    before = exposed(metrics)
    metrics.take(Figures({"secret words": 1, "turns": -1}, {"secret": (1.0,), "stt": (-1.0,)}))
    after = exposed(metrics)
    changed = {name for name in after if after[name] != before.get(name)}
    assert {name for name in changed if name.startswith("voicepool_")} == {
        "voicepool_worker_figures_dropped_total"
    }
    assert after["voicepool_worker_figures_dropped_total"] == 4


def test_refusals_are_told_apart_up_to_a_bound() -> None:
    metrics = Metrics(state)
    for number in range(2 * MOST_REFUSALS):
        metrics.refused(400, f"code_{number}")
    metrics.refused(503, "full")
    refusals = exposed(metrics).of("refusals_total")
    assert len(refusals) == MOST_REFUSALS
    assert sum(refusals.values()) == 2 * MOST_REFUSALS + 1
    assert (refusals["full"], refusals["code_0"]) == (1, 1)
    assert refusals["other"] > MOST_REFUSALS


def test_the_first_refusal_by_a_limit_is_seen_as_an_increase() -> None:
    refusals = exposed(Metrics(state)).of("refusals_total")
    limits = Limits(RateRules(address_calls=1, address_rate=1, total_rate=1, address_failed_keys=1))
    limits.ask("203.0.113.7", 0.0)
    limits.call_begins(1, "203.0.113.7")
    limits.key_failed("203.0.113.7", 0.0)
    found = [
        limits.ask("203.0.113.7", 0.0),
        limits.ask("198.51.100.8", 0.0),
        limits.one_more_call("203.0.113.7"),
        limits.try_key("203.0.113.7", 0.0),
    ]
    codes = {limited.code for limited in found if limited is not None}
    assert len(codes) == 4
    others = {CROWDED.code, INSUFFICIENT_SCOPE, refuse_header(BadHeader("")).code}
    assert codes | others <= refusals.keys()


def test_a_request_that_came_too_late_is_no_caller_who_waited_too_long() -> None:
    metrics = Metrics(state)
    metrics.refused(408, "timeout")
    metrics.refused(503, "timeout")
    metrics.refused(503, "timeout")
    refusals = exposed(metrics).of("refusals_total")
    assert (refusals["request_timeout"], refusals["timeout"]) == (1, 2)


def test_an_outcome_that_is_not_known_is_a_failure() -> None:
    metrics = Metrics(state)
    metrics.ended("made up", 1.0)
    assert exposed(metrics).of("calls_ended_total")["failed"] == 1


def test_latency_looks_back_on_the_latest_observations() -> None:
    metrics = Metrics(state)
    nothing = {"p50": None, "p95": None, "count": 0}
    assert metrics.latency() == dict.fromkeys(LATENCIES, nothing)
    for number in range(1, 101):
        metrics.observe("handoff_seconds", number / 1000)
        metrics.observe("stage_seconds", number / 100, "llm")
    latency = metrics.latency()
    assert latency["handoff"] == {"p50": 0.05, "p95": 0.095, "count": 100}
    assert latency["llm"] == {"p50": 0.5, "p95": 0.95, "count": 100}
    assert latency["stt"] == nothing
    for _ in range(RECENT):
        metrics.observe("handoff_seconds", 2.0)
    assert metrics.latency()["handoff"] == {"p50": 2.0, "p95": 2.0, "count": RECENT}


OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "text/plain; version=0.0.4"),
        ("*/*", "text/plain; version=0.0.4"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "text/plain; version=0.0.4"),
        (OPENMETRICS, "application/openmetrics-text; version=1.0.0"),
        # as Prometheus 2.42 asks
        (
            "application/openmetrics-text;version=1.0.0,"
            "application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5",
            "application/openmetrics-text; version=1.0.0",
        ),
        # hostile
        ("text/plain; version=abc", "text/plain; version=0.0.4"),
        ("application/openmetrics-text; version=x.1", "text/plain; version=0.0.4"),
        ("application/openmetrics-text; version=" + "9" * 5000, "text/plain; version=0.0.4"),
        ("\xff;;==,,", "text/plain; version=0.0.4"),
    ],
)
def test_the_format_is_the_one_that_is_asked_for(accept: str, kind: str) -> None:
    text, content_type = Metrics(state).expose(accept)
    assert content_type.startswith(kind)
    assert text.endswith(b"# EOF\n") == ("openmetrics" in kind)


# --- over HTTP -------------------------------------------------------------------------------


def test_it_is_guarded_as_the_status_is(start_pool: Start) -> None:
    server = start_pool(workers=1, admin_keys=[KEY], api_keys=[CALL_KEY])
    assert scraping.get(server)[0] == 401
    assert scraping.get(server, Authorization=f"Bearer {CALL_KEY}")[0] == 403
    assert scraping.get(server, Authorization="Bearer wrong")[0] == 401
    authorization = f"Bearer {KEY}"
    status, kind, text = scraping.get(server, Authorization=authorization)
    assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert scraping.parse(text).of("refusals_total")["invalid_api_key"] == 2
    assert scraping.parse(text).of("refusals_total")["insufficient_scope"] == 1
    status, kind, text = scraping.get(server, Authorization=authorization, Accept=OPENMETRICS)
    assert kind.startswith(OPENMETRICS)
    assert text.endswith("# EOF\n")
    assert scraping.get(server, "HEAD", Authorization=authorization)[::2] == (200, "")
    assert scraping.get(server, "POST", Authorization=authorization)[0] == 405


# --- what happens ----------------------------------------------------------------------------


def test_callers_and_calls(start_pool: Start) -> None:
    server = start_pool(workers=1, max_waiting=0)
    with server.call() as caller:
        hello(caller)
        with pytest.raises(InvalidStatus):
            server.call()
        during = scraping.until(
            server, lambda s: s["voicepool_workers serving"] == 1, "told of the call"
        )
        # It takes no slot: this server has none left.
        assert during["voicepool_slots"] == during["voicepool_calls"] == 1
        assert during["voicepool_calls_accepted_total"] == 1
        assert sum(during.of("calls_ended_total").values()) == 0
        assert during.of("refusals_total")["full"] == 1
        assert during["voicepool_ready"] == 0
    server.until_idle()
    with server.call() as caller:
        hello(caller)
        caller.send("!raise")
        with pytest.raises(ConnectionClosed):
            caller.recv(timeout=60)
    server.until_idle()
    with server.call() as caller:
        hello(caller)
        caller.send("!die")
        with pytest.raises(ConnectionClosed):
            caller.recv(timeout=60)
    report = server.until_idle()
    seen = scrape(server)
    outcomes = {"completed": 1, "failed": 1, "lost": 1, "stopped": 0}
    assert seen.of("calls_ended_total") == outcomes
    assert seen["voicepool_callers_total"] == report["totals"]["arrived"] == 4
    assert seen["voicepool_calls_accepted_total"] == 3
    assert seen.of("worker_exits_total")["ended"] == 2
    assert seen.of("worker_exits_total")["crashed"] == 1
    assert seen["voicepool_worker_spawns_total"] == report["totals"]["spawned"] == 4
    for histogram, count in {"queue": 3, "handoff": 3, "call": 3, "warmup": 4}.items():
        assert seen[f"voicepool_{histogram}_seconds_count"] == count
        assert seen[f"voicepool_{histogram}_seconds_sum"] > 0
    for latency, count in {"queue": 3, "handoff": 3, "warm_up": 4, "voice_to_voice": 0}.items():
        assert report["latency"][latency]["count"] == count
    assert 0 < report["latency"]["handoff"]["p50"] <= report["latency"]["handoff"]["p95"]


def test_refusals_of_the_door(start_pool: Start) -> None:
    server = start_pool(workers=1, head_timeout=1.0)
    with server.socket() as client, server.socket() as silent:
        client.sendall(upgrade()[:50])
        assert read_all(client).startswith(b"HTTP/1.1 408 ")
        assert read_all(silent) == b""  # who has said nothing is refused nothing
    for head in (
        b"GET /nothing HTTP/1.1\r\nHost: localhost",
        b"GET / HTTP/1.1\r\nHost: evil.example",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example",
        b"GET /echo HTTP/1.1\r\nHost: localhost",
        b"no HTTP at all",
    ):
        with server.socket() as client:
            assert exchange(client, head + b"\r\n\r\n").status >= 400
    refusals = {reason: n for reason, n in scrape(server).of("refusals_total").items() if n}
    assert refusals == {
        "request_timeout": 1,
        "not_found": 1,
        "host_not_allowed": 1,
        "origin_not_allowed": 1,
        "upgrade_required": 1,
        "bad_request": 1,
    }


def test_a_caller_who_waits_and_one_who_hangs_up(start_pool: Start) -> None:
    server = start_pool(workers=1, max_waiting=7, queue_timeout=3600)
    with server.call() as caller:
        hello(caller)
        with server.socket() as client:
            client.sendall(upgrade())
            waiting = scraping.until(
                server, lambda s: s["voicepool_waiting_callers"] == 1, "had somebody wait"
            )
            assert waiting["voicepool_waiting_limit"] == 7
        scraping.until(
            server, lambda s: s["voicepool_callers_gone_total"] == 1, "missed the caller"
        )


def test_a_caller_whose_worker_died_before_it_took_him(start_pool: Start) -> None:
    server = start_pool(workers=2, ack_timeout=1.0)
    first = server.workers("idle")[0]
    os.kill(first["pid"], signal.SIGSTOP)
    with server.call() as caller:
        hello(caller)
    server.until_idle()
    seen = scrape(server)
    assert seen["voicepool_callers_retried_total"] == 1
    assert seen["voicepool_worker_failures_total"] == 1
    assert seen.of("worker_exits_total")["ack_timeout"] == 1
    assert seen["voicepool_handoff_seconds_count"] == seen["voicepool_queue_seconds_count"] == 1
    # He was chosen for, in vain, at once; what counts is the choice that held.
    assert seen["voicepool_queue_seconds_sum"] > 1.0
    assert seen["voicepool_handoff_seconds_sum"] < seen["voicepool_queue_seconds_sum"]
    assert seen.of("calls_ended_total") == {"completed": 1, "failed": 0, "lost": 0, "stopped": 0}


def test_limits_that_end_calls(start_pool: Start) -> None:
    server = start_pool(workers=2, call_limit=2.0)
    with server.call() as caller, contextlib.suppress(ConnectionClosed):
        hello(caller)
        caller.send("x" * ((1 << 20) + 1))
        caller.recv(timeout=60)
    with server.call() as caller, contextlib.suppress(ConnectionClosed):
        hello(caller)
        caller.recv(timeout=60)
    server.until_idle()
    seen = scrape(server)
    limits = {limit: n for limit, n in seen.of("limits_total").items() if n}
    assert limits == {"call_limit": 1, "message_size": 1}
    assert seen.of("calls_ended_total")["stopped"] == 1


def test_reloads_and_zygotes(start_pool: Start) -> None:
    server = start_pool(workers=1)
    with server.call() as caller:
        hello(caller)
    os.kill(server.status()["server"]["zygote"]["pid"], signal.SIGKILL)
    scraping.until(server, lambda s: s["voicepool_zygote_restarts_total"] == 1, "had a new zygote")
    server.until_idle()
    server.reload(workers=2, max_connections=3)
    server.logged("reloaded")
    server.until_idle(2)
    server.reload(workers=-1)
    server.logged("reload refused, nothing has changed")
    seen = scrape(server)
    assert seen.of("reloads_total") == {"done": 1, "refused": 1}
    assert seen["voicepool_configured_workers"] == seen["voicepool_idle_target"] == 2
    assert seen["voicepool_slots"] == 3
    assert seen.of("worker_exits_total")["reload"] == 1
    # Nothing is forgotten, not even the restarts of the zygote that the reload has replaced.
    assert seen["voicepool_zygote_restarts_total"] == 1
    assert seen["voicepool_calls_accepted_total"] == seen["voicepool_call_seconds_count"] == 1


def test_states_and_devices(start_pool: Start) -> None:
    server = start_pool(workers=2, max_connections=4)
    server.until_idle()

    def agreeing() -> tuple[dict[str, Any], Scrape] | None:
        report, seen = server.status(), scrape(server)
        pss = sum(worker["pss"] for worker in report["workers"])
        return (report, seen) if seen["voicepool_workers_pss_bytes"] == pss else None

    # With every sign of life this figure moves on, so now and then between the two.
    report, seen = server.until(agreeing, "told the same memory twice")
    assert seen.of("workers") == report["pool"]["states"]
    (device,) = report["memory"]["devices"]
    assert seen.of("device_memory_bytes") == {"host": device["total"]}
    assert seen.of("device_reserved_bytes") == {"host": device["reserved"]}
    assert seen.of("device_missing") == {"host": 0}
    assert seen.of("device_room_workers")["host"] > 0
    assert seen.of("workers_vram_bytes") == {}
    assert all(worker["pss"] >= worker["private"] > 0 for worker in report["workers"])
    assert seen[f"voicepool_build_info {report['server']['version']}"] == 1
    assert seen["process_open_fds"] == pytest.approx(server.fds(), abs=5)
    assert seen["voicepool_halted"] == seen["voicepool_draining"] == 0
    assert seen["voicepool_log_lines_dropped_total"] == 0


def test_workers_that_fail_to_come_up(
    start_pool: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TROUBLE", str(tmp_path / "flag"))
    server = start_pool(app="tests.apps.troubled:FailsToWarm", workers=1, wait=False)
    server.may_log_tracebacks = True
    server.stage("trouble")
    seen = scraping.until(server, lambda s: s["voicepool_worker_failures_total"] > 0, "failed")
    assert seen["voicepool_spawn_failures_in_a_row"] > 0
    assert seen["voicepool_ready"] == seen["voicepool_warmup_seconds_count"] == 0


def test_draining(start_pool: Start) -> None:
    server = start_pool(workers=1)
    with server.call() as caller:
        hello(caller)
        assert scrape(server)["voicepool_draining"] == 0
        server.signal(signal.SIGTERM)
        seen = scraping.until(server, lambda s: s["voicepool_draining"] == 1, "drained")
        assert seen["voicepool_ready"] == 0
        with pytest.raises(InvalidStatus):
            server.call()
        assert scrape(server).of("refusals_total")["draining"] == 1


# --- what apps tell --------------------------------------------------------------------------


def test_an_app_counts_in_calls_and_not_in_rehearsals(start_pool: Start) -> None:
    server = start_pool(app="tests.apps.reporting:Reporting", workers=1)
    warm = scrape(server)
    assert warm["voicepool_warmup_seconds_count"] == 1
    assert warm["voicepool_turns_total"] == warm["voicepool_voice_to_voice_seconds_count"] == 0
    with server.call() as caller:
        caller.send("3")
        assert caller.recv(timeout=60) == "counted"
        # While the call goes on, with the worker's signs of life.
        scraping.until(server, lambda s: s["voicepool_turns_total"] == 3, "counted three turns")
        caller.send("100")
        assert caller.recv(timeout=60) == "counted"
    server.until_idle()
    seen = scrape(server)
    assert seen["voicepool_turns_total"] == 103
    assert seen["voicepool_responses_total completed"] == 1
    assert seen["voicepool_voice_to_voice_seconds_sum"] == 0.5
    # Not one is lost without a trace.
    kept, dropped = (
        seen["voicepool_stage_seconds_count stt"],
        seen["voicepool_worker_figures_dropped_total"],
    )
    assert kept + dropped == 103
    assert kept >= 3 + 64


def test_an_app_that_counts_what_there_is_not_is_found_out_in_its_rehearsal(
    start_pool: Start,
) -> None:
    server = start_pool(app="tests.apps.reporting:Misreporting", workers=1, wait=False)
    server.may_log_tracebacks = True
    assert "'what was said' is not counted" in server.stage("trouble")["detail"]
