"""The speech app on real models, with a synthesiser or recogniser that breaks when a test says so.

While the file that TROUBLE names exists, its content says what breaks: a library fails in the
middle of an inference, as with a GPU that is out of memory.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from voicepool.config import Settings
from voicepool.speech import SpeechApp
from voicepool.speech import create as create_speech

SETTINGS = "BREAKING_SPEECH"
"""Environment name of the app's settings, as JSON: a factory is given none."""


def _broken(stage: str) -> bool:
    flag = Path(os.environ["TROUBLE"])
    return flag.exists() and stage in flag.read_text()


class Breaking(SpeechApp):
    def load(self, device: str) -> None:
        super().load(device)
        synthesizer: Any = self._engines.tts
        recognizer: Any = self._engines.stt
        synthesizer._model.register_forward_pre_hook(_fail_to_speak)
        encode = recognizer._model.encode

        def fail_to_listen(*args: Any, **kwargs: Any) -> Any:
            if _broken("stt"):
                raise RuntimeError("CUDA failed with error out of memory")
            return encode(*args, **kwargs)

        recognizer._model.encode = fail_to_listen


def _fail_to_speak(*_: Any) -> None:
    if _broken("tts"):
        raise RuntimeError("CUDA error: out of memory")


def create() -> Breaking:
    settings = msgspec.json.decode(os.environ[SETTINGS], type=Settings)
    return Breaking(create_speech(settings)._engines)
