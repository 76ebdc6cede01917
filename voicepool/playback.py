"""What the caller can have heard of a spoken reply: the sent-audio clock, and words by time."""

from __future__ import annotations

from dataclasses import dataclass, field

from voicepool.engines.base import WordTime
from voicepool.spoken.reader import Spoken

SPEECH_RATE = 15.0
"""Characters a second of ordinary English speech; how long an unfinished clause at least lasts."""

MILLISECOND = 0.001
"""The client's clock is no finer."""


@dataclass(slots=True)
class _Sounding:
    """A clause in the reply's sound."""

    spoken: Spoken
    begin: float
    """Seconds from the start of the reply's sound."""
    seconds: float = 0.0
    finished: bool = False
    words: list[WordTime] = field(default_factory=list)

    def begun(self, seconds: float) -> bool:
        """Whether any of it was heard with so much of the reply's sound."""
        if self.spoken.text:
            # Whole milliseconds on both sides: rounded up, the end of one clause is not yet the
            # first word of the next.
            return seconds > round(self.begin * 1000) / 1000
        return 0 < seconds > self.begin - MILLISECOND  # silent: it goes with what is before it

    def heard(self, seconds: float) -> int:
        """How many characters of the clause have begun to sound after `seconds` of it."""
        spoken = self.spoken
        if not spoken.text or (self.finished and seconds > self.seconds - MILLISECOND):
            return len(spoken.clause.text)
        if self.words:
            count = max((word.text_end for word in self.words if word.start < seconds), default=0)
        else:
            count = self._proportional(seconds)
        return spoken.written(count)

    def _proportional(self, seconds: float) -> int:
        """Without word times: as if every character took as long, down to whole words."""
        text = self.spoken.text
        lasts = self.seconds
        if not self.finished:
            lasts = max(lasts, len(text) / SPEECH_RATE)
        count = int(len(text) * min(1.0, seconds / lasts)) if lasts else 0
        if count >= len(text) or text[count].isspace():
            return count
        return max(text.rfind(" ", 0, count), 0)


@dataclass(slots=True)
class Loudspeaker:
    """The sent-audio clock: how long the caller's side still has something to play.

    It is taken to play sound as it arrives, without a pause, one reply after the other. `now` is a
    monotonic clock in seconds, here and below.
    """

    plays_until: float = float("-inf")

    def send(self, seconds: float, now: float) -> float:
        """More sound is on its way; returns when the caller will have heard it."""
        self.plays_until = max(self.plays_until, now) + seconds
        return self.plays_until

    def remaining(self, now: float) -> float:
        """Seconds that were sent and not heard."""
        return max(0.0, self.plays_until - now)

    def stop(self) -> None:
        """The caller's side has thrown away what it had yet to play."""
        self.plays_until = float("-inf")


class Playback:
    """One spoken message: its text, where its clauses lie in its sound, and how much was heard.

    That is the smaller of the sound sent so far and what the time since then allows.
    """

    def __init__(self, loudspeaker: Loudspeaker) -> None:
        self.text = ""
        """All that was sent as ResponseText."""
        self.seconds = 0.0
        """All the sound that was made."""
        self._clauses: list[_Sounding] = []
        self._loudspeaker = loudspeaker
        self._stopped = False
        self._sent = 0.0
        self._plays_until = float("-inf")

    # -- as the reply is made

    def begin_clause(self, spoken: Spoken) -> None:
        """The sound that follows speaks this clause."""
        self.end_clause()
        self._clauses.append(_Sounding(spoken, begin=self.seconds))

    def add_sound(self, seconds: float, words: tuple[WordTime, ...]) -> None:
        """More sound of the clause; `words` in its spoken text and its own time."""
        self.seconds += seconds
        self._clauses[-1].seconds += seconds
        self._clauses[-1].words += words

    def end_clause(self) -> None:
        """The clause has all its sound."""
        if self._clauses:
            self._clauses[-1].finished = True

    # -- as it is sent

    def sent(self, seconds: float, now: float) -> None:
        """So much more of the sound is on its way to the caller."""
        self._sent += seconds
        self._plays_until = self._loudspeaker.send(seconds, now)

    def remaining(self, now: float) -> float:
        """Seconds of its sound that were sent and not heard."""
        return min(self._sent, max(0.0, self._plays_until - now))

    def unplayed(self, now: float) -> float:
        """Seconds of its sound that were made and not heard."""
        if self._stopped:
            return 0.0
        unplayed = self.remaining(now) + self.seconds - self._sent
        return unplayed if unplayed > MILLISECOND else 0.0  # the sums differ in their last bits

    def heard_ms(self, now: float) -> int:
        """Milliseconds of it that the caller has heard."""
        return round((self._sent - self.remaining(now)) * 1000)

    def stop(self, now: float) -> None:
        """The caller's side has thrown away what it had yet to play."""
        self._sent -= self.remaining(now)
        self._stopped = True
        self._plays_until = float("-inf")
        self._loudspeaker.stop()

    def text_until(self, heard_ms: float) -> str:
        """The text whose words had begun to sound by then."""
        seconds = heard_ms / 1000
        end = 0
        for clause in self._clauses:
            if not clause.begun(seconds):
                break
            heard = clause.heard(seconds - clause.begin)
            end = clause.spoken.clause.start + heard if heard else end
        return self.text[:end]
