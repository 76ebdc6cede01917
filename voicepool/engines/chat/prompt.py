"""The words that a model is told before a conversation, and to try it. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from voicepool.engines.base import Message

SYSTEM_PROMPT = (
    "You are a friendly voice assistant on a call. Everything you write is spoken aloud, so answer "
    "in one to three short, plain sentences, as people talk. Use no markdown, lists, emoji, links "
    "or symbols, and write numbers and abbreviations the way they are said. The caller's words "
    "come from a speech recogniser and may be wrong: if they make no sense, ask."
)

TRIAL = Message("user", "Say hello.")
"""The turn of a warm-up."""


def with_system(messages: Sequence[Message], prompt: str) -> list[Message]:
    """The conversation, with `prompt` before it unless it has a system message of its own."""
    if not prompt or any(message.role == "system" for message in messages):
        return list(messages)
    return [Message("system", prompt), *messages]
