"""A model of an Ollama server as a LanguageModel, through Ollama's own client.

The zygote asks once, on one thread and with short deadlines, whether the model is there. Each
worker makes the server load it with the options of the conversation, because others would make it
load again; then it keeps one connection for its caller.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from typing import Any, cast

import httpx
import ollama

from voicepool.config import is_loopback
from voicepool.engines.base import (
    ChatDelta,
    ChatRequest,
    Download,
    Finished,
    Message,
    TextDelta,
    ToolCallDelta,
)
from voicepool.engines.chat.bounds import PLAIN, bounding, check_call
from voicepool.engines.chat.connecting import (
    GLANCE,
    KEPT_ALIVE,
    MOST_CONNECTIONS,
    import_async_backend,
    there,
)
from voicepool.engines.chat.context import (
    DEFAULT_CONTEXT,
    MOST_CONTEXT,
    TokenEstimate,
    fitted,
)
from voicepool.engines.chat.halves import Halves
from voicepool.engines.chat.prompt import TRIAL, with_system
from voicepool.engines.chat.retrying import (
    ServerFailed,
    for_call,
    for_warm_up,
    persist,
    persist_until_first,
)
from voicepool.engines.chat.thinking import ThoughtFilter
from voicepool.engines.ollama import advice, wire
from voicepool.engines.ollama.failures import Failures
from voicepool.engines.ollama.host import split_host
from voicepool.engines.ollama.options import WHERE, Options
from voicepool.engines.options import nearest
from voicepool.errors import ConfigError, EngineError, EngineUnavailable

logger = logging.getLogger(__name__)

PROBE = 60.0
PROBED = 24
"""Tokens."""
_DRAIN = 0.1
_SERVERS_OPTIONS = frozenset({"min_p", "num_predict", *ollama.Options.model_fields})


class OllamaModel:
    """LanguageModel, Checking, Advising, Fetching."""

    name = "ollama"

    def __init__(self, options: Options) -> None:
        self._options = options
        url = split_host(options.host)
        self._local = is_loopback(url.hostname or "127.0.0.1")
        self._explain = Failures(options.host, options.model)
        self._explain_trial = Failures(options.host, options.model, trial=True)
        self._rng = random.Random()
        self._tls: ssl.SSLContext | None = None
        self._client: tuple[asyncio.AbstractEventLoop, ollama.AsyncClient] | None = None
        self._estimate = TokenEstimate()
        self._context = self._configured_context or DEFAULT_CONTEXT

    # -- before the caller

    def preload(self) -> None:
        """Look whether the model is there. A server that is away is no failure: it may come."""
        self._tls = httpx.create_ssl_context()
        import_async_backend()
        try:
            self.check()
        except ServerFailed as failure:
            logger.warning("no look at the model server", extra={"reason": str(failure)})

    def check(self) -> None:
        """See Checking."""
        for option in self._options.options:
            if option not in _SERVERS_OPTIONS:
                raise ConfigError(
                    f"{WHERE}: options: Ollama has no {option!r}; "
                    f"{nearest(option, _SERVERS_OPTIONS)}"
                )
        with self._blocking_client(GLANCE) as client:
            try:
                capabilities = client.show(self._options.model).capabilities
            except Exception as error:
                if isinstance(error, ollama.ResponseError) and error.status_code == 404:
                    raise self._no_model(client) from None
                raise self._failure(error) from error
        if self._options.think and capabilities is not None and "thinking" not in capabilities:
            raise ConfigError(
                f"{WHERE}: {self._options.model} cannot think; set think = false, or a model "
                "that can"
            )

    def load(self, device: str) -> None:
        """Nothing but luck of the worker's own; the model is the server's."""
        self._rng = random.Random()
        self._client = None

    def warm_up(self) -> None:
        """Have the server load the model and make one token with it."""
        options = self._options
        trial = with_system([TRIAL], options.system_prompt)

        def attempt() -> ollama.ChatResponse:
            answer: ollama.ChatResponse = client.chat(
                options.model,
                wire.messages(trial),
                stream=False,
                think=options.think,
                options={**options.options, "num_predict": 1},
                keep_alive=options.keep_alive,
            )
            return answer

        with self._blocking_client(options.load_timeout) as client:
            answer = persist(attempt, self._explain_trial, for_warm_up(self._rng))
            self._estimate.observe(trial, answer.prompt_eval_count or 0)
            self._context = self._ask_context(client)

    def advise(self, callers: int) -> Sequence[str]:
        """See Advising."""
        with self._blocking_client(GLANCE) as client:
            return advice.lines(client, self._options, callers, self._failure)

    def measure_parallelism(self, callers: int) -> bool:
        """Whether the server makes `callers` short replies at once, not one after another; blocks.

        Loads the model first, then takes as long as the replies, at most PROBE seconds. Not to be
        called from an event loop. Raises EngineError.
        """
        self.warm_up()
        try:
            return asyncio.run(self._at_once(callers))
        except TimeoutError:
            raise EngineError(f"{callers} short replies took more than {PROBE:g} s") from None
        except Exception as error:
            raise self._failure(error) from error

    def fetch(self, report: Callable[[Download], None]) -> None:
        """See Fetching: `ollama pull`, by the server."""
        model = self._options.model
        try:
            with self._blocking_client(self._options.load_timeout) as client:
                for part in client.pull(model, stream=True):
                    if part.digest and part.total:
                        name = f"ollama {model}: {part.digest[-12:]}"
                        report(Download(name, part.completed or 0, part.total))
        except Exception as error:
            raise EngineUnavailable(f"ollama pull {model}: {self._failure(error)}") from error

    # -- the caller

    def generate(self, request: ChatRequest) -> AsyncGenerator[ChatDelta, None]:
        """See LanguageModel."""
        return persist_until_first(lambda: self._reply(request), self._explain, for_call(self._rng))

    async def aclose(self) -> None:
        """Close the connections of this event loop, before it ends. A worker's end does it too."""
        if self._client is not None:
            client, self._client = self._client[1], None
            await client.close()  # type: ignore[no-untyped-call]

    async def _reply(self, request: ChatRequest) -> AsyncGenerator[ChatDelta, None]:
        messages = with_system(request.messages, self._options.system_prompt)
        sent = fitted(messages, request.tools, self._context, request.max_tokens, self._estimate)
        stream = await self._ask(request, sent)
        thoughts, halves = ThoughtFilter(), Halves()
        called = 0
        async with aclosing(stream):
            async for part in stream:
                if part.message.content or part.message.thinking:
                    # Also "" while it thinks: whoever waits for a token knows that it lives.
                    yield TextDelta(thoughts.feed(halves.feed(part.message.content or "")))
                for call in part.message.tool_calls or ():
                    if rest := thoughts.feed(halves.flush()) + thoughts.flush():
                        yield TextDelta(rest)
                    called += 1
                    check_call(called, call.function.name)
                    whole = wire.new_call(call.function.name, call.function.arguments)
                    yield ToolCallDelta(whole.call_id, whole.name, whole.arguments)
                    yield whole
                if part.done:
                    await _drain(stream)
                    if rest := thoughts.feed(halves.flush()) + thoughts.flush():
                        yield TextDelta(rest)
                    yield self._finished(part, [*sent, *request.tools], called=called > 0)
                    return
        raise ServerFailed(f"Ollama at {self._options.host} ended a reply too early", again=True)

    async def _ask(
        self, request: ChatRequest, messages: Sequence[Message]
    ) -> AsyncGenerator[ollama.ChatResponse, None]:
        options = dict(self._options.options)
        if request.temperature is not None:
            options["temperature"] = request.temperature
        if request.max_tokens is not None:
            options["num_predict"] = request.max_tokens
        try:
            stream = await self._async_client().chat(
                self._options.model,
                wire.messages(messages),
                tools=wire.tools(request),
                stream=True,
                think=self._options.think,
                options=options,
                keep_alive=self._options.keep_alive,
            )
        except ValueError as error:  # from the client's own types, before anything was sent
            raise ServerFailed("Ollama's client cannot send these messages or tools") from error
        return cast("AsyncGenerator[ollama.ChatResponse, None]", stream)

    def _finished(
        self, part: ollama.ChatResponse, sent: Sequence[Any], *, called: bool
    ) -> Finished:
        prompt = part.prompt_eval_count or 0
        self._estimate.observe(sent, prompt)
        reason = wire.reason(part.done_reason, called=called)
        return Finished(reason, prompt, part.eval_count or 0)

    # -- clients

    def _blocking_client(self, silence: float) -> ollama.Client:
        """For one thread, and closed by it; `silence`: seconds until the server says something."""
        return ollama.Client(self._options.host, **self._client_options(silence))

    def _async_client(self) -> ollama.AsyncClient:
        """The one of this event loop."""
        loop = asyncio.get_running_loop()
        if self._client is None or self._client[0] is not loop:
            silence = self._options.timeout
            client = ollama.AsyncClient(
                self._options.host,
                event_hooks={"response": [bounding(httpx.AsyncByteStream, 2 * silence)]},
                **self._client_options(silence),
            )
            self._client = (loop, client)
        return self._client[1]

    def _client_options(self, silence: float) -> dict[str, Any]:
        connect = min(silence, self._options.connect_timeout)
        return {
            "timeout": httpx.Timeout(silence, connect=connect),
            "limits": httpx.Limits(max_connections=MOST_CONNECTIONS, keepalive_expiry=KEPT_ALIVE),
            # Reading the certificates takes longer than all else that a client costs.
            "verify": self._tls or True,
            "headers": PLAIN,
            # Whoever is at the other end shall choose no other place for the conversation to go.
            "follow_redirects": False,
            # A proxy never leads to this machine, as Ollama's own programs have it.
            "trust_env": not self._local,
        }

    # -- what the server is asked

    def _failure(self, error: Exception) -> ServerFailed:
        """What an exception of a request without a conversation means; a bug is raised again."""
        failure = self._explain_trial(error)
        if failure is None:
            raise error
        return failure

    def _no_model(self, client: ollama.Client) -> EngineUnavailable:
        model = self._options.model
        try:
            names = [found.model or "" for found in client.list().models]
        except Exception as error:  # noqa: BLE001 - _failure raises what has no meaning
            self._failure(error)
            names = []
        return EngineUnavailable(
            f"Ollama at {self._options.host} has no model {model!r} ({there(model, names)}); "
            f"get it with: ollama pull {model}"
        )

    @property
    def _configured_context(self) -> int | None:
        return cast("int | None", self._options.options.get("num_ctx"))

    def _ask_context(self, client: ollama.Client) -> int:
        """Tokens of context that the loaded model has."""
        if self._configured_context is not None:
            return self._configured_context
        try:
            loaded = wire.loaded(client.ps().models, self._options.model)
            if loaded is not None and loaded.context_length:
                return min(loaded.context_length, MOST_CONTEXT)
            info = client.show(self._options.model).modelinfo or {}
        except Exception as error:  # noqa: BLE001 - _failure raises what has no meaning
            self._failure(error)
            return DEFAULT_CONTEXT
        trained = (size for key, size in info.items() if key.endswith(".context_length"))
        return min(
            DEFAULT_CONTEXT, *(size for size in trained if isinstance(size, int)), MOST_CONTEXT
        )

    async def _at_once(self, callers: int) -> bool:
        """Whether the last of several replies has begun before the first one is over."""
        try:
            async with asyncio.timeout(PROBE):
                spans = await asyncio.gather(*(self._span() for _ in range(callers)))
        finally:
            await self.aclose()
        return max(begun for begun, _ in spans) < min(ended for _, ended in spans)

    async def _span(self) -> tuple[float, float]:
        """When a short reply had its first and its last token."""
        request = ChatRequest([Message("user", "Count from one to thirty.")], max_tokens=PROBED)
        times = [
            time.monotonic() async for delta in self._reply(request) if isinstance(delta, TextDelta)
        ]
        return (times[0], times[-1]) if times else (time.monotonic(), time.monotonic())


async def _drain(stream: AsyncGenerator[object, None]) -> None:
    """Read a stream to its end after its last message: only then is the connection used again."""
    with suppress(Exception):
        async with asyncio.timeout(_DRAIN):
            async for _ in stream:
                pass
