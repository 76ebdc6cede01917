"""What becomes of the model's sound: silence trimmed, pauses set, words timed. Pure (numpy).

The model tells how long it holds each phoneme, in frames; the sound is cut to match. Kokoro pads
40-120 ms of silence in front and about 530 ms behind, and what it puts under closing marks is not
always silent (https://github.com/hexgrad/kokoro/issues/365). So the end is cut where the last
phoneme ends, and the pause that a listener expects after it is put there as plain silence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voicepool.engines.base import Samples, SpeechChunk, WordTime
from voicepool.engines.kokoro.g2p import Word
from voicepool.engines.kokoro.text import PAUSES

RATE = 24_000
"""Samples per second of everything here."""
CHUNK = RATE // 5
"""Samples in a chunk: 200 ms, the most that the pipeline takes at once."""

SENTENCE_PAUSE, CLAUSE_PAUSE = 0.25, 0.12
"""Seconds of silence after a sentence and after a comma, at speed 1. Pauses within a speaker's turn
are mostly 0.1-0.4 s long (Heldner & Edlund 2010, doi:10.1016/j.wocn.2010.08.002); these are at the
short end, since the next clause may come late by itself."""

_SENTENCE_MARKS = ".!?…"
_SILENT = PAUSES | frozenset(' ()“”"')
"""Phonemes without a sound of their own."""
_WINDOW = RATE // 200
"""Samples over which loudness is measured: 5 ms."""
_QUIET = 0.01
"""Of the loudest window: 40 dB below it nothing is heard."""
_ATTACK = RATE // 50
"""Samples kept before the first loud one: soft onsets, as of an h, are below _QUIET."""
_RELEASE = RATE // 20
"""Samples kept, fading out, after the end of the last phoneme."""
_FADE_IN = RATE // 200
_EARLY = 3
"""Frames by which sounds begin ahead of their phonemes (kokoro's own join_timestamps)."""


@dataclass(frozen=True, slots=True)
class Spoken:
    """A piece as it is heard."""

    samples: Samples
    starts: tuple[float, ...]
    """When each of its words begins, in seconds; never falling, never after the end."""


def finish(
    audio: NDArray[Any], durations: NDArray[Any], words: Sequence[Word], speed: float
) -> Spoken:
    """Trim what the model said for `words`, and set the pause after it.

    `audio`: shape (n,), the model's sound. `durations`: shape (phonemes + 2,), frames for the
    start, each phoneme of each word, and the end. The pause shrinks as `speed` grows.
    """
    sound = np.clip(np.nan_to_num(audio.astype(np.float32)), -1.0, 1.0)
    frames = np.concatenate([[0], np.cumsum(durations)])
    frame = len(sound) / max(1, frames[-1])  # 600 samples in the published model
    phonemes = "".join(word.phonemes for word in words)
    sounding = [at for at, phoneme in enumerate(phonemes) if phoneme not in _SILENT]
    if not sounding or not len(sound):
        return Spoken(sound[:0], (0.0,) * len(words))
    # Phoneme k lasts from frames[k + 1] to frames[k + 2]: the start has a duration too.
    begin, end = _extent(
        sound, int(frames[sounding[0] + 1] * frame), int(frames[sounding[-1] + 2] * frame), frame
    )
    tail = phonemes.rstrip(' ”")')[-1:]
    samples = np.concatenate([_fade(sound[begin:end]), _pause(tail, speed)])
    starts = []
    at = 0
    for word in words:
        starts.append((frames[at + 1] - _EARLY) * frame - begin)
        at += len(word.phonemes)
    return Spoken(samples, _in_order(starts, len(samples)))


def _extent(sound: Samples, onset: int, offset: int, frame: float) -> tuple[int, int]:
    """First and last sample to keep, where phonemes are held from `onset` to `offset`.

    Silence is cut before `onset` alone, so that no word can lose its beginning; at the other end
    up to _EARLY frames of silence may go before `offset` as well.
    """
    windows = sound[: len(sound) // _WINDOW * _WINDOW].reshape(-1, _WINDOW)
    power = np.square(windows).mean(axis=1) if len(windows) else np.zeros(1, np.float32)
    loud = np.flatnonzero(power > _QUIET**2 * power.max())
    first, last = (loud[0] * _WINDOW, (loud[-1] + 1) * _WINDOW) if len(loud) else (0, len(sound))
    begin = max(0, min(int(first), onset) - _ATTACK)
    end = min(max(int(last), offset - int(_EARLY * frame)), offset) + _RELEASE
    return begin, max(begin, min(end, len(sound)))


def _fade(sound: Samples) -> Samples:
    """A copy that begins and ends at zero: a step in a wave is heard as a click."""
    faded = sound.copy()
    rise, fall = min(_FADE_IN, len(faded)), min(_RELEASE, len(faded))
    faded[:rise] *= _slope(rise)
    faded[len(faded) - fall :] *= _slope(fall)[::-1]
    return faded


def _slope(length: int) -> Samples:
    return (0.5 - 0.5 * np.cos(np.pi * np.arange(length) / max(1, length))).astype(np.float32)


def _pause(mark: str, speed: float) -> Samples:
    seconds = 0.0
    if mark in PAUSES:
        seconds = SENTENCE_PAUSE if mark in _SENTENCE_MARKS else CLAUSE_PAUSE
    return np.zeros(int(seconds / speed * RATE), np.float32)


def audible(words: Sequence[Word]) -> bool:
    """Whether any of it has a sound."""
    return any(phoneme not in _SILENT for word in words for phoneme in word.phonemes)


def _in_order(starts: Sequence[float], length: int) -> tuple[float, ...]:
    """Samples to seconds that never fall and stay inside a sound of `length` samples."""
    inside = np.maximum.accumulate(np.clip(starts, 0, length))
    return tuple(float(start) / RATE for start in inside)


def chunks(spoken: Spoken, times: Sequence[WordTime], before: float) -> Iterator[SpeechChunk]:
    """The sound in chunks, each with the words of `times` that begin in it.

    `times` count from the text's first sample, `before` seconds ahead of this sound's.
    """
    pending = list(times)
    for at in range(0, len(spoken.samples), CHUNK):
        piece = spoken.samples[at : at + CHUNK]
        last = at + CHUNK >= len(spoken.samples)
        until = before + (at + len(piece)) / RATE
        begun = [word for word in pending if last or word.start < until]
        pending = pending[len(begun) :]
        yield SpeechChunk(piece, tuple(begun))
