"""What the documentation says about settings, engines and exit codes is what the code does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from voicepool.config import SPECS
from voicepool.errors import ExitCode

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "script", ["make-settings-table", "make-engine-tables", "make-metrics-table"]
)
def test_the_tables_are_up_to_date(script: str) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / script), "--check"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_setting_is_in_its_table() -> None:
    assert all(f"| `{name}`" in PAGE for name in SPECS)


def test_every_exit_code_is_explained() -> None:
    for code in ExitCode:
        assert f"| {code.value} | {code.name} | " in PAGE
