"""The judge of the queries in `deploy/` finds what it is for."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.metric_names import Values
from tests.promql import BadQuery, judge, names

SAMPLES: Mapping[str, Mapping[str, Values]] = {
    "calls": {"job": None, "instance": None},
    "ended_total": {"job": None, "instance": None, "outcome": frozenset({"done", "lost"})},
    "took_bucket": {"job": None, "instance": None, "le": None},
    "info": {"job": None, "instance": None, "version": None},
}


@pytest.mark.parametrize(
    ("query", "labels"),
    [
        ("calls", {"job", "instance"}),
        (
            'rate(ended_total{outcome=~"done|lost"}[$__rate_interval])',
            {"job", "instance", "outcome"},
        ),
        ("sum(calls)", set()),
        ("max_over_time(sum by (outcome) (rate(ended_total[5m]))[1h:])", {"outcome"}),
        ("sum without (outcome) (ended_total) / calls > 2", {"job", "instance"}),
        ("histogram_quantile(0.5, sum by (job, le) (rate(took_bucket[5m])))", {"job"}),
        ("ended_total / on (job, instance) group_left () calls", {"job", "instance", "outcome"}),
        (
            "(time() - calls) * on (job, instance) group_left (version) info",
            {"job", "instance", "version"},
        ),
        ("ended_total unless ignoring (outcome) (calls == 1)", {"job", "instance", "outcome"}),
        ("calls > 1 + (calls offset 1h)", {"job", "instance"}),
        ("count(calls == 0) or vector(0)", set()),
        ('absent(calls{job="voicepool", instance=~"a.*"})', {"job"}),
    ],
)
def test_the_labels_of_an_answer(query: str, labels: set[str]) -> None:
    assert judge(query, SAMPLES) == labels


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("calls_total", "no sample calls_total"),
        ('calls{outcome="lost"}', "no label outcome"),
        ('ended_total{outcome="dead"}', "is never dead"),
        ('ended_total{outcome=~"done|dead"}', "is never dead"),
        ("sum by (reason) (ended_total)", "no label reason"),
        ("sum without (reason) (ended_total)", "no label reason"),
        ("histogram_quantile(0.5, sum by (job) (rate(took_bucket[5m])))", "no label le"),
        ("ended_total / calls", "never match"),
        ("calls and ended_total", "never match"),
        ("calls and on (outcome) ended_total", "no label outcome"),
        ("calls * on (job, instance) group_left (outcome) info", "no label outcome"),
        ("sum(calls) unless missing", "no sample missing"),
    ],
)
def test_a_query_that_would_be_silent_for_ever(query: str, why: str) -> None:
    with pytest.raises(BadQuery, match=why):
        judge(query, SAMPLES)


def test_the_samples_of_a_query() -> None:
    query = "max_over_time(rate(ended_total[5m])[1h:]) / ignoring (outcome) group_left () calls"
    assert names(query) == {"ended_total", "calls"}
