"""One caller's conversation: sound in, typed events out, over four engines.

`SpeechPipelineManager` holds all per-call state and knows no wire protocol. Interface first; the
implementation belongs to whoever fills this module.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from voicepool.engines.base import Engines, Message, Samples
from voicepool.events import CancelReason, PipelineEvent, PipelineSettings, ResponseRequest


class SpeechPipelineManager:
    """State of one call: `history`, `requests_queue`, `running_generation`, `llm_generator`."""

    def __init__(self, engines: Engines, settings: PipelineSettings | None = None) -> None: ...

    async def __aenter__(self) -> SpeechPipelineManager: ...

    async def __aexit__(self, *exc: object) -> None:
        """Cancel everything, join the engine threads within a deadline, close the streams."""

    def events(self) -> AsyncIterator[PipelineEvent]:
        """All events in order, bounded; ends when the pipeline is closed."""

    def configure(self, settings: PipelineSettings) -> None:
        """Change the settings at once."""

    # -- the caller's sound
    async def push_audio(self, samples: Samples) -> None:
        """16 kHz, any length. Waits (back-pressure) while too much is unprocessed."""

    async def commit(self) -> str:
        """End the turn now, as a manual client does; returns the item id.

        Raises BufferTooSmall (with `.milliseconds`) when less than 100 ms are buffered."""

    async def clear(self) -> None:
        """Drop the buffered sound and a turn in progress."""

    # -- responses
    def respond(self, request: ResponseRequest) -> str:
        """Queue a response and return its id. Raises ResponseActive (`.response_id`) while one
        that is remembered is running, unless the request is out of band."""

    def cancel(self, response_id: str | None = None, reason: CancelReason = "client_cancelled") -> bool:
        """Cancel the given or the active response; False if there is none."""

    # -- the history (sync, immediate)
    def insert(self, item_id: str, message: Message, after: str | None = None) -> str | None:
        """Put a message after entry `after` ("root": first; None: last); returns the id before it.

        Raises DuplicateItem, UnknownItem."""

    def delete(self, item_id: str) -> None:
        """Raises UnknownItem."""

    def truncate(self, item_id: str, audio_end_ms: int) -> str:
        """Cut an assistant entry to what was heard up to then; returns the text that is left.
        Never lengthens. Works on finished items. Raises UnknownItem."""

    async def transcribe(self, samples: Samples) -> str:
        """The text of a whole clip (16 kHz), for audio items that a client supplies."""
