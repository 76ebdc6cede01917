"""The fake call before the caller: the caller's way, without a second inference."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from websockets.asyncio.client import connect

from tests.instruments import ScriptedModel, ScriptedRecognizer, ToneSynthesizer
from tests.test_session import hosting
from voicepool import rehearsal
from voicepool.app import Caller, caller
from voicepool.engines import silero
from voicepool.engines.base import Engines, Finished, TextDelta
from voicepool.errors import EngineError
from voicepool.speech import SpeechApp


@contextmanager
def in_rehearsal() -> Iterator[None]:
    """Handlers of a server that is made in it take their callers for fake ones."""
    token = caller.set(Caller(0, "", 0, ""))
    try:
        yield
    finally:
        caller.reset(token)


def with_models(stt: ScriptedRecognizer, tts: ToneSynthesizer, llm: ScriptedModel) -> Engines:
    return Engines(vad=silero.create({}), stt=stt, llm=llm, tts=tts)


async def test_a_rehearsal_takes_the_way_of_a_call_and_makes_no_inference_again() -> None:
    stt, tts = ScriptedRecognizer(), ToneSynthesizer()
    llm = ScriptedModel(lambda _: [TextDelta("Hello. "), Finished()])
    with in_rehearsal():
        async with (
            hosting(SpeechApp(with_models(stt, tts, llm))) as (_, port),
            connect(f"ws://127.0.0.1:{port}/v1/realtime") as client,
        ):
            await rehearsal.play(client)
    assert stt.streams == []
    assert tts.spoken == []
    # The detector has found the turn in the recording, and the model was told its words.
    (request,) = llm.requests
    assert request.messages[-1].content == rehearsal.WORDS


async def test_a_model_that_does_not_answer_fails_the_rehearsal() -> None:
    llm = ScriptedModel(lambda _: [EngineError("no model is loaded")])
    engines = with_models(ScriptedRecognizer(), ToneSynthesizer(), llm)
    with in_rehearsal():
        async with (
            hosting(SpeechApp(engines)) as (_, port),
            connect(f"ws://127.0.0.1:{port}/v1/realtime") as client,
        ):
            with pytest.raises(EngineError, match="The language model failed"):
                await rehearsal.play(client)
