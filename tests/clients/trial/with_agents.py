"""A conversation by the Python package `openai-agents`."""

from __future__ import annotations

import asyncio
from typing import Any

from agents import function_tool, set_tracing_disabled
from agents.realtime import RealtimeAgent, RealtimeRunner, RealtimeSession

from tests.clients.trial import caller
from tests.clients.trial.caller import Journal, Microphone


@function_tool(name_override=caller.TOOL, description_override=caller.TOOL_DESCRIPTION)
def count_waiting_callers() -> str:
    return '{"waiting": 3}'


class Conversation:
    def __init__(self, session: RealtimeSession, microphone: Microphone) -> None:
        self.session = session
        self.microphone = microphone
        self.journal = Journal()

    async def talk(self) -> None:
        async for piece in self.microphone:
            await self.session.send_audio(piece)

    async def listen(self) -> None:
        async for event in self.session:
            if event.type == "audio":
                await self.journal.note("audio", event.audio)
            elif event.type == "history_updated":
                await self.journal.note("history", event.history)
            elif event.type == "error":
                await self.journal.note("error", event.error)
            elif event.type == "tool_end":
                await self.journal.note("tool_end", (event.tool.name, event.output))
            else:
                await self.journal.note(event.type)

    # -- the steps

    async def spoken_turn(self) -> str:
        self.microphone.say("color")
        history = await self.journal.until(
            "history",
            lambda items: said(items, "user") and said(items, "assistant"),
        )
        await self.journal.until("agent_end")
        sound = sum(len(audio.data) for audio in self.journal.all("audio"))
        assert said(history, "user")[-1] == caller.SAYINGS["color"]
        assert sound > caller.RATE
        return f"{said(history, 'user')[-1]!r}, {sound / 2 / caller.RATE:.1f} s of reply"

    async def tool(self) -> str:
        self.microphone.say("queue")
        name, output = await self.journal.until("tool_end")
        assert name == caller.TOOL
        await self.journal.until("history", lambda items: "3" in last(items))
        return f"{name} gave {output}"

    async def text(self) -> str:
        await self.session.send_message("What is the square of seven?")
        await self.journal.until("history", lambda items: "49" in last(items))
        return "answered 49"

    async def barge_in(self) -> str:
        self.microphone.say("story")
        story = (await self.journal.until("audio")).item_id
        await asyncio.sleep(2.0)  # a story is listened to before it is interrupted
        self.microphone.say("stop")
        await self.journal.until("audio_interrupted")
        history = await self.journal.until(
            "history", lambda items: said(items, "user")[-1:] == [caller.SAYINGS["stop"]]
        )
        (left,) = [item.content[0].transcript for item in history if item.item_id == story]
        assert 0 < len(left) < 100, left
        return f"left of the story: {left!r}"

    async def clean(self) -> str:
        # Whatever deviates from the SDK's models is an error event of its session.
        errors = [str(error) for kind, error in self.journal.entries if kind == "error"]
        assert not errors, errors
        return "every event matched its pydantic models"


def said(items: list[Any], role: str) -> list[str]:
    return [
        text
        for item in items
        if item.type == "message" and item.role == role
        for part in item.content
        if (text := getattr(part, "transcript", None) or getattr(part, "text", None))
    ]


def last(items: list[Any]) -> str:
    return (said(items, "assistant") or [""])[-1]


async def main() -> None:
    url, folder = caller.arguments()
    set_tracing_disabled(True)
    agent = RealtimeAgent(name="Operator", instructions="Be brief.", tools=[count_waiting_callers])
    session = await RealtimeRunner(agent).run(
        model_config={"api_key": "none", "url": f"{url}/v1/realtime?model=gpt-realtime"}
    )
    async with session:
        talk = Conversation(session, Microphone(folder))
        tasks = [asyncio.ensure_future(talk.listen()), asyncio.ensure_future(talk.talk())]
        await caller.run(
            "openai-agents",
            talk.journal,
            {
                "spoken turn": talk.spoken_turn,
                "function tool": talk.tool,
                "text turn": talk.text,
                "barge-in": talk.barge_in,
                "strict models": talk.clean,
            },
        )
        for task in tasks:
            task.cancel()


if __name__ == "__main__":
    asyncio.run(main())
