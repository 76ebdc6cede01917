"""What a session needs of a wire protocol, whichever it is. Pure, like all codecs.

    a client's message → receive → actions ┐
                                           ├→ the session carries them out, in order
    a pipeline's event → emit    → actions ┘

The outcome of some actions is the pipeline's to decide: the session reports it by `inserted`,
`truncated` or `refuse`, which return actions in turn. Nothing that a client sends makes a codec
raise.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from voicepool.engines.base import Samples
from voicepool.errors import PipelineError
from voicepool.events import PipelineEvent, PipelineSettings

if TYPE_CHECKING:
    from voicepool.wire.actions import Action, InsertItem, TruncateItem


class ClientFault(Exception):
    """A client's mistake. Its codec knows how to tell it; the session goes on."""


class Clip(Protocol):
    """Sound that a client has sent, as it came."""

    @property
    def rate(self) -> int:
        """Samples per second."""

    def pieces(self) -> Iterator[Samples]:
        """It decoded, in slices of whole samples and a bounded amount of work; may be asked again.

        Raises ClientFault at a slice that is no sound: go through all once before any is heard."""


class Codec(Protocol):
    """One call's state on the wire."""

    @property
    def settings(self) -> PipelineSettings:
        """What the client's wishes now mean for the pipeline."""

    def open(self) -> list[Action]:
        """The first that a client hears."""

    def receive(self, message: str | bytes) -> list[Action]:
        """Take a client's message: text is str, a binary one bytes."""

    def emit(self, event: PipelineEvent) -> list[Action]:
        """Take one event of the pipeline; ResponseAudio at `output_rate` (ValueError otherwise)."""

    def output_rate(self, response_id: str) -> int:
        """Samples per second at which the client gets the sound of that response."""

    def refuse(self, action: Action, error: PipelineError | ClientFault) -> list[Action]:
        """The action was not carried out."""

    def inserted(self, action: InsertItem) -> list[Action]:
        """The item has its place; what its sound says comes as a FinalTranscript."""

    def truncated(self, action: TruncateItem, text: str) -> list[Action]:
        """The words that are left of the item are `text`."""

    def expire(self, limit: float) -> list[Action]:
        """The call is closed next, for it has lasted `limit` seconds."""

    def idle(self, limit: float) -> list[Action]:
        """The call is closed next, for nobody has used it for `limit` seconds."""
