"""The profile `cpu` where there is no hub and no Ollama: full-size models with random weights,
which cost what trained ones do, and a language model that streams a written reply.

`python -m benchmarks.models FOLDER` makes the models, once.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).with_name("results") / "models"
REPLY: Final = "Hello. I am a model with random weights, and I can say what was written for me."


@contextmanager
def cpu_profile(first_token_ms: float = 0.0, token_ms: float = 0.0) -> Iterator[dict[str, Any]]:
    """Settings of a server with these models, as long as their language model is served. It
    answers at once unless told otherwise: it runs elsewhere, and what runs here is measured."""
    models = _made()
    command = [sys.executable, "-m", "tests.ollama_server", "--slots", "16", "--reply", REPLY]
    command += ["--first-token-ms", str(first_token_ms), "--token-ms", str(token_ms)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as ollama:
        assert ollama.stdout is not None
        try:
            url = ollama.stdout.readline().strip()
            if not url:
                raise RuntimeError("the stand-in for Ollama did not start")
            yield {
                "profile": "cpu",
                "engines": {
                    "stt": {"model": str(models / "whisper"), "language": "en"},
                    "llm": {"host": url},
                    "tts": {"model": str(models / "kokoro")},
                },
            }
        finally:
            ollama.terminate()


def _made() -> Path:
    """The folder with the models. They are made in a process of its own: making them imports
    torch, and this one is to stay small."""
    if not FOLDER.exists():
        half = FOLDER.with_name("models.part")
        shutil.rmtree(half, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "benchmarks.models", str(half)], check=True)
        half.rename(FOLDER)
    return FOLDER


def main() -> None:
    from tests.models import kokoro, whisper

    folder = Path(sys.argv[1])
    whisper.make(folder / "whisper", "base")
    kokoro.make(folder / "kokoro", "full")


if __name__ == "__main__":
    main()
