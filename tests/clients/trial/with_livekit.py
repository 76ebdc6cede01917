"""A conversation by LiveKit Agents with the realtime model of its OpenAI plugin, without a room."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
from livekit import rtc
from livekit.agents import Agent, AgentSession, ChatContext, function_tool
from livekit.agents.voice import io
from livekit.plugins import openai

from tests.clients.trial import caller
from tests.clients.trial.caller import RATE, Journal, Microphone

SESSION_SECONDS = 20.0
"""After which LiveKit connects anew: its default is 20 minutes."""


class Ear(io.AudioInput):
    def __init__(self, microphone: Microphone) -> None:
        super().__init__(label="microphone")
        self._pieces: AsyncIterator[bytes] = aiter(microphone)

    async def __anext__(self) -> rtc.AudioFrame:
        piece = await anext(self._pieces)
        return rtc.AudioFrame(piece, RATE, 1, len(piece) // 2)


class Loudspeaker(io.AudioOutput):
    """Plays sound in real time, to nobody."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(
            label="loudspeaker",
            capabilities=io.AudioOutputCapabilities(pause=False),
            sample_rate=RATE,
        )
        self._journal = journal
        self._seconds = self._began = 0.0
        self.stopped_at = 0.0
        """Seconds after which it was last silenced."""
        self._ending: asyncio.Task[None] | None = None

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        await super().capture_frame(frame)
        if not self._seconds:
            self._began = time.monotonic()
            self.on_playback_started(created_at=time.time())
        self._seconds += frame.duration
        await self._journal.note("audio", frame.duration)

    def flush(self) -> None:
        super().flush()
        if self._seconds and self._ending is None:
            self._ending = asyncio.ensure_future(self._play_out())

    async def _play_out(self) -> None:
        await asyncio.sleep(self._began + self._seconds - time.monotonic())
        self._finish(interrupted=False)

    def clear_buffer(self) -> None:
        if self._ending is not None:
            self._ending.cancel()
        if self._seconds:
            self._finish(interrupted=True)

    def _finish(self, *, interrupted: bool) -> None:
        position = min(self._seconds, time.monotonic() - self._began)
        self._seconds, self._ending = 0.0, None
        if interrupted:
            self.stopped_at = position
        self.on_playback_finished(playback_position=position, interrupted=interrupted)


class Operator(Agent):
    def __init__(self, history: ChatContext) -> None:
        super().__init__(instructions="Be brief.", chat_ctx=history)

    @function_tool
    async def count_waiting_callers(self) -> dict[str, int]:
        """How many callers wait."""
        return {"waiting": 3}


class Conversation:
    def __init__(self, session: AgentSession[None], microphone: Microphone) -> None:
        self.session = session
        self.microphone = microphone
        self.journal = Journal()
        self.loudspeaker = Loudspeaker(self.journal)
        self._notes: set[asyncio.Task[None]] = set()
        session.on("user_input_transcribed", lambda event: self.note("heard", event))
        session.on("conversation_item_added", lambda event: self.note("item", event.item))
        session.on("function_tools_executed", lambda event: self.note("tools", event))
        session.on("error", lambda event: self.note("error", event.error))

    def note(self, kind: str, value: Any) -> None:
        task = asyncio.ensure_future(self.journal.note(kind, value))
        self._notes.add(task)
        task.add_done_callback(self._notes.discard)

    def on_server_event(self, event: dict[str, Any]) -> None:
        if event["type"] == "conversation.item.truncated":
            self.note("truncated", event)

    async def reply(self, text: str = "") -> str:
        """The text of the next reply that holds `text`."""
        item = await self.journal.until(
            "item", lambda item: item.role == "assistant" and text in item.text_content
        )
        return str(item.text_content)

    # -- the steps

    async def replay(self) -> str:
        """The history of the start is put into the conversation."""
        self.session.generate_reply(user_input="do you remember my name")
        return repr(await self.reply("Barbara"))

    async def spoken_turn(self) -> str:
        self.microphone.say("color")
        heard = await self.journal.until("heard", lambda event: event.is_final)
        assert heard.transcript == caller.SAYINGS["color"], heard
        reply = await self.reply()
        return f"{heard.transcript!r}, {sum(self.journal.all('audio')):.1f} s of {reply!r}"

    async def tool(self) -> str:
        self.microphone.say("queue")
        executed = await self.journal.until("tools")
        (output,) = executed.function_call_outputs
        return f"{output.name} gave {output.output}; {await self.reply('3')!r}"

    async def text(self) -> str:
        self.session.generate_reply(user_input="What is the square of seven?")
        return repr(await self.reply("49"))

    async def instructed(self) -> str:
        """generate_reply waits for a response whose metadata is its own."""
        handle = self.session.generate_reply(instructions="Say hello.")
        await handle
        assert handle.chat_items, "no reply was made"
        return repr(handle.chat_items[0].text_content)

    async def barge_in(self) -> str:
        self.microphone.say("story")
        await self.journal.until("audio")
        await asyncio.sleep(2.0)  # a story is listened to before it is interrupted
        self.microphone.say("stop")
        await self.journal.until("item", lambda item: item.interrupted)
        # LiveKit's own history keeps what it likes; what the model knows is the server's.
        told = await self.journal.until("truncated")
        assert 0 < told["audio_end_ms"] < 1000 * (self.loudspeaker.stopped_at + 1.0), told
        await self.journal.until(
            "heard", lambda event: event.is_final and event.transcript == caller.SAYINGS["stop"]
        )
        return f"silent after {self.loudspeaker.stopped_at:.1f} s of the story"

    async def reconnect(self) -> str:
        """LiveKit calls anew every so often, and puts the whole conversation into the new call."""
        await self.journal.until("reconnected")
        self.microphone.say("name")
        return repr(await self.reply("Barbara"))

    async def clean(self) -> str:
        errors = [str(value) for kind, value in self.journal.entries if kind == "error"]
        assert not errors, errors
        return "no error"


async def main() -> None:
    url, folder = caller.arguments()
    history = ChatContext.empty()
    history.add_message(role="user", content="my name is barbara")
    history.add_message(role="assistant", content="Hello, Barbara!")
    async with aiohttp.ClientSession() as http:
        model = openai.realtime.RealtimeModel(
            base_url=f"{url.replace('ws', 'http', 1)}/v1",
            api_key="none",
            http_session=http,
            max_session_duration=SESSION_SECONDS,
        )
        session: AgentSession[None] = AgentSession(llm=model)
        talk = Conversation(session, Microphone(folder))
        session.input.audio = Ear(talk.microphone)
        session.output.audio = talk.loudspeaker
        operator = Operator(history)
        await session.start(operator)
        operator.realtime_llm_session.on("openai_server_event_received", talk.on_server_event)
        operator.realtime_llm_session.on(
            "session_reconnected", lambda event: talk.note("reconnected", event)
        )
        await caller.run(
            "livekit-plugins-openai",
            talk.journal,
            {
                "history replay": talk.replay,
                "spoken turn": talk.spoken_turn,
                "function tool": talk.tool,
                "text turn": talk.text,
                "generate_reply": talk.instructed,
                "barge-in": talk.barge_in,
                "reconnect": talk.reconnect,
                "no errors": talk.clean,
            },
        )
        await session.aclose()


if __name__ == "__main__":
    asyncio.run(main())
