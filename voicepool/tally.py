"""What one call adds to the metrics, by the events of its pipeline."""

from __future__ import annotations

import time
from collections.abc import Callable

from voicepool import events
from voicepool.figures import count, took


class Tally:
    """Counts turns, replies and interruptions, and times how long the caller waits to be answered.

    That is from the end of the caller's speech (`ResponseStarted.spoke_until`) to the moment at
    which the first sound of the reply has been handed to the socket: what is queued before it, a
    client that does not read, and a new sampling rate are part of it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` is the pipeline's: seconds, monotonic."""
        self._clock = clock
        self._idle = ""
        """The turn in which nobody has said anything."""
        self._awaited: dict[str, float] = {}
        """Responses without a sound as yet, and when the speech ended that they answer."""
        self._first: dict[str, float] = {}
        """Items whose first sound is on its way to the socket, and the same."""

    def note(self, event: events.PipelineEvent) -> None:
        match event:
            case events.IdleTimeout():
                self._idle = event.item_id
            case events.TurnCommitted():
                if event.item_id != self._idle:
                    count("turns")
            case events.ResponseStarted():
                if event.spoke_until is not None:
                    self._awaited[event.response_id] = event.spoke_until
            case events.ResponseAudio():
                since = self._awaited.pop(event.response_id, None)
                if since is not None:
                    self._first[event.item_id] = since
            case events.Interrupted():
                count("interruptions")
                self._first.pop(event.item_id, None)
            case events.ResponseDone():
                count(f"responses.{event.status}")
                self._awaited.pop(event.response_id, None)

    def sending(self, item_id: str) -> Callable[[], None] | None:
        """Sound of that item goes to the sender: what to do once the socket has it, if anything."""
        since = self._first.pop(item_id, None)
        if since is None:
            return None
        return lambda: took("voice_to_voice", max(0.0, self._clock() - since))
