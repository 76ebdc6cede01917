"""When nobody uses a call any more. Pure: its clock is whoever tells it the time.

A call is used while its caller speaks, asks for something, or has a reply to wait for or to hear.
What the assistant says because the caller has been silent (`idle_timeout_ms` of the OpenAI
protocol) is no use of it, or a call to an empty room would never end.
"""

from __future__ import annotations


class Idleness:
    """How a call is used. Times are seconds on any clock that never goes back."""

    def __init__(self, limit: float, now: float) -> None:
        """`limit`: for how long nobody may use it."""
        self._limit = limit
        self._used = now
        self._heard = now
        """When the caller's side will have played all that it was given."""
        self._speaking = False
        self._replies: set[str] = set()
        """Those in the making that somebody waits for."""
        self._prompted = False
        """The assistant has spoken up by itself, and nobody has answered yet."""

    def used(self, now: float) -> None:
        """The caller has asked for something."""
        self._used = now
        self._prompted = False

    def hears(self, until: float) -> None:
        """The caller has sound to play until then, as it looks now."""
        if not self._prompted:
            self._heard = until

    def speech_began(self, now: float) -> None:
        self.used(now)
        self._speaking = True

    def speech_ended(self, now: float) -> None:
        self.used(now)
        self._speaking = False

    def prompted(self) -> None:
        """The caller has been silent for so long that the assistant speaks up."""
        self._prompted = True

    def reply_began(self, response_id: str) -> None:
        if not self._prompted:
            self._replies.add(response_id)

    def reply_ended(self, response_id: str, now: float) -> None:
        """The reply is made; whether all of it has been played is another matter."""
        if response_id in self._replies:
            self._replies.remove(response_id)
            self._used = now

    def left(self, now: float) -> float:
        """Seconds after which to ask again; the call is idle where they are not above 0."""
        if self._speaking or self._replies:
            return self._limit
        return max(self._used, self._heard) + self._limit - now
