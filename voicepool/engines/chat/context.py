"""Fits a conversation into a model's context. Pure.

A server that is sent too much forgets something of its own choice, the system prompt or the turn
it should answer, or refuses. So the oldest exchanges go before they are sent. What a turn costs is
estimated from its characters and corrected by what the server reports of earlier requests.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

from voicepool.engines.base import Message, Tool

DEFAULT_CONTEXT = 4096
"""Tokens, where a server does not tell: as much as Ollama gives a model on a small GPU."""
MOST_CONTEXT = 32_768
"""Tokens of a context that are used, unless configured: more would take seconds to read."""

STEPS = 4
"""Exchanges go in steps of this part of the context. A server keeps what it has computed for a
prompt's beginning and reuses it while that stays the same: if each turn dropped one exchange, each
would cost the whole prompt again."""

USUAL_REPLY = 512
"""Tokens that are kept for a reply without a limit: minutes of speech."""

_BYTES_PER_TOKEN = 3.0
"""Of UTF-8. English has 4 and more; Cyrillic comes to 1.5 characters a token, Chinese to 1."""
_PER_MESSAGE = 8
"""Tokens that a chat template puts around a message."""
_LEAST_FACTOR, _MOST_FACTOR = 0.5, 3.0
_MARGIN = 1.05

Counter = Callable[[Message | Tool], float]
"""Tokens that a message or a tool costs."""


class TokenEstimate:
    """How many tokens a conversation costs one model. Callable as a `Counter`."""

    def __init__(self) -> None:
        self._factor = 1.0

    def __call__(self, item: Message | Tool) -> float:
        return self._factor * _rough(item)

    def observe(self, items: Sequence[Message | Tool], actual: int) -> None:
        """A server has counted `actual` tokens in a prompt made of these messages and tools.

        Believed at once where more than was thought, by half where less: too high an estimate
        forgets a turn early, too low a one loses control of what is forgotten.
        """
        if actual <= 0 or not items:
            return
        factor = _MARGIN * actual / sum(map(_rough, items))
        if factor < self._factor:
            factor = (factor + self._factor) / 2
        self._factor = min(_MOST_FACTOR, max(_LEAST_FACTOR, factor))


def _rough(item: Message | Tool) -> float:
    """Tokens by the rule of thumb."""
    if isinstance(item, Tool):
        texts = [item.name, item.description, json.dumps(item.parameters)]
    else:
        texts = [item.content]
        for call in item.tool_calls:
            texts += [call.name, call.arguments]
    size = sum(len(text.encode(errors="replace")) for text in texts)
    return _PER_MESSAGE + size / _BYTES_PER_TOKEN


def fitted(
    messages: Sequence[Message],
    tools: Sequence[Tool],
    limit: int,
    max_tokens: int | None,
    count: Counter,
) -> list[Message]:
    """What a context of `limit` tokens has room for, with a reply of `max_tokens`; see `trim`."""
    reserve = min(USUAL_REPLY if max_tokens is None else max_tokens, limit // 2)
    return trim(messages, tools, limit, reserve, count)


def trim(
    messages: Sequence[Message], tools: Sequence[Tool], limit: int, reserve: int, count: Counter
) -> list[Message]:
    """What of a conversation fits into `limit` tokens, `reserve` of them kept for the reply.

    Keeps the system messages at its head and the newest exchanges; an exchange begins with a turn
    of the caller and has all that follows until the next. The last one stays whatever it costs,
    and so does the call of a result in it. A result whose call has gone goes too. Exchanges go in
    steps, see STEPS, as long as that leaves enough.
    """
    head, body = _split_head(messages)
    room = limit - reserve - sum(map(count, head)) - sum(map(count, tools))
    dropped = list(accumulate(map(count, body), initial=0.0))  # by index of the first that is kept
    excess = dropped[-1] - room
    if excess <= 0:
        return [*head, *_answered(body)]
    step = limit / STEPS
    cuts = _cuts(body)
    for enough in (math.ceil(excess / step) * step, excess):
        for cut in cuts:
            if dropped[cut] >= enough:
                return [*head, *_answered(body[cut:])]
    return [*head, *_answered(body[cuts[-1] :])]


def _split_head(messages: Sequence[Message]) -> tuple[list[Message], list[Message]]:
    """The system messages that a conversation begins with, and the rest."""
    end = next((i for i, m in enumerate(messages) if m.role != "system"), len(messages))
    return list(messages[:end]), list(messages[end:])


def _cuts(body: Sequence[Message]) -> list[int]:
    """The beginnings of exchanges before which everything may go, ascending."""
    starts = [0]
    for index, (before, message) in enumerate(pairwise(body), 1):
        if message.role == "user" and before.role != "user":
            starts.append(index)
    wanted = {message.tool_call_id for message in body[starts[-1] :] if message.role == "tool"}
    for index, message in enumerate(body):
        if any(call.call_id in wanted for call in message.tool_calls):
            return [start for start in starts if start <= index]
    return starts


def _answered(messages: Sequence[Message]) -> list[Message]:
    """Without results of tools whose call is not there."""
    called: set[str] = set()
    kept = []
    for message in messages:
        called.update(call.call_id for call in message.tool_calls)
        if message.role != "tool" or message.tool_call_id in called:
            kept.append(message)
    return kept
