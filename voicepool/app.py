"""What a worker hosts: the App protocol, and what an app may ask about its caller.

The pool knows nothing of speech. `voicepool start --app package.module:factory` calls
`factory()` in the zygote and hosts whatever it returns:

    zygote    factory() → preload()          once, before any fork: imports, host-memory weights
    worker    load(device) → warm_up()       in every fork, before any caller; may block
              rehearse(client)               fake callers through the worker's own server
              await serve(websocket)         the one real caller, then the process exits

An app need not tell more of its call than that it serves. What it counts and times by `count` and
`took` (`figures.py` says what there is: `count("turns")`, `took("voice_to_voice", 0.6)`) is in
/metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.server import ServerConnection

from voicepool.figures import count, took

__all__ = [
    "App",
    "Caller",
    "Negotiating",
    "Presetting",
    "Preview",
    "Rehearsing",
    "caller",
    "count",
    "took",
]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is on the line, as the supervisor found out before the hand-off."""

    connection: int
    """The supervisor's number for this connection; the logs of both sides carry it."""
    host: str
    """The caller's IP address (through trusted proxies), or "" in a rehearsal."""
    port: int
    identity: str
    """The name of the API key that let the caller in, a short fingerprint of it where it has none,
    "" where none is asked for."""
    session: bytes = b""
    """What the call shall begin with, where a client secret let the caller in: what the app's
    `preset` has made of the session it was made with (`Preview.stored`). b"" otherwise."""


caller: ContextVar[Caller] = ContextVar("voicepool.caller")
"""The caller that `serve` is talking to."""


@runtime_checkable
class App(Protocol):
    """The contract between a worker and what it hosts."""

    @property
    def paths(self) -> Sequence[str]:
        """The WebSocket paths that the app answers, for example ["/v1/realtime"]."""

    def preload(self) -> None:
        """Run in the zygote, once: import libraries and load what survives a fork.

        Must not create a thread or a CUDA context; the zygote checks before every fork.
        """

    def load(self, device: str) -> None:
        """Run in the worker, in a thread: build what cannot be built before the fork.

        `device` is "host", or "cuda:0" for the one GPU that this worker can see, whichever of the
        host's it is.
        """

    def warm_up(self) -> None:
        """Run in the worker, in a thread, after `load`: one real inference of each kind."""

    async def serve(self, websocket: ServerConnection) -> None:
        """Talk to the one caller; the connection is open. Returning closes it with 1000.

        Cancelled when the worker is told to stop; raising closes with 1011.
        """


@runtime_checkable
class Rehearsing(Protocol):
    """An app that plays its own fake caller. Without it the worker connects and hangs up."""

    async def rehearse(self, client: ClientConnection) -> None:
        """Play one short fake call over `client`, which is connected to this worker's server."""


@dataclass(frozen=True, slots=True)
class Preview:
    """What `Presetting.preset` makes of a session; both are JSON."""

    stored: bytes
    """For `Caller.session`."""
    shown: bytes
    """For whoever asked: the whole session as a call would begin with it."""


@runtime_checkable
class Presetting(Protocol):
    """An app whose calls can be set up beforehand: whoever is given the client secret that is made
    for a session calls with it (OpenAI's `POST /v1/realtime/client_secrets`)."""

    def preset(self, session: bytes, form: str) -> Preview:
        """Judge a session, a JSON object as it was sent, in the zygote and within milliseconds.

        `form`: "realtime", or of the older dialect "session" or "transcription_session".
        Raises PresetError.
        """


class CallOver(Exception):
    """Raised by `serve`: the call has reached a limit, which the argument names ("idle_limit").
    The worker closes with 1001 and that name, unless the app has closed already."""


@runtime_checkable
class Attentive(Protocol):
    """An app that finds out itself that nobody uses its call any more, and then raises CallOver.

    For all others that is so when no message has come or gone for the setting `idle_limit`.
    """

    @property
    def idle_limit(self) -> float:
        """After how many seconds; 0: never."""


@runtime_checkable
class Negotiating(Protocol):
    """An app that wants a say in the WebSocket handshake and its limits."""

    @property
    def subprotocols(self) -> Sequence[str]:
        """Subprotocols that the app accepts, preferred first."""

    @property
    def max_message_size(self) -> int:
        """The largest message in bytes that a caller may send; above it the call ends with 1009.
        The setting `max_message_size` may lower it."""
