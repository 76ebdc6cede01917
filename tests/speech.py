"""Spoken sound for tests: espeak's voice at the recognisers' rate, with pauses and light noise."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import soxr

from voicepool.engines import espeak
from voicepool.engines.base import INPUT_RATE, Samples

PAUSE = 0.3
"""Seconds of near-silence before and after what is said, as a turn detector leaves them."""


def say(text: str, *, voice: str = "en-us", rate: int = 160) -> Samples:
    """`text` spoken at `rate` words per minute, 16 kHz, without pauses around it."""
    synthesizer = espeak.create({"voice": voice, "rate": rate})
    synthesizer.preload()
    spoken = np.concatenate([chunk.samples for chunk in synthesizer.synthesize(text)])
    sound: Samples = soxr.resample(spoken, synthesizer.sample_rate, INPUT_RATE)
    return sound


def silence(seconds: float) -> Samples:
    return np.zeros(round(seconds * INPUT_RATE), np.float32)


def noisy(sound: Samples, *, seed: int, level: float = 1e-3) -> Samples:
    """White noise over the sound and a pause on either side of it."""
    padded = np.concatenate([silence(PAUSE), sound, silence(PAUSE)])
    noise = np.random.default_rng(seed).standard_normal(len(padded)) * level
    return (padded + noise).astype(np.float32)


def pieces(sound: Samples, *, milliseconds: int = 20) -> Iterator[Samples]:
    """The sound as a client streams it; the last piece may be shorter."""
    size = INPUT_RATE * milliseconds // 1000
    for at in range(0, len(sound), size):
        yield sound[at : at + size]
