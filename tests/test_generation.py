"""voicepool.generation: the parts of a reply and their order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence

import numpy as np
import pytest

from tests.calls import PATIENCE, until
from tests.instruments import Cue, ScriptedModel, ToneSynthesizer, says
from voicepool import generation
from voicepool.engines.base import (
    ChatDelta,
    ChatRequest,
    Finished,
    SpeechChunk,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    WordTime,
)
from voicepool.generation import Failed, Generation, MessageEnd, Part, Sound, Voice, _cut
from voicepool.sentences import Clause
from voicepool.spoken.reader import Spoken
from voicepool.stages import EngineThread, Speaker
from voicepool.tasks import TaskSet

ASK = ChatRequest(())


class Maker:
    """Generations over instruments."""

    def __init__(self, cues: Sequence[Cue]) -> None:
        self.model = ScriptedModel(lambda _: cues)
        self.tts = ToneSynthesizer()
        self.tasks = TaskSet()
        self.thread = EngineThread("tts", 10)

    def generation(self, voice: Voice | None = Voice()) -> Generation:  # noqa: B008 - frozen
        return Generation(
            self.model,
            ASK,
            speaker=Speaker(self.thread, self.tts),
            voice=voice,
            deadline=10,
            tasks=self.tasks,
        )

    async def parts(self, voice: Voice | None = Voice()) -> list[Part]:  # noqa: B008 - frozen
        parts = [part async for part in self.generation(voice).parts()]
        await self.close()
        return parts

    async def close(self) -> None:
        await self.tasks.close(10)
        assert len(self.tasks) == 0
        assert await self.thread.close(10)


def names(parts: Sequence[Part]) -> list[str]:
    found: list[str] = []
    for part in parts:
        if found[-1:] != [type(part).__name__]:
            found.append(type(part).__name__)
    return found


async def test_text_then_clause_then_sound() -> None:
    parts = await Maker(says("One two. ", "Three.")(ASK)).parts()
    assert [part.clause for part in parts if isinstance(part, Spoken)] == [
        Clause("One two.", 0, opens_line=True),
        Clause("Three.", 9, opens_line=False),
    ]
    assert sum(isinstance(part, Sound) for part in parts) == 3
    assert isinstance(parts[-1], Finished)
    assert parts[-2] == MessageEnd(complete=True)
    said = ""
    for part in parts:
        if isinstance(part, TextDelta):
            said += part.text
        elif isinstance(part, Spoken):
            clause = part.clause
            assert said[clause.start :].startswith(clause.text), "its text was told before"


async def test_what_is_spoken_is_made_for_the_ear_and_what_is_told_is_not() -> None:
    maker = Maker(says("It **costs** $5", ".20. See [our site](https://exam", "ple.com).")(ASK))
    parts = await maker.parts()
    assert maker.tts.spoken == ["It costs five dollars and twenty cents.", "See our site."]
    told = "".join(part.text for part in parts if isinstance(part, TextDelta))
    assert told == "It **costs** $5.20. See [our site](https://example.com)."


async def test_what_is_silent_is_no_failure_and_code_is_mentioned_once() -> None:
    maker = Maker(says("[1]: https://example.com\n```\n", "x = 1\n", "y = 2\n```\n", "😀")(ASK))
    parts = await maker.parts()
    assert maker.tts.spoken == ["Code omitted."]
    assert parts[-1] == Finished(input_tokens=3, output_tokens=4)
    silent = Maker(says("[1]: https://example.com")(ASK))
    assert names(await silent.parts()) == ["TextDelta", "Spoken", "MessageEnd", "Finished"]
    assert silent.tts.spoken == []


async def test_code_in_one_message_does_not_silence_the_next() -> None:
    call = ToolCall("1", "look", "{}")
    maker = Maker([TextDelta("```\nx = 1\n"), call, TextDelta("Two."), Finished("stop", 1, 2)])
    await maker.parts()
    assert maker.tts.spoken == ["Code omitted.", "Two."]


async def test_no_sound_for_something_to_say_is_a_failure() -> None:
    class Mute(ToneSynthesizer):
        def synthesize(
            self, text: str, *, voice: str = "", speed: float = 1.0
        ) -> Iterator[SpeechChunk]:
            return iter(())

    maker = Maker(says("Hello.")(ASK))
    maker.tts = Mute()
    last = (await maker.parts())[-1]
    assert isinstance(last, Failed)
    assert last.stage == "tts"


async def test_numbers_are_in_the_language_of_the_voice() -> None:
    class Bilingual(ToneSynthesizer):
        def language_of(self, voice: str) -> str:
            return {"": "de", "anna": "it"}[voice]

    for voice, said in (
        ("", "fünf Komma fünf Prozent"),
        ("anna", "cinque virgola cinque percento"),
    ):
        maker = Maker(says("5,5 %")(ASK))
        maker.tts = Bilingual()
        await maker.parts(Voice(voice))
        assert maker.tts.spoken == [said]


async def test_text_alone() -> None:
    parts = await Maker(says("One two. ", "", "Three.")(ASK)).parts(None)
    assert parts[:-2] == [TextDelta("One two. "), TextDelta("Three.")]


async def test_a_message_is_spoken_to_its_end_before_the_calls_after_it() -> None:
    call = ToolCall("1", "look", "{}")
    delta = ToolCallDelta("1", "look", "{}")
    parts = await Maker(
        [TextDelta("One"), delta, call, TextDelta("Two"), Finished("tool_calls", 1, 2)]
    ).parts()
    assert names(parts) == [
        "TextDelta",
        "Spoken",
        "Sound",
        "MessageEnd",
        "ToolCallDelta",
        "ToolCall",
        "TextDelta",
        "Spoken",
        "Sound",
        "MessageEnd",
        "Finished",
    ]
    clauses = [part.clause for part in parts if isinstance(part, Spoken)]
    assert [clause.start for clause in clauses] == [0, 0], "a second message begins anew"


@pytest.mark.parametrize("voice", [Voice(), None])
async def test_empty_lines_alone_are_no_message(voice: Voice | None) -> None:
    call = ToolCall("call_1", "look", "{}")
    cues: list[Cue] = [TextDelta("\n\n"), call, TextDelta("\n"), TextDelta("\n One."), Finished()]
    parts = await Maker(cues).parts(voice)
    assert parts[:2] == [call, TextDelta("One.")]


async def test_a_model_that_forgets_to_say_that_it_is_done() -> None:
    parts = await Maker([TextDelta("One")]).parts()
    assert parts[-1] == Finished()


async def test_a_model_is_not_read_beyond_its_end() -> None:
    maker = Maker([Finished("length"), TextDelta("more")])
    assert await maker.parts() == [Finished("length")]


async def test_a_failure_is_the_last_part() -> None:
    parts = await Maker([TextDelta("One two. "), ValueError("no")]).parts()
    assert isinstance(parts[-1], Failed)
    assert parts[-1].stage == "llm"


class SelfCancelling(ScriptedModel):
    async def generate(self, request: ChatRequest) -> AsyncGenerator[ChatDelta, None]:
        yield TextDelta("One two. ")
        raise asyncio.CancelledError


async def test_a_model_that_thinks_without_end_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    script: list[Cue] = [*[TextDelta("")] * 3, TextDelta("Hi."), Finished()]
    assert isinstance((await Maker(script).parts())[-1], Finished)
    monkeypatch.setattr(generation, "LONGEST_THOUGHT", 0.0)
    assert isinstance((await Maker(script).parts())[-1], Failed)


async def test_a_model_whose_request_is_cancelled_below_it_has_failed() -> None:
    """Without an end of its parts the reader, and every response after it, would wait for ever."""
    maker = Maker([])
    maker.model = SelfCancelling(lambda _: [])
    async with asyncio.timeout(PATIENCE):
        last = (await maker.parts())[-1]
    assert isinstance(last, Failed)
    assert last.stage == "llm"


async def test_nobody_reads_and_nothing_grows() -> None:
    maker = Maker(says(*["Word word. "] * 3000)(ASK))
    generation = maker.generation()
    await until(lambda: len(maker.tts.spoken) > 2)
    await until(lambda: generation._parts.full())
    generation.cancel()
    generation.cancel()
    await maker.close()
    assert maker.model.stopped == 1


async def test_the_voice_is_the_synthesisers() -> None:
    class Listening(ToneSynthesizer):
        asked: tuple[str, float] = ("", 0.0)

        def synthesize(self, text: str, *, voice: str = "", speed: float = 1.0):  # type: ignore[no-untyped-def]
            self.asked = (voice, speed)
            return super().synthesize(text, voice=voice, speed=speed)

    maker = Maker(says("One.")(ASK))
    maker.tts = tts = Listening()
    await maker.parts(Voice("anna", 1.5))
    assert tts.asked == ("anna", 1.5)


async def test_stamps_follow_the_way_to_the_first_sound() -> None:
    maker = Maker(says("One two. ", "Three.")(ASK))
    generation = maker.generation()
    _ = [part async for part in generation.parts()]
    await maker.close()
    llm, clause, tts = generation.stamps.llm, generation.stamps.clause, generation.stamps.tts
    assert llm is not None
    assert clause is not None
    assert tts is not None
    assert llm.began <= llm.ended == clause.began <= clause.ended
    assert tts.began <= tts.ended


@pytest.mark.parametrize("length", [0, 1, 3200, 3201, 16_000])
def test_long_chunks_are_cut(length: int) -> None:
    words = (WordTime(0, 3, 0.0),)
    sounds = list(_cut(SpeechChunk(np.arange(length, dtype=np.float32), words), 16_000))
    assert all(sound.seconds <= 0.2 for sound in sounds)
    assert np.concatenate([np.zeros(0), *(s.samples for s in sounds)]).tolist() == list(
        range(length)
    )
    assert [sound.words for sound in sounds[:1]] == [words][: len(sounds)]
    assert all(sound.words == () for sound in sounds[1:])


async def test_cancelling_is_heard_by_the_model_in_mid_wait() -> None:
    never = asyncio.Event()
    maker = Maker([TextDelta("One two. "), never])
    generation = maker.generation()
    async for part in generation.parts():
        if isinstance(part, Sound):
            break
    assert generation.llm_generator is not None
    generation.cancel()
    await maker.close()
    assert maker.model.stopped == 1
