"""response.create, as the request that a pipeline takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from voicepool.engines.base import Message, Tool
from voicepool.events import ResponseRequest, Said
from voicepool.wire.actions import Respond
from voicepool.wire.codec import Clip
from voicepool.wire.realtime import config
from voicepool.wire.realtime.audio import EncodedClip, Format
from voicepool.wire.realtime.client import ItemParam, ResponseParam
from voicepool.wire.realtime.conversation import Conversation
from voicepool.wire.realtime.errors import invalid_value, too_large
from voicepool.wire.realtime.items import MAX_DEPTH, depth, is_heard, is_spoken, read_item
from voicepool.wire.realtime.patch import AudioOutput, FunctionTool, McpTool
from voicepool.wire.realtime.responses import Wishes

MAX_CLIPS = 8
"""Of one response's input."""
MAX_WORDS = 1 << 20
"""Characters of what one response is asked with, sound aside: several may wait."""


class RequestReader:
    """Reads response.create events of a session whose items are those of `conversation`."""

    def __init__(self, conversation: Conversation, new_id: Callable[[str], str]) -> None:
        self._conversation = conversation
        self._new_id = new_id

    def read(self, param: ResponseParam, heard: Format, event_id: str | None) -> Respond:
        """What the client did not write is None: the session's. `heard` is the format of sound in
        the input. Raises WireError."""
        tools = None if param.tools is None else _tools(param.tools)
        messages: list[Message | Said] | None = None
        clips: dict[int, Clip] = {}
        if param.input is not None:
            messages = []
            for index, item in enumerate(param.input):
                message, sound = self._input(item)
                messages.append(message)
                if sound:
                    clip = EncodedClip(sound, heard, f"response.input[{index}].content[0].audio")
                    clip.check()
                    clips[index] = clip
        if len(clips) > MAX_CLIPS:
            raise invalid_value(
                f"At most {MAX_CLIPS} items may have audio to transcribe.", "response.input"
            )
        self._check_words(param, messages or ())
        spoken = (param.audio and param.audio.output) or AudioOutput()
        request = ResponseRequest(
            instructions=param.instructions,
            tools=tools,
            tool_choice=None
            if param.tool_choice is None
            else config.tool_choice(msgspec.to_builtins(param.tool_choice)),
            speak=_speak(param),
            voice=config.voice_name(spoken.voice),
            max_tokens=param.max_output_tokens,
            temperature=param.temperature,
            messages=messages,
            remember=param.conversation != "none",
            tag=Wishes(param.metadata, Format.of(spoken.format) if spoken.format else None),
        )
        return Respond(request, event_id, clips)

    def _input(self, param: ItemParam) -> tuple[Message | Said, str]:
        """One message of the input, written out or a reference to an item; and base64 of the sound
        whose words it has to be given. Raises WireError."""
        if param.type != "item_reference":
            written = read_item(param, self._new_id)
            return written.message, written.audio
        entry = self._conversation.get(param.id or "")
        if entry is None:
            raise invalid_value("The item that is referred to does not exist.", "response.input")
        awaited = is_heard(entry.item) and not entry.message.content
        # How much of a reply was heard, nobody knows better than the history.
        if awaited or is_spoken(entry.item):
            return Said(entry.item["id"]), ""
        return entry.message, ""

    def _check_words(self, param: ResponseParam, messages: Iterable[Message | Said]) -> None:
        words = len(param.instructions or "") + len(msgspec.json.encode(param.tools))
        for message in messages:
            if isinstance(message, Said):
                entry = self._conversation.get(message.item_id)
                words += len(entry.message.content) if entry else 0
            else:
                words += len(message.content) + sum(len(c.arguments) for c in message.tool_calls)
        if words > MAX_WORDS:
            raise too_large(f"A response is asked with at most {MAX_WORDS} characters.", "response")


def _tools(given: Sequence[FunctionTool | McpTool]) -> tuple[Tool, ...]:
    plain = msgspec.to_builtins(given)
    if depth(plain) > MAX_DEPTH:
        raise invalid_value(f"The tools are nested more than {MAX_DEPTH} deep.", "response.tools")
    return config.tools(plain)


def _speak(param: ResponseParam) -> bool | None:
    if param.output_modalities is None:
        return None
    return config.modalities(param.output_modalities) == ["audio"]
