"""Signals: TERM and INT drain, a second one stops, and nobody is left without an answer."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.pools import PoolServer, hello
from tests.rawhttp import upgrade

Start = Callable[..., PoolServer]
UPGRADE = upgrade()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_idle_server_exits_with_0(start_pool: Start, signum: int) -> None:
    server = start_pool()
    server.signal(signum)
    assert server.wait() == 0
    assert server.progress[-1]["stage"] == "stopped"


def test_server_that_still_preloads_exits_with_0(start_pool: Start) -> None:
    server = start_pool(wait=False)
    server.stage("preloading")
    server.signal(signal.SIGTERM)
    assert server.wait() == 0


def test_drain_lets_calls_finish_and_refuses_newcomers(start_pool: Start) -> None:
    server = start_pool(workers=1, drain_timeout=3600, queue_timeout=3600)
    with server.call() as caller:
        hello(caller)
        with server.socket() as waiting:
            waiting.sendall(UPGRADE)
            server.until_status(lambda s: s["pool"]["waiting"] == 1, "let the caller wait")
            server.signal(signal.SIGTERM)
            assert waiting.recv(4096).startswith(b"HTTP/1.1 503 ")
        with pytest.raises(InvalidStatus) as refused:
            server.call()
        assert b"draining" in refused.value.response.body
        assert server.get("/readyz")[0] == 503
        assert server.get("/healthz")[0] == 200
        assert server.status()["pool"]["draining"]
        caller.send("still there?")
        assert caller.recv(timeout=60) == "still there?"
    assert server.wait() == 0


@pytest.mark.parametrize(("timeout", "signals"), [(0.3, 1), (3600, 2)])
def test_drain_timeout_or_second_signal_ends_calls_politely(
    start_pool: Start, timeout: float, signals: int
) -> None:
    server = start_pool(drain_timeout=timeout)
    with server.call() as caller:
        hello(caller)
        for _ in range(signals):
            server.signal(signal.SIGTERM)
            server.logged("draining")
        with pytest.raises(ConnectionClosed) as closed:
            caller.recv(timeout=60)
        assert closed.value.rcvd
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1001, "draining")
    assert server.wait() == 0


def test_worker_that_does_not_listen_is_killed_at_last(start_pool: Start) -> None:
    server = start_pool(drain_timeout=0.1, stop_timeout=0.3)
    with server.call() as caller:
        pid = hello(caller)["pid"]
        os.kill(pid, signal.SIGSTOP)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


def test_interrupt_from_the_keyboard_reaches_the_supervisor_only(start_pool: Start) -> None:
    server = start_pool(drain_timeout=3600, own_session=True)
    with server.call() as caller:
        hello(caller)
        os.killpg(server.pid, signal.SIGINT)
        server.logged("draining")
        caller.send("still there?")
        assert caller.recv(timeout=60) == "still there?"
    assert server.wait() == 0


def test_whoever_stands_in_the_accept_queue_gets_an_answer(start_pool: Start) -> None:
    server = start_pool()
    os.kill(server.pid, signal.SIGSTOP)
    clients = [server.socket() for _ in range(50)]
    for client in clients:
        client.sendall(UPGRADE)
    server.signal(signal.SIGTERM)
    server.signal(signal.SIGINT)
    os.kill(server.pid, signal.SIGCONT)
    for client in clients:
        answer = client.recv(4096)
        # A worker may have taken the first ones, if the listener was served before the signal.
        assert answer.startswith((b"HTTP/1.1 503 ", b"HTTP/1.1 101 "))
        client.close()
    assert server.wait() == 0


def test_usr1_writes_the_state_to_the_log(start_pool: Start) -> None:
    server = start_pool()
    server.signal(signal.SIGUSR1)
    assert server.logged("state", callers=0)["idle"] == 2
    for worker in server.workers():
        server.logged("state of a worker", pid=worker["pid"], state="idle")
