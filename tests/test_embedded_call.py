"""Whole conversations over the embedded engines: espeak calls, and Silero, pocketsphinx, the
phrasebook and espeak answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from tests.calls import Call, until
from tests.speech import noisy, say, silence
from voicepool.audio import Resampler
from voicepool.engines import registry
from voicepool.engines.base import (
    INPUT_RATE,
    Engines,
    Message,
    Samples,
    SpeechChunk,
    SpeechSynthesizer,
    Tool,
)
from voicepool.events import (
    FinalTranscript,
    Interrupted,
    MessageDone,
    PartialTranscript,
    PipelineSettings,
    ResponseAudio,
    ResponseDone,
    ResponseRequest,
    SpeechStarted,
    SpeechStopped,
    ToolCallDone,
    TurnSettings,
)

PAUSE = silence(0.9)


@pytest.fixture(scope="module")
def embedded() -> Engines:
    """The engines of the embedded profile, as a worker has them."""
    engines = registry.build(registry.resolve_profile("embedded", {}))
    for engine in (engines.vad, engines.stt, engines.llm, engines.tts):
        engine.preload()
        engine.load("host")
    return engines


def spoken(text: str, seed: int = 1) -> Samples:
    """`text` as a caller says it, with the silence that ends a turn."""
    return np.concatenate([noisy(say(text), seed=seed), PAUSE])


@pytest.mark.parametrize("speculate", [True, False])
async def test_a_conversation_of_three_turns(embedded: Engines, speculate: bool) -> None:
    phrases = ["what time is it", "what can you understand", "tell me a very long story"]
    async with Call(embedded, speculate=speculate) as call:
        for number, phrase in enumerate(phrases):
            await call.hear(spoken(phrase, seed=number))
            done = await call.next(ResponseDone)
            assert done.status == "completed"
            assert done.timing.speculated == speculate
            call.clock.now += 600
        assert [event.text for event in call.all(FinalTranscript)] == phrases
        assert not call.all(Interrupted)
        messages = call.pipeline.history.messages()
        assert [message.role for message in messages] == ["user", "assistant"] * 3
        for message, told in zip(messages[1::2], call.all(MessageDone), strict=True):
            assert message.content == told.text
            assert told.complete
        started, stopped = call.all(SpeechStarted), call.all(SpeechStopped)
        assert len(started) == len(stopped) == 3
        for begin, end, phrase in zip(started, stopped, phrases, strict=True):
            seconds = len(say(phrase)) / INPUT_RATE
            assert seconds + 0.4 < (end.end_ms - begin.start_ms) / 1000 < seconds + 1.3


async def test_partial_transcripts_grow_into_the_final_one(embedded: Engines) -> None:
    async with Call(embedded) as call:
        for piece in np.array_split(spoken("tell me a very long story"), 40):
            await call.hear(piece)
            for _ in range(3):
                await until(lambda: not call.pipeline._stt._jobs.qsize())
        await call.next(ResponseDone)
        partials = [event.text for event in call.all(PartialTranscript)]
        assert partials
        assert partials[-1] == call.all(FinalTranscript)[0].text == "tell me a very long story"


async def test_a_reply_in_sound_can_be_understood(embedded: Engines) -> None:
    """The circle closes: the reply's sound, resampled, is what the detector takes for speech."""
    async with Call(embedded) as call:
        await call.hear(spoken("what time is it"))
        await call.next(ResponseDone)
        sounds = call.all(ResponseAudio)
        resampler = Resampler(sounds[0].rate, INPUT_RATE)
        reply = np.concatenate([*(resampler.push(e.samples) for e in sounds), resampler.flush()])
        assert 1 < len(reply) / INPUT_RATE < 10
    async with Call(embedded, PipelineSettings(turns=TurnSettings(create_response=False))) as other:
        await other.hear(silence(0.3), reply, PAUSE)
        await other.next(FinalTranscript)
        assert len(other.all(SpeechStarted)) == 1


async def test_a_long_story_is_interrupted_and_remembered_as_far_as_it_was_heard(
    embedded: Engines,
) -> None:
    async with Call(embedded) as call:
        await call.hear(spoken("tell me a very long story"))
        for _ in range(30):
            await call.next(ResponseAudio)
        call.clock.now += 2.0
        await call.hear(spoken("what time is it", seed=2))
        interrupted = await call.next(Interrupted)
        assert interrupted.heard_ms <= 2000
        final = await call.next(FinalTranscript)
        await call.next(ResponseDone, lambda done: done.status == "completed")
        assert final.text == "what time is it"
        messages = call.pipeline.history.messages()
        story, told = messages[1].content, call.all(MessageDone)[0].text
        assert told.startswith(story)
        assert 3 <= len(story.split()) <= 9, "2 s at 160 words a minute"
        assert len(story) < len(told)


class Recording:
    """A synthesiser that writes down where in the sound each of its words begins."""

    def __init__(self, real: SpeechSynthesizer) -> None:
        self._real = real
        self.name, self.sample_rate, self.voices = "recording", real.sample_rate, real.voices
        self.spoken: list[tuple[float, float, str]] = []
        """When a clause began, in seconds from the first sample; when in it a word did; which."""
        self.seconds = 0.0

    def preload(self) -> None: ...

    def load(self, device: str) -> None: ...

    def warm_up(self) -> None: ...

    def synthesize(
        self, text: str, *, voice: str = "", speed: float = 1.0
    ) -> Iterator[SpeechChunk]:
        began = self.seconds
        for chunk in self._real.synthesize(text, voice=voice, speed=speed):
            for word in chunk.words:
                said = text[word.text_start : word.text_end]
                self.spoken.append((began, word.start, said))
            self.seconds += len(chunk.samples) / self.sample_rate
            yield chunk


def letters(text: str) -> str:
    return "".join(filter(str.isalpha, text)).lower()


def beginnings(text: str, words: list[str]) -> int:
    """How many of `words`, in their order, are in the text. (espeak runs "in the" into one.)"""
    found = 0
    for word in text.split():
        if found < len(words) and letters(words[found]) == letters(word):
            found += 1
    return found


async def test_the_history_holds_the_words_that_were_heard(embedded: Engines) -> None:
    """Against the synthesiser's own clock, at many places of a story."""
    recording = Recording(embedded.tts)
    async with Call(replace(embedded, tts=recording), PipelineSettings(turns=None)) as call:
        call.pipeline.insert("q", Message("user", "tell me a very long story"))
        call.pipeline.respond(ResponseRequest())
        await call.next(ResponseDone)
        told = call.all(MessageDone)[0]
        assert call.seconds_of_sound() == pytest.approx(recording.seconds)
        assert recording.seconds > 20
        words = [word for _, _, word in recording.spoken]
        for cut in np.linspace(recording.seconds, 0.1, 120):  # what is cut off never comes back
            heard_ms = int(cut * 1000)  # the protocol knows whole milliseconds
            begins = [began + start - heard_ms / 1000 for began, start, _ in recording.spoken]
            if min(map(abs, begins)) < 1e-6:
                continue  # cut where a word begins: which side that is on is a matter of rounding
            left = call.pipeline.truncate(told.item_id, heard_ms)
            heard = sum(begin < 0 for begin in begins)
            assert told.text.startswith(left)
            assert letters(left).endswith(letters(words[heard - 1]))
            assert beginnings(left, words) == heard, "every word that began to sound, and no other"
        assert call.pipeline.history.messages()[-1].content == left


async def test_what_is_no_phrase_is_answered_with_help(embedded: Engines) -> None:
    async with Call(embedded) as call:
        await call.hear(spoken("the committee postponed its decision about the harbour"))
        await call.next(ResponseDone)
        assert call.all(FinalTranscript)[0].text == ""
        assert "phrasebook" in call.all(MessageDone)[0].text
        assert call.pipeline.history.messages()[0] == Message("user", "")


async def test_noise_and_silence_are_no_turns(embedded: Engines) -> None:
    noise = np.random.default_rng(3).standard_normal(INPUT_RATE * 4).astype(np.float32) * 0.01
    async with Call(embedded) as call:
        await call.hear(silence(3.0), noise)
        assert call.events == []


async def test_a_manual_and_a_typed_turn(embedded: Engines) -> None:
    async with Call(embedded, PipelineSettings(turns=None)) as call:
        await call.hear(noisy(say("what time is it"), seed=4))
        await call.pipeline.commit()
        call.pipeline.respond(ResponseRequest())
        assert (await call.next(ResponseDone)).status == "completed"
        call.pipeline.insert("typed", Message("user", "Tell me a very long story!"))
        call.pipeline.respond(ResponseRequest(speak=False))
        assert (await call.next(ResponseDone)).status == "completed"
        assert len(call.all(MessageDone)[1].text) > 200


async def test_a_tool_is_called_and_its_result_is_spoken(embedded: Engines) -> None:
    tool = Tool("count_waiting_callers", "How many wait.")
    async with Call(embedded, PipelineSettings(tools=(tool,), turns=None)) as call:
        question = "how many callers are waiting in the queue"
        call.pipeline.insert("q", Message("user", question))
        call.pipeline.respond(ResponseRequest())
        await call.next(ResponseDone)
        made = call.all(ToolCallDone)
        assert [event.name for event in made] == ["count_waiting_callers"]
        call.pipeline.insert("r", Message("tool", '{"waiting": 3}', tool_call_id=made[0].call_id))
        call.pipeline.respond(ResponseRequest())
        await call.next(ResponseDone)
        assert call.all(MessageDone)[-1].text
        assert call.seconds_of_sound() > 0.5
