"""What tests of language model engines share: asking, hearing, cancelling, being away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Protocol, TypeVar

import pytest

from tests.llm_http import DEADLINE
from tests.ollama_server import OllamaServer
from voicepool.engines import ollama
from voicepool.engines.base import ChatDelta, ChatRequest, LanguageModel, Message, Role, TextDelta
from voicepool.engines.chat import retrying
from voicepool.engines.ollama.engine import OllamaModel
from voicepool.logs import FloodGuard

SECRET = "my pin is 4711"
"""What a caller says and nobody else may read."""


@pytest.fixture(autouse=True)
def nothing_was_logged_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """For every module that imports it: what other tests have logged keeps no line back."""
    monkeypatch.setattr(retrying, "flood", FloodGuard(logging.getLogger(retrying.__name__)))


class ClosableModel(LanguageModel, Protocol):
    async def aclose(self) -> None: ...


M = TypeVar("M", bound=ClosableModel)


@asynccontextmanager
async def closing(model: M) -> AsyncIterator[M]:
    """The model, whose connections are closed before the test's event loop."""
    try:
        yield model
    finally:
        await model.aclose()


def asks(*texts: str) -> ChatRequest:
    """A conversation of turns of the caller and replies, by turns."""
    roles: tuple[Role, Role] = ("user", "assistant")
    return ChatRequest([Message(roles[i % 2], text) for i, text in enumerate(texts)])


def long_talk(exchanges: int) -> list[Message]:
    """Exchanges of about 220 letters, with a last turn after them."""
    talk: list[Message] = []
    for number in range(exchanges):
        talk.append(Message("user", f"Question {number}: " + "what is it? " * 8))
        talk.append(Message("assistant", f"Answer {number}: " + "it is this. " * 8))
    return [*talk, Message("user", "And the last one?")]


async def hear(model: LanguageModel, request: ChatRequest) -> list[ChatDelta]:
    return [delta async for delta in model.generate(request)]


def text_of(deltas: Sequence[ChatDelta]) -> str:
    return "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))


async def say(model: LanguageModel, *texts: str) -> str:
    return text_of(await hear(model, asks(*texts)))


def reading(model: LanguageModel) -> asyncio.Task[str]:
    """A task that reads a reply."""
    return asyncio.create_task(say(model, "Hello?"))


async def cancelled(task: asyncio.Task[str]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()


@contextmanager
def hangs_up_once() -> Iterator[tuple[int, threading.Event]]:
    """A port whose server takes one connection, breaks it off and goes: (port, when it has)."""
    listener = socket.create_server(("127.0.0.1", 0))
    gone = threading.Event()

    def serve() -> None:
        with listener:
            listener.settimeout(DEADLINE)
            connection, _ = listener.accept()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
        gone.set()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1], gone
    finally:
        thread.join(DEADLINE)
        assert not thread.is_alive()


def ollama_model(server: OllamaServer | str, **options: Any) -> OllamaModel:
    """The engine in a worker, not yet warm."""
    host = server if isinstance(server, str) else server.url
    model = ollama.create({"host": host, **options})
    model.load("host")
    return model
