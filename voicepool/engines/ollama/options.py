"""The options of the Ollama engine: its table [llm]."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from voicepool.engines.chat.prompt import SYSTEM_PROMPT

WHERE = "[llm] engine ollama"

Seconds = Annotated[float, msgspec.Meta(gt=0, le=3600)]


class Options(msgspec.Struct, frozen=True):
    host: Annotated[str, msgspec.Meta(min_length=1)] = "http://127.0.0.1:11434"
    """Where the server listens, as OLLAMA_HOST has it: "host", "host:port" or a URL."""
    model: Annotated[str, msgspec.Meta(min_length=1, max_length=256)] = "llama3.2"
    options: dict[str, Any] = {}
    """Ollama's own: num_ctx, temperature, ... The same for loading the model and for replies."""
    keep_alive: float | str = -1
    """How long the model stays in memory after a request: seconds, "10m", or -1, for ever."""
    system_prompt: str = SYSTEM_PROMPT
    """Where the conversation brings none."""
    think: bool | Literal["low", "medium", "high"] = False
    """Whether a model that can reasons first. Never spoken, but it delays the first word."""
    connect_timeout: Seconds = 3.0
    timeout: Seconds = 30.0
    """Seconds until the next token."""
    load_timeout: Seconds = 240.0
    """Seconds that the server may take to read the model from disk."""
