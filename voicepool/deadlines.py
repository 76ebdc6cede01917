"""A timetable: many keys, one earliest deadline. Pure, amortised O(log n) an operation."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Generic, TypeVar

K = TypeVar("K")


class Deadlines(Generic[K]):
    """At most one deadline per key; setting a key anew replaces its deadline.

    A heap with lazy deletion. Most deadlines (heartbeats) only ever move later, so moving one
    later leaves its heap entry where it is, and the entry is put right when it surfaces. What is
    cleared or moved earlier leaves a dead entry behind; the heap is rebuilt when those dominate,
    so its size stays within a constant factor of the number of keys.
    """

    def __init__(self) -> None:
        self._at: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._entry: dict[K, tuple[float, int]] = {}
        self._order = 0

    def __len__(self) -> int:
        return len(self._at)

    def set(self, key: K, at: float) -> None:
        """Make `at` the key's deadline."""
        self._at[key] = at
        entry = self._entry.get(key)
        if entry is None or at < entry[0]:
            self._push(key, at)
            self._compact()

    def clear(self, key: K) -> None:
        """Forget the key's deadline, if it has one."""
        if self._at.pop(key, None) is not None:
            del self._entry[key]
            self._compact()

    def get(self, key: K) -> float | None:
        """The key's deadline."""
        return self._at.get(key)

    @property
    def next(self) -> float | None:
        """The earliest deadline of all."""
        while self._heap:
            at, order, key = self._heap[0]
            if self._entry.get(key) != (at, order):
                heapq.heappop(self._heap)
            elif self._at[key] != at:
                heapq.heappop(self._heap)
                self._push(key, self._at[key])
            else:
                return at
        return None

    def pop_due(self, now: float) -> Iterator[K]:
        """Remove and yield the keys whose deadline has come, earliest first.

        Keys may be set and cleared between two steps; one that is set to a time that has come
        already is yielded in its turn.
        """
        while (at := self.next) is not None and at <= now:
            _, _, key = heapq.heappop(self._heap)
            del self._at[key], self._entry[key]
            yield key

    def _push(self, key: K, at: float) -> None:
        self._order += 1
        self._entry[key] = (at, self._order)
        heapq.heappush(self._heap, (at, self._order, key))

    def _compact(self) -> None:
        if len(self._heap) <= 2 * len(self._at) + 64:
            return
        # Numbered anew: what is left in the heap afterwards is older than any later push.
        self._heap = [(at, order, key) for order, (key, at) in enumerate(self._at.items())]
        self._order = len(self._heap)
        self._entry = {key: (at, order) for at, order, key in self._heap}
        heapq.heapify(self._heap)
