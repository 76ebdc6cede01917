"""Whether the phrase that a grammar made of an utterance is what was said.

A grammar always finds some phrase. What gives a wrong one away is measured against a loop of phones
over the same sound (an "anti-model": Rahim, Lee and Juang, "Discriminative utterance verification
for connected digits recognition", IEEE Trans. Speech and Audio Processing 5(3), 1997), and by how
the phrase lies in time.

The weights are a logistic regression that `scripts/fit-plausibility` made from 343 phrases and 212
sentences that the grammar took for a whole phrase (ordinary ones, and ones a word away from a
phrase): other voices, speeds, noises and sentences than those of the recognition test. The bias is
set so that 0.5 % of those phrases are rejected; a third of those sentences then passes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Segment:
    """A word or phone with its place in the utterance."""

    name: str
    start: int
    """First frame; frames are 10 ms."""
    end: int
    """Last frame."""
    score: float
    """Natural logarithm of its acoustic likelihood, up to a constant per frame."""
    phones: int = 1
    """How many phones it has; 0 for silence and noise."""

    @property
    def frames(self) -> int:
        return self.end - self.start + 1


@dataclass(frozen=True, slots=True)
class Evidence:
    """One utterance as the grammar heard it, and as a loop of phones did."""

    text: str
    words: tuple[Segment, ...]
    phones: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class Features:
    """What the decision rests on."""

    ratio: float
    """Log likelihood ratio per frame of the phrase's words against the phone loop."""
    worst_ratio: float
    """The same of the word that fits least: tells near misses, one word away."""
    shortest: float
    """Frames per phone in the most hurried word."""
    longest: float
    """Frames per phone in the most drawn-out word."""
    unexplained: float
    """Frames in which the loop hears phones where the grammar had to assume silence."""


WEIGHTS = Features(
    ratio=1.0959, worst_ratio=0.2714, shortest=0.2326, longest=-0.0938, unexplained=-0.0876
)
BIAS = 5.77


def confidence(heard: Evidence) -> float:
    """In [0, 1]; from 0.5 on, the phrase is to be believed."""
    found = features(heard)
    if found is None:
        return 0.0
    logit = (
        BIAS
        + WEIGHTS.ratio * found.ratio
        + WEIGHTS.worst_ratio * found.worst_ratio
        + WEIGHTS.shortest * found.shortest
        + WEIGHTS.longest * found.longest
        + WEIGHTS.unexplained * found.unexplained
    )
    return 1 / (1 + math.exp(-min(max(logit, -50.0), 50.0)))


def features(heard: Evidence) -> Features | None:
    """None where the grammar heard no word at all."""
    words = [word for word in heard.words if word.phones and word.frames > 0]
    if not words:
        return None
    loop, silent = _by_frame(heard.phones, 1 + max(word.end for word in heard.words))
    against = [word.score - float(loop[word.start : word.end + 1].sum()) for word in words]
    pace = [word.frames / word.phones for word in words]
    pauses = [word for word in heard.words if not word.phones]
    return Features(
        ratio=sum(against) / sum(word.frames for word in words),
        worst_ratio=min(ratio / word.frames for ratio, word in zip(against, words, strict=True)),
        shortest=min(pace),
        longest=max(pace),
        unexplained=float(sum((~silent[it.start : it.end + 1]).sum() for it in pauses)),
    )


def _by_frame(
    phones: Sequence[Segment], frames: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The loop's score of each frame, and whether it is silence to the loop."""
    scores = np.zeros(frames)
    silent = np.zeros(frames, np.bool_)
    for phone in phones:
        if phone.frames > 0:
            scores[phone.start : phone.end + 1] = phone.score / phone.frames
            silent[phone.start : phone.end + 1] = not phone.phones
    return scores, silent
