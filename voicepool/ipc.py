"""The control protocol between supervisor, zygote, workers, the GPU probe and the TLS relay.

One message is one datagram on an AF_UNIX SOCK_SEQPACKET socketpair, MessagePack inside, with file
descriptors riding along as SCM_RIGHTS. Zygotes and workers open with a message that carries
PROTOCOL_VERSION; unknown fields are ignored, so that a newer zygote can talk to a running
supervisor, and unknown messages are an IpcError.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Sequence
from types import TracebackType
from typing import Annotated, Any, ClassVar, Final, Generic, Literal, Self, TypeVar

import msgspec

from voicepool import foreign
from voicepool.errors import IpcError
from voicepool.figures import Figures
from voicepool.gpu import Gpu

PROTOCOL_VERSION: Final = 2
MAX_MESSAGE: Final = 96 * 1024
"""Every receive allocates as much: from 128 KiB on it would be mapped and unmapped each time, at
five times the cost of the receiving itself."""
MAX_PREVIEW: Final = 80 * 1024
"""Of both parts of a Preview, so that it fits into a message."""
FAULT: Final = "fault"
"""`Preview.code` where it is not the client's session that is at fault."""
TOO_BIG: Final = frozenset({"hard_limit", "vram_hard_limit"})
"""Reasons of a Stop that are about to kill: there is time for a close code and no more."""
DUMP_SIGNAL: Final = signal.SIGUSR2
"""From supervisor to worker: write the stacks of all threads to stderr, even when stuck."""


Bytes = Annotated[int, msgspec.Meta(ge=0, le=1 << 50)]
"""An amount of memory. Negative ones, and those that no machine has, are an IpcError."""


class Message(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """Base of all messages; the class name is the tag on the wire."""

    fds: ClassVar[int] = 0
    """How many descriptors ride along."""


# --- supervisor → zygote ---------------------------------------------------------------------


class Configure(Message, frozen=True):
    """First message to a zygote. fds: [read end of its life-line]."""

    fds: ClassVar[int] = 1
    version: int
    app: str
    """MODULE:FACTORY, or "" for the speech app."""
    settings: dict[str, Any]
    """voicepool.config.Settings as builtin types."""
    runtime_dir: str
    """Removed by the zygote should the supervisor be killed."""


class Fork(Message, frozen=True):
    """Fork one worker. fds: [its control socket, the read end of its life-line]."""

    fds: ClassVar[int] = 2
    worker: int
    gpu: str | None
    """The UUID of the one GPU that it shall see; "": none, None: whatever the zygote saw."""
    tmpdir: str


class Preset(Message, frozen=True):
    """What would a call begin with that is set up so? Answered by a Preview."""

    question: int
    session: bytes
    """JSON, as `app.Presetting` takes it."""
    form: str


ToZygote = Configure | Fork | Preset


# --- zygote → supervisor ---------------------------------------------------------------------


class ZygoteReady(Message, frozen=True):
    """Preloaded and frozen: forks may be asked for."""

    version: int
    paths: list[str]
    """WebSocket paths that the app serves."""
    private: Bytes
    """Its private host bytes."""


class ZygoteFailed(Message, frozen=True):
    """Preloading failed; the zygote exits. `permanent`: only a new configuration can help."""

    error: str
    permanent: bool


class Forked(Message, frozen=True):
    """The fork happened. fds: [the child's pidfd, opened before anybody could reap it]."""

    fds: ClassVar[int] = 1
    worker: int
    pid: int


class ForkFailed(Message, frozen=True):
    """The fork did not happen: there is no process."""

    worker: int
    error: str
    permanent: bool = False


class Reaped(Message, frozen=True):
    """A worker has been reaped. `status` as of `os.waitstatus_to_exitcode`: -N is signal N."""

    worker: int
    pid: int
    status: int


class Preview(Message, frozen=True):
    """The answer to Preset: both parts of an `app.Preview`, or what an `errors.PresetError` says;
    with an `error` and no `code` where the app has no presets at all."""

    question: int
    stored: bytes = b""
    shown: bytes = b""
    error: str = ""
    code: str = ""
    param: str | None = None


FromZygote = ZygoteReady | ZygoteFailed | Forked | ForkFailed | Reaped | Preview


# --- supervisor → worker ---------------------------------------------------------------------


class Assign(Message, frozen=True):
    """Your one caller. fds: [the caller's socket, nothing read from it]."""

    fds: ClassVar[int] = 1
    connection: int
    host: str
    port: int
    identity: str = ""
    session: bytes = b""
    """As in `app.Caller`."""


class Stop(Message, frozen=True):
    """End your call, if there is one, and exit."""

    reason: str


ToWorker = Assign | Stop


# --- worker → supervisor ---------------------------------------------------------------------


class Hello(Message, frozen=True):
    """The forked worker runs its own main and begins to load. fds: [its own pidfd, its
    /proc/self/status, by which its word about its memory is checked]."""

    fds: ClassVar[int] = 2
    version: int
    pid: int


class Ready(Message, frozen=True):
    """Loaded, warmed by real inference, rehearsed through its own server."""

    private: Bytes
    """Host bytes that this process's death would give back, here and in all that follow."""
    pss: Bytes = 0
    """Its share of the host's memory in bytes (PSS), here and in all that follow."""


class Accepted(Message, frozen=True):
    """The acknowledgement of Assign: fd owned, nothing read yet."""

    connection: int


class Ended(Message, frozen=True):
    """The call is over; the worker exits next."""

    private: Bytes
    outcome: str
    """"completed", "stopped" (we ended it) or "failed" (the app raised)."""
    limit: str = ""
    """The value of one of `poolspec.LIMITS_OF_A_CALL`, where that ended it."""
    pss: Bytes = 0
    figures: Figures | None = None
    """What there was to count and time in its call since its last message, here and in Beat."""


class Beat(Message, frozen=True):
    """A sign of life, every heartbeat_interval once ready."""

    private: Bytes
    pss: Bytes = 0
    figures: Figures | None = None


class Failed(Message, frozen=True):
    """Loading or warming failed; the worker exits next."""

    error: str
    permanent: bool


FromWorker = Hello | Ready | Accepted | Ended | Beat | Failed


# --- supervisor ⇄ GPU probe ------------------------------------------------------------------


class Look(Message, frozen=True):
    """To the probe: answer with a Sight."""


class Sight(Message, frozen=True):
    """From the probe: all that NVML told in one go."""

    driver: str = ""
    """Its version."""
    gpus: tuple[Gpu, ...] = ()
    lost: int = 0
    """How many GPUs are on the bus and cannot be read."""
    error: str = ""
    """Why nothing could be read, in words."""


# --- supervisor ⇄ TLS relay ------------------------------------------------------------------


class Listen(Message, frozen=True):
    """First message to a relay: let clients in. fds: [the listening socket]."""

    fds: ClassVar[int] = 1
    cert: str
    key: str
    head_timeout: float
    max_heads: int
    log_level: str
    log_format: Literal["auto", "pretty", "json"]
    proxy_protocol: bool = False
    trusted_proxies: tuple[str, ...] = ()
    address_heads: int = 0
    inspectable: bool = False
    tell_refusals: bool = False
    """Whether the supervisor takes `Refused`: it may be older than a relay that is started anew."""


class Renew(Message, frozen=True):
    """To the relay: a reload has changed one of these."""

    trusted_proxies: tuple[str, ...]
    address_heads: int
    log_level: str = ""
    """"": as it is, for the supervisor is older than the relay, and does not say."""


class Leave(Message, frozen=True):
    """To the relay: as Shut, but leave who stands in the accept queue to the next server."""


class Shut(Message, frozen=True):
    """To the relay: take in who stands in the accept queue, then nobody. It closes its side of the
    control socket once their heads are complete, or too late."""


class Arrived(Message, frozen=True):
    """From the relay: a client whose request head is complete, or never will be.
    fds: [the other end of its socket pair, everything that it has said still in there]."""

    fds: ClassVar[int] = 1
    host: str
    port: int


class Refused(Message, frozen=True):
    """From the relay: requests that it has refused itself, since it last said so."""

    status: int
    code: str
    count: Annotated[int, msgspec.Meta(ge=1)]


ToRelay = Listen | Renew | Shut | Leave
FromRelay = Arrived | Refused


# --- the channel -----------------------------------------------------------------------------

In = TypeVar("In", bound=Message)


class FdsLost(IpcError):
    """A message came without its descriptors: this process is out of them (MSG_CTRUNC)."""


class Channel(Generic[In]):
    """One end of a control socket. Non-blocking unless the socket was made blocking.

    Owns the socket. `incoming` is the union of messages that the peer may send.
    """

    def __init__(self, sock: socket.socket, incoming: Any) -> None:
        self.socket = sock
        self._decoder: msgspec.msgpack.Decoder[In] = msgspec.msgpack.Decoder(incoming)

    @staticmethod
    def pair() -> tuple[socket.socket, socket.socket]:
        """Both ends of a new control socket, non-blocking, close-on-exec."""
        ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in ends:
            end.setblocking(False)
        return ends

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Send one message whole. Raises OSError: the peer is gone, or (BlockingIOError) does not
        read, or (EMFILE, ETOOMANYREFS) the kernel cannot carry the descriptors."""
        payload = _encoder.encode(message)
        if fds:
            socket.send_fds(self.socket, [payload], list(fds))
        else:
            self.socket.send(payload)

    def receive(self) -> tuple[In, list[int]] | None:
        """The next message and its descriptors (now the caller's to close); None at EOF.

        Raises BlockingIOError when there is none, FdsLost, IpcError, and OSError: ECONNRESET says
        that the peer left something of ours unread, and what the peer sent may still follow.
        """
        # socket.recv_fds would drop MSG_CMSG_CLOEXEC and a truncated descriptor silently.
        data, ancillary, flags, _ = self.socket.recvmsg(
            MAX_MESSAGE, foreign.ROOM, socket.MSG_CMSG_CLOEXEC
        )
        fds = foreign.descriptors(ancillary)
        if not data:
            foreign.discard(*fds)
            return None
        try:
            if flags & socket.MSG_TRUNC:
                raise IpcError(f"a control message is longer than {MAX_MESSAGE} bytes")
            if flags & socket.MSG_CTRUNC:
                raise FdsLost("out of file descriptors: a passed socket was lost")
            message = self._decode(data)
            if len(fds) != message.fds:
                raise IpcError(f"{type(message).__name__} came with {len(fds)} descriptors")
        except IpcError:
            foreign.discard(*fds)
            raise
        return message, fds

    def _decode(self, data: bytes) -> In:
        try:
            return self._decoder.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise IpcError(f"a control message cannot be understood: {error}") from error

    def close(self) -> None:
        self.socket.close()

    def abandon(self) -> None:
        """Close it although the peer, who is not to be trusted, may have left something unread."""
        foreign.abandon(self.socket)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


_encoder = msgspec.msgpack.Encoder()


def check_version(version: int, peer: str) -> None:
    """Raises IpcError unless `peer` speaks our protocol."""
    if version != PROTOCOL_VERSION:
        raise IpcError(
            f"the {peer} speaks control protocol {version}, this process {PROTOCOL_VERSION}: "
            "restart voicepool so that both run the same release"
        )
