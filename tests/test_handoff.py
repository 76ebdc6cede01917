"""The hand-off, step by step (docs/design.md, "The hand-off"), on real sockets and processes."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import resource
import select
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from tests.pools import PoolServer, hello
from tests.rawhttp import read_all, upgrade
from voicepool.keys import plain

Start = Callable[..., PoolServer]

UPGRADE = upgrade()


def spins(server: PoolServer) -> bool:
    """Whether the supervisor's event loop turns although nothing happens.

    It is left alone for a second and must sleep nearly all of it; a loop that spins uses it up.
    """
    before = server.cpu()
    select.select([], [], [], 1.0)
    return server.cpu() - before > 0.5


# --- 1: accept and peek ----------------------------------------------------------------------


def test_half_sent_heads_spin_no_core_and_are_served_when_complete(start_pool: Start) -> None:
    server = start_pool()
    clients = [server.socket() for _ in range(20)]
    for client in clients:
        client.sendall(UPGRADE[:50])
    server.until_status(lambda s: s["pool"]["incomplete_heads"] == 20, "saw 20 heads")
    assert not spins(server)
    clients[7].sendall(UPGRADE[50:-1])
    clients[7].sendall(UPGRADE[-1:])
    assert clients[7].recv(4096).startswith(b"HTTP/1.1 101")
    for client in clients:
        client.close()
    server.until_status(lambda s: s["pool"]["incomplete_heads"] == 0, "forgot the heads")


def test_half_closed_head_is_answered_at_once(start_pool: Start) -> None:
    server = start_pool(head_timeout=3600)
    with server.socket() as client:
        client.sendall(UPGRADE[:50])
        server.until_status(lambda s: s["pool"]["incomplete_heads"] == 1, "saw the head")
        client.shutdown(socket.SHUT_WR)
        assert read_all(client).startswith(b"HTTP/1.1 400 ")
    assert not spins(server)


def test_head_that_never_ends_is_answered_in_time(start_pool: Start) -> None:
    server = start_pool(head_timeout=0.3)
    with server.socket() as client:
        client.sendall(UPGRADE[:50])
        assert read_all(client).startswith(b"HTTP/1.1 408 ")


def test_oldest_incomplete_head_makes_room(start_pool: Start) -> None:
    server = start_pool(head_timeout=3600, max_heads=4)
    clients = []
    for _ in range(6):
        clients.append(server.socket())
        # Before the next one comes: who has sent nothing gets no answer.
        clients[-1].sendall(UPGRADE[:50])
    for client in clients[:2]:
        assert read_all(client).startswith(b"HTTP/1.1 503 ")
    with server.call() as caller:
        assert hello(caller)
    assert server.status()["pool"]["incomplete_heads"] in (3, 4)
    for client in clients:
        client.close()


def test_out_of_descriptors_the_listener_rests_and_comes_back(start_pool: Start) -> None:
    server = start_pool(head_timeout=3600)
    limits = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (server.fds() + 5, limits[1]))
    clients = [server.socket() for _ in range(10)]
    server.logged("out of file descriptors")
    assert not spins(server)
    for client in clients:
        client.close()
    server.until_idle()
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, limits)
    with server.call() as caller:
        assert hello(caller)


# --- 2: route --------------------------------------------------------------------------------


def test_refusal_arrives_as_an_answer_and_not_as_a_reset(start_pool: Start) -> None:
    server = start_pool(workers=1, max_waiting=0)
    with server.call() as caller:
        hello(caller)
        for _ in range(100):
            with server.socket() as client:
                # More than the head is on its way: unread bytes are what causes a reset.
                client.sendall(UPGRADE + b"\x81\x85abcd" * 100)
                answer = read_all(client)
                head, _, body = answer.partition(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 503 ")
                assert b"Retry-After: " in head
                assert json.loads(body)["error"]["code"] == "full"
    assert server.status()["totals"]["refused"] == {"full": 100}


def test_caller_who_hangs_up_while_waiting_is_forgotten(start_pool: Start) -> None:
    server = start_pool(workers=1, queue_timeout=3600)
    with server.call() as caller:
        hello(caller)
        for leave in (socket.socket.close, lambda s: s.shutdown(socket.SHUT_WR)):
            client = server.socket()
            client.sendall(UPGRADE)
            server.until_status(lambda s: s["pool"]["waiting"] == 1, "let the caller wait")
            leave(client)
            server.until_status(lambda s: s["pool"]["waiting"] == 0, "noticed the hang-up")
            client.close()
    assert server.status()["totals"]["gone"] == 2
    server.until_idle()


def test_what_a_waiting_caller_sends_spins_no_core_and_is_not_lost(start_pool: Start) -> None:
    server = start_pool(workers=1, queue_timeout=3600)
    masked = b"\x81\x82\0\0\0\0hi"
    with server.socket() as client:
        with server.call() as caller:
            hello(caller)
            client.sendall(UPGRADE + masked)
            server.until_status(lambda s: s["pool"]["waiting"] == 1, "let the caller wait")
            assert not spins(server)
        data = b""
        while b"hi" not in data:
            piece = client.recv(65536)
            assert piece
            data += piece
        assert data.startswith(b"HTTP/1.1 101 ")


def test_caller_waits_no_longer_than_the_queue_timeout(start_pool: Start) -> None:
    server = start_pool(workers=1, queue_timeout=0.3)
    with server.call() as caller:
        hello(caller)
        with pytest.raises(InvalidStatus) as refused:
            server.call()
        assert refused.value.response.status_code == 503
        assert int(refused.value.response.headers["Retry-After"]) >= 1


# --- 3: offer, keep, acknowledge -------------------------------------------------------------


def test_worker_is_told_who_calls(start_pool: Start) -> None:
    key = "a-key-that-is-long-enough"
    server = start_pool(api_keys=[key], trusted_proxies=["127.0.0.0/8"])
    headers = {"Authorization": f"Bearer {key}", "X-Forwarded-For": "6.6.6.6, 192.0.2.7"}
    with server.call(additional_headers=headers) as caller:
        port = caller.socket.getsockname()[1]
        assert hello(caller)["caller"] == [1, "192.0.2.7", port, plain([key])[0].fingerprint]
    assert key not in "".join(server.stderr)


def test_worker_without_a_free_descriptor_gives_its_caller_to_another(start_pool: Start) -> None:
    server = start_pool()
    first = server.workers("idle")[0]
    limits = resource.prlimit(first["pid"], resource.RLIMIT_NOFILE)
    taken = max(int(fd) for fd in os.listdir(f"/proc/{first['pid']}/fd")) + 1  # noqa: PTH208
    lowest = next(n for n in range(taken + 1) if str(n) not in _fds(first["pid"]))
    resource.prlimit(first["pid"], resource.RLIMIT_NOFILE, (lowest, limits[1]))
    with server.call() as caller:
        assert hello(caller)["pid"] != first["pid"]
    totals = server.until_idle()["totals"]
    assert (totals["arrived"], totals["accepted"], totals["retried"]) == (1, 1, 1)


def _fds(pid: int) -> list[str]:
    return os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208


# --- 4: no acknowledgement -------------------------------------------------------------------


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP])
def test_idle_worker_lost_just_before_the_handoff(start_pool: Start, signum: int) -> None:
    server = start_pool(ack_timeout=1.0)
    first = server.workers("idle")[0]
    # The supervisor sleeps while both happen, so that it hands the caller to the lost worker.
    os.kill(server.pid, signal.SIGSTOP)
    os.kill(first["pid"], signum)
    with ThreadPoolExecutor() as pool:
        call = pool.submit(server.call)
        with server.socket() as probe:
            probe.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            os.kill(server.pid, signal.SIGCONT)
            read_all(probe)
        with call.result() as caller:
            assert hello(caller)["pid"] != first["pid"]
    totals = server.until_idle()["totals"]
    assert (totals["arrived"], totals["accepted"], totals["lost"]) == (1, 1, 0)
    if signum == signal.SIGSTOP:
        assert totals["retried"] == 1
        assert totals["exits"]["ack_timeout"] == 1


def test_caller_is_never_given_on_after_the_acknowledgement(start_pool: Start) -> None:
    server = start_pool()
    with server.call() as caller:
        hello(caller)
        caller.send("!die")
        with pytest.raises(ConnectionClosedError) as closed:
            caller.recv(timeout=60)
        assert closed.value.rcvd is None
    totals = server.until_idle()["totals"]
    assert (totals["accepted"], totals["lost"], totals["retried"]) == (1, 1, 0)


def _offered_in_vain(server: PoolServer) -> tuple[int, socket.socket]:
    """A caller whose worker is stopped before it has looked: that worker, and the caller."""
    (worker,) = server.workers("idle")
    os.kill(worker["pid"], signal.SIGSTOP)
    client = server.socket()
    client.sendall(UPGRADE)
    server.until_status(lambda s: s["pool"]["states"]["assigned"] == 1, "offered the caller")
    return worker["pid"], client


def test_acknowledgement_that_is_found_after_the_worker_has_died_counts(start_pool: Start) -> None:
    server = start_pool(workers=1, ack_timeout=3600)
    worker, client = _offered_in_vain(server)
    with client:
        # The supervisor sleeps while the worker takes the caller, greets him and dies.
        os.kill(server.pid, signal.SIGSTOP)
        os.kill(worker, signal.SIGCONT)
        assert client.recv(4096).startswith(b"HTTP/1.1 101 ")
        os.kill(worker, signal.SIGKILL)
        os.kill(server.pid, signal.SIGCONT)
        with contextlib.suppress(ConnectionResetError):
            read_all(client)
    totals = server.until_idle()["totals"]
    assert (totals["accepted"], totals["lost"]) == (1, 1)
    assert (totals["retried"], totals["gone"]) == (0, 0)


def test_caller_of_whose_head_somebody_has_read_is_given_to_nobody_else(start_pool: Start) -> None:
    server = start_pool(workers=1, ack_timeout=3600)
    worker, client = _offered_in_vain(server)
    with client:
        with _borrowed(server.pid, client) as theirs:
            assert theirs.recv(3) == UPGRADE[:3]
        os.kill(worker, signal.SIGKILL)
        with contextlib.suppress(ConnectionResetError):
            assert read_all(client) == b""
    totals = server.until_idle()["totals"]
    assert (totals["accepted"], totals["retried"], totals["gone"]) == (0, 0, 1)


def _borrowed(pid: int, client: socket.socket) -> socket.socket:
    """The server's end of a client's connection, from a process that has it open."""
    inode = f"socket:[{_inode_of_peer(client)}]"
    fd = next(fd for fd in _fds(pid) if os.readlink(f"/proc/{pid}/fd/{fd}") == inode)  # noqa: PTH115
    pidfd = os.pidfd_open(pid)
    copy = ctypes.CDLL(None, use_errno=True).syscall(438, pidfd, int(fd), 0)  # pidfd_getfd(2)
    os.close(pidfd)
    if copy < 0 and ctypes.get_errno() == errno.EPERM:
        pytest.skip("this machine does not let processes look into each other")
    assert copy >= 0, os.strerror(ctypes.get_errno())
    return socket.socket(fileno=copy)


# --- 5: no proxy -----------------------------------------------------------------------------


def test_supervisor_touches_no_byte_of_a_call(start_pool: Start) -> None:
    server = start_pool()
    with server.call(max_size=None) as caller:
        hello(caller)
        assert server.status()["workers"]
        mine = _inode_of_peer(caller.socket)
        assert f"socket:[{mine}]" not in _open_files(server.pid)
        # The replacement costs it some of what is measured now.
        server.until_status(lambda s: s["pool"]["states"]["idle"] == 1, "was left alone")
        before = server.cpu()
        for _ in range(50):
            caller.send(bytes(1 << 19))
            assert len(caller.recv(timeout=60)) == 1 << 19
        # 50 MiB went through the call; what is left is heartbeats and rounding.
        assert server.cpu() - before < 0.1


def test_what_a_worker_says_is_not_held_back(start_pool: Start) -> None:
    server = start_pool(workers=1)
    with server.call() as caller:
        worker = hello(caller)["pid"]
        with _borrowed(worker, caller.socket) as theirs:
            assert theirs.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


def _open_files(pid: int) -> set[str]:
    """What its descriptors lead to, but for those that it closes meanwhile."""
    found = set()
    for fd in _fds(pid):
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(f"/proc/{pid}/fd/{fd}"))  # noqa: PTH115
    return found


def _inode_of_peer(sock: socket.socket) -> str:
    """The socket inode at the server's end of a loopback connection."""
    client = f"0100007F:{sock.getsockname()[1]:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines():
        fields = line.split()
        if fields[2] == client:
            return fields[9]
    raise AssertionError("no such connection")


# --- 6: refill -------------------------------------------------------------------------------


def test_refill_starts_at_acquisition_where_there_is_room(start_pool: Start) -> None:
    server = start_pool(workers=1, spare=1)
    with server.call() as caller:
        hello(caller)
        server.until_status(
            lambda s: (s["pool"]["states"]["idle"], s["pool"]["callers"]) == (1, 1),
            "warmed the replacement during the call",
        )


def test_without_room_refill_starts_when_the_worker_is_gone(start_pool: Start) -> None:
    server = start_pool(workers=1)
    with server.call() as caller:
        old = hello(caller)["pid"]
        assert server.status()["totals"]["spawned"] == 1
    status = server.until_idle()
    assert status["totals"]["spawned"] == 2
    assert status["workers"][0]["pid"] != old


def test_full_backlog_leaves_nobody_without_an_outcome(start_pool: Start) -> None:
    server = start_pool(workers=4, max_waiting=32, queue_timeout=3600)

    def one(_: int) -> str:
        try:
            with server.call() as caller:
                hello(caller)
                caller.send("x")
                return str(caller.recv(timeout=60))
        except InvalidStatus as refused:
            return str(refused.response.status_code)

    os.kill(server.pid, signal.SIGSTOP)  # they all queue up in the kernel
    with ThreadPoolExecutor(256) as pool:
        outcomes = pool.map(one, range(256))
        server.until(lambda: _accept_queue(server.address[1]) >= 200, "filled its backlog")
        os.kill(server.pid, signal.SIGCONT)
        counted = dict.fromkeys(("x", "503"), 0)
        for outcome in outcomes:
            counted[outcome] += 1
    totals = server.until_idle()["totals"]
    assert counted["x"] == totals["completed"] >= 36
    assert counted["503"] == totals["refused"]["full"] == 256 - counted["x"]


def _accept_queue(port: int) -> int:
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and int(fields[1].partition(":")[2], 16) == port:
            return int(fields[4].partition(":")[2], 16)
    return 0
