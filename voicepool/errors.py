"""Everything voicepool raises on purpose, and the exit codes that users see.

VoicepoolError
├── ConfigError            a setting is wrong; the message says which and what to write
├── WavError               a file is not a WAV that can be read
├── CallError              `talk` and `status`: no server, a refusal, or a call that broke off
├── PoolError
│   └── IllegalEvent       the pool was told something its state table forbids; nothing changed
├── IpcError               a peer process broke the control protocol
├── PresetError            a session cannot be set up as asked
├── PipelineError          a session asked its pipeline for something it cannot do
│   ├── BufferTooSmall     less sound is buffered than a turn needs
│   ├── ResponseActive     a response is being made already
│   ├── NothingToCancel    no such response is being made
│   ├── DuplicateItem      the history has an entry with this id
│   └── UnknownItem        the history has no such entry
└── EngineError            an engine cannot do what was asked; the session stays usable
    └── EngineUnavailable  a package or a model is missing: trying again cannot help
"""

from __future__ import annotations

import enum


class ExitCode(enum.IntEnum):
    """Exit codes of the `voicepool` command (docs/operations.md explains each)."""

    OK = 0
    FAULT = 1
    """An unexpected error: a bug, reported with its traceback."""
    USAGE = 2
    """The command line or a setting is wrong."""
    CANNOT_LISTEN = 3
    """The address cannot be bound, or the runtime directory cannot be written."""
    CANNOT_WARM = 4
    """`start --strict`: fewer workers fit or came up than were asked for. `doctor`: what would run
    cannot run as asked."""
    UNREACHABLE = 5
    """`status` and `talk`: no server answered, or it refused the call. `prefetch`: a download
    failed."""
    CALL_FAILED = 6
    """`talk`: the call was accepted but ended without a reply."""
    INTERRUPTED = 130


class VoicepoolError(Exception):
    """Root of all errors that voicepool raises on purpose."""


class ConfigError(VoicepoolError):
    """A setting is wrong. The message names the setting, its source and the remedy."""


class WavError(VoicepoolError):
    """A file is not a WAV that can be read. The message says why and what to do."""


class CallError(VoicepoolError):
    """A client's request to a server failed. The message says why and what to do."""

    def __init__(self, message: str, code: ExitCode) -> None:
        super().__init__(message)
        self.code = code


class PoolError(VoicepoolError):
    """The pool was used wrongly."""


class IllegalEvent(PoolError):
    """The state table has no row for this event in this state. Nothing has changed."""


class IpcError(VoicepoolError):
    """A peer process sent something that the control protocol does not know."""


class PresetError(VoicepoolError):
    """A session cannot be set up as asked. `param`: the field that is wrong, if it is one."""

    def __init__(self, message: str, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param


class PipelineError(VoicepoolError):
    """A session asked its pipeline for something it cannot do. Nothing has changed."""


class BufferTooSmall(PipelineError):
    """Less sound is buffered than a turn needs."""

    def __init__(self, milliseconds: float) -> None:
        super().__init__(f"only {milliseconds:.2f} ms of sound are buffered")
        self.milliseconds = milliseconds


class ResponseActive(PipelineError):
    """A response is being made already; cancel it or wait for its ResponseDone."""

    def __init__(self, response_id: str) -> None:
        super().__init__(f"response {response_id} is still being made")
        self.response_id = response_id


class NothingToCancel(PipelineError):
    """No response, or not the given one, is being made."""

    def __init__(self) -> None:
        super().__init__("no such response is being made")


class DuplicateItem(PipelineError):
    """The history has an entry with this id."""

    def __init__(self, item_id: str) -> None:
        super().__init__(f"the history has an entry {item_id!r} already")
        self.item_id = item_id


class UnknownItem(PipelineError):
    """The history has no such entry."""

    def __init__(self, item_id: str) -> None:
        super().__init__(f"the history has no entry {item_id!r}")
        self.item_id = item_id


class EngineError(VoicepoolError):
    """An engine failed at what it was asked. The session stays usable."""


class EngineUnavailable(EngineError):
    """A package, library or model that the engine needs is missing; retrying cannot help.

    The message names what is missing and the command that provides it.
    """
