"""Sound that is sent as a message: its place, its words, and what of it the model is told."""

from __future__ import annotations

import asyncio

import pytest

from tests.calls import Call
from tests.instruments import ScriptedModel, ScriptedRecognizer, engines, says, silence, speech
from voicepool import clips
from voicepool.engines.base import Engines, Message
from voicepool.errors import DuplicateItem, EngineError, UnknownItem
from voicepool.events import (
    FinalTranscript,
    PipelineSettings,
    ResponseDone,
    ResponseRequest,
    Said,
    TranscriptFailed,
)

MANUAL = PipelineSettings(turns=None)


def asked(set_of_engines: Engines) -> list[list[str]]:
    """The texts of each request to the model."""
    model = set_of_engines.llm
    assert isinstance(model, ScriptedModel)
    return [[message.content for message in request.messages] for request in model.requests]


async def test_a_clip_has_its_place_at_once_and_its_words_later() -> None:
    stt = ScriptedRecognizer(["a clip"])
    stt.gate.clear()
    used = engines(says("Yes."), stt=stt)
    async with Call(used, MANUAL) as call:
        call.pipeline.insert_clip("clip", speech(700))
        call.pipeline.insert("last", Message("user", "typed"))
        call.pipeline.insert("first", Message("user", "before"), "root")
        assert call.pipeline.history.ids == ["first", "clip", "last"]
        assert [each.content for each in call.pipeline.history.messages()] == ["before", "typed"]
        call.pipeline.respond(ResponseRequest())
        stt.gate.set()
        told = await call.next(FinalTranscript)
        assert (told.item_id, told.text, told.seconds) == ("clip", "a clip", 0.7)
        await call.next(ResponseDone)
        assert asked(used) == [["before", "a clip", "typed"]]


async def test_a_clip_without_words_is_nothing_to_the_model() -> None:
    used = engines(says("Yes."), stt=ScriptedRecognizer(["", EngineError("broken")]))
    async with Call(used, MANUAL) as call:
        call.pipeline.insert_clip("quiet", speech(300))
        assert (await call.next(FinalTranscript)).text == ""
        call.pipeline.insert_clip("broken", speech(300))
        assert (await call.next(TranscriptFailed)).item_id == "broken"
        call.pipeline.respond(ResponseRequest())
        assert (await call.next(ResponseDone)).status == "completed"
        assert asked(used) == [[]]


async def test_a_spoken_turn_is_answered_after_the_clip_before_it() -> None:
    used = engines(says("Yes."), stt=ScriptedRecognizer(["words"]))
    async with Call(used, speculate=False) as call:
        await call.hear(silence(300), speech(600))
        call.pipeline.insert_clip("clip", speech(30_000), "root")
        await call.hear(silence(900))
        await call.next(ResponseDone)
        assert asked(used) == [["words", "words"]]


async def test_an_answer_waits_for_no_clip_that_is_out_of_band() -> None:
    stt = ScriptedRecognizer(["a clip"])
    stt.gate.clear()
    used = engines(says("Yes."), stt=stt)
    async with Call(used, MANUAL) as call:
        clip = call.pipeline.transcribe(speech(300))
        call.pipeline.insert("typed", Message("user", "typed"))
        call.pipeline.respond(ResponseRequest())
        await call.next(ResponseDone)
        assert not clip.done()
        assert asked(used) == [["typed"]]
        stt.gate.set()
        assert await clip == "a clip"


async def test_who_asks_about_a_reply_waits_for_no_clip() -> None:
    stt = ScriptedRecognizer(["a clip"])
    stt.gate.clear()
    used = engines(says("Yes."), stt=stt)
    async with Call(used, MANUAL) as call:
        call.pipeline.insert("reply", Message("assistant", "Yes."))
        call.pipeline.insert_clip("clip", speech(300))
        about = (Said("reply"), Message("user", "Is this rude?"))
        call.pipeline.respond(ResponseRequest(messages=about, remember=False))
        await call.next(ResponseDone)
        assert asked(used) == [["Yes.", "Is this rude?"]]
        stt.gate.set()
        await call.next(FinalTranscript)


async def test_a_deleted_clip_says_nothing() -> None:
    stt = ScriptedRecognizer(["a clip"])
    stt.gate.clear()
    used = engines(says("Yes."), stt=stt)
    async with Call(used, MANUAL) as call:
        call.pipeline.insert_clip("clip", speech(700))
        call.pipeline.delete("clip")
        call.pipeline.respond(ResponseRequest())
        stt.gate.set()
        await call.next(ResponseDone)
        assert asked(used) == [[]]


async def test_a_clip_is_heard_in_pieces_so_that_a_turn_is_heard_between_them() -> None:
    stt = ScriptedRecognizer(["a clip"])
    async with Call(engines(stt=stt), MANUAL) as call:
        assert await call.pipeline.transcribe(speech(9_000)) == "a clip"
        assert [len(piece) for piece in stt.heard] == [32_000] * 4 + [16_000]


async def test_a_clip_that_takes_too_long_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    stt = ScriptedRecognizer(["a clip"])
    stt.gate.clear()
    async with Call(engines(stt=stt), MANUAL) as call:
        with monkeypatch.context() as hasty:
            hasty.setattr(clips, "PATIENCE", 0.2)
            with pytest.raises(EngineError):
                await call.pipeline.transcribe(speech(100))
        stt.gate.set()
        assert await call.pipeline.transcribe(speech(100)) == "a clip"


async def test_there_is_room_for_a_few() -> None:
    stt = ScriptedRecognizer(["a clip"])
    stt.gate.clear()
    async with Call(engines(stt=stt), MANUAL) as call:
        for number in range(clips.MOST):
            await call.pipeline.clip_room()
            call.pipeline.insert_clip(f"clip {number}", speech(300))
        room = asyncio.create_task(call.pipeline.clip_room())
        await asyncio.sleep(0)
        assert not room.done()
        stt.gate.set()
        await room


async def test_places_that_there_are_not() -> None:
    async with Call(engines(), MANUAL) as call:
        call.pipeline.insert_clip("clip", speech(300))
        with pytest.raises(DuplicateItem):
            call.pipeline.insert_clip("clip", speech(300))
        with pytest.raises(UnknownItem):
            call.pipeline.insert_clip("other", speech(300), "nowhere")


async def test_what_was_said_is_asked_for_by_name() -> None:
    stt = ScriptedRecognizer(["a clip"])
    stt.gate.clear()
    used = engines(says("Yes."), stt=stt)
    async with Call(used, MANUAL) as call:
        call.pipeline.insert_clip("clip", speech(300))
        about = (Message("user", "Is this rude?"), Said("clip"), Said("gone"))
        call.pipeline.respond(ResponseRequest(messages=about, remember=False))
        stt.gate.set()
        await call.next(ResponseDone)
        assert asked(used) == [["Is this rude?", "a clip"]]
