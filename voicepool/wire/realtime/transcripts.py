"""Transcripts in the making: from a recogniser's changing mind to deltas that only add."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

MAX_TURNS = 32
"""Turns whose transcripts are awaited at once; a turn that was cleared never gets one."""


@dataclass(slots=True)
class _Turn:
    text: str = ""
    """The latest that the recogniser said."""
    sent: str = ""
    """What the client has been told, in deltas."""
    added: bool = False
    """Whether the client has been told of the turn's item."""


class Transcripts:
    """The turns that have begun and have no final transcript yet, the oldest first."""

    def __init__(self) -> None:
        self._turns: OrderedDict[str, _Turn] = OrderedDict()

    def __len__(self) -> int:
        return len(self._turns)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._turns

    def expect(self, item_id: str) -> None:
        """A turn has begun (no change where it has before)."""
        self._turns.setdefault(item_id, _Turn())
        while len(self._turns) > MAX_TURNS:
            self._turns.popitem(last=False)

    def item_added(self, item_id: str) -> None:
        self.expect(item_id)
        self._turns[item_id].added = True

    def heard(self, item_id: str, text: str) -> None:
        """The recogniser now says `text` (the whole of it)."""
        if turn := self._turns.get(item_id):
            turn.text = text

    def delta(self, item_id: str, *, live: bool) -> str:
        """What to add to what was told, "" for nothing; it counts as told.

        A delta cannot be taken back: what contradicts the deltas so far is left to the final
        transcript. Before the client knows the item there are deltas only if it wants them `live`.
        """
        turn = self._turns.get(item_id)
        if turn is None or not (turn.added or live) or not turn.text.startswith(turn.sent):
            return ""
        delta = turn.text[len(turn.sent) :]
        turn.sent = turn.text
        return delta

    def close(self, item_id: str) -> None:
        self._turns.pop(item_id, None)
