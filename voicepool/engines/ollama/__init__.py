"""Replies by a model that an Ollama server runs (https://ollama.com): the engine and its options.

`engine` has the conversation, `advice` what an operator should know, `wire` the messages,
`failures` what errors mean, `host` what can be seen of a server on this machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from voicepool.engines import options as engine_options
from voicepool.engines.ollama.host import split_host
from voicepool.engines.ollama.options import WHERE, Options
from voicepool.errors import ConfigError

if TYPE_CHECKING:
    from voicepool.engines.ollama.engine import OllamaModel


def create(options: Mapping[str, Any]) -> OllamaModel:
    """The engine from its table of options. Raises ConfigError, EngineUnavailable."""
    checked = engine_options.convert(options, Options, WHERE)
    try:
        split_host(checked.host)
    except ValueError as error:
        raise ConfigError(f"{WHERE}: host is no address of a server: {error}") from None
    context = checked.options.get("num_ctx", 1)
    if not isinstance(context, int) or isinstance(context, bool) or context < 1:
        raise ConfigError(f"{WHERE}: options: num_ctx must be a number of tokens, not {context!r}")
    engine_options.require("ollama", "ollama", "models")
    from voicepool.engines.ollama.engine import OllamaModel

    return OllamaModel(checked)
