"""The phrasebook as a LanguageModel: no model at all, but the same stream of deltas.

It answers the last message from that message and the ones before it alone, so conversations
cannot mix. Its replies are made in microseconds; they stream word by word and yield to the event
loop after each, so that a long story can be cancelled and starves nobody.
"""

from __future__ import annotations

import asyncio
import datetime
import re
import secrets
from collections.abc import AsyncGenerator, Callable, Mapping
from random import Random
from typing import Any

import msgspec

from voicepool.engines import options as engine_options
from voicepool.engines.base import (
    ChatDelta,
    ChatRequest,
    Finished,
    Message,
    TextDelta,
    Tool,
    ToolCall,
    ToolCallDelta,
)
from voicepool.engines.phrasebook import book, skills
from voicepool.engines.phrasebook.book import Match
from voicepool.engines.phrasebook.grammar import Slots

_WORD = re.compile(r"\s*\S+")
MOST_SPOKEN = 600
"""Characters of a tool's result that are spoken."""


class Options(msgspec.Struct):
    phrasebook: str = ""
    """The user's own TOML file, laid over the one that comes with voicepool."""
    seed: int | None = None
    """Makes the choice of replies repeat itself; for tests."""


def create(options: Mapping[str, Any]) -> PhrasebookModel:
    """The engine from its table of options. Raises ConfigError."""
    checked = engine_options.convert(options, Options, "[llm] engine phrasebook")
    return PhrasebookModel(book.load(checked.phrasebook), seed=checked.seed)


def _local_time() -> datetime.datetime:
    return datetime.datetime.now().astimezone()


class PhrasebookModel:
    """LanguageModel over a Phrasebook."""

    name = "phrasebook"

    def __init__(
        self,
        phrasebook: book.Phrasebook,
        *,
        seed: int | None = None,
        clock: Callable[[], datetime.datetime] = _local_time,
    ) -> None:
        self._book = phrasebook
        self._seed = seed
        self._clock = clock
        self._random = Random(seed)

    def preload(self) -> None:
        """Nothing: the phrasebook was read when the options were checked."""

    def load(self, device: str) -> None:
        """Draw new luck: what was made before the fork would be the same in every worker."""
        self._random = Random(self._seed)

    def warm_up(self) -> None:
        """Match one phrase."""
        self._book.match("hello there computer")

    async def generate(self, request: ChatRequest) -> AsyncGenerator[ChatDelta, None]:
        """See LanguageModel. Tokens are counted as words."""
        heard = sum(len(message.content.split()) for message in request.messages)
        answer = self._answer(request)
        if isinstance(answer, ToolCall):
            yield ToolCallDelta(answer.call_id, answer.name, answer.arguments)
            yield answer
            yield Finished("tool_calls", heard, 1)
            return
        words = _WORD.findall(answer)
        most = len(words) if request.max_tokens is None else request.max_tokens
        for word in words[:most]:
            yield TextDelta(word)
            await asyncio.sleep(0)
        yield Finished("length" if most < len(words) else "stop", heard, min(most, len(words)))

    def _answer(self, request: ChatRequest) -> str | ToolCall:
        messages = [message for message in request.messages if message.role != "system"]
        last = messages[-1] if messages else Message("user", "")
        if last.role == "tool":
            return f"The answer is: {_speakable(last.content)}"
        found = self._book.match(last.content) if last.role == "user" else None
        tool = _choose_tool(request, found)
        if tool is not None:
            slots: Slots = found.slots if found is not None else {}
            return _call(tool, slots)
        return self._speak(found, messages[:-1])

    def _speak(self, found: Match | None, history: list[Message]) -> str:
        slots: Slots = found.slots if found is not None else {}
        ask = skills.Ask(slots, history, self._book, self._random, self._clock())
        if found is None:
            return skills.not_understood(ask)
        if found.entry.skill:
            return skills.SKILLS[found.entry.skill].run(ask)
        replies = [book.fill(reply, slots) for reply in found.entry.replies]
        said = {message.content for message in history if message.role == "assistant"}
        # Another joke should be another one, as long as there are any.
        return self._random.choice([reply for reply in replies if reply not in said] or replies)


def _choose_tool(request: ChatRequest, found: Match | None) -> Tool | None:
    """The declared tool to call: the phrase's own, or one that the caller insists on."""
    declared = {tool.name: tool for tool in request.tools}
    if request.tool_choice == "none":
        return None
    named = declared.get(found.entry.tool) if found is not None and found.entry.tool else None
    if request.tool_choice == "auto":
        return named
    if request.tool_choice == "required":
        return named or next(iter(declared.values()), None)
    return declared.get(request.tool_choice)


def _call(tool: Tool, slots: Slots) -> ToolCall:
    arguments = {name: slot.value for name, slot in slots.items()}
    known = tool.parameters.get("properties")
    if isinstance(known, dict):
        arguments = {name: value for name, value in arguments.items() if name in known}
    return ToolCall(
        f"call_{secrets.token_hex(12)}", tool.name, msgspec.json.encode(arguments).decode()
    )


def _speakable(result: str) -> str:
    """A tool's result as a sentence: a JSON object as "name: value", at a bearable length. What
    cannot be read so is spoken as it is."""
    try:
        value = msgspec.json.decode(result)
        if isinstance(value, dict):
            value = ", ".join(f"{key}: {value}" for key, value in value.items())
        spoken = str(value)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        spoken = result
    spoken = " ".join(spoken.replace("_", " ").split()) or "nothing"
    return spoken[:MOST_SPOKEN].rstrip(".") + "."
