"""Where in a sound it is quiet. Sound is mono float32, 16 kHz."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from voicepool.engines.base import INPUT_RATE, Samples

_FRAME: Final = INPUT_RATE // 50
"""20 ms."""
_SPAN: Final = 5
"""Frames that are judged together: 100 ms, longer than the closure of most plosives."""
_FALL: Final = 0.01
"""Of the loudest energy: 20 dB below it is a pause."""


def quietest(sound: Samples, begin: int, end: int) -> int:
    """The index in [begin, end] in the middle of the quietest 100 ms between them.

    The latest of equals. `begin` + 100 ms <= `end` <= len(sound).
    """
    energy = _energy(sound[begin:end])
    spans = len(energy)
    latest = spans - 1 - int(np.argmin(energy[::-1]))
    return begin + latest * _FRAME + _SPAN * _FRAME // 2


def has_fallen_quiet(sound: Samples) -> bool:
    """Whether the last 100 ms are 20 dB below the loudest: a word has ended, perhaps the turn."""
    energy = _energy(sound[len(sound) % _FRAME :])
    return len(energy) > 0 and bool(energy[-1] <= _FALL * energy.max())


def _energy(sound: Samples) -> NDArray[np.float64]:
    """The energy of each 100 ms, from each whole 20 ms on."""
    frames = len(sound) // _FRAME
    powers = np.square(sound[: frames * _FRAME].reshape(frames, _FRAME), dtype=np.float64)
    total = np.concatenate(([0.0], np.cumsum(powers.sum(axis=1))))
    return total[_SPAN:] - total[:-_SPAN]
