"""What would make an Ollama server serve many callers better, and the command for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import ollama

from voicepool.config import is_loopback
from voicepool.engines.chat.retrying import ServerFailed
from voicepool.engines.ollama import wire
from voicepool.engines.ollama.host import port_of, seen_parallel, split_host
from voicepool.engines.ollama.options import Options

LARGE_CONTEXT = 32_768
"""Tokens. Ollama sets memory aside for a whole context for each caller that it serves at once."""


def lines(
    client: ollama.Client,
    options: Options,
    callers: int,
    explain: Callable[[Exception], ServerFailed],
) -> Sequence[str]:
    """A line for each thing that should be changed before `callers` talk at once."""
    try:
        models = client.ps().models
    except Exception as error:  # noqa: BLE001 - explain raises what has no meaning
        return [str(explain(error))]
    loaded = wire.loaded(models, options.model)
    return [*_parallel(options.host, callers), *(_memory(loaded, callers) if loaded else ())]


def _parallel(host: str, callers: int) -> Iterator[str]:
    if callers == 1:
        return
    set_it = (
        f"start it with: OLLAMA_NUM_PARALLEL={callers} ollama serve (as a service: systemctl edit "
        f'ollama, and there under [Service]: Environment="OLLAMA_NUM_PARALLEL={callers}")'
    )
    local = is_loopback(split_host(host).hostname or "127.0.0.1")
    seen = seen_parallel(port_of(host)) if local else None
    if seen is None:
        yield (
            f"Ollama at {host} does not say how many callers it serves at once; for {callers}, "
            f"unless that is done, {set_it}"
        )
    elif seen < callers:
        yield f"Ollama serves {seen} of {callers} callers at once, the others wait; {set_it}"


def _memory(model: ollama.ProcessResponse.Model, callers: int) -> Iterator[str]:
    size, on_gpu = int(model.size or 0), int(model.size_vram or 0)
    if size and on_gpu < size:
        yield (
            f"{model.model} is only {on_gpu / size:.0%} in GPU memory, so every word takes longer; "
            "take a smaller model, or less context: [llm] options = { num_ctx = 4096 }"
        )
    if model.context_length and model.context_length > LARGE_CONTEXT and callers > 1:
        yield (
            f"{model.model} is loaded with a context of {model.context_length} tokens for each of "
            "its callers; calls need less, and memory: [llm] options = { num_ctx = 8192 }"
        )
