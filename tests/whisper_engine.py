"""The faster-whisper engine as a worker has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from voicepool.engines.faster_whisper import engine


def loaded(model: Path, **options: Any) -> engine.WhisperRecognizer:
    recognizer = engine.create({"model": str(model), "device": "cpu", **options})
    recognizer.preload()
    recognizer.load("host")
    recognizer.warm_up()
    return recognizer
