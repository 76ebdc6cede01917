"""What the Ollama engine tells and does for an operator."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chatting import (
    free_port,
    ollama_model,
)
from tests.llm_server import Script
from tests.ollama_server import Model, OllamaServer, Pullable
from voicepool.engines import ollama as engine
from voicepool.engines.base import (
    Advising,
    Download,
    Fetching,
)
from voicepool.engines.chat import retrying
from voicepool.errors import EngineError, EngineUnavailable


@pytest.fixture
def server() -> Iterator[OllamaServer]:
    with OllamaServer() as server:
        yield server


# --- what an operator asks


@pytest.mark.parametrize("slots", [1, 2])
def test_whether_replies_are_made_at_once_is_measured(slots: int) -> None:
    # The pace of a model: with all tokens there at once, their order at the client is chance.
    paced = Script(reply="word " * 20, first_token_seconds=0.2, token_seconds=0.01)
    with OllamaServer({"llama3.2": Model(paced)}, slots=slots) as server:
        assert ollama_model(server).measure_parallelism(2) == (slots == 2)


def test_a_server_that_cannot_be_measured_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "WARM_UP_PATIENCE", 0.1)
    with pytest.raises(EngineError, match="ollama serve"):
        ollama_model(f"127.0.0.1:{free_port()}").measure_parallelism(2)


def test_it_advises_and_fetches(server: OllamaServer) -> None:
    model = ollama_model(server)
    assert isinstance(model, Advising)
    assert isinstance(model, Fetching)


def test_a_model_is_pulled_with_progress() -> None:
    with OllamaServer({}, registry={"llama3.2": Pullable(1000)}) as server:
        told: list[Download] = []
        ollama_model(server).fetch(told.append)
        name = "ollama llama3.2: aeda25e63ebd"[:16] + told[0].name[16:]
        assert told == [Download(name, done, 1000) for done in (0, 500, 1000)]
        engine.create({"host": server.url}).preload()


@pytest.mark.parametrize(
    ("registry", "says"),
    [({}, "file does not exist"), ({"llama3.2": Pullable(1000, breaks_at=600)}, "unexpected EOF")],
)
def test_a_failed_pull_says_why(registry: dict[str, Pullable], says: str) -> None:
    with OllamaServer({}, registry=registry) as server, pytest.raises(EngineUnavailable) as raised:
        ollama_model(server).fetch(lambda download: None)
    assert str(raised.value).startswith("ollama pull llama3.2: ")
    assert says in str(raised.value)


def test_a_pull_without_a_server_says_how_to_start_it() -> None:
    with pytest.raises(EngineUnavailable, match="ollama serve"):
        ollama_model(f"127.0.0.1:{free_port()}").fetch(lambda download: None)
