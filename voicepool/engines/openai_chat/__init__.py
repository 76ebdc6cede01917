"""Replies by any server with OpenAI's chat completions API (vLLM, llama.cpp, LM Studio, OpenAI
itself): the engine and its options.

`engine` has the conversation, `wire` the messages, `reply` and `calls` what streams back,
`failures` what errors mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from voicepool.engines import options as engine_options
from voicepool.engines.chat.connecting import split_url
from voicepool.engines.openai_chat.options import WHERE, Options
from voicepool.errors import ConfigError

if TYPE_CHECKING:
    from voicepool.engines.openai_chat.engine import OpenAIModel


def create(options: Mapping[str, Any]) -> OpenAIModel:
    """The engine from its table of options. Raises ConfigError, EngineUnavailable."""
    checked = engine_options.convert(options, Options, WHERE)
    try:
        if not split_url(checked.base_url).hostname:
            raise ValueError("it names no host")
    except ValueError as error:
        raise ConfigError(
            f"{WHERE}: base_url is no URL such as http://127.0.0.1:8000/v1: {error}"
        ) from None
    engine_options.require("openai", "openai", "models")
    from voicepool.engines.openai_chat.engine import OpenAIModel

    return OpenAIModel(checked)
