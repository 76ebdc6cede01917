"""A stand-in for servers with OpenAI's chat completions API, over real sockets, from a script.

    with OpenAIServer({"qwen": Script(reply="Hello.")}) as server:
        ...  # server.base_url, server.requests, server.generations

Streams server-sent events as vLLM and llama.cpp do: a chunk for the role, one per token, tool calls
in pieces, the finish reason, the usage where it is asked for, and [DONE].
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tests.llm_http import Exchange
from tests.llm_server import Generation, LlmServer, Script


class OpenAIServer(LlmServer):
    """A server with these models.

    `listed`: more fields of each model, as vLLM and llama.cpp have them. `hidden`: models that
    are not listed. `api_key`: the one that is asked for. `context`: tokens that a prompt may have,
    counted in words.
    """

    def __init__(
        self,
        models: Mapping[str, Script] | None = None,
        *,
        listed: Mapping[str, Any] | None = None,
        hidden: tuple[str, ...] = (),
        api_key: str = "",
        context: int | None = None,
        slots: int = 4,
    ) -> None:
        super().__init__(slots=slots)
        self.models = {"qwen": Script()} if models is None else dict(models)
        self.listed = dict(listed or {})
        self.hidden = hidden
        self.api_key = api_key
        self.context = context

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    async def route(self, exchange: Exchange) -> None:
        sent = exchange.headers.get("authorization")
        if self.api_key and sent != f"Bearer {self.api_key}":
            exchange.reply(_error("Incorrect API key provided", "invalid_api_key"), 401)
        elif exchange.path == "/v1/models":
            exchange.reply({"object": "list", "data": self._list()})
        elif exchange.path == "/v1/chat/completions":
            await self._complete(exchange)
        else:
            exchange.reply({"detail": "Not Found"}, 404)

    def _list(self) -> list[dict[str, Any]]:
        model = {"object": "model", "created": 1, "owned_by": "stand-in", **self.listed}
        return [{"id": name, **model} for name in self.models if name not in self.hidden]

    async def _complete(self, exchange: Exchange) -> None:
        body = exchange.body
        name = str(body.get("model"))
        script = self.models.get(name)
        if script is None:
            error = _error(f"The model `{name}` does not exist.", "model_not_found")
            exchange.reply(error, 404)
        elif script.status != 200 and self.must_fail(name, script):
            exchange.reply(_error(script.error or "busy", "overloaded"), script.status)
        elif self.context is not None and _words(body) > self.context:
            error = _error(
                f"This model's maximum context length is {self.context} tokens.",
                "context_length_exceeded",
            )
            exchange.reply(error, 400)
        else:
            with self.recorded(name, body) as generation:
                async with self.slot(generation):
                    await self._run(exchange, script, generation)

    async def _run(self, exchange: Exchange, script: Script, generation: Generation) -> None:
        body = exchange.body
        limit = body.get("max_tokens", body.get("max_completion_tokens"))
        pieces = script.pieces(str(body["messages"][-1].get("content")), limit)
        reason = script.finish_for(pieces, limit)
        counted = _words(body) if script.prompt_tokens is None else script.prompt_tokens
        usage = {
            "prompt_tokens": counted,
            "completion_tokens": len(pieces),
            "total_tokens": counted + len(pieces),
        }
        if body.get("stream"):
            await self._stream(exchange, script, generation, pieces, reason, usage)
            return
        async for _ in self.paced(script, generation, pieces):
            pass
        message = {"role": "assistant", "content": "".join(pieces)}
        choice = {"index": 0, "message": message, "finish_reason": reason}
        whole = {**_head(body, "chat.completion"), "choices": [choice], "usage": usage}
        self.note(generation, "done")
        exchange.reply(whole)

    async def _stream(
        self,
        exchange: Exchange,
        script: Script,
        generation: Generation,
        pieces: list[str],
        reason: str,
        usage: Mapping[str, int],
    ) -> None:
        body = exchange.body
        exchange.begin("text/event-stream")
        dies = script.dies_after is not None and self.must_fail(generation.model, script)
        told = pieces[: script.dies_after] if dies else pieces
        _delta(exchange, {"role": "assistant", "content": ""})
        if script.thinking:
            _delta(exchange, {"reasoning_content": script.thinking})
        async for token in self.paced(script, generation, told):
            _delta(exchange, {"content": token})
        if dies:
            self.note(generation, "failed")
            _die(exchange, script)
            return
        if script.tool_calls and body.get("tools") and body.get("tool_choice") != "none":
            for part in _call_parts(script):
                _delta(exchange, {"tool_calls": [part]})
            reason = "tool_calls"
        self.note(generation, "done")
        _delta(exchange, {}, finish_reason=reason)
        if script.after_end == "reset":
            exchange.reset()
            return
        if script.after_end == "silence":
            await generation.released.wait()
        if body.get("stream_options", {}).get("include_usage"):
            chunk = _head(body, "chat.completion.chunk")
            _event(exchange, {**chunk, "choices": [], "usage": usage})
        exchange.send(b"data: [DONE]\n\n")
        exchange.end()


def _call_parts(script: Script) -> list[dict[str, Any]]:
    """Each call in three pieces: its name, and its arguments cut in two."""
    parts: list[dict[str, Any]] = []
    for index, (name, arguments) in enumerate(script.tool_calls):
        text = json.dumps(arguments)
        named = {"name": name, "arguments": ""}
        parts.append({"index": index, "id": f"id-{index}", "type": "function", "function": named})
        for piece in (text[: len(text) // 2], text[len(text) // 2 :]):
            parts.append({"index": index, "function": {"arguments": piece}})
    return parts


def _words(body: Mapping[str, Any]) -> int:
    return sum(len(str(message.get("content")).split()) for message in body["messages"])


def _head(body: Mapping[str, Any], kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": body.get("model")}


def _error(message: str, code: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "code": code}}


def _event(exchange: Exchange, event: Mapping[str, Any]) -> None:
    exchange.send(b"data: " + json.dumps(event).encode() + b"\n\n")


def _delta(exchange: Exchange, delta: Mapping[str, Any], finish_reason: str | None = None) -> None:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    _event(exchange, {**_head(exchange.body, "chat.completion.chunk"), "choices": [choice]})


def _die(exchange: Exchange, script: Script) -> None:
    match script.death:
        case "error":
            error = _error(script.error or "the engine has died", "internal_error")
            _event(exchange, error)
            exchange.end()
        case "garbage":
            exchange.send(b'data: {"choices": [{"delta": \n\n')
            exchange.end()
        case "truncated":
            exchange.end()
        case "reset":
            exchange.reset()
