"""How much a language model server may send: whoever is at the other end, an answer has an end.

The client libraries read on until a line is complete, and unpack what is packed, into memory.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

LONGEST_LINE: Final = 1 << 20
"""Bytes of one event of a stream; one with a whole tool call in it has thousands."""
LONGEST_ANSWER: Final = 64 << 20
"""Bytes of one answer, which are some 200,000 tokens."""
MOST_CALLS: Final = 64
"""Of tools, in one reply."""
LONGEST_NAME: Final = 256
"""Characters of a tool's name. What clients hear at a response's end has all calls in it."""
PLAIN: Final = {"Accept-Encoding": "identity"}
"""The header to ask with: a few bytes could be unpacked to gigabytes."""


class TooMuch(ValueError):
    """A server sends what has no end."""


def check_call(number: int, name: str) -> None:
    """Of a reply's tool call, counted from 1. Raises TooMuch."""
    if number > MOST_CALLS or len(name) > LONGEST_NAME:
        raise TooMuch("tool calls without an end")


class Bounds:
    """Counts one answer."""

    def __init__(self, silence: float, now: float) -> None:
        """`silence`: seconds that a line may take. `now`: on any monotonic clock."""
        self._silence = silence
        self._line_began = now
        self._line = 0
        self._all = 0

    def count(self, piece: bytes, now: float) -> None:
        """Take note of the next bytes. Raises TooMuch."""
        self._all += len(piece)
        end = piece.rfind(b"\n")
        if end >= 0:
            self._line, self._line_began = len(piece) - end - 1, now
        else:
            self._line += len(piece)
        if self._line > LONGEST_LINE or self._all > LONGEST_ANSWER:
            raise TooMuch("an answer without an end")
        if now - self._line_began > self._silence:
            raise TooMuch("a line takes too long")


class _Bounded:
    """An answer's bytes as a client library reads them."""

    def __init__(self, stream: Any, bounds: Bounds) -> None:
        self._stream = stream
        self._bounds = bounds

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._stream:
            self._bounds.count(piece, time.monotonic())
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()


def bounding(stream_type: type, silence: float) -> Callable[[Any], Awaitable[None]]:
    """A response hook for an asynchronous client of httpx or httpx2, whose AsyncByteStream is
    `stream_type`. Reading the response raises TooMuch."""
    kind = type("Bounded", (_Bounded, stream_type), {})

    async def bound(response: Any) -> None:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise TooMuch("an answer that is packed, though nobody asked for that")
        response.stream = kind(response.stream, Bounds(silence, time.monotonic()))

    return bound
