"""The page's pure scripts, in Node: PCM, the resampler, the play queue and the conversation."""

from __future__ import annotations

import subprocess
from pathlib import Path

import playwright
import pytest

from tests.pools import DEADLINE

FOLDER = Path(__file__).parent / "web"
NODE = Path(playwright.__file__).parent / "driver" / "node"
"""Playwright brings one, so that these tests need no other."""


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.test.mjs")))
def test_in_node(name: str) -> None:
    run = subprocess.run(
        [NODE, "--test", "--test-reporter=tap", FOLDER / name],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "\n# pass 0\n" not in run.stdout
