"""The benchmarks run and their arithmetic is right; what they measure is nobody's promise here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import ROWS
from benchmarks.figures import (
    SCHEMA,
    Summary,
    Target,
    absolute,
    compare,
    document,
    summarize,
)
from benchmarks.processes import children, cpu_seconds, pss_bytes
from benchmarks.wire import frame, message_size
from voicepool.bench.samples import percentile

ROOT = Path(__file__).parent.parent


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


# --- arithmetic ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p", "expected"), [(0.0, 1.0), (0.5, 50.0), (0.51, 51.0), (0.99, 99.0), (1.0, 100.0)]
)
def test_percentile_is_the_nearest_rank(p: float, expected: float) -> None:
    samples = [float(n) for n in range(100, 0, -1)]
    assert percentile(samples, p) == expected


def test_no_samples_make_no_figure() -> None:
    with pytest.raises(ValueError, match="no samples"):
        summarize([])


def test_summary() -> None:
    assert summarize([3.0, 1.0, 2.0]) == Summary(n=3, p50=2.0, p99=3.0, mean=2.0)


def test_ratios_are_of_the_same_statistic() -> None:
    figure = compare("row", "case", "ms", [2.0, 2.0, 9.0], [1.0, 1.0, 3.0], "reference")
    assert figure.ratio == {"p50": 2.0, "p99": 3.0, "mean": pytest.approx(13 / 5)}
    assert figure.spread is None  # too few samples to be cut into parts
    assert figure.met is None


def test_spread_shows_a_ratio_that_drifts() -> None:
    ours = [1.0] * 4 + [2.0] * 4 + [3.0] * 4 + [4.0] * 4 + [5.0] * 4
    assert compare("row", "case", "ms", ours, [1.0] * 20, "reference").spread == (1.0, 5.0)


@pytest.mark.parametrize(("must", "met"), [(1.9, False), (2.0, True)])
def test_a_target_bounds_the_ratio_where_there_is_a_reference(must: float, met: bool) -> None:
    target = Target("p50", must)
    assert compare("row", "case", "ms", [10.0], [5.0], "reference", target).met is met


@pytest.mark.parametrize(("must", "met"), [(9.0, False), (10.0, True)])
def test_a_target_bounds_the_value_where_there_is_none(must: float, met: bool) -> None:
    assert absolute("row", "case", "ms", [10.0], Target("p99", must)).met is met


def test_every_target_must_be_met() -> None:
    targets = (Target("p50", 2.0), Target("p99", 1.0))
    assert compare("row", "case", "ms", [1.0, 9.0], [1.0, 1.0], "reference", *targets).met is False


def test_document() -> None:
    figure = compare("row", "case", "ms", [2.0], [1.0], "reference", Target("p50", 3.0, 1.0))
    made = json.loads(json.dumps(document([figure], {"cores": 2})))
    assert made["schema"] == SCHEMA
    assert made["conditions"] == {"cores": 2}
    assert made["figures"] == [
        {
            "row": "row",
            "case": "case",
            "unit": "ms",
            "ours": {"n": 1, "p50": 2.0, "p99": 2.0, "mean": 2.0},
            "reference": {"n": 1, "p50": 1.0, "p99": 1.0, "mean": 1.0},
            "against": "reference",
            "ratio": {"p50": 2.0, "p99": 2.0, "mean": 2.0},
            "spread": None,
            "targets": [{"statistic": "p50", "must": 3.0, "stretch": 1.0}],
            "met": True,
        }
    ]


# --- instruments -----------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65535])
def test_frame_sizes(length: int) -> None:
    masked = frame(2, bytes(length))
    # A server's frame is the same without the mask: its bit and its four bytes.
    header = len(masked) - length - 4
    served = bytes([masked[0], masked[1] & 0x7F]) + masked[2:header] + bytes(length)
    assert message_size(served) == len(served)
    assert message_size(served[: header - 1]) is None


def test_what_proc_says_of_a_process() -> None:
    code = "sum(range(3_000_000)); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert 0 < cpu_seconds(child.pid) < 60
        assert pss_bytes([child.pid, child.pid]) > pss_bytes([child.pid]) > 1 << 20
        assert children(child.pid) == []
        child.communicate(b"\n")


# --- the harness -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every row that needs no speech engines, with a few samples."""
    path = tmp_path_factory.mktemp("figures") / "figures.json"
    rows = ("hand-off", "hand-off-refill", "burst", "refusal", "refill", "supervisor")
    done = run(*rows, "--quick", "--json", str(path))
    assert done.returncode == 0, done.stderr
    assert "hand-off" in done.stdout
    return dict(json.loads(path.read_text()))


def test_rows_of_the_pool(taken: dict[str, Any]) -> None:
    figures = {(figure["row"], figure["case"]): figure for figure in taken["figures"]}
    assert {row for row, _ in figures} == {"hand-off", "burst", "refusal", "refill", "supervisor"}
    for figure in figures.values():
        assert figure["ours"]["n"] > 0
        if figure["reference"]:
            expected = figure["ours"]["p50"] / figure["reference"]["p50"]
            assert figure["ratio"]["p50"] == pytest.approx(expected)
    assert figures["hand-off", "2 workers"]["ours"]["n"] == 3
    assert figures["refusal", "connect to 503"]["ours"]["p50"] > 0
    assert taken["conditions"]["cores"] >= 1


def test_rows_of_the_speech_engines(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    done = run("refill-embedded", "memory", "gaps", "turn", "--quick", "--json", str(path))
    assert done.returncode == 0, done.stderr
    figures = json.loads(path.read_text())["figures"]
    assert {figure["row"] for figure in figures} == {"refill", "memory", "gaps", "turn"}
    by_case = {figure["case"]: figure for figure in figures}
    assert by_case["1 embedded workers"]["ours"]["p50"] > 10
    assert by_case["voicepool's own, speculated"]["ours"]["n"] == 1


def test_row_of_voices(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    done = run("voice", "--quick", "--json", str(path))
    assert done.returncode == 0, done.stderr
    by_case = {f["case"]: f for f in json.loads(path.read_text())["figures"]}
    for case in ("server_vad", "semantic_vad"):
        figure = by_case[f"voice to voice, {case}, phrasebook"]
        assert 200 < figure["ours"]["p50"] < 30_000, "a turn ends with at least 300 ms of silence"
        assert figure["reference"]["n"] == 1
    for how in ("speculated", "not speculated"):
        assert by_case[f"early answers, hesitation, phrasebook, {how}"]["ours"]["p50"] == 0


def test_an_unknown_row_is_named_with_those_there_are() -> None:
    done = run("handoff")
    assert done.returncode == 2
    assert "no such row: handoff" in done.stderr
    assert all(row in done.stderr for row in ROWS)
