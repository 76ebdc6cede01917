"""`voicepool bench startup`: three real servers with the embedded engines, and what is shown."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from voicepool.bench import chart, startup
from voicepool.bench.startup import Startup
from voicepool.config import Settings
from voicepool.errors import CallError, ConfigError

PROTECTED = {
    "VOICEPOOL_API_KEYS": "a-key-that-is-long-enough",
    "VOICEPOOL_PROXY_PROTOCOL": "true",
    "VOICEPOOL_TRUSTED_PROXIES": "192.0.2.1",
    "VOICEPOOL_TLS_CERT": "/nowhere/cert.pem",
    "VOICEPOOL_TLS_KEY": "/nowhere/key.pem",
    "VOICEPOOL_ADDRESS_CALLS": "1",
    "VOICEPOOL_TOTAL_RATE": "1",
}
"""What keeps others from a server."""
RESULTS = [
    Startup("cold", 0.25, (12.0, 11.5), 2 << 30, None),
    Startup("prewarmed", 12.0, (3.0, 3.1), 1 << 30, None),
    Startup("pool", 20.0, (0.0041, 0.0039), 900 << 20, None),
]


def bench(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "voicepool", "bench", "startup", *arguments],
        capture_output=True,
        text=True,
        timeout=110,
        env={**os.environ, **environ},
    )


def test_the_three_servers_serve_and_the_pool_at_once(tmp_path: Path) -> None:
    kept, drawn = tmp_path / "startup.json", tmp_path / "startup.svg"
    done = bench(
        "--profile", "embedded", "--users", "2", "--json", str(kept), "--chart", str(drawn),
        **PROTECTED,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "a pipeline built per connection" in done.stdout
    found = json.loads(kept.read_text())
    assert found["profile"] == "embedded"
    assert [server["kind"] for server in found["servers"]] == list(startup.KINDS)
    for server in found["servers"]:
        assert len(server["users"]) == 2
        assert server["host_bytes"] > 20 << 20
        assert server["total"] == pytest.approx(server["start"] + sum(server["users"]), abs=1e-3)
    assert "voicepool" in drawn.read_text()


def test_what_the_servers_take_can_be_seen_by_who_is_not_root() -> None:
    assert startup.for_measuring(Settings(profile="embedded"), 2).inspectable


def test_a_server_that_cannot_start_says_why() -> None:
    settings = Settings(profile="embedded", engines={"tts": {"voice": "no-such-voice"}})
    with pytest.raises(CallError, match="no-such-voice"):
        list(startup.measure(settings, 1, lambda: None, lambda text: None, ["prewarmed"]))


def test_an_app_of_the_users_own_is_not_compared() -> None:
    done = bench("--app", "a.b:c")
    assert done.returncode == 2
    assert "not an --app" in done.stderr


def test_the_table_has_a_row_a_server_and_vram_where_there_is_any() -> None:
    out = io.StringIO()
    Console(file=out, width=200).print(startup.table(RESULTS))
    assert "VRAM" not in out.getvalue()
    assert "4.1 ms" in out.getvalue()
    assert "1 GiB" in out.getvalue()
    with_gpu = [Startup("pool", 1.0, (0.1, 0.2), 1 << 30, 6 << 30)]
    Console(file=out, width=200).print(startup.table(with_gpu))
    assert "3 GiB" in out.getvalue()


def test_the_same_figures_make_the_same_picture(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        chart.draw(RESULTS, "cpu", tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


@pytest.mark.parametrize("name", ["x.gif", "nowhere/x.svg"])
def test_a_chart_that_cannot_be_drawn_is_refused_before_anything_is_measured(
    name: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="--chart"):
        chart.check(tmp_path / name)
