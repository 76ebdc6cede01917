"""Replies by a model that an Ollama server runs (https://ollama.com): the engine and its options.

`engine` has the conversation, `advice` what an operator should know, `wire` the messages,
`failures` what errors mean, `host` what can be seen of a server on this machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from voicepool.engines import options as engine_options
from voicepool.engines.chat.prompt import SYSTEM_PROMPT
from voicepool.engines.ollama.host import split_host
from voicepool.errors import ConfigError

if TYPE_CHECKING:
    from voicepool.engines.ollama.engine import OllamaModel

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


def create(options: Mapping[str, Any]) -> OllamaModel:
    """The engine from its table of options. Raises ConfigError, EngineUnavailable."""
    checked = engine_options.convert(options, Options, WHERE)
    try:
        split_host(checked.host)
    except ValueError as error:
        raise ConfigError(f"{WHERE}: host: {checked.host!r} is no address: {error}") from None
    context = checked.options.get("num_ctx", 1)
    if not isinstance(context, int) or isinstance(context, bool) or context < 1:
        raise ConfigError(f"{WHERE}: options: num_ctx must be a number of tokens, not {context!r}")
    engine_options.require("ollama", "ollama", "models")
    from voicepool.engines.ollama.engine import OllamaModel

    return OllamaModel(checked)
