"""One utterance on its way through a recogniser that hears up to 30 s at once, as Whisper does.

What has been said so far is transcribed again and again as it grows, and what two transcripts in
a row agree on is published. An utterance of more than 30 s is cut at the quietest place of the
last ten: what comes before is transcribed for good and its sound forgotten, so that each further
transcript costs what one window costs, however long the caller speaks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from voicepool.engines.base import INPUT_RATE, Samples, Transcript
from voicepool.engines.faster_whisper import loudness
from voicepool.engines.faster_whisper.agreement import Agreement
from voicepool.engines.faster_whisper.pacing import Pace

WINDOW: Final = INPUT_RATE * 30
"""Samples that are heard at once: the length that Whisper was trained on."""
_EARLIEST_CUT: Final = INPUT_RATE * 20

SHORTEST: Final = INPUT_RATE // 10
"""Samples. In less there is no word, and Whisper would invent one."""
SHORTEST_PARTIAL: Final = INPUT_RATE
"""Samples. Guesses about less than a second seldom last."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What was understood of one window."""

    text: str
    """Without spaces around it; "" where nothing was understood."""
    tokens: int = 0
    log_probability: float = 0.0
    """Of all tokens together."""


NOTHING: Final = Heard("")


class WhisperStream:
    """RecognizerStream. `hear` transcribes at most WINDOW samples; it blocks. `language` is what it
    was told to hear, "" where it detects that."""

    def __init__(
        self,
        hear: Callable[[Samples], Heard],
        pace: Pace,
        clock: Callable[[], float] = time.monotonic,
        *,
        language: str = "",
    ) -> None:
        self._hear = hear
        self._pace = pace
        self._language = language
        self._clock = clock
        self._past: list[Heard] = []
        """The windows that are closed."""
        self._pieces: list[Samples] = []
        """The sound after them."""
        self._length = 0
        self._latest: Heard | None = None
        """Of that sound, all of it; None while none of it or only a part has been heard."""
        self._agreement = Agreement()

    def feed(self, samples: Samples) -> Transcript | None:
        """See RecognizerStream. Blocks for one transcript now and then."""
        if not len(samples):
            return None
        self._pieces.append(_clean(samples))
        self._length += len(samples)
        self._latest = None
        before = self._agreement.text
        if self._length > WINDOW:
            self._close_windows()
            self._agreement.hear(self._text())
        elif self._worth_a_partial():
            self._listen()
            self._agreement.hear(self._text())
        published = self._agreement.text
        return Transcript(published, final=False) if published != before else None

    def snapshot(self) -> Transcript:
        """See RecognizerStream. Blocks, unless nothing was fed since the last transcript."""
        if self._latest is None:
            self._listen()
        heard = [*self._past, self._latest or NOTHING]
        tokens = sum(window.tokens for window in heard)
        log_probability = sum(window.log_probability for window in heard)
        return Transcript(
            self._text(),
            final=True,
            confidence=math.exp(min(0.0, log_probability / tokens)) if tokens else 0.0,
            language=self._language,
        )

    def finish(self) -> Transcript:
        said = self.snapshot()
        self.close()
        return said

    def close(self) -> None:
        self._pieces.clear()
        self._length = 0
        self._latest = NOTHING

    def _worth_a_partial(self) -> bool:
        """Not where the caller has just paused: the next question is likely for a final, and
        that should not find the recogniser at work."""
        return (
            self._length >= SHORTEST_PARTIAL
            and self._pace.due(self._clock())
            and not loudness.has_fallen_quiet(self._sound())
        )

    def _text(self) -> str:
        windows = [*self._past, self._latest or NOTHING]
        return " ".join(window.text for window in windows if window.text)

    def _listen(self) -> None:
        """Hear all that has not been heard for good."""
        self._close_windows()  # which a failure may have left open
        self._latest = self._timed(self._sound()) if self._length >= SHORTEST else NOTHING

    def _close_windows(self) -> None:
        while self._length > WINDOW:
            sound = self._sound()
            cut = loudness.quietest(sound, _EARLIEST_CUT, WINDOW)
            self._past.append(self._timed(sound[:cut]))
            rest = sound[cut:].copy()  # a view would keep the whole window in memory
            self._pieces, self._length = [rest], len(rest)

    def _timed(self, sound: Samples) -> Heard:
        began = self._clock()
        heard = self._hear(sound)
        self._pace.spent(began, self._clock())
        return heard

    def _sound(self) -> Samples:
        if len(self._pieces) != 1:
            self._pieces = [np.concatenate([np.zeros(0, np.float32), *self._pieces])]
        return self._pieces[0]


def _clean(samples: Samples) -> Samples:
    """A copy in [-1, 1]: one NaN would turn the whole window into one."""
    finite = np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0)
    return np.clip(finite, -1.0, 1.0).astype(np.float32, copy=False)
