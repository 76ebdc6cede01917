"""What a codec asks its session to do, in order. Those with an outcome name the method of `Codec`
that must be told of it; `refuse` where the pipeline would not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from voicepool.engines.base import Message
from voicepool.events import PipelineSettings, ResponseRequest
from voicepool.wire.codec import Clip


@dataclass(frozen=True, slots=True)
class Send:
    """Send one text message."""

    data: bytes
    audio_of: str = ""
    """The item whose sound this is: of no use any more once that reply is interrupted."""


@dataclass(frozen=True, slots=True)
class Configure:
    """`pipeline.configure`."""

    settings: PipelineSettings


@dataclass(frozen=True, slots=True)
class AppendAudio:
    """`pipeline.push_audio`, decoded and resampled. Refused: ClientFault."""

    clip: Clip
    event_id: str | None = None


@dataclass(frozen=True, slots=True)
class Commit:
    """`pipeline.commit`. Refused: BufferTooSmall."""

    event_id: str | None = None


@dataclass(frozen=True, slots=True)
class Clear:
    """`pipeline.clear`."""


@dataclass(frozen=True, slots=True)
class Forget:
    """`pipeline.forget`."""


@dataclass(frozen=True, slots=True)
class InsertItem:
    """`pipeline.insert`, then `inserted`. Refused: DuplicateItem, UnknownItem.

    With a `clip`, `pipeline.insert_clip`: its words take the message's place. Refused: ClientFault.
    """

    item: dict[str, Any]
    message: Message
    after: str | None
    event_id: str | None
    clip: Clip | None = None

    @property
    def item_id(self) -> str:
        return str(self.item["id"])


@dataclass(frozen=True, slots=True)
class DeleteItem:
    """`pipeline.delete`; an item that the pipeline has no entry for is gone already."""

    item_id: str


@dataclass(frozen=True, slots=True)
class TruncateItem:
    """`pipeline.truncate`, then `truncated`. Refused: UnknownItem."""

    item_id: str
    audio_end_ms: int
    event_id: str | None


@dataclass(frozen=True, slots=True)
class Respond:
    """`pipeline.respond`. Refused: ResponseActive; ClientFault of a clip."""

    request: ResponseRequest
    event_id: str | None = None
    clips: Mapping[int, Clip] = field(default_factory=dict)
    """By index: what is to be transcribed to make those of the request's messages."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """`pipeline.cancel`. Refused: NothingToCancel."""

    response_id: str | None = None
    event_id: str | None = None


@dataclass(frozen=True, slots=True)
class HangUp:
    """Close the WebSocket with 1001 and this reason, of at most 123 bytes."""

    reason: str


Action = (
    Send
    | HangUp
    | Configure
    | AppendAudio
    | Commit
    | Clear
    | Forget
    | InsertItem
    | DeleteItem
    | TruncateItem
    | Respond
    | Cancel
)
