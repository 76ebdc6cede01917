"""The order of a call's responses: which is made now, which wait, which may still be heard."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from voicepool.errors import ResponseActive
from voicepool.events import CancelReason, ResponseRequest
from voicepool.response import Response
from voicepool.tasks import TaskSet

MOST_WAITING = 16
"""Responses that wait."""
MOST_ASIDE = 4
"""Out-of-band responses that are made at once."""


class Replies:
    """One remembered response is made at a time, and a few out of band beside it.

    `on_begun` is told when a remembered response begins, `on_ended` when none is in the making any
    more, with the seconds until the caller has heard all replies.
    """

    def __init__(
        self, tasks: TaskSet, on_begun: Callable[[], None], on_ended: Callable[[float], None]
    ) -> None:
        self.active: Response | None = None
        self.waiting: deque[Response] = deque()
        self._tasks = tasks
        self._on_begun = on_begun
        self._on_ended = on_ended
        self._aside: set[Response] = set()
        self._made: list[Response] = []
        """Responses that are over but may still be playing, the oldest first."""
        self._answer: Response | None = None
        """The last answer to a turn; the only one that may wait."""
        self._gave_way = False
        """A reply ended because the caller spoke, and no answer has come after it."""
        self._closed = False

    @property
    def idle(self) -> bool:
        """Whether no response is in the making or waiting, those out of band aside."""
        return self.active is None and not self.waiting

    @property
    def busy(self) -> bool:
        """Whether any response is in the making or waiting."""
        return not self.idle or bool(self._aside)

    def check(self, request: ResponseRequest) -> None:
        """Raises ResponseActive where a request now would have to wait too long."""
        if request.remember and self.active is not None and not self._takes_over(request):
            raise ResponseActive(self.active.response_id)
        if len(self.waiting) >= MOST_WAITING:
            raise ResponseActive(self.waiting[0].response_id)

    def request(self, response: Response) -> None:
        """Submit what somebody has asked for, once it is checked.

        It takes the place of an answer that nobody has been told of: it answers that turn too,
        while the answer itself may come to nothing, where there are no words in the turn."""
        if self.active is not None and self._takes_over(response.request):
            response.spoke_until = (self._answer or self.active).spoke_until
            self._drop_waiting_answer()
            self.active.close("cancelled")
            self._gave_way = False
        self.submit(response)

    def _takes_over(self, request: ResponseRequest) -> bool:
        untold = self.active is not None and not self.active.started
        return untold and request.remember and request.messages is None

    def submit(self, response: Response) -> None:
        """Make the response as soon as its turn has come."""
        self.waiting.append(response)
        self._start_waiting()

    def answer(self, response: Response) -> None:
        """Submit the answer to a turn. An older one that waits goes: this answers both turns."""
        self._drop_waiting_answer()
        response.overdue, self._gave_way = self._gave_way, False
        self._answer = response
        self.submit(response)

    def cancel(self, response_id: str | None, reason: CancelReason) -> bool:
        """Cancel the given or the active response; False if there is none."""
        for response in (self.active, *self._aside, *self.waiting):
            if response is None:
                continue
            wanted = response.response_id == response_id
            if wanted or (response_id is None and response.request.remember):
                response.start()
                response.close("cancelled", reason=reason)
                return True
        return False

    def interrupt(self) -> None:
        """The caller speaks: whatever the conversation says or is about to say ends."""
        playing = any(response.unplayed() for response in self._made)
        self._gave_way = playing or self.active is not None
        for response in self._made:
            if response.unplayed():
                response.interrupt()
        self._made.clear()
        self._drop_waiting_answer()
        if self.active is not None:
            self.active.interrupt()

    def forget(self) -> None:
        """Whatever is said or about to be said ends: the conversation it belongs to is over."""
        for response in (*self.waiting, *self._aside):
            response.close("cancelled", reason="client_cancelled")
        self.interrupt()

    def stopped_playing(self, item_id: str) -> None:
        """The caller's side has stopped playing a message of a response that is over."""
        playing = [response for response in self._made if response.unplayed()]
        for response in playing:
            response.stopped_playing(item_id)
        if playing and self.idle:
            self._on_ended(self._unplayed())

    def close(self) -> None:
        """Cancel all, and begin none any more."""
        self._closed = True
        for response in (*self.waiting, *self._aside, self.active):
            if response is not None:
                response.close("cancelled")

    def closed(self, response: Response) -> None:
        """A response tells that it is over."""
        if response in self.waiting:
            self.waiting.remove(response)
        self._aside.discard(response)
        if response is self.active:
            self.active = None
            self._made = [each for each in (*self._made, response) if each.unplayed()]
            self._on_ended(self._unplayed())
        self._start_waiting()

    def _start_waiting(self) -> None:
        for response in tuple(self.waiting):
            if self._closed:
                return
            if response.request.remember:
                if self.active is not None:
                    continue
                self.active = response
                self._on_begun()
            elif len(self._aside) < MOST_ASIDE:
                self._aside.add(response)
            else:
                continue
            self.waiting.remove(response)
            if response.requested:
                response.start()
            response.task = self._tasks.spawn(response.run())

    def _drop_waiting_answer(self) -> None:
        if self._answer is not None and self._answer in self.waiting:
            self.waiting.remove(self._answer)
            self._gave_way = True
        self._answer = None

    def _unplayed(self) -> float:
        return sum(response.unplayed() for response in self._made)
