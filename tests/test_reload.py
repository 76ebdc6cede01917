"""HUP: settings and code are read anew, nobody is refused and no call notices."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from tests.pools import DEADLINE, PoolServer, hello
from tests.rawhttp import upgrade
from voicepool import forker, ipc
from voicepool.config import Settings
from voicepool.errors import ConfigError
from voicepool.reload import plan
from voicepool.reloader import Trial, read_in_time

Start = Callable[..., PoolServer]

KEY = "0123456789abcdef"

APP = """
from tests.apps.echo import Echo

VERSION = {version!r}

class Versioned(Echo):
    paths = {paths!r}

    def preload(self):
        {preload}

    def load(self, device):
        {load}

    async def serve(self, websocket):
        await websocket.send(VERSION)
        async for message in websocket:
            await websocket.send(VERSION + message)

def create():
    return Versioned()
"""


def zygote(server: PoolServer) -> int:
    return server.status()["server"]["zygote"]["pid"]  # type: ignore[no-any-return]


def reloads(server: PoolServer) -> dict[str, Any]:
    return server.status()["server"]["reloads"]  # type: ignore[no-any-return]


def until_rolled(server: PoolServer) -> None:
    """Wait until all idle workers are of the new kind."""
    server.until_status(
        lambda s: (
            s["pool"]["states"]["idle"] == s["pool"]["target"]
            and not any(w["stale"] for w in s["workers"] if w["state"] != "serving")
            and not s["pool"]["states"]["retiring"]
        ),
        "had replaced its idle workers",
    )


def until_stale_only(server: PoolServer, pid: int) -> None:
    """Wait until this worker, whose call goes on, is the last of the old kind. For a server under
    load, which may never be seen with all its workers idle."""
    server.until_status(
        lambda s: {w["pid"] for w in s["workers"] if w["stale"]} == {pid},
        "had replaced all workers but one",
    )


# --- what changes ----------------------------------------------------------------------------


def test_plan_keeps_what_is_fixed_and_names_it() -> None:
    started = Settings(port=8000)
    running = replace(started, host="127.0.0.5", port=9000)  # its socket was inherited
    change = plan(running, started, replace(started, port=8001, workers=1, api_keys=(KEY,)))
    assert (change.settings.host, change.settings.port) == ("127.0.0.5", 9000)
    assert change.settings.workers == 1
    assert change.changed == ("api_keys", "workers")
    assert change.fixed == ("port",)


def test_plan_does_not_open_a_public_address_to_everyone() -> None:
    started = Settings(api_keys=(KEY,))
    running = replace(started, host="0.0.0.0")
    with pytest.raises(ConfigError, match="reachable from other machines"):
        plan(running, started, Settings())


def test_new_settings_hold_and_idle_workers_are_replaced(start_pool: Start) -> None:
    server = start_pool(workers=2, api_keys=[KEY], max_waiting=5)
    headers = {"Authorization": f"Bearer {KEY}"}
    with pytest.raises(InvalidStatus):
        server.call()
    with server.call(additional_headers=headers) as caller:
        pid = hello(caller)["pid"]
        server.reload(api_keys=[], max_connections=3, workers=3, max_waiting=7, port=1)
        line = server.logged("reloaded")
        assert line["changed"] == "keys, workers, max_connections, max_waiting"
        server.logged("setting needs a restart", setting="port")
        until_rolled(server)
        status = server.status()
        assert status["pool"]["max_waiting"] == 7
        assert status["pool"]["max_connections"] == 3
        caller.send("undisturbed?")
        assert caller.recv(timeout=DEADLINE) == "undisturbed?"
        assert os.path.exists(f"/proc/{pid}")  # noqa: PTH110
    with server.call() as caller:
        hello(caller)


def test_log_level_changes_at_once(start_pool: Start) -> None:
    server = start_pool(log_level="warning")
    server.reload(log_level="info")
    server.logged("reloaded")
    server.reload(log_level="error")
    server.until(lambda: reloads(server)["count"] == 2, "reloaded again")


# --- what goes wrong -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"workers": "many"}, "not settings"),
        ({"heartbeat_timeout": 0.1}, "must be longer than"),
        ({"ram_per_worker": 1 << 60}, "ram_per_worker"),
        ({"app": "tests.apps.nowhere:create"}, "no module named"),
        ({"static": "/nowhere"}, "is not a folder"),
    ],
)
def test_bad_settings_change_nothing(
    start_pool: Start, settings: dict[str, Any], error: str
) -> None:
    server = start_pool(workers=1)
    workers, parent = server.workers(), zygote(server)
    server.reload(max_waiting=1, **settings)
    line = server.logged("reload refused, nothing has changed")
    assert error in line["error"]
    assert error in reloads(server)["last_error"]
    status = server.status()
    assert status["pool"]["max_waiting"] == 64
    assert [w["pid"] for w in status["workers"]] == [w["pid"] for w in workers]
    assert zygote(server) == parent
    server.until(lambda: len(server.family()) == 3, "was rid of the failed zygote")
    with server.call() as caller:
        hello(caller)


def test_zygote_that_dies_while_it_preloads_changes_nothing(
    start_pool: Start, app: Callable[..., str]
) -> None:
    server = start_pool(workers=1, app=app("one"))
    app("two", preload="import os; os.kill(os.getpid(), 9)")
    server.reload()
    assert "died" in server.logged("reload refused, nothing has changed")["error"]
    with server.call() as caller:
        assert caller.recv(timeout=DEADLINE) == "one"


def test_reload_while_another_preloads_comes_after_it(start_pool: Start) -> None:
    server = start_pool(workers=1)
    server.reload(max_waiting=1)
    server.logged("reload begins")
    server.reload(max_waiting=2)
    server.until_status(lambda s: s["server"]["reloads"]["count"] == 2, "reloaded twice")
    assert server.status()["pool"]["max_waiting"] == 2


def test_term_during_a_reload_leaves_no_process(start_pool: Start, app: Callable[..., str]) -> None:
    server = start_pool(workers=1, app=app("one"))
    app("two", preload="import time; time.sleep(3600)")
    server.reload()
    server.logged("reload begins")
    server.until(lambda: len(server.family()) == 4, "had started a second zygote")
    server.signal(signal.SIGTERM)
    assert server.wait() == 0


# --- new code --------------------------------------------------------------------------------


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Writes the newest version of an app; its name."""
    root = Path(__file__).parent.parent
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{root}")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")

    def write(
        version: str,
        preload: str = "pass",
        load: str = "pass",
        paths: tuple[str, ...] = ("/echo",),
    ) -> str:
        text = APP.format(version=version, preload=preload, load=load, paths=paths)
        (tmp_path / "versioned.py").write_text(text)
        return "versioned:create"

    return write


def test_new_code_serves_new_callers_and_old_code_its_own(
    start_pool: Start, app: Callable[..., str]
) -> None:
    server = start_pool(workers=1, max_connections=2, app=app("one"))
    parent = zygote(server)
    with server.call() as old:
        assert old.recv(timeout=DEADLINE) == "one"
        app("two", paths=("/echo", "/new"))
        server.reload()
        server.logged("reloaded")
        until_rolled(server)
        with server.call("/new") as new:
            assert new.recv(timeout=DEADLINE) == "two"
        old.send("!")
        assert old.recv(timeout=DEADLINE) == "one!"
        assert zygote(server) != parent
        server.until(lambda: parent not in server.family(), "was rid of the old zygote")
    server.until_idle(1)


def test_a_caller_who_waits_gets_the_worker_that_was_warming_up_for_him(
    start_pool: Start, app: Callable[..., str], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    wait = f"import os; os.path.exists({str(gate)!r}) and open({str(gate)!r}).close()"
    server = start_pool(workers=1, queue_timeout=3600, app=app("one", load=wait))
    with server.socket() as waiting:
        with server.call() as caller:
            assert caller.recv(timeout=DEADLINE) == "one"
            os.mkfifo(gate)
            waiting.sendall(upgrade())
            server.until_status(lambda s: s["pool"]["waiting"] == 1, "let the caller wait")
        server.until_status(lambda s: s["pool"]["states"]["warming"] == 1, "began a warm-up")
        (successor,) = server.workers("warming")
        server.reload(app=app("two", load=wait))
        server.until_status(lambda s: s["server"]["reloads"]["count"] == 1, "reloaded")
        gate.write_bytes(b"")  # to whoever warms up
        answer = waiting.recv(65536)
        assert answer.startswith(b"HTTP/1.1 101 ")
        (serving,) = server.until(lambda: server.workers("serving"), "served")
        assert serving["pid"] == successor["pid"]
        gate.unlink()
    until_rolled(server)
    with server.call() as caller:
        assert caller.recv(timeout=DEADLINE) == "two"


def test_code_whose_workers_fail_leaves_old_ones_and_can_be_mended(
    start_pool: Start, app: Callable[..., str]
) -> None:
    server = start_pool(workers=2, app=app("one"))
    error = "from voicepool.errors import EngineUnavailable as E; raise E('no model')"
    app("two", load=error)
    server.reload()
    server.until_status(lambda s: s["pool"]["halted"], "given the new code up")
    assert server.status()["pool"]["last_error"] == "no model"
    with server.call() as caller:
        assert caller.recv(timeout=DEADLINE) == "one"
    app("three")
    server.reload()
    server.until_status(lambda s: not s["pool"]["halted"], "tried again")
    until_rolled(server)
    with server.call() as caller:
        assert caller.recv(timeout=DEADLINE) == "three"


# --- under load ------------------------------------------------------------------------------


class Load:
    """Callers who come one after another, each says something and leaves."""

    def __init__(self, server: PoolServer, callers: int) -> None:
        self._server = server
        self._stop = threading.Event()
        self.served = 0
        self.failures: list[str] = []
        self._threads = [threading.Thread(target=self._call) for _ in range(callers)]

    def _call(self) -> None:
        while not self._stop.is_set():
            try:
                with self._server.call() as caller:
                    hello(caller)
                    caller.send("x")
                    assert caller.recv(timeout=DEADLINE) == "x"
                self.served += 1
            except Exception as error:  # noqa: BLE001 - every failure counts
                self.failures.append(repr(error))

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(DEADLINE)

    def grows(self, by: int) -> None:
        goal = self.served + by
        self._server.until(lambda: self.served >= goal or self.failures, f"served {goal}")


@pytest.mark.parametrize("spare", [0, 2])
def test_no_caller_is_refused_during_reloads(start_pool: Start, spare: int) -> None:
    server = start_pool(workers=3, spare=spare, queue_timeout=60)
    with server.call() as through, Load(server, 3) as load:
        hello(through)
        load.grows(5)
        for number in (1, 2, 3):
            server.reload(max_waiting=64 + number)
            server.until_status(lambda s: s["server"]["reloads"]["count"] == number, "reloaded")  # noqa: B023
            load.grows(5)
        through.send("undisturbed?")
        assert through.recv(timeout=DEADLINE) == "undisturbed?"
    assert load.failures == []
    totals = server.status()["totals"]
    assert totals["refused"] == {}
    assert totals["lost"] == 0


async def test_what_the_old_zygote_was_asked_is_answered_by_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else whoever wants a client secret in that moment is refused."""
    monkeypatch.setattr(forker, "ANSWER_SECONDS", DEADLINE)
    settings = Settings(app="tests.apps.presetting:Presetting")
    trials = [Trial(), Trial()]
    old, new = (forker.Forker(settings, tmp_path, trial) for trial in trials)
    answers: list[ipc.Preview | None] = []
    answered = asyncio.Event()

    def answer(preview: ipc.Preview | None) -> None:
        answers.append(preview)
        if len(answers) == 2:
            answered.set()

    try:
        async with asyncio.timeout(DEADLINE):
            for started, trial in zip((old, new), trials, strict=True):
                started.start()
                await trial.ready.wait()
            assert old.pid is not None
            os.kill(old.pid, signal.SIGSTOP)
            for session in (b"{}", b'{"a":1}'):  # one has gone out, one waits for its turn
                old.preset(session, "realtime", answer)
            old.hand_over(new)
            await old.retire()
            await answered.wait()
    finally:
        await old.retire()
        await new.retire()
    assert [preview and preview.stored for preview in answers] == [b"stored {}", b'stored {"a":1}']


# --- the command -----------------------------------------------------------------------------


@pytest.fixture
def terminal() -> Iterator[Callable[..., tuple[subprocess.Popen[bytes], int]]]:
    """Starts the real command on a terminal of its own: the process and the terminal's end."""
    opened: list[tuple[subprocess.Popen[bytes], int]] = []

    def start(*arguments: str) -> tuple[subprocess.Popen[bytes], int]:
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-c", _ON_TERMINAL, *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        opened.append((process, ours))
        return process, ours

    yield start
    for process, ours in opened:
        process.kill()
        process.wait()
        with contextlib.suppress(OSError):
            os.close(ours)


_ON_TERMINAL = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from voicepool.cli import main
sys.exit(main(sys.argv[1:]))
"""


def until_read(terminal: int, text: bytes) -> bytes:
    seen = b""
    while text not in seen:
        assert select.select([terminal], [], [], DEADLINE / 4)[0], seen
        seen += os.read(terminal, 65536)
    return seen


def test_file_is_read_again_and_a_closed_terminal_ends_the_server(
    tmp_path: Path, terminal: Callable[..., tuple[subprocess.Popen[bytes], int]]
) -> None:
    file = tmp_path / "voicepool.toml"
    text = '[server]\nport = 0\n[pool]\nworkers = 1\n[speech]\napp = "tests.apps.echo:create"\n'
    file.write_text(text)
    process, ours = terminal("start", "--config", str(file), "--gpus", "none")
    until_read(ours, b"ready")
    file.write_text(text.replace("workers = 1", "wokers = 1"))
    process.send_signal(signal.SIGHUP)
    until_read(ours, b"did you mean workers?")
    file.write_text(text.replace("workers = 1", "workers = 2"))
    process.send_signal(signal.SIGHUP)
    until_read(ours, b"reloaded")
    os.close(ours)  # the terminal's window is closed: the kernel sends HUP
    assert process.wait(DEADLINE) == 0


async def test_settings_that_take_for_ever_to_read_are_refused() -> None:
    never = threading.Event()

    def read() -> Settings:
        never.wait()
        return Settings()

    with pytest.raises(ConfigError, match=r"could not be read within 0\.01 s"):
        await read_in_time(read, 0.01)
    never.set()
    assert await read_in_time(read) == Settings()


def test_a_file_that_hangs_keeps_no_server_from_ending(
    tmp_path: Path, terminal: Callable[..., tuple[subprocess.Popen[bytes], int]]
) -> None:
    file = tmp_path / "voicepool.toml"
    file.write_text('[server]\nport = 0\n[speech]\napp = "tests.apps.echo:create"\n')
    process, ours = terminal("start", "--config", str(file), "--gpus", "none")
    until_read(ours, b"up to 2 calls")
    file.unlink()
    os.mkfifo(file)  # opening it takes until somebody writes
    process.send_signal(signal.SIGHUP)
    until_read(ours, b"reload begins")
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE) == 0
