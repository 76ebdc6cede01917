"""A stand-in for Ollama that speaks its HTTP API over real sockets, from a script.

    with OllamaServer({"llama3.2": Model(Script(reply="Hello."))}) as server:
        ...  # server.url, server.requests, server.generations, server.loads

Follows server/routes.go and docs/api.md of https://github.com/ollama/ollama: answers, errors and
their texts, what makes a model load again, slots and the queue before them. As a process of its
own it prints its address and serves until it is ended:

    python -m tests.ollama_server --model llama3.2 --slots 8 --first-token-ms 150 --token-ms 20
"""

from __future__ import annotations

import argparse
import json
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.llm_http import Exchange
from tests.llm_server import BUSY, Generation, LlmServer, Script

NOW = "2025-01-01T00:00:00.000000Z"
FOR_EVER = "2318-01-01T00:00:00.000000Z"
LOAD_OPTIONS = ("num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread")
"""Options of the runner: a request that changes one makes Ollama load the model again."""
DEFAULT_CONTEXT = 4096


@dataclass(slots=True)
class Model:
    """A model that the server has."""

    script: Script = field(default_factory=Script)
    capabilities: tuple[str, ...] = ("completion", "tools")
    trained_context: int = 131_072
    size: int = 2_000_000_000
    vram: int | None = None
    """Bytes of it on the GPU; None: all."""


@dataclass(slots=True)
class Pullable:
    """A model that the registry has."""

    size: int = 1000
    breaks_at: int | None = None
    """Bytes after which the download fails."""


THINKER = ("completion", "tools", "thinking")


def serving(*, capabilities: tuple[str, ...] = THINKER, **script: Any) -> OllamaServer:
    """A server whose one model, llama3.2, follows a Script of these fields."""
    return OllamaServer({"llama3.2": Model(Script(**script), capabilities)})


class OllamaServer(LlmServer):
    """Ollama with these models; `slots` is its OLLAMA_NUM_PARALLEL."""

    def __init__(
        self,
        models: Mapping[str, Model] | None = None,
        *,
        registry: Mapping[str, Pullable] | None = None,
        slots: int = 4,
        most_queued: int = 512,
    ) -> None:
        super().__init__(slots=slots, most_queued=most_queued)
        given = {"llama3.2": Model()} if models is None else models
        self.models = {_full(name): model for name, model in given.items()}
        self.registry = {_full(name): model for name, model in (registry or {}).items()}
        self.loads: list[tuple[str, Mapping[str, Any]]] = []
        """Model and load options of every time that a model was read from disk."""
        self.loaded: dict[str, Mapping[str, Any]] = {}
        self.keep_alive: dict[str, Any] = {}
        """What the last request for a model said."""

    @property
    def chats(self) -> list[Mapping[str, Any]]:
        """The bodies of all chat requests."""
        return [body for path, body in self.requests if path == "/api/chat"]

    def start(self, port: int | None = None) -> OllamaServer:
        self.loaded.clear()
        super().start(port)
        return self

    async def route(self, exchange: Exchange) -> None:
        match exchange.path:
            case "/api/version":
                exchange.reply({"version": "0.12.0"})
            case "/api/tags":
                exchange.reply({"models": [self._listed(name) for name in self.models]})
            case "/api/ps":
                exchange.reply({"models": [self._running(name) for name in self.loaded]})
            case "/api/show":
                self._show(exchange)
            case "/api/chat" | "/api/generate":
                await self._generate(exchange)
            case "/api/pull":
                self._pull(exchange)
            case _:
                exchange.reply({"error": "404 page not found"}, 404)

    # -- what it has

    def _listed(self, name: str) -> dict[str, Any]:
        details = {"format": "gguf", "family": "llama", "parameter_size": "3.2B"}
        return {
            "name": name,
            "model": name,
            "modified_at": NOW,
            "size": self.models[name].size,
            "digest": f"{len(name):064x}",
            "details": details,
        }

    def _running(self, name: str) -> dict[str, Any]:
        model = self.models[name]
        vram = model.size if model.vram is None else model.vram
        context = self.loaded[name].get("num_ctx", DEFAULT_CONTEXT)
        running = {"size_vram": vram, "expires_at": FOR_EVER, "context_length": context}
        return {**self._listed(name), **running}

    def _show(self, exchange: Exchange) -> None:
        name = str(exchange.body.get("model"))
        model = self.models.get(_full(name))
        if model is None:
            exchange.reply({"error": f"model '{name}' not found"}, 404)
            return
        info = {"general.architecture": "llama", "llama.context_length": model.trained_context}
        exchange.reply(
            {
                "template": "{{ .Prompt }}",
                "details": {"format": "gguf", "family": "llama"},
                "model_info": info,
                "capabilities": list(model.capabilities),
                "modified_at": NOW,
            }
        )

    # -- generating

    async def _generate(self, exchange: Exchange) -> None:
        body = exchange.body
        name = str(body.get("model"))
        model = self.models.get(_full(name))
        refusal = _refusal(name, model, body)
        if model is None or refusal is not None:
            status, error = refusal or (404, "")
            exchange.reply({"error": error}, status)
            return
        if model.script.status != 200 and self.must_fail(name, model.script):
            exchange.reply({"error": model.script.error or BUSY}, model.script.status)
            return
        self._load(_full(name), body)
        if not (body.get("messages") or body.get("prompt")):
            exchange.reply({**self._part(exchange, ""), "done": True, "done_reason": "load"})
            return
        with self.recorded(name, body) as generation:
            if self.full:
                exchange.reply({"error": BUSY}, 503)
                return
            async with self.slot(generation):
                await self._run(exchange, model, generation)

    def _load(self, name: str, body: Mapping[str, Any]) -> None:
        options = {key: body.get("options", {}).get(key) for key in LOAD_OPTIONS}
        wanted = {key: value for key, value in options.items() if value is not None}
        with self.changed:
            if self.loaded.get(name) != wanted:
                self.loads.append((name, wanted))
            self.loaded[name] = wanted
            self.keep_alive[name] = body.get("keep_alive")
            if body.get("keep_alive") == 0:
                del self.loaded[name]
            self.changed.notify_all()

    async def _run(self, exchange: Exchange, model: Model, generation: Generation) -> None:
        script, body = model.script, exchange.body
        limit = body.get("options", {}).get("num_predict")
        pieces = script.pieces(_asked(body), limit)
        dies = script.dies_after is not None and self.must_fail(generation.model, script)
        told = pieces[: script.dies_after] if dies else pieces
        parts: list[dict[str, Any]] = []
        streams = body.get("stream", True)
        if streams:
            exchange.begin("application/x-ndjson")
        if script.thinking and body.get("think") is not False:
            parts.append(self._part(exchange, "", thinking=script.thinking))
        if streams and parts:
            _send(exchange, parts[0])
        async for token in self.paced(script, generation, told):
            parts.append(self._part(exchange, token))
            if streams:
                _send(exchange, parts[-1])
        if dies:
            self.note(generation, "failed")
            _die(exchange, script)
            return
        if script.tool_calls and body.get("tools"):
            parts.append(self._part(exchange, "", calls=script.tool_calls))
            if streams:
                _send(exchange, parts[-1])
        reason = script.finish_for(pieces, limit)
        last = {
            **self._part(exchange, ""),
            "done": True,
            "done_reason": reason,
            **_counts(script, body, len(pieces)),
        }
        self.note(generation, "done")
        if streams:
            _send(exchange, last)
            exchange.end()
        else:
            exchange.reply({**last, **_whole(parts)})

    def _part(
        self,
        exchange: Exchange,
        text: str,
        *,
        thinking: str = "",
        calls: tuple[tuple[str, Mapping[str, Any]], ...] = (),
    ) -> dict[str, Any]:
        part = {"model": exchange.body.get("model"), "created_at": NOW, "done": False}
        if exchange.path == "/api/generate":
            return {**part, "response": text, **({"thinking": thinking} if thinking else {})}
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if thinking:
            message["thinking"] = thinking
        if calls:
            message["tool_calls"] = [
                {"id": f"call_{index}", "function": {"name": name, "arguments": arguments}}
                for index, (name, arguments) in enumerate(calls)
            ]
        return {**part, "message": message}

    # -- pulling

    def _pull(self, exchange: Exchange) -> None:
        name = str(exchange.body.get("model"))
        known = self.registry.get(_full(name))
        exchange.begin("application/x-ndjson")
        _send(exchange, {"status": "pulling manifest"})
        if known is None:
            _send(exchange, {"error": "pull model manifest: file does not exist"})
            exchange.end()
            return
        layer = {"status": "pulling aeda25e63ebd", "digest": "sha256:aeda25e63ebd"}
        for done in (0, known.size // 2, known.size):
            if known.breaks_at is not None and done > known.breaks_at:
                _send(exchange, {"error": "max retries exceeded: unexpected EOF"})
                exchange.end()
                return
            _send(exchange, {**layer, "total": known.size, "completed": done})
        for status in ("verifying sha256 digest", "writing manifest", "success"):
            _send(exchange, {"status": status})
        self.models.setdefault(_full(name), Model(size=known.size))
        exchange.end()


def _full(name: str) -> str:
    """A model's name with its tag."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def _refusal(name: str, model: Model | None, body: Mapping[str, Any]) -> tuple[int, str] | None:
    """The status and message of a request that is refused."""
    if model is None:
        return 404, f"model '{name}' not found"
    if body.get("think") and "thinking" not in model.capabilities:
        return 400, f'"{name}" does not support thinking'
    if body.get("tools") and "tools" not in model.capabilities:
        return 400, f"registry.ollama.ai/library/{name} does not support tools"
    return None


def _asked(body: Mapping[str, Any]) -> str:
    messages = body.get("messages") or [{"content": body.get("prompt", "")}]
    return str(messages[-1].get("content", ""))


def _counts(script: Script, body: Mapping[str, Any], answered: int) -> dict[str, int]:
    words = sum(len(str(m.get("content", "")).split()) for m in body.get("messages", []))
    prompt = words if script.prompt_tokens is None else script.prompt_tokens
    durations = {"total_duration": 1000, "load_duration": 10, "eval_duration": 500}
    return {"prompt_eval_count": prompt, "eval_count": answered, **durations}


def _whole(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The text of all parts, for an answer that is not streamed."""
    if parts and "message" in parts[0]:
        text = "".join(part["message"]["content"] for part in parts)
        return {"message": {"role": "assistant", "content": text}}
    return {"response": "".join(part.get("response", "") for part in parts)}


def _send(exchange: Exchange, part: Mapping[str, Any]) -> None:
    exchange.send(json.dumps(part).encode() + b"\n")


def _die(exchange: Exchange, script: Script) -> None:
    match script.death:
        case "error":
            error = script.error or "an error was encountered while running the model"
            _send(exchange, {"error": error})
            exchange.end()
        case "garbage":
            exchange.send(b'{"model": "x", "message": \n')
            exchange.end()
        case "truncated":
            exchange.end()
        case "reset":
            exchange.reset()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.ollama_server")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--model", default="llama3.2")
    parser.add_argument("--reply", default=Script().reply)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--first-token-ms", type=float, default=0.0)
    parser.add_argument("--token-ms", type=float, default=0.0)
    given = parser.parse_args()
    script = Script(
        reply=given.reply,
        first_token_seconds=given.first_token_ms / 1000,
        token_seconds=given.token_ms / 1000,
    )
    endings = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, endings)
    server = OllamaServer({given.model: Model(script)}, slots=given.slots).start(given.port)
    print(server.url, flush=True)
    signal.sigwait(endings)
    server.stop()


if __name__ == "__main__":
    main()
