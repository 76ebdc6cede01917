"""Nobody outlives the supervisor."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pools import PoolServer, hello

Start = Callable[..., PoolServer]


def kill_supervisor(server: PoolServer) -> None:
    """SIGKILL it, and expect its whole family to be gone soon, by itself."""
    server.signal(signal.SIGKILL)
    server.wait()
    server.until_nobody()


@pytest.mark.parametrize("order", ["", "!hang", "!stuck", "!stop"])
def test_killed_supervisor_leaves_no_process(start_pool: Start, order: str) -> None:
    server = start_pool(workers=3)
    with server.call() as caller:
        pid = hello(caller)["pid"]
        if order == "!stop":
            os.kill(pid, signal.SIGSTOP)
        elif order:
            caller.send(order)
            server.until(lambda: server.family().get(pid) in ("S", "R"), "was in its hang")
        kill_supervisor(server)


def test_killed_supervisor_leaves_no_hanging_zygote(
    start_pool: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = tmp_path / "flag"
    monkeypatch.setenv("TROUBLE", str(flag))
    server = start_pool(app="tests.apps.troubled:HangsInPreload", wait=False)
    server.until(flag.exists, "was in its preload")
    kill_supervisor(server)
    # Nobody was left to remove the runtime directory: the next server does.
    assert list(server.runtime.iterdir())
    heir = start_pool(runtime_dir=str(server.runtime))
    assert len(list(server.runtime.iterdir())) == 1
    heir.close()


def test_killed_with_its_zygote_it_leaves_no_process(start_pool: Start) -> None:
    server = start_pool(workers=3)
    zygote = server.status()["server"]["zygote"]["pid"]
    os.kill(server.pid, signal.SIGSTOP)
    os.kill(zygote, signal.SIGKILL)
    kill_supervisor(server)
    heir = start_pool(runtime_dir=str(server.runtime))
    heir.close()
