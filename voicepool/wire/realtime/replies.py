"""What a pipeline says of its replies, as events of the responses that are open."""

from __future__ import annotations

from voicepool import events
from voicepool.engines.base import Message
from voicepool.wire.realtime import items
from voicepool.wire.realtime.conversation import Conversation
from voicepool.wire.realtime.responses import Event, Response

OfResponse = (
    events.MessageStarted
    | events.ResponseText
    | events.ResponseAudio
    | events.MessageDone
    | events.ToolCallStarted
    | events.ToolCallArguments
    | events.ToolCallDone
    | events.ResponseDone
)


class Replies:
    """The responses that are open. What they put out enters the `conversation`."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._open: dict[str, Response] = {}

    def get(self, response_id: str) -> Response | None:
        return self._open.get(response_id)

    def begin(self, response: Response) -> list[Event]:
        if response.id in self._open:
            return []
        self._open[response.id] = response
        return [{"type": "response.created", "response": response.resource}]

    def tell(self, event: OfResponse) -> list[Event]:
        """Nothing of a response that is not open."""
        response = self._open.get(event.response_id)
        if response is None:
            return []
        match event:
            case events.ResponseText():
                return response.say(event.item_id, event.delta)
            case events.ResponseAudio():
                return response.sound(event)
            case events.ToolCallArguments():
                return response.argue(event.item_id, event.delta)
            case events.MessageStarted():
                item = items.assistant(event.item_id, "in_progress", [])
                return self._start(response, item, event)
            case events.ToolCallStarted():
                item = items.function_call(
                    event.item_id, "in_progress", event.call_id, event.name, ""
                )
                return self._start(response, item, event)
            case events.MessageDone():
                return self._settle(response.end_message(event.item_id, complete=event.complete))
            case events.ToolCallDone():
                return self._settle(response.end_call(event.item_id, event.arguments))
            case events.ResponseDone():
                del self._open[event.response_id]
                return self._settle([*response.close_items(), response.end(event)])

    def cut(self, item_id: str, left: str) -> None:
        """No more than this is `left` of a spoken message, if it is still open."""
        for response in self._open.values():
            response.cut(item_id, left)

    def _start(
        self,
        response: Response,
        item: items.Item,
        event: events.MessageStarted | events.ToolCallStarted,
    ) -> list[Event]:
        if event.item_id in self._conversation or event.item_id in response.open:
            return []
        previous = None
        if response.remember:
            message = Message("assistant", "")
            previous = self._conversation.add_told(item, message, event.previous_id)
        if isinstance(event, events.MessageStarted):
            return response.start_message(item, event.output_index, previous, spoken=event.spoken)
        return response.start_call(item, event.output_index, previous)

    def _settle(self, ended: list[Event]) -> list[Event]:
        """The items that are done are messages now; of one that was deleted meanwhile the client
        hears as of an output, not as of an item of the conversation."""
        told = []
        for event in ended:
            if event["type"] == "conversation.item.done":
                entry = self._conversation.get(event["item"]["id"])
                if entry is None:
                    continue
                entry.message = items.message_of(entry.item)
                self._conversation.resize(entry)
            told.append(event)
        return told
