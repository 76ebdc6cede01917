"""The agent-check: what balancers are told, and that nobody can keep it from being told."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tests.pool_world import Driver, settings
from tests.pools import DEADLINE, PoolServer, hello
from tests.ports import free_port
from tests.test_bad_input import attempt
from voicepool.agentcheck import DRAIN, READY, AgentCheck, AgentPortTaken, listen_for_agents
from voicepool.config import Settings
from voicepool.farewells import MAX_FAREWELLS
from voicepool.pool import DrainRequested, ProcessExited
from voicepool.startup import cannot_start

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER that makes close send RST."""


class Desk:
    """An agent-check whose answer the test decides."""

    def __init__(self) -> None:
        self.inviting = True
        self.listener = listen_for_agents("127.0.0.1", 0)
        self.address = self.listener.getsockname()
        self.check = AgentCheck(self.listener, lambda: self.inviting)
        self.check.open()

    async def ask(self, question: bytes = b"") -> bytes:
        """What an agent hears until the end of the connection."""
        async with asyncio.timeout(DEADLINE):
            reader, writer = await asyncio.open_connection(*self.address)
            try:
                writer.write(question)
                return await reader.read()
            finally:
                writer.close()


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    """Closed at the end, with no descriptor left and no exception in a callback."""
    loop = asyncio.get_running_loop()
    troubles: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: troubles.append(context))
    before = os.listdir("/proc/self/fd")  # noqa: PTH208
    desk = Desk()
    yield desk
    await desk.check.close()
    assert troubles == []
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208


async def test_one_line_and_the_end(desk: Desk) -> None:
    assert await desk.ask() == READY == b"up ready\n"
    desk.inviting = False
    assert await desk.ask() == DRAIN == b"drain\n"
    desk.inviting = True
    assert await desk.ask() == READY


async def test_an_agent_that_says_something_first_hears_the_answer(desk: Desk) -> None:
    assert await desk.ask(b"node1\n") == READY
    assert await desk.ask(b"GET / HTTP/1.1\r\n\r\n" + bytes(1 << 20)) == READY


async def test_a_silent_agent_is_answered_without_delay(desk: Desk) -> None:
    """The callers' port waits a second for a client's first word; this one must not."""
    option = desk.listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT)
    assert option == 0


async def test_agents_that_stay_are_bounded(desk: Desk) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with contextlib.ExitStack() as crowd:
        for number in range(MAX_FAREWELLS + 50):
            crowd.enter_context(socket.create_connection(desk.address))
            if number % 50 == 0:
                assert await desk.ask() == READY
        assert await desk.ask() == READY
        ours = len(os.listdir("/proc/self/fd")) - before - (MAX_FAREWELLS + 50)  # noqa: PTH208
        assert ours <= MAX_FAREWELLS


async def test_agents_that_break_off_do_no_harm(desk: Desk) -> None:
    for _ in range(20):
        client = socket.create_connection(desk.address)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        client.close()
    assert await desk.ask() == READY


async def test_it_answers_again_when_descriptors_are_back(desk: Desk) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    client = socket.socket()
    client.setblocking(False)
    highest = max(int(fd) for fd in os.listdir("/proc/self/fd"))  # noqa: PTH208
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, limits[1]))
    held = []
    try:
        with contextlib.suppress(OSError):
            while True:
                held.append(os.dup(0))
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, desk.address)
        for _ in range(3):
            await asyncio.sleep(0)  # the listener meets the lack and is left alone
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    async with asyncio.timeout(DEADLINE):
        assert await loop.sock_recv(client, 64) == READY
    client.close()


# --- what the pool says ----------------------------------------------------------------------


def inviting(driver: Driver) -> bool:
    return driver.pool.inviting


def test_workers_that_fail_do_not_invite_unless_somebody_is_idle() -> None:
    driver = Driver(settings(workers=2))
    first, second = driver.warm()
    assert inviting(driver)
    driver.send(ProcessExited(first))
    assert inviting(driver)
    driver.send(ProcessExited(second))
    assert not inviting(driver)
    driver.tick()  # the end of the back-off
    driver.warm()
    assert inviting(driver)


def test_a_full_house_invites_and_a_draining_or_hopeless_one_does_not() -> None:
    driver = Driver(settings(workers=1, max_waiting=0))
    driver.warm()
    driver.call(1)
    assert not driver.pool.ready
    assert inviting(driver)
    driver.send(DrainRequested())
    assert not inviting(driver)
    lost = Driver(settings(workers=1))
    (worker,) = lost.warm()
    lost.send(ProcessExited(worker, "no model", permanent=True))
    assert not inviting(lost)


# --- a whole server --------------------------------------------------------------------------


def ask(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as agent:
        return agent.makefile("rb").read()


def test_a_server_drains_until_it_is_warm_and_when_it_is_told_to(
    start_pool: Callable[..., PoolServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trouble = tmp_path / "trouble"
    monkeypatch.setenv("TROUBLE", str(trouble))
    port = free_port()
    server = start_pool(
        agent_port=port, app="tests.apps.troubled:FailsToWarm", workers=1, wait=False
    )
    server.may_log_tracebacks = True
    server.stage("trouble")
    assert ask(port) == DRAIN
    assert server.get("/readyz")[0] == 503
    trouble.touch()
    server.stage("serving")
    assert ask(port) == READY
    assert server.get("/readyz")[0] == 200
    with server.call() as caller:
        hello(caller)
        server.signal(signal.SIGTERM)
        server.stage("draining")
        assert ask(port) == DRAIN
        caller.send("still here")
        assert caller.recv(timeout=DEADLINE) == "still here"
    assert server.wait() == 0
    said = [line["answer"] for line in server.logs if line["event"] == "agent answer changed"]
    assert said == ["drain", "up ready", "drain"]


def test_balancers_notice_before_callers_are_refused(
    start_pool: Callable[..., PoolServer],
) -> None:
    port = free_port()
    server = start_pool(agent_port=port, workers=1, drain_notice=600.0)
    server.signal(signal.SIGTERM)
    server.logged("callers shall go elsewhere")
    assert ask(port) == DRAIN
    assert server.get("/readyz")[0] == 503
    with server.call() as late:
        hello(late)
        server.signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed) as closed:
            late.recv(timeout=DEADLINE)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1001
    assert server.wait() == 0


def test_the_drain_follows_the_notice(start_pool: Callable[..., PoolServer]) -> None:
    server = start_pool(workers=1, drain_notice=0.2)
    with server.call() as caller:
        hello(caller)
        server.signal(signal.SIGTERM)
        server.stage("draining")
        caller.send("still here")
        assert caller.recv(timeout=DEADLINE) == "still here"
    assert server.wait() == 0


def test_a_full_server_still_invites(start_pool: Callable[..., PoolServer]) -> None:
    """A balancer that was told otherwise would empty its queue elsewhere."""
    port = free_port()
    server = start_pool(agent_port=port, workers=1, max_waiting=0)
    with server.call() as caller:
        hello(caller)
        assert server.get("/readyz")[0] == 503
        assert ask(port) == READY


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        error, left = attempt(port=0, agent_port=port, runtime_dir=str(tmp_path))
    assert error.startswith("AgentPortTaken")
    assert left == "0"
    refused = AgentPortTaken(98, "Address already in use")
    text = cannot_start(refused, Settings(port=8000, agent_port=8001))
    assert text.startswith("127.0.0.1:8001 is taken")
    assert "--agent-port" in text
