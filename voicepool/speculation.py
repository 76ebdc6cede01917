"""The reply to a turn that is likely over: begun before that is certain, told only if it fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from voicepool.asking import Asked
from voicepool.engines.base import ChatRequest, Transcript
from voicepool.generation import Generation, Voice


@dataclass(slots=True, eq=False)
class _Ahead:
    asked: Asked | None = None
    generation: Generation | None = None

    def cancel(self) -> None:
        if self.generation is not None:
            self.generation.cancel()


class Speculator:
    """At most one reply that nobody has been told of. Whatever is not taken is cancelled."""

    def __init__(self, generate: Callable[[ChatRequest, Voice | None], Generation]) -> None:
        self._generate = generate
        self._ahead: _Ahead | None = None

    def begin(self, ask: Callable[[str], Asked]) -> Callable[[Transcript], None]:
        """A reply is wanted; it begins when what is returned is told what the caller has said so
        far, unless nobody wants it by then. `ask` says what to ask about the words."""
        self.discard()
        self._ahead = ahead = _Ahead()

        def reply(transcript: Transcript) -> None:
            if ahead is self._ahead and not transcript.unsaid:
                ahead.asked = ask(transcript.text.strip())
                ahead.generation = self._generate(*ahead.asked)

        return reply

    def take(self, asked: Asked) -> Generation | None:
        """The reply, if it is one to just this: the same conversation, words and settings."""
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return None
        if ahead.asked == asked:
            return ahead.generation
        ahead.cancel()
        return None

    def discard(self) -> None:
        """Nobody wants it."""
        if self._ahead is not None:
            self._ahead.cancel()
            self._ahead = None
