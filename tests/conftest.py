"""Fixtures that many tests share."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.nvml.driver import Card, Driver
from tests.pools import PoolServer

# A shell that runs the suite in the background lets it ignore SIGINT, and every process that a test
# starts would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes is chance where tests share a machine. Hypothesis knows that where CI is
# set; elsewhere it fails what takes more than 200 ms.
settings.register_profile(
    "untimed", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("untimed")


@pytest.fixture
def start_pool(tmp_path: Path) -> Iterator[Callable[..., PoolServer]]:
    """Starts servers; at the end each is closed and checked for what it left behind.

    Waits until the server serves, unless called with `wait=False`.
    """
    servers: list[PoolServer] = []

    def start(*, wait: bool = True, **settings: Any) -> PoolServer:
        runtime = tmp_path / f"runtime-{len(servers)}"
        server = PoolServer(runtime, **settings)
        servers.append(server)
        if wait:
            server.stage("serving")
        return server

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def install_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Driver]:
    """Gives the processes that this test starts an NVIDIA driver with these cards."""

    def install(*cards: Card) -> Driver:
        driver = Driver(tmp_path / "nvml", list(cards))
        for name, value in driver.environ.items():
            monkeypatch.setenv(name, value)
        return driver

    return install
