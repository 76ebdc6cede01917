"""The options of the OpenAI engine: its table [llm]."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from voicepool.engines.chat.prompt import SYSTEM_PROMPT

WHERE = "[llm] engine openai"

Seconds = Annotated[float, msgspec.Meta(gt=0, le=3600)]
Tokens = Annotated[int, msgspec.Meta(ge=1)]


class Options(msgspec.Struct, frozen=True):
    base_url: str = "http://127.0.0.1:8080/v1"
    """The API's root, as llama.cpp has it by default; most others' ends in /v1 too."""
    api_key: str = ""
    """A secret; many servers of one's own ask for none."""
    model: Annotated[str, msgspec.Meta(max_length=256)] = ""
    """"": the first that the server has."""
    system_prompt: str = SYSTEM_PROMPT
    """Where the conversation brings none."""
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    max_tokens: Tokens | None = None
    """Of a reply; a conversation may ask for another limit."""
    limit_name: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the server calls that limit; OpenAI's newest models know the second only."""
    context: Tokens | None = None
    """Tokens that a conversation and its reply may have; None: what the server tells."""
    extra: dict[str, Any] = {}
    """More of the request's fields, as the server documents them."""
    starts_thinking: bool = False
    """The model's text begins inside its reasoning, because the chat template opens it."""
    connect_timeout: Seconds = 3.0
    timeout: Seconds = 30.0
    """Seconds until the next token."""
    load_timeout: Seconds = 240.0
    """Seconds that the first reply of a worker may take."""

    def __repr__(self) -> str:
        """Without the key, wherever it ends up."""
        return f"Options(base_url={self.base_url!r}, model={self.model!r}, ...)"
