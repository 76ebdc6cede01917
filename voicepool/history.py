"""The conversation so far, in the caller's order, and what of it the language model is told."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from voicepool.engines.base import Message
from voicepool.errors import DuplicateItem, UnknownItem
from voicepool.playback import Playback

LONGEST = 1000
"""Entries kept; beyond, the oldest go. An hour of talk has a few hundred."""


@dataclass(slots=True)
class Entry:
    """One message of the conversation."""

    item_id: str
    message: Message
    playback: Playback | None = None
    """How a spoken reply's text lies in its sound."""
    heard_ms: float = float("inf")
    """The caller has heard the reply up to here; only ever becomes less."""
    pending: bool = False
    """Its message is not known (yet): a turn without a transcript, an unfinished tool call."""

    def cut(self, heard_ms: float) -> str:
        """Keep what was heard up to then, of what is left; returns the text that is left."""
        self.heard_ms = min(self.heard_ms, heard_ms)
        if self.playback is not None and self.heard_ms < float("inf"):
            self.message = replace(self.message, content=self.playback.text_until(self.heard_ms))
        return self.message.content

    def settle(self, message: Message) -> None:
        """The whole message is known."""
        self.pending = False
        self.message = message
        self.cut(self.heard_ms)


class History:
    """Ordered entries with unique ids. Every change is immediate; nothing here waits."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, item_id: str | None) -> bool:
        return any(entry.item_id == item_id for entry in self._entries)

    @property
    def ids(self) -> list[str]:
        """Item ids in order."""
        return [entry.item_id for entry in self._entries]

    @property
    def awaits_answer(self) -> bool:
        """Whether the last word is the caller's, or a tool's, as far as the language model is
        told."""
        messages = self.messages()
        return bool(messages) and messages[-1].role in ("user", "tool")

    @property
    def last_id(self) -> str | None:
        return self._entries[-1].item_id if self._entries else None

    def find(self, item_id: str) -> Entry:
        """Raises UnknownItem."""
        return self._entries[self._index(item_id)]

    def said(self, item_id: str) -> list[Message]:
        """The message of one entry; none where it is pending or gone."""
        return [
            entry.message
            for entry in self._entries
            if entry.item_id == item_id and not entry.pending
        ]

    def pending(self, item_id: str) -> bool:
        """Whether the message of an entry is not known (yet)."""
        return any(entry.item_id == item_id and entry.pending for entry in self._entries)

    def append(self, entry: Entry) -> str | None:
        """Put an entry last; returns the id before it. Raises DuplicateItem."""
        return self.insert(entry, after=None)

    def insert(self, entry: Entry, after: str | None) -> str | None:
        """Put an entry after entry `after` ("root": first; None: last); returns the id before it.

        Raises DuplicateItem, UnknownItem.
        """
        if entry.item_id in self:
            raise DuplicateItem(entry.item_id)
        match after:
            case None:
                index = len(self._entries)
            case "root":
                index = 0
            case _:
                index = self._index(after) + 1
        previous = self._entries[index - 1].item_id if index else None
        self._entries.insert(index, entry)
        del self._entries[:-LONGEST]
        return previous

    def delete(self, item_id: str) -> None:
        """Raises UnknownItem."""
        del self._entries[self._index(item_id)]

    def clear(self) -> None:
        """Begin with nothing again."""
        self._entries.clear()

    def truncate(self, item_id: str, audio_end_ms: float) -> str:
        """Cut a reply to what was heard up to then; returns the text that is left.

        Never lengthens. An entry without sound stays as it is. Raises UnknownItem.
        """
        entry = self.find(item_id)
        return entry.cut(audio_end_ms)

    def settle(self, entry: Entry, message: Message) -> None:
        """See `Entry.settle`; the entry may have been deleted meanwhile."""
        entry.settle(message)

    def messages(self) -> list[Message]:
        """What the language model is told, oldest first: see `told`. Left out are entries that are
        pending."""
        return told(entry.message for entry in self._entries if not entry.pending)

    def _index(self, item_id: str) -> int:
        for index, entry in enumerate(self._entries):
            if entry.item_id == item_id:
                return index
        raise UnknownItem(item_id)


def told(messages: Iterable[Message]) -> list[Message]:
    """These messages as a language model is told them.

    Left out are replies of which nothing was heard. What one response made (a message, then tool
    calls) are messages of their own here, but one assistant message to a model: chat APIs want all
    calls in the message that their results follow.
    """
    kept: list[Message] = []
    for message in messages:
        if message.role == "assistant":
            if not message.content and not message.tool_calls:
                continue
            if kept and kept[-1].role == "assistant" and message.tool_calls:
                kept[-1] = _joined(kept[-1], message)
                continue
        kept.append(message)
    return kept


def _joined(first: Message, second: Message) -> Message:
    content = " ".join(part for part in (first.content, second.content) if part)
    return replace(first, content=content, tool_calls=first.tool_calls + second.tool_calls)
