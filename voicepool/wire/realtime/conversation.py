"""The conversation as the client knows it: its items in order, bounded in number and size."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from voicepool.engines.base import Message
from voicepool.wire.realtime.errors import duplicate_item, unknown_previous
from voicepool.wire.realtime.items import Item

MAX_ITEMS = 1_000
MAX_CONVERSATION_BYTES = 8 << 20
"""Above either bound the oldest items are forgotten."""


@dataclass(slots=True)
class Entry:
    item: Item
    message: Message
    """The item as a prompt: it has the words even where the client wants no transcripts."""
    size: int = 0


class Conversation:
    """See the module. Nothing is forgotten by itself: `overflow` says what has to go."""

    def __init__(self, max_items: int = MAX_ITEMS, max_bytes: int = MAX_CONVERSATION_BYTES) -> None:
        self._entries: dict[str, Entry] = {}
        self._order: list[str] = []
        self._bytes = 0
        self._max_items = max_items
        self._max_bytes = max_bytes

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._entries

    def get(self, item_id: str) -> Entry | None:
        return self._entries.get(item_id)

    def check(self, item_id: str, after: str | None) -> None:
        """Raises WireError where `add` would have no place for the item."""
        if item_id in self._entries:
            raise duplicate_item(item_id)
        if after not in (None, "root") and after not in self._entries:
            raise unknown_previous(str(after))

    def add(self, item: Item, message: Message, after: str | None) -> str | None:
        """Put an item after `after` ("root": first; None or unknown: last); the id before it."""
        item_id = str(item["id"])
        place = len(self._order)
        if after == "root":
            place = 0
        elif after in self._entries and after != self._order[-1]:
            place = self._order.index(after) + 1
        previous = self._order[place - 1] if place else None
        self._order.insert(place, item_id)
        self._entries[item_id] = entry = Entry(item, message)
        self.resize(entry)
        return previous

    def add_told(self, item: Item, message: Message, previous_id: str | None) -> str | None:
        """Put an item that the pipeline tells of after the one that it tells; the id before it.

        The first one is first, though by the time that its event comes the client may have put
        items after it."""
        return self.add(item, message, "root" if previous_id is None else previous_id)

    def resize(self, entry: Entry) -> None:
        """Count the entry anew after its item or message has changed."""
        self._bytes -= entry.size
        entry.size = len(entry.message.content) + len(msgspec.json.encode(entry.item))
        self._bytes += entry.size

    def remove(self, item_id: str) -> None:
        """Raises KeyError where there is no such item."""
        self._bytes -= self._entries.pop(item_id).size
        self._order.remove(item_id)

    def overflow(self) -> list[str]:
        """The oldest items that have to go, as long as the rest is too much; not yet removed.

        The newest one always stays: it may be the one that is being answered.
        """
        count, size = len(self._order), self._bytes
        doomed: list[str] = []
        for item_id in self._order[:-1]:
            if count <= self._max_items and size <= self._max_bytes:
                break
            doomed.append(item_id)
            count -= 1
            size -= self._entries[item_id].size
        return doomed
