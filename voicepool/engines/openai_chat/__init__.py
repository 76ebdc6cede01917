"""Replies by any server with OpenAI's chat completions API (vLLM, llama.cpp, LM Studio, OpenAI
itself): the engine and its options.

`engine` has the conversation, `wire` the messages, `reply` and `calls` what streams back,
`failures` what errors mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec

from voicepool.engines import options as engine_options
from voicepool.engines.chat.prompt import SYSTEM_PROMPT
from voicepool.errors import ConfigError

if TYPE_CHECKING:
    from voicepool.engines.openai_chat.engine import OpenAIModel

WHERE = "[llm] engine openai"

Seconds = Annotated[float, msgspec.Meta(gt=0, le=3600)]
Tokens = Annotated[int, msgspec.Meta(ge=1)]


class Options(msgspec.Struct, frozen=True):
    base_url: str = "http://127.0.0.1:8000/v1"
    """The API's root, where vLLM has it by default; most others' ends in /v1 too."""
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


def create(options: Mapping[str, Any]) -> OpenAIModel:
    """The engine from its table of options. Raises ConfigError, EngineUnavailable."""
    checked = engine_options.convert(options, Options, WHERE)
    try:
        url = urlsplit(checked.base_url)
        valid = url.scheme in ("http", "https") and url.hostname and (url.port or 1)
    except ValueError:
        valid = False
    if not valid:
        raise ConfigError(
            f"{WHERE}: base_url: {checked.base_url!r} is no URL such as http://127.0.0.1:8000/v1"
        )
    engine_options.require("openai", "openai", "models")
    from voicepool.engines.openai_chat.engine import OpenAIModel

    return OpenAIModel(checked)
