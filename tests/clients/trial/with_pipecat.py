"""A conversation by Pipecat's OpenAI realtime service, in a pipeline as its examples build it."""

from __future__ import annotations

import asyncio
from typing import Any

from loguru import logger
from pipecat.frames.frames import (
    ErrorFrame,
    Frame,
    InputAudioRawFrame,
    InterruptionFrame,
    LLMRunFrame,
    OutputAudioRawFrame,
    StartFrame,
    TTSAudioRawFrame,
    TTSTextFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.llm_service import FunctionCallParams
from pipecat.services.openai.realtime.events import (
    AudioConfiguration,
    AudioInput,
    InputAudioTranscription,
    SemanticTurnDetection,
    SessionProperties,
)
from pipecat.services.openai.realtime.llm import OpenAIRealtimeLLMService
from pipecat.transports.base_output import BaseOutputTransport
from pipecat.transports.base_transport import TransportParams
from pipecat.workers.runner import WorkerRunner

from tests.clients.trial import caller
from tests.clients.trial.caller import RATE, Journal, Microphone


async def count_waiting_callers(params: FunctionCallParams) -> None:
    """How many callers wait."""
    await params.result_callback({"waiting": 3})


class Loudspeaker(BaseOutputTransport):
    """Plays sound in real time, to nobody."""

    def __init__(self) -> None:
        super().__init__(TransportParams(audio_out_enabled=True, audio_out_sample_rate=RATE))

    async def start(self, frame: StartFrame) -> None:
        await super().start(frame)
        await self.set_transport_ready(frame)

    async def write_audio_frame(self, frame: OutputAudioRawFrame) -> bool:
        await asyncio.sleep(len(frame.audio) / 2 / frame.sample_rate)
        return True


class Witness(FrameProcessor):
    """Notes what the service puts out."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSAudioRawFrame):
            await self._journal.note("audio", len(frame.audio))
        elif isinstance(frame, TTSTextFrame):
            await self._journal.note("text", frame.text)
        elif isinstance(frame, InterruptionFrame):
            await self._journal.note("interruption")
        await self.push_frame(frame, direction)


class Conversation:
    def __init__(self, url: str, microphone: Microphone) -> None:
        self.microphone = microphone
        self.journal = Journal()
        self.service = OpenAIRealtimeLLMService(
            api_key="none",
            base_url=f"{url}/v1/realtime",
            settings=OpenAIRealtimeLLMService.Settings(
                system_instruction="Be brief.",
                session_properties=SessionProperties(
                    audio=AudioConfiguration(
                        input=AudioInput(
                            transcription=InputAudioTranscription(),
                            turn_detection=SemanticTurnDetection(),
                        )
                    )
                ),
            ),
        )
        question: Any = {"role": "user", "content": "What is the square of seven?"}
        self.context = LLMContext([question], [count_waiting_callers])
        aggregators = LLMContextAggregatorPair(self.context)
        self.worker = PipelineWorker(
            Pipeline(
                [
                    aggregators.user(),
                    self.service,
                    Witness(self.journal),
                    Loudspeaker(),
                    aggregators.assistant(),
                ]
            ),
            params=PipelineParams(audio_in_sample_rate=RATE, audio_out_sample_rate=RATE),
        )
        self.worker.add_event_handler("on_pipeline_error", self._note_error)
        self.service.add_event_handler("on_conversation_item_updated", self._note_item)

    async def _note_error(self, worker: PipelineWorker, frame: ErrorFrame) -> None:
        await self.journal.note("error", frame.error)

    async def _note_item(self, service: Any, item_id: str, item: Any) -> None:
        if item is not None:
            await self.journal.note("item", item)

    async def talk(self) -> None:
        async for piece in self.microphone:
            await self.worker.queue_frame(InputAudioRawFrame(piece, RATE, 1))

    def said(self, role: str) -> list[str]:
        """What the context, which Pipecat keeps itself, holds of one side."""
        return [
            str(message["content"])
            for message in self.context.get_messages()
            if isinstance(message, dict) and message["role"] == role and message.get("content")
        ]

    async def until_said(self, role: str, text: str) -> str:
        """The context is written after the fact, without an event: look at it again and again."""
        while not any(text in each for each in self.said(role)):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        return text

    # -- the steps

    async def text(self) -> str:
        """What the context holds at the start is put into the conversation, and answered."""
        await self.worker.queue_frame(LLMRunFrame())
        text = await self.journal.until("text", lambda text: "49" in text)
        return f"answered {text!r}"

    async def spoken_turn(self) -> str:
        self.microphone.say("color")
        await self.until_said("user", caller.SAYINGS["color"])
        await self.journal.until("text")
        await self.journal.until("audio")
        return f"{self.said('user')[-1]!r}, {sum(self.journal.all('audio'))} bytes of reply"

    async def tool(self) -> str:
        self.microphone.say("queue")
        text = await self.journal.until("text", lambda text: "3" in text)
        return f"answered {text!r}"

    async def barge_in(self) -> str:
        self.microphone.say("story")
        await self.journal.until("audio")
        story = (await self.journal.until("item", of_story)).id
        await asyncio.sleep(2.0)  # a story is listened to before it is interrupted
        self.microphone.say("stop")
        await self.journal.until("interruption")
        await self.until_said("user", caller.SAYINGS["stop"])
        # Pipecat's own context keeps all that was sent; what the model knows is the server's.
        item = await self.service.retrieve_conversation_item(story)
        left = item.content[0].transcript
        assert 0 < len(left) < 100, left
        return f"left of the story: {left!r}"

    async def clean(self) -> str:
        errors = [value for kind, value in self.journal.entries if kind == "error"]
        assert not errors, errors
        assert self.service._receive_task is not None
        assert not self.service._receive_task.done(), "the receive loop has ended"
        return "no error, and the receive loop still runs"


def of_story(item: Any) -> bool:
    return any((part.transcript or "").startswith("Once") for part in item.content or ())


async def main() -> None:
    url, folder = caller.arguments()
    logger.remove()
    talk = Conversation(url, Microphone(folder))
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(talk.worker)
    running = asyncio.ensure_future(runner.run())
    talking = asyncio.ensure_future(talk.talk())
    await caller.run(
        "pipecat-ai",
        talk.journal,
        {
            "text turn": talk.text,
            "spoken turn": talk.spoken_turn,
            "function tool": talk.tool,
            "barge-in": talk.barge_in,
            "strict models": talk.clean,
        },
    )
    talking.cancel()
    await talk.worker.cancel()
    await running


if __name__ == "__main__":
    asyncio.run(main())
