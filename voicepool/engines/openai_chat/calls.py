"""Tool calls put together from the pieces in which a server streams them. Pure."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field

from voicepool.engines.base import ToolCall, ToolCallDelta
from voicepool.engines.chat.bounds import check_call
from voicepool.engines.chat.halves import Halves, whole

MOST_ARGUMENTS = 1_000_000
"""Characters."""


@dataclass(slots=True)
class _Open:
    index: int
    server_id: str | None
    call_id: str
    name: str
    arguments: str = ""
    halves: Halves = field(default_factory=Halves)

    @property
    def call(self) -> ToolCall:
        return ToolCall(self.call_id, self.name, self.arguments or "{}")


class Calls:
    """One reply's tool calls, which come one after another.

    A piece belongs to the call of its index. Servers that leave indices out, or give all calls the
    same, begin a call with another id. The ids told are our own: a server's may come again with its
    next reply ("call_0"), and may be longer than the 32 characters that Realtime clients take.
    Raises ValueError where a reply has no end of calls.
    """

    def __init__(self) -> None:
        self._open: _Open | None = None
        self.count = 0

    def add(
        self, index: int | None, call_id: str | None, name: str | None, arguments: str | None
    ) -> Iterator[ToolCallDelta | ToolCall]:
        """What a piece tells: maybe that the call before is complete, then more of this one."""
        if self._is_new(index, call_id):
            yield from self.finish()
            self.count += 1
            made = f"call_{secrets.token_hex(12)}"
            self._open = _Open(index or 0, call_id, made, whole(name or ""))
        elif self._open is not None and name and not self._open.name:
            self._open.name = whole(name)
        current = self._open
        if current is None or not current.name:
            raise ValueError("a tool call without a name")
        piece = current.halves.feed(arguments or "")
        current.arguments += piece
        check_call(self.count, current.name)
        if len(current.arguments) > MOST_ARGUMENTS:
            raise ValueError("tool calls without an end")
        yield ToolCallDelta(current.call_id, current.name, piece)

    def finish(self) -> Iterator[ToolCall]:
        """The last call, once the reply is over."""
        if self._open is not None:
            last, self._open = self._open, None
            last.arguments += last.halves.flush()
            yield last.call

    def _is_new(self, index: int | None, call_id: str | None) -> bool:
        if self._open is None:
            return True
        if index is not None and index != self._open.index:
            return True
        return bool(call_id) and call_id != self._open.server_id
