"""The control protocol on real sockets: whole messages, descriptors that never leak, and fuzz."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import socket
from collections.abc import Iterator
from typing import Any, TypeVar, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicepool import ipc
from voicepool.errors import IpcError
from voicepool.figures import Figures

M = TypeVar("M", bound=ipc.Message)

PRIVATE = 12345
MESSAGES: list[tuple[Any, ipc.Message]] = [
    (ipc.ToZygote, ipc.Configure(1, "a:b", {"workers": 2, "api_keys": []}, "/run/x")),
    (ipc.ToZygote, ipc.Fork(7, "GPU-5a", "/run/x/worker-7")),
    (ipc.ToZygote, ipc.Preset(5, b"{}", "realtime")),
    (ipc.FromZygote, ipc.Preview(5, b"{}", b"{}")),
    (ipc.FromZygote, ipc.Preview(5, error="no", code="invalid_value", param="session")),
    (ipc.FromZygote, ipc.ZygoteReady(1, ["/echo"], PRIVATE)),
    (ipc.FromZygote, ipc.ZygoteFailed("no module", True)),
    (ipc.FromZygote, ipc.Forked(7, 4711)),
    (ipc.FromZygote, ipc.ForkFailed(7, "no memory")),
    (ipc.FromZygote, ipc.Reaped(7, 4711, -9)),
    (ipc.ToWorker, ipc.Assign(3, "192.0.2.7", 1234, "cafe", bytes(ipc.MAX_PREVIEW))),
    (ipc.ToWorker, ipc.Stop("drain")),
    (ipc.FromWorker, ipc.Hello(2, 4711)),
    (ipc.FromWorker, ipc.Ready(PRIVATE)),
    (ipc.FromWorker, ipc.Accepted(3)),
    (ipc.FromWorker, ipc.Ended(PRIVATE, "completed")),
    (ipc.FromWorker, ipc.Beat(PRIVATE)),
    (ipc.FromWorker, ipc.Beat(PRIVATE, 2 * PRIVATE, Figures({"turns": 1}, {"stt": (0.5,)}, 3))),
    (ipc.FromWorker, ipc.Ended(PRIVATE, "stopped", "idle_limit", 2 * PRIVATE, Figures())),
    (ipc.FromWorker, ipc.Failed("no model", False)),
    (ipc.ToRelay, ipc.Listen("cert.pem", "key.pem", 5.0, 1024, "info", "auto")),
    (ipc.ToRelay, ipc.Renew(("192.0.2.0/24",), 64, "debug")),
    (ipc.ToRelay, ipc.Shut()),
    (ipc.ToRelay, ipc.Leave()),
]
UNIONS = (ipc.ToZygote, ipc.FromZygote, ipc.ToWorker, ipc.FromWorker, ipc.ToRelay)


def open_fds() -> set[str]:
    return set(os.listdir("/proc/self/fd"))  # noqa: PTH208


@pytest.fixture(autouse=True)
def no_descriptor_leaks() -> Iterator[None]:
    before = open_fds()
    yield
    assert open_fds() == before


@contextlib.contextmanager
def channel(incoming: Any) -> Iterator[tuple[socket.socket, ipc.Channel[Any]]]:
    """A raw sender and the channel that receives from it."""
    sender, receiver = ipc.Channel.pair()
    with sender, ipc.Channel[Any](receiver, incoming) as channel:
        yield sender, channel


@contextlib.contextmanager
def pipes(count: int) -> Iterator[list[int]]:
    """Descriptors to send."""
    ends = [end for _ in range(count) for end in os.pipe()]
    try:
        yield ends[:count]
    finally:
        for end in ends:
            os.close(end)


def take(channel: ipc.Channel[Any]) -> tuple[Any, list[int]]:
    """The next message, where there is one."""
    received = channel.receive()
    assert received is not None
    return received


# --- what is understood ----------------------------------------------------------------------


def test_every_message_is_listed_here() -> None:
    assert {type(message) for _, message in MESSAGES} == {
        kind for union in UNIONS for kind in get_args(union)
    }


@pytest.mark.parametrize(("incoming", "message"), MESSAGES, ids=lambda x: type(x).__name__)
def test_messages_arrive_as_they_were_sent(incoming: Any, message: ipc.Message) -> None:
    with channel(incoming) as (sender, receiver), pipes(message.fds) as sent:
        ipc.Channel[Any](sender, incoming).send(message, sent)
        received, fds = take(receiver)
        assert received == message
        assert [os.fstat(fd).st_ino for fd in fds] == [os.fstat(fd).st_ino for fd in sent]
        for fd in fds:
            # A worker may run programs; a caller's socket must not live on in them.
            assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
            os.close(fd)


def test_messages_stay_apart_and_in_order() -> None:
    with channel(ipc.FromWorker) as (sender, receiver):
        out: ipc.Channel[Any] = ipc.Channel(sender, ipc.ToWorker)
        for number in range(100):
            out.send(ipc.Accepted(number))
        assert [take(receiver)[0] for _ in range(100)] == [ipc.Accepted(n) for n in range(100)]
        with pytest.raises(BlockingIOError):
            receiver.receive()


def test_unknown_fields_of_a_newer_release_are_ignored() -> None:
    with channel(ipc.ToWorker) as (sender, receiver):
        sender.send(msgspec.msgpack.encode({"type": "Stop", "reason": "drain", "new": [1]}))
        assert receiver.receive() == (ipc.Stop("drain"), [])


def test_a_worker_of_an_older_release_has_no_figures() -> None:
    with channel(ipc.FromWorker) as (sender, receiver):
        sender.send(msgspec.msgpack.encode({"type": "Beat", "private": PRIVATE}))
        assert receiver.receive() == (ipc.Beat(PRIVATE, pss=0, figures=None), [])


def test_end_of_the_peer() -> None:
    with channel(ipc.ToWorker) as (sender, receiver):
        ipc.Channel[Any](sender, ipc.FromWorker).send(ipc.Stop("drain"))
        sender.close()
        # Its last words come first.
        assert receiver.receive() == (ipc.Stop("drain"), [])
        assert receiver.receive() is None
        assert receiver.receive() is None
        with pytest.raises(BrokenPipeError):
            receiver.send(ipc.Accepted(1))


def test_last_words_follow_a_reset() -> None:
    with channel(ipc.FromWorker) as (sender, receiver):
        receiver.send(ipc.Stop("never read"))
        ipc.Channel[Any](sender, ipc.ToWorker).send(ipc.Accepted(5))
        sender.close()
        with pytest.raises(ConnectionResetError):
            receiver.receive()
        assert receiver.receive() == (ipc.Accepted(5), [])
        assert receiver.receive() is None


def test_control_sockets_are_closed_by_exec_and_never_block() -> None:
    for end in ipc.Channel.pair():
        with end:
            assert not end.get_inheritable()
            assert not end.getblocking()


def test_peer_that_does_not_read_blocks_nobody() -> None:
    with channel(ipc.FromWorker) as (sender, _):
        out: ipc.Channel[Any] = ipc.Channel(sender, ipc.ToWorker)

        def fill() -> None:
            for _ in range(100_000):
                out.send(ipc.Beat(PRIVATE))

        with pytest.raises(BlockingIOError):
            fill()


# --- what is not -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"x",
        msgspec.msgpack.encode({"type": "Unheard", "x": 1}),
        msgspec.msgpack.encode({"type": "Hello", "version": 1, "pid": 2}),  # of another channel
        msgspec.msgpack.encode({"type": "Stop"}),
        msgspec.msgpack.encode({"type": "Stop", "reason": 3}),
        msgspec.msgpack.encode({"type": "Stop", "reason": "x"}) + b"\0",
        b"\x82\xa4type\xa4Stop\xa6reason\xa2\xff\xfe",  # not UTF-8
        msgspec.msgpack.encode(["Stop"]),
    ],
)
def test_messages_that_mean_nothing(data: bytes) -> None:
    with channel(ipc.ToWorker) as (sender, receiver), pipes(2) as fds:
        socket.send_fds(sender, [data], fds)
        with pytest.raises(IpcError, match="cannot be understood"):
            receiver.receive()
        # The channel goes on.
        sender.send(msgspec.msgpack.encode(ipc.Stop("drain")))
        assert receiver.receive() == (ipc.Stop("drain"), [])


def test_nesting_without_end_is_an_error_like_any_other() -> None:
    deep = b"\x81\xa1a" * 5000 + b"\x80"
    head = msgspec.msgpack.encode({"type": "Configure", "version": 1, "app": "", "runtime_dir": ""})
    data = b"\x85" + head[1:] + b"\xa8settings" + deep
    with channel(ipc.ToZygote) as (sender, receiver):
        sender.send(data)
        with pytest.raises(IpcError, match="recursion"):
            receiver.receive()


@pytest.mark.parametrize("length", [ipc.MAX_MESSAGE - 1, ipc.MAX_MESSAGE, ipc.MAX_MESSAGE + 1])
def test_longest_message(length: int) -> None:
    frame = len(msgspec.msgpack.encode(ipc.Stop("x" * 100_000))) - 100_000
    message = ipc.Stop("x" * (length - frame))
    with channel(ipc.ToWorker) as (sender, receiver), pipes(1) as fds:
        if length <= ipc.MAX_MESSAGE:
            receiver_of = ipc.Channel[Any](sender, ipc.FromWorker)
            receiver_of.send(message)
            assert receiver.receive() == (message, [])
        else:
            socket.send_fds(sender, [msgspec.msgpack.encode(message)], fds)
            with pytest.raises(IpcError, match="longer than"):
                receiver.receive()


@pytest.mark.parametrize("count", [0, 2, 3])
def test_wrong_number_of_descriptors(count: int) -> None:
    with channel(ipc.ToWorker) as (sender, receiver), pipes(count) as fds:
        ipc.Channel[Any](sender, ipc.FromWorker).send(ipc.Assign(1, "h", 2), fds)
        with pytest.raises(IpcError, match="Assign came with"):
            receiver.receive()


def test_more_descriptors_than_any_message_has() -> None:
    """As many as the kernel carries; `no_descriptor_leaks` sees that none is left."""
    with channel(ipc.ToWorker) as (sender, receiver), pipes(1) as fds:
        ipc.Channel[Any](sender, ipc.FromWorker).send(ipc.Assign(1, "h", 2), fds * 253)
        with pytest.raises(IpcError, match="Assign came with 253"):
            receiver.receive()


@pytest.mark.parametrize("room", [0, 1])
def test_receiver_without_a_free_descriptor_notices(room: int) -> None:
    """The kernel drops what does not fit, and says so by MSG_CTRUNC alone."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with channel(ipc.ToZygote) as (sender, receiver), pipes(2) as fds:
        ipc.Channel[Any](sender, ipc.FromZygote).send(ipc.Fork(1, None, "/x"), fds)
        free = [os.dup(0), os.dup(0)]
        for fd in free:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free[room], hard))
        try:
            with pytest.raises(ipc.FdsLost):
                receiver.receive()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_release_that_does_not_fit() -> None:
    ipc.check_version(ipc.PROTOCOL_VERSION, "worker")
    with pytest.raises(IpcError, match=r"the zygote speaks control protocol 99.*restart"):
        ipc.check_version(99, "zygote")


ENCODED = st.sampled_from([msgspec.msgpack.encode(message) for _, message in MESSAGES])


@st.composite
def datagrams(draw: st.DrawFn) -> bytes:
    """Anything, and messages with some bytes replaced, lost or put in."""
    data = bytearray(draw(st.one_of(st.binary(max_size=200), ENCODED)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(data)


@given(st.sampled_from(UNIONS), st.lists(st.tuples(datagrams(), st.integers(0, 6)), max_size=4))
def test_any_datagrams_give_messages_or_errors_and_leak_nothing(
    incoming: Any, sent: list[tuple[bytes, int]]
) -> None:
    before = open_fds()
    with channel(incoming) as (sender, receiver):
        for data, count in sent:
            with pipes(count) as fds:
                socket.send_fds(sender, [data], fds)
            with contextlib.suppress(IpcError):
                received = receiver.receive()
                if received is None:
                    assert not data
                else:
                    message, fds = received
                    assert isinstance(message, get_args(incoming))
                    assert len(fds) == message.fds
                    for fd in fds:
                        os.close(fd)
    assert open_fds() == before
