"""A reply as OpenAI's client reads it from a stream: chunks to deltas. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from openai.types.chat import ChatCompletionChunk
from openai.types.chat.chat_completion_chunk import ChoiceDelta

from voicepool.engines.base import ChatDelta, Finished, TextDelta
from voicepool.engines.chat.halves import Halves
from voicepool.engines.chat.thinking import ThoughtFilter
from voicepool.engines.openai_chat import wire
from voicepool.engines.openai_chat.calls import Calls

_THOUGHTS = ("reasoning_content", "reasoning")
"""Fields in which servers stream a model's reasoning, none of them OpenAI's own."""


class Reply:
    """One generation; `starts_thinking`: its text begins inside the model's reasoning."""

    def __init__(self, *, starts_thinking: bool) -> None:
        self._thoughts = ThoughtFilter(thinking=starts_thinking)
        self._halves = Halves()
        self._calls = Calls()
        self._ended: str | None = None
        self.input_tokens = 0
        """Of the prompt, once the server has told."""
        self._output_tokens = 0

    @property
    def over(self) -> bool:
        """Whether the model has ended it, not only the connection."""
        return self._ended is not None

    def feed(self, chunk: ChatCompletionChunk) -> Iterator[ChatDelta]:
        """What a chunk adds. Raises ValueError, TypeError or AttributeError for an odd one."""
        if chunk.usage is not None:
            self.input_tokens = chunk.usage.prompt_tokens or 0
            self._output_tokens = chunk.usage.completion_tokens or 0
        for choice in (chunk.choices or ())[:1]:
            self._ended = choice.finish_reason or self._ended
            if choice.delta is not None:  # some servers' last one has none
                yield from self._add(choice.delta)

    def _add(self, delta: ChoiceDelta) -> Iterator[ChatDelta]:
        if delta.content or any(getattr(delta, field, None) for field in _THOUGHTS):
            # Also "" while it thinks: whoever waits for a token knows that it lives.
            yield TextDelta(self._thoughts.feed(self._halves.feed(delta.content or "")))
        for part in delta.tool_calls or ():
            yield from self._rest_of_text()
            name = part.function.name if part.function else None
            arguments = part.function.arguments if part.function else None
            yield from self._calls.add(part.index, part.id, name, arguments)

    def finish(self) -> Iterator[ChatDelta]:
        """What is left when the stream is over."""
        yield from self._rest_of_text()
        reason = wire.reason(self._ended, called=self._calls.count > 0)
        finished = Finished(reason, self.input_tokens, self._output_tokens)
        if not finished.cut_off:  # else the last call's arguments break off: nobody can make it
            yield from self._calls.finish()
        yield finished

    def _rest_of_text(self) -> Iterator[TextDelta]:
        if rest := self._thoughts.feed(self._halves.flush()) + self._thoughts.flush():
            yield TextDelta(rest)
