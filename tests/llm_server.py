"""What the stand-ins for Ollama and OpenAI-compatible servers share: scripts, slots, records."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from tests.llm_http import Exchange, HttpServer

BUSY = "server busy, please try again.  maximum pending requests exceeded"


@dataclass(frozen=True, slots=True)
class Script:
    """How a model answers."""

    reply: str = "Hello there. How can I help you today?"
    answers: Mapping[str, str] = field(default_factory=dict)
    """Replies by what the last message contains, instead of `reply`."""
    tokens: tuple[str, ...] = ()
    """The reply's exact pieces, instead of its words."""
    thinking: str = ""
    tool_calls: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    """Name and arguments of each."""
    prompt_tokens: int | None = None
    """What the prompt is said to have cost; by default its words."""
    finish: str = "stop"

    hold_after: int | None = None
    """Tokens after which a generation waits for `release`."""
    first_token_seconds: float = 0.0
    token_seconds: float = 0.0
    """Pace, for benchmarks; tests that wait for something hold instead."""

    status: int = 200
    error: str = ""
    failures: int | None = None
    """Requests that fail with `status`, or die, before others are served; None: all."""
    dies_after: int | None = None
    """Tokens after which the stream ends in `death`."""
    death: Literal["reset", "error", "garbage", "truncated"] = "reset"
    after_end: Literal["", "reset", "silence"] = ""
    """What comes of OpenAI's stream after the finish reason, instead of the counts; silence lasts
    until the client goes."""

    @property
    def fails(self) -> bool:
        return self.status != 200 or self.dies_after is not None

    def pieces(self, asked: str, limit: int | None) -> list[str]:
        """The reply to a conversation that ends in `asked`, in at most `limit` tokens."""
        text = next((reply for key, reply in self.answers.items() if key in asked), self.reply)
        tokens = list(self.tokens) or re.findall(r"\s*\S+", text)
        return tokens if limit is None or limit < 0 else tokens[:limit]

    def finish_for(self, pieces: list[str], limit: int | None) -> str:
        """Why a reply of these pieces ended."""
        return "length" if limit is not None and len(pieces) == limit else self.finish


@dataclass(slots=True, eq=False)
class Generation:
    """One generation as the server saw it."""

    model: str
    body: Mapping[str, Any]
    """The request."""
    state: Literal["queued", "running", "done", "cancelled", "failed"] = "queued"
    sent: int = 0
    """Tokens."""
    released: asyncio.Event = field(default_factory=asyncio.Event)


class LlmServer(HttpServer):
    """Counts slots and keeps a record of every request; subclasses speak the protocols."""

    def __init__(self, *, slots: int = 4, most_queued: int = 512) -> None:
        super().__init__()
        self.slots = slots
        self.most_queued = most_queued
        self.requests: list[tuple[str, Mapping[str, Any]]] = []
        """Path and body of each, in order."""
        self.headers: list[Mapping[str, str]] = []
        """Of each request."""
        self.generations: list[Generation] = []
        self._failed: dict[str, int] = {}
        self._slots: asyncio.Semaphore | None = None

    def paths(self) -> list[str]:
        return [path for path, _ in self.requests]

    def states(self) -> list[str]:
        return [generation.state for generation in self.generations]

    def count(self, state: str) -> int:
        return self.states().count(state)

    def release(self) -> None:
        """Let all generations that hold go on."""
        for generation in list(self.generations):
            self.call(generation.released.set)

    # -- for subclasses

    async def handle(self, exchange: Exchange) -> None:
        with self.changed:
            self.requests.append((exchange.path, exchange.body))
            self.headers.append(exchange.headers)
            self.changed.notify_all()
        await self.route(exchange)

    async def route(self, exchange: Exchange) -> None:
        raise NotImplementedError

    def must_fail(self, model: str, script: Script) -> bool:
        """Whether this request is one of those that fail; counts it."""
        failed = self._failed.get(model, 0)
        if not script.fails or (script.failures is not None and failed >= script.failures):
            return False
        self._failed[model] = failed + 1
        return True

    @property
    def full(self) -> bool:
        return self.count("queued") > self.most_queued

    @contextmanager
    def recorded(self, model: str, body: Mapping[str, Any]) -> Iterator[Generation]:
        """A generation from its arrival to its end, however it ends."""
        generation = Generation(model, body)
        with self.changed:
            self.generations.append(generation)
            self.changed.notify_all()
        try:
            yield generation
        except asyncio.CancelledError:
            self.note(generation, "cancelled")
            raise
        finally:
            if generation.state in ("queued", "running"):
                self.note(generation, "failed")

    @asynccontextmanager
    async def slot(self, generation: Generation) -> AsyncIterator[None]:
        """Wait for one of the server's slots."""
        loop_slots = self._slots = self._slots or asyncio.Semaphore(self.slots)
        async with loop_slots:
            self.note(generation, "running")
            yield

    def note(
        self,
        generation: Generation,
        state: Literal["running", "done", "cancelled", "failed"] | None = None,
        *,
        sent: int = 0,
    ) -> None:
        with self.changed:
            generation.state = state or generation.state
            generation.sent += sent
            self.changed.notify_all()

    async def paced(
        self, script: Script, generation: Generation, tokens: list[str]
    ) -> AsyncIterator[str]:
        """The tokens at the script's pace, held where it says so."""
        for index, token in enumerate(tokens):
            if script.hold_after == index:
                await generation.released.wait()
            delay = script.token_seconds if index else script.first_token_seconds
            if delay:
                await asyncio.sleep(delay)
            yield token
            self.note(generation, sent=1)
        if script.hold_after == len(tokens):
            await generation.released.wait()

    def start(self, port: int | None = None) -> Self:
        self._slots = None  # a semaphore belongs to one loop
        return super().start(port)
