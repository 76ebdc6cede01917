"""`voicepool bench` on full-size models: `python -m benchmarks.commands startup|call [OPTION...]`.

What a user types on a host that has models and an Ollama, with the stand-ins for both that this
machine needs (see `models.py`).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks.models import cpu_profile
from benchmarks.servers import Pool

HELLO: Final = Path(__file__).parent.parent / "examples/hello.wav"
FIRST_TOKEN_MS, TOKEN_MS = 150.0, 20.0
"""Of the language model in a call: about what a small one takes on a GPU of its own."""
WORKERS: Final = 4


def _voicepool(*arguments: str) -> int:
    return subprocess.run([sys.executable, "-m", "voicepool", *arguments], check=False).returncode


def startup(options: list[str]) -> int:
    """The comparison of servers."""
    with cpu_profile() as settings, tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "voicepool.toml"
        file.write_text("\n".join(_toml(settings["engines"])))
        return _voicepool("bench", "startup", "--profile", "cpu", "--config", str(file), *options)


def call(options: list[str]) -> int:
    """A running server, and callers."""
    with (
        cpu_profile(FIRST_TOKEN_MS, TOKEN_MS) as settings,
        Pool(**settings, workers=WORKERS, max_connections=WORKERS) as pool,
    ):
        host, port = pool.address
        return _voicepool("bench", "call", str(HELLO), "--url", f"ws://{host}:{port}", *options)


def _toml(tables: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = []
    for name, table in tables.items():
        lines += [f"[{name}]", *(f'{key} = "{value}"' for key, value in table.items())]
    return lines


if __name__ == "__main__":
    sys.exit({"startup": startup, "call": call}[sys.argv[1]](sys.argv[2:]))
