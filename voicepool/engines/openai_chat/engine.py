"""A model behind OpenAI's chat completions API as a LanguageModel, through OpenAI's own client.

The zygote asks once, on one thread and with short deadlines, which models there are. Each worker
tries a reply of one token, then keeps one connection for its caller.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import AsyncGenerator, Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx2
import openai
from openai.types.chat import ChatCompletionChunk

from voicepool.config import is_loopback
from voicepool.engines.base import ChatDelta, ChatRequest, Message
from voicepool.engines.chat.bounds import PLAIN, bounding
from voicepool.engines.chat.connecting import (
    GLANCE,
    KEPT_ALIVE,
    MOST_CONNECTIONS,
    import_async_backend,
    there,
)
from voicepool.engines.chat.context import DEFAULT_CONTEXT, TokenEstimate, fitted
from voicepool.engines.chat.prompt import TRIAL, with_system
from voicepool.engines.chat.retrying import (
    ServerFailed,
    for_call,
    for_warm_up,
    persist,
    persist_until_first,
)
from voicepool.engines.openai_chat import wire
from voicepool.engines.openai_chat.failures import Failures, is_too_long
from voicepool.engines.openai_chat.options import Options
from voicepool.engines.openai_chat.reply import Reply
from voicepool.errors import EngineUnavailable

logger = logging.getLogger(__name__)

NO_KEY = "none"
"""Sent where no key is set: the client insists on one."""
AFTERWORD = 1.0
"""Seconds that a server may take for the counts after a reply's end, which waits for them."""
LEAST_CONTEXT = 512
"""Tokens; below that a conversation that is too long is not tried shorter."""


class OpenAIModel:
    """LanguageModel."""

    name = "openai"

    def __init__(self, options: Options) -> None:
        self._options = options
        self._local = is_loopback(urlsplit(options.base_url).hostname or "")
        self._where = f"the model server at {options.base_url}"
        self._explain = Failures(self._where)
        self._explain_trial = Failures(self._where, trial=True, key=options.api_key)
        self._rng = random.Random()
        self._tls: ssl.SSLContext | None = None
        self._client: tuple[asyncio.AbstractEventLoop, openai.AsyncOpenAI] | None = None
        self._estimate = TokenEstimate()
        self._context = options.context or DEFAULT_CONTEXT
        self._model = options.model

    # -- before the caller

    def preload(self) -> None:
        """Look whether the model is there. A server that is away is no failure: it may come."""
        import_async_backend()
        self._tls = httpx2.create_ssl_context()
        try:
            self.check()
        except ServerFailed as failure:
            logger.warning("no look at the model server", extra={"reason": str(failure)})

    def check(self) -> None:
        """See Checking."""
        with self._blocking_client(GLANCE) as client:
            try:
                names = [model.id for model in client.models.list().data]
                if not self._options.model and not names:
                    raise EngineUnavailable(f"{self._where} has no model")
                if self._options.model and self._options.model not in names:
                    self._try_unlisted(client, names)
            except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
                raise EngineUnavailable(str(self._explain(error))) from None
            except EngineUnavailable:
                raise
            except Exception as error:
                raise self._failure(error) from error

    def load(self, device: str) -> None:
        """Nothing but luck of the worker's own; the model is the server's."""
        self._rng = random.Random()
        self._client = None

    def warm_up(self) -> None:
        """Have the server make one token."""
        trial = with_system([TRIAL], self._options.system_prompt)
        with self._blocking_client(self._options.load_timeout) as client:

            def attempt() -> int:
                self._find_model(client)
                return self._try(client, trial)

            tokens = persist(attempt, self._explain_trial, for_warm_up(self._rng))
        self._estimate.observe(trial, tokens)

    # -- the caller

    def generate(self, request: ChatRequest) -> AsyncGenerator[ChatDelta, None]:
        """See LanguageModel."""
        return persist_until_first(lambda: self._reply(request), self._explain, for_call(self._rng))

    async def aclose(self) -> None:
        """Close the connections of this event loop, before it ends. A worker's end does it too."""
        if self._client is not None:
            client, self._client = self._client[1], None
            await client.close()

    async def _reply(self, request: ChatRequest) -> AsyncGenerator[ChatDelta, None]:
        messages = with_system(request.messages, self._options.system_prompt)
        limit = request.max_tokens or self._options.max_tokens
        sent = fitted(messages, request.tools, self._context, limit, self._estimate)
        reply = Reply(starts_thinking=self._options.starts_thinking)
        async with await self._ask(request, sent, limit) as stream:
            while (chunk := await _next(stream, over=reply.over)) is not None:
                for delta in reply.feed(chunk):
                    yield delta
        if not reply.over:
            raise ServerFailed(f"{self._where} ended a reply too early", again=True)
        self._estimate.observe([*sent, *request.tools], reply.input_tokens)
        for delta in reply.finish():
            yield delta

    async def _ask(
        self, request: ChatRequest, messages: Sequence[Message], limit: int | None
    ) -> openai.AsyncStream[ChatCompletionChunk]:
        fields = self._fields(messages, limit, request.temperature)
        fields["extra_body"].update(wire.tools(request))
        fields.update(stream=True, stream_options={"include_usage": True})
        try:
            stream: openai.AsyncStream[
                ChatCompletionChunk
            ] = await self._async_client().chat.completions.create(**fields)
        except openai.APIStatusError as error:
            if is_too_long(error) and self._context > LEAST_CONTEXT:
                # The server has less room than it told, or its tokens are shorter than thought.
                self._context //= 2
                raise ServerFailed(f"{self._where} has no room for so much", again=True) from None
            raise
        return stream

    def _fields(
        self, messages: Sequence[Message], limit: int | None, temperature: float | None
    ) -> dict[str, Any]:
        """A request; fields that nobody has set are the server's to choose."""
        options = self._options
        # As an extra the conversation takes the place of the empty one, and is sent as it is: the
        # client would compare every field of every message with its types, for milliseconds.
        body = {**options.extra, "messages": wire.messages(messages)}
        fields: dict[str, Any] = {"model": self._model, "messages": [], "extra_body": body}
        if limit is not None:
            fields[options.limit_name] = limit
        if temperature is None:
            temperature = options.temperature
        if temperature is not None:
            fields["temperature"] = temperature
        return fields

    # -- clients

    def _blocking_client(self, silence: float) -> openai.OpenAI:
        """For one thread, and closed by it; `silence`: seconds until the server says something."""
        http = openai.DefaultHttpxClient(**self._transport_options())
        return openai.OpenAI(http_client=http, **self._client_options(silence))

    def _async_client(self) -> openai.AsyncOpenAI:
        """The one of this event loop."""
        loop = asyncio.get_running_loop()
        if self._client is None or self._client[0] is not loop:
            silence = self._options.timeout
            http = openai.DefaultAsyncHttpxClient(
                event_hooks={"response": [bounding(httpx2.AsyncByteStream, 2 * silence)]},
                **self._transport_options(),
            )
            client = openai.AsyncOpenAI(http_client=http, **self._client_options(silence))
            self._client = (loop, client)
        return self._client[1]

    def _transport_options(self) -> dict[str, Any]:
        return {
            "limits": httpx2.Limits(max_connections=MOST_CONNECTIONS, keepalive_expiry=KEPT_ALIVE),
            # Reading the certificates takes longer than all else that a client costs.
            "verify": self._tls or True,
            # Whoever is at the other end shall choose no other place for the conversation to go.
            "follow_redirects": False,
            # A proxy never leads to this machine.
            "trust_env": not self._local,
        }

    def _client_options(self, silence: float) -> dict[str, Any]:
        connect = min(silence, self._options.connect_timeout)
        return {
            "base_url": self._options.base_url,
            "api_key": self._options.api_key or NO_KEY,
            "timeout": openai.Timeout(silence, connect=connect),
            "default_headers": PLAIN,
            "max_retries": 0,  # ours know when a caller has heard something
        }

    # -- what the server is asked

    def _failure(self, error: Exception) -> ServerFailed:
        """What an exception of a request without a conversation means; a bug is raised again."""
        failure = self._explain_trial(error)
        if failure is None:
            raise error
        return failure

    def _try(self, client: openai.OpenAI, messages: Sequence[Message]) -> int:
        """Have one token made; returns the prompt's."""
        completion = client.chat.completions.create(**self._fields(messages, 1, None))
        return completion.usage.prompt_tokens if completion.usage else 0

    def _try_unlisted(self, client: openai.OpenAI, names: Sequence[str]) -> None:
        """Servers may know a model by more names than they list. Raises EngineUnavailable."""
        try:
            self._try(client, [TRIAL])
        except openai.NotFoundError:
            raise EngineUnavailable(
                f"{self._where} has no model {self._model!r} ({there(self._model, names)}); "
                "set [llm] model"
            ) from None

    def _find_model(self, client: openai.OpenAI) -> None:
        """Settle which model it is, and how much context it has, as far as the server tells."""
        try:
            listed = client.models.list().data
        except openai.APIStatusError:  # a list is not what matters
            if not self._options.model:
                raise
            listed = []
        if not self._options.model:
            if not listed:
                raise ServerFailed(f"{self._where} has no model", again=True)
            self._model = listed[0].id
        known = next((model for model in listed if model.id == self._model), None)
        if self._options.context is None:
            self._context = wire.context_of(known.model_dump() if known else {})


async def _next(
    stream: openai.AsyncStream[ChatCompletionChunk], *, over: bool
) -> ChatCompletionChunk | None:
    """The next chunk, None after the last one.

    `over`: the model has ended its reply. A server that then is silent, or breaks off, costs the
    counts and not the reply.
    """
    try:
        async with asyncio.timeout(AFTERWORD if over else None):
            return await anext(stream, None)
    except Exception:
        if over:
            return None
        raise
