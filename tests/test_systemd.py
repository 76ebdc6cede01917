"""What systemd hands over, and what it is told, without a systemd: see test_systemd_service.py for
the real one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.pools import DEADLINE, PoolServer, hello
from voicepool import systemd
from voicepool.errors import ConfigError
from voicepool.systemd import Notifier, take

Start = Callable[..., PoolServer]


class Manager:
    """The receiving end of a notification socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.settimeout(DEADLINE)

    def read(self) -> list[str]:
        """The next message's lines."""
        return self.socket.recv(65536).decode().splitlines()

    def until(self, line: str) -> list[str]:
        """All lines up to and with the first that begins so."""
        seen: list[str] = []
        while not any(text.startswith(line) for text in seen):
            seen += self.read()
        return seen


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(str(tmp_path / "notify"))
    yield manager
    manager.socket.close()


# --- messages --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_messages_are_those_of_sd_notify(tmp_path: Path, kind: str) -> None:
    name = f"@voicepool-test-{os.getpid()}" if kind == "abstract" else str(tmp_path / "notify")
    manager, notifier = Manager(name), Notifier(name)
    with manager.socket:
        notifier.ready()
        assert manager.read() == ["READY=1"]
        notifier.status("1 call\n\x1b[31m of 2")
        assert manager.read() == ["STATUS=1 call\\n\\x1b[31m of 2"]
        notifier.extend(1.5)
        assert manager.read() == ["EXTEND_TIMEOUT_USEC=1500000"]
        notifier.reloading()
        first, second = manager.read()
        assert first == "RELOADING=1"
        assert second.removeprefix("MONOTONIC_USEC=").isdecimal()
        notifier.stopping()
        notifier.alive()
        assert manager.read() + manager.read() == ["STOPPING=1", "WATCHDOG=1"]
        notifier.close()


def test_what_cannot_be_sent_goes_out_later_in_its_newest_form(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    notifier = Notifier(address)  # nobody is there yet
    notifier.reloading()
    notifier.ready()
    notifier.status("one")
    notifier.status("two")
    manager = Manager(address)
    with manager.socket:
        notifier.alive()
        assert manager.read() == ["READY=1", "STATUS=two", "WATCHDOG=1"]
        notifier.alive()
        assert manager.read() == ["WATCHDOG=1"]
        notifier.close()


def test_manager_that_does_not_read_blocks_nobody(manager: Manager) -> None:
    notifier = Notifier(manager.address)
    for number in range(10_000):
        notifier.status(str(number))
    notifier.ready()
    while (lines := manager.read()) != ["STATUS=9999", "READY=1"]:
        notifier.send()
        assert lines
    notifier.close()


@pytest.mark.parametrize("address", ["notify", "@", "vsock:2:1"])
def test_address_that_is_none(address: str) -> None:
    with pytest.raises(ConfigError, match="NOTIFY_SOCKET"):
        Notifier(address)


# --- what is taken ---------------------------------------------------------------------------


def test_nothing_is_taken_where_there_is_nothing() -> None:
    assert take({"PATH": "/bin"}) == systemd.Inheritance()


def test_what_is_taken_is_not_left_for_children(manager: Manager) -> None:
    environ = {
        "NOTIFY_SOCKET": manager.address,
        "WATCHDOG_USEC": "3000000",
        "WATCHDOG_PID": str(os.getpid()),
        "LISTEN_FDS": "1",
        "LISTEN_PID": "1",
        "LISTEN_FDNAMES": "x",
        "PATH": "/bin",
    }
    taken = take(environ)
    assert environ == {"PATH": "/bin"}
    assert taken.watchdog == 3
    assert taken.listener is None  # it was meant for another process
    assert taken.notifier
    taken.notifier.close()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WATCHDOG_USEC": "soon"}, "WATCHDOG_USEC"),
        ({"WATCHDOG_USEC": "0"}, "WATCHDOG_USEC"),
        ({"LISTEN_FDS": "one", "LISTEN_PID": str(os.getpid())}, "LISTEN_FDS"),
        (
            {"LISTEN_FDS": "2", "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": "a:b"},
            r"2 sockets \(a:b\)",
        ),
    ],
)
def test_what_makes_no_sense_is_said(
    manager: Manager, variables: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        take({"NOTIFY_SOCKET": manager.address, **variables})


def test_watchdog_of_another_process_is_not_ours(manager: Manager) -> None:
    taken = take(
        {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}
    )
    assert taken.watchdog is None
    assert taken.notifier
    taken.notifier.close()


def _take_socket(options: str) -> str:
    """What `take` says of this as the passed socket."""
    program = "import os; from voicepool.systemd import take; print(take(os.environ))"
    script = f"""
import os, socket, sys
sock = {options}
os.dup2(sock.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.executable, [sys.executable, "-c", {program!r}])
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("socket.create_server(('127.0.0.1', 0))", "laddr=('127.0.0.1', "),
        ("socket.socket(socket.AF_INET, socket.SOCK_DGRAM)", "that is not TCP"),
        ("socket.socket(socket.AF_UNIX)", "that is not TCP"),
        ("socket.socket()", "a connection, not a listener"),
        ("open('/dev/null')", "no socket"),
    ],
)
def test_only_a_listening_tcp_socket_will_do(options: str, says: str) -> None:
    assert says in _take_socket(options)


# --- a server and its manager ----------------------------------------------------------------


def test_server_tells_its_manager_what_it_does(
    start_pool: Start, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
    monkeypatch.setenv("WATCHDOG_USEC", "300000")
    server = start_pool()
    before = manager.until("READY=1")
    assert "EXTEND_TIMEOUT_USEC=30000000" in before
    # Whichever came first: a zygote may be up before anything was told.
    assert any(line.startswith(("STATUS=loading", "STATUS=warming up")) for line in before)
    manager.until("STATUS=0 calls of at most 2, 2 idle, 0 waiting")
    manager.until("WATCHDOG=1")
    server.reload(max_waiting=1)
    told = manager.until("READY=1")
    assert told.index("RELOADING=1") < told.index("READY=1")
    server.reload(max_waiting=-1, heartbeat_timeout=0.1)
    manager.until("STATUS=0 calls of at most 2, 2 idle, 0 waiting; reload refused: ")
    # Workers of before the reload may still be ending.
    server.until(lambda: len(server.family()) == 4, "had but a zygote and two workers")
    for pid in server.family().keys() - {server.pid}:
        names = {
            text.split(b"=")[0] for text in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        }
        assert not names & {b"NOTIFY_SOCKET", b"WATCHDOG_USEC"}
    with server.call() as caller:
        hello(caller)
        server.signal(signal.SIGTERM)
        manager.until("STOPPING=1")
        manager.until("STATUS=draining: 1 call to finish")
    assert server.wait() == 0


@pytest.mark.parametrize("app", ["FailsToWarm", "DiesInPreload"])
def test_trouble_is_told_and_no_patience_asked_for(
    start_pool: Start, manager: Manager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, app: str
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
    monkeypatch.setenv("WATCHDOG_USEC", "300000")
    monkeypatch.setenv("TROUBLE", str(tmp_path / "never"))
    server = start_pool(wait=False, app=f"tests.apps.troubled:{app}")
    server.may_log_tracebacks = True
    manager.until("STATUS=trouble: ")
    manager.until("WATCHDOG=1")
    after = manager.until("WATCHDOG=1") + manager.until("WATCHDOG=1")
    assert not [line for line in after if line.startswith("EXTEND_TIMEOUT")]


# --- socket activation -----------------------------------------------------------------------


def test_address_of_an_inherited_socket_counts_and_must_be_as_safe() -> None:
    settings = {"app": "tests.apps.echo:create", "gpus": "none", "workers": 1}
    script = """
import os, socket, sys
sock = socket.create_server(("0.0.0.0", 0))
os.dup2(sock.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.executable, [sys.executable, "-m", "tests.launch", sys.argv[1]])
"""
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(settings)],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 2
    assert "'0.0.0.0' is reachable from other machines" in done.stderr
