"""What an operator watches voicepool with: alert rules, a scrape configuration, a dashboard.

promtool, which comes with Prometheus, is the judge of its own formats and runs the tests of the
rules; what it cannot know is whether a query asks for something that is there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.metric_names import Values, metrics, samples
from tests.promql import judge, names

ROOT = Path(__file__).parent.parent
PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES = PROMETHEUS / "voicepool.rules.yaml"
RULE_TESTS = PROMETHEUS / "voicepool.rules.test.yaml"
DASHBOARD = ROOT / "deploy" / "grafana" / "voicepool.json"
RUNBOOK = "docs/alerts.md"

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None and "CI" not in os.environ,
    reason="promtool is not installed (Debian: apt install prometheus)",
)


def promtool(*arguments: str | Path) -> None:
    done = subprocess.run(
        ["promtool", *arguments], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


# --- rules -----------------------------------------------------------------------------------


@cache
def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


@cache
def alerts() -> Mapping[str, dict[str, Any]]:
    """By name; a name that is given twice is a fault."""
    found = [rule for rule in rules() if "alert" in rule]
    by_name = {rule["alert"]: rule for rule in found}
    assert len(by_name) == len(found) > 20
    return by_name


@cache
def known() -> Mapping[str, Mapping[str, Values]]:
    """The samples that are scraped, and those that the rules record of them."""
    found = dict(samples())
    for rule in rules():
        if "record" in rule:
            found[rule["record"]] = dict.fromkeys(judge(rule["expr"], found))
    return found


@needs_promtool
def test_prometheus_takes_the_rules() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)


@needs_promtool
def test_the_alerts_fire_and_are_silent_as_their_tests_say() -> None:
    promtool("test", "rules", RULE_TESTS)


@needs_promtool
def test_prometheus_takes_the_configuration(tmp_path: Path) -> None:
    for name in ("prometheus.yaml", RULES.name):
        shutil.copy(PROMETHEUS / name, tmp_path)
    (tmp_path / "voicepool.key").write_text("a key")
    promtool("check", "config", tmp_path / "prometheus.yaml")


def test_the_configuration_scrapes_the_job_that_the_rules_name() -> None:
    configuration = yaml.safe_load((PROMETHEUS / "prometheus.yaml").read_text())
    assert [job["job_name"] for job in configuration["scrape_configs"]] == ["voicepool"]
    assert configuration["rule_files"] == [RULES.name]
    named = re.findall(
        r'\bjob="(.*?)"', RULES.read_text() + DASHBOARD.read_text().replace("\\", "")
    )
    assert set(named) == {"voicepool"}


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_a_rule_asks_for_what_there_is(rule: dict[str, Any]) -> None:
    labels = judge(rule["expr"], known())
    texts = " ".join(rule.get("annotations", {}).values())
    assert set(re.findall(r"\$labels\.(\w+)", texts)) <= labels


def looks() -> Iterator[tuple[str, bool]]:
    """Of each look at one alert in the tests of the rules: its name, and whether it shall fire."""
    for test in yaml.safe_load(RULE_TESTS.read_text())["tests"]:
        for look in test["promql_expr_test"]:
            alert = re.match(r'ALERTS\{alertname="(\w+)"', look["expr"])
            if alert is not None:
                expected = look.get("exp_samples", [])
                assert all(f'alertname="{alert[1]}"' in each["labels"] for each in expected)
                yield alert[1], bool(expected)


def test_every_alert_is_tested_where_it_fires_and_where_it_does_not() -> None:
    assert set(looks()) == {(name, fires) for name in alerts() for fires in (True, False)}


def test_all_that_the_rules_ask_for_is_there_while_all_is_well() -> None:
    """Or an alert would be silent in that test for want of series."""
    healthy = yaml.safe_load(RULE_TESTS.read_text())["tests"][-1]
    assert healthy["name"] == "all is well"
    given = {name for series in healthy["input_series"] for name in names(series["series"])}
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    assert {name for rule in rules() for name in names(rule["expr"])} - recorded == given


def test_an_alert_says_what_to_do() -> None:
    for name, rule in alerts().items():
        assert rule["labels"] in ({"severity": "page"}, {"severity": "ticket"}), name
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}, name
        assert rule["annotations"]["runbook"] == f"{RUNBOOK}#{name.lower()}"


def test_the_runbook_has_a_section_for_every_alert() -> None:
    text = (ROOT / RUNBOOK).read_text()
    assert re.findall(r"^### (\w+)$", text, re.MULTILINE) == list(alerts())
    rows = re.findall(r"^\| \[(\w+)\]\(#(\w+)\) \| (\w+) \| (\w+|at once) \|", text, re.MULTILINE)
    assert rows == [
        (name, name.lower(), rule["labels"]["severity"], rule.get("for", "at once"))
        for name, rule in alerts().items()
    ]


# --- dashboard -------------------------------------------------------------------------------


@cache
def dashboard() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return document


def panels() -> list[dict[str, Any]]:
    """Those that show something."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def targets() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every query with the title of its panel."""
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target


def test_the_dashboard_can_be_read_in_a_diff() -> None:
    text = json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"
    assert DASHBOARD.read_text() == text


def test_the_dashboard_is_of_no_one_installation() -> None:
    """Its queries go to the data source, and to the hosts, that are chosen on it."""
    assert dashboard()["id"] is None
    variables = {each["name"]: each for each in dashboard()["templating"]["list"]}
    assert {name: each["type"] for name, each in variables.items()} == {
        "datasource": "datasource",
        "instance": "query",
    }
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    alert_marks = dashboard()["annotations"]["list"][1]
    for item in (*panels(), variables["instance"], alert_marks):
        assert item["datasource"] == chosen
    for title, target in targets():
        assert "datasource" not in target, title
        for selector in re.findall(r"\w+\{(.*?)\}", target["expr"]):
            assert 'instance=~"$instance"' in selector, title


def test_the_queries_of_the_dashboard_ask_for_what_there_is() -> None:
    for title, target in targets():
        labels = judge(target["expr"], samples())
        shown = set(re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", "")))
        assert shown <= labels, title
        # Or it would be one line for each of what is not named.
        assert target.get("format") == "table" or labels <= shown, title
    for mark in dashboard()["annotations"]["list"][1:]:
        judge(mark["expr"], samples())
    hosts = dashboard()["templating"]["list"][1]["query"]
    asked = re.fullmatch(r"label_values\((\w+), (\w+)\)", hosts)
    assert asked is not None
    assert asked[2] in samples()[asked[1]]


@needs_promtool
def test_prometheus_takes_the_queries_of_the_dashboard(tmp_path: Path) -> None:
    queries = [target["expr"].replace("$__rate_interval", "5m") for _, target in targets()]
    recording = [{"record": f"query:{n}", "expr": query} for n, query in enumerate(queries)]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recording}]}))
    promtool("check", "rules", file)


def test_every_metric_is_on_the_dashboard() -> None:
    shown = {name for _, target in targets() for name in names(target["expr"])}
    families = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in shown}
    # The address space says nothing of what is used.
    assert set(metrics()) - families == {"process_virtual_memory_bytes"}


def test_every_panel_says_what_it_shows() -> None:
    titles = [panel["title"] for panel in panels()]
    assert len(set(titles)) == len(titles)
    for panel in panels():
        assert len(panel["description"]) > 20, panel["title"]
        unit = panel["options"].get("yAxis") or panel["fieldConfig"]["defaults"]
        assert unit["unit"], panel["title"]
        refs = [target["refId"] for target in panel["targets"]]
        assert refs == sorted(set(refs)), panel["title"]


def test_the_alerts_that_a_panel_names_are_there() -> None:
    assert set(re.findall(r"\bVoicepool[A-Z]\w+", DASHBOARD.read_text())) <= set(alerts())


def test_panels_have_places_of_their_own() -> None:
    everything = dashboard()["panels"]
    numbers = Counter(panel["id"] for panel in everything)
    assert set(numbers.values()) == {1}
    taken = [_cells(panel["gridPos"]) for panel in everything]
    for one, other in combinations(taken, 2):
        assert not one & other
    # Grafana moves panels up into gaps: what is here is what is seen.
    lines = {y for cells in taken for _, y in cells}
    assert set().union(*taken) == {(x, y) for y in lines for x in range(24)}
    assert lines == set(range(len(lines)))


def _cells(place: dict[str, int]) -> set[tuple[int, int]]:
    columns = range(place["x"], place["x"] + place["w"])
    lines = range(place["y"], place["y"] + place["h"])
    return {(x, y) for x in columns for y in lines}
