"""What callers say in the conversations with real clients, as WAV files."""

from __future__ import annotations

import base64
import wave
from collections.abc import Mapping
from pathlib import Path

from tests.clients.trial.caller import RATE
from tests.servers import spoken


def write(folder: Path, sayings: Mapping[str, str], *, pause: float = 0.0) -> None:
    """Speaks each text into a file of its name, with so many seconds of silence after it."""
    for name, text in sayings.items():
        with wave.open(str(folder / f"{name}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE)
            file.writeframes(b"".join(map(base64.b64decode, spoken(text, pause=pause))))
