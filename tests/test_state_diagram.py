"""docs/states.md is what the tables say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from voicepool.pooltables import CONNECTION_TABLE, WORKER_TABLE

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "scripts" / "make-state-diagram"
PAGE = ROOT / "docs" / "states.md"


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, timeout=60
    )


def test_the_page_is_up_to_date() -> None:
    result = make("--check")
    assert result.returncode == 0, result.stderr


def test_a_page_that_has_drifted_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "states.md"
    assert make("--check", "--output", str(page)).returncode == 1
    page.write_text(PAGE.read_text().replace("IDLE --> ASSIGNED", "IDLE --> SERVING"))
    result = make("--check", "--output", str(page))
    assert result.returncode == 1
    assert "scripts/make-state-diagram" in result.stderr
    assert make("--output", str(page)).returncode == 0
    assert make("--check", "--output", str(page)).returncode == 0


def test_the_page_draws_every_change_of_state() -> None:
    drawn = {line.strip().split(":")[0] for line in PAGE.read_text().splitlines() if "-->" in line}
    for table in (WORKER_TABLE, CONNECTION_TABLE):
        for (before, _), after in table.items():
            if before is not after:
                assert f"{before.name} --> {after.name}" in drawn
