"""Attacks that docs/security.md names and no other test plays, against a real server.

A worker that somebody has taken over is played by an app whose caller sends it Python to run.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from tests import scraping
from tests.certificates import Authority, Files
from tests.launch import UNPRIVILEGED
from tests.nvml.driver import GB, Card, Driver
from tests.pools import DEADLINE, PoolServer

Start = Callable[..., PoolServer]

APP = "tests.apps.taken:Taken"
KEY = "open-sesame-0123456789-0123456789"
CALLERS = "a-key-of-the-callers-own"


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PoolServer]:
    """Two warm workers for three callers."""
    server = PoolServer(
        tmp_path_factory.mktemp("runtime"), app=APP, workers=2, max_connections=3, log_level="info"
    )
    server.may_log_tracebacks = True
    try:
        server.stage("serving")
        yield server
    finally:
        server.close()


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Authority(tmp_path).issue()


def run(caller: ClientConnection, code: str) -> Any:
    """What the worker answers that runs `code`."""
    caller.send(code)
    return json.loads(caller.recv(timeout=DEADLINE))


def until_ended(caller: ClientConnection) -> None:
    """Read on until the call is over."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            caller.recv(timeout=DEADLINE)


# --- what a worker says ----------------------------------------------------------------------

FORGED = {
    "a process that is not its own": "control.send(ipc.Hello(2, 1), "
    "[os.pidfd_open(os.getppid()), os.open('/dev/null', 0)])",
    "a greeting with sockets": "import socket as s; a, b = s.socketpair(); "
    "control.send(ipc.Hello(2, 1), [a.fileno(), b.fileno()])",
    "that it is idle again": "control.send(ipc.Ready(1))",
    "that it took another caller": "control.send(ipc.Accepted(1))",
    "two ends of one call": "[control.send(ipc.Ended(1, 'completed')) for _ in range(2)]",
    "less memory than none": "control.send(ipc.Beat(-(1 << 40)))",
    "more memory than there is": "control.send(ipc.Beat(1 << 60))",
    "what is meant for workers": "control.send(ipc.Stop('drain'))",
    "what is no message": "control.socket.send(bytes(90_000))",
    "more descriptors than any message has": "import socket as s; "
    "s.send_fds(control.socket, [b'x'], [0] * 200)",
    "messages without end": "control.socket.setblocking(True)\n"
    "while True: control.send(ipc.Beat(1))",
    "failures without end": "control.socket.setblocking(True)\n"
    "while True: control.send(ipc.Failed('x' * 90_000, True))",
}


@pytest.mark.parametrize("what", FORGED)
def test_what_a_taken_worker_says_ends_its_own_call_alone(taken: PoolServer, what: str) -> None:
    taken.until_idle()
    with taken.call() as neighbour, taken.call() as attacker:
        assert run(neighbour, "os.getpid()") != run(attacker, "os.getpid()")
        attacker.send(FORGED[what])
        until_ended(attacker)
        assert run(neighbour, "1 + 1") == 2
        with taken.call() as next_one:
            assert run(next_one, "1 + 1") == 2
    status = taken.until_idle()
    assert not status["pool"]["halted"]
    assert status["pool"]["failures"] == 0
    assert status["latency"]["warm_up"]["count"] == status["totals"]["ready"]


def test_a_permanent_failure_of_a_call_stops_no_other_worker(taken: PoolServer) -> None:
    with taken.call() as attacker:
        attacker.send("control.send(ipc.Failed('give up', True)); os._exit(1)")
        until_ended(attacker)
    assert not taken.until_idle()["pool"]["halted"]


def test_lies_about_memory_keep_nobody_out(taken: PoolServer) -> None:
    taken.until_idle()
    with taken.call() as attacker:
        pid = run(attacker, "control.send(ipc.Beat(1 << 45, 1 << 45)); os.getpid()")
        [liar] = [worker for worker in taken.workers() if worker["pid"] == pid]
        most = run(attacker, "from voicepool import linux; linux.held_bytes(linux.open_status())")
        assert 0 < liar["private"] <= 2 * most
        assert 0 < liar["pss"] <= 2 * most
        # As long as it is believed anything, there is room for everybody else.
        status = taken.until_status(lambda s: s["pool"]["states"]["idle"] == 2, "was refilled")
        assert status["memory"]["devices"][0]["per_worker"] <= 2 * most
    assert taken.until_idle()["pool"]["bound_by"] == "workers"


LINGERING = """
import signal, struct, socket as s

def lingering(port):
    sock = s.create_connection(("127.0.0.1", port))
    sock.setblocking(False)
    sock.setsockopt(s.SOL_SOCKET, s.SO_LINGER, struct.pack("ii", 1, 3600))
    try:
        while True:
            sock.send(bytes(65536))
    except BlockingIOError:
        return sock

def leave(victim, port, send, count):
    # Stopped, it reads only when these are its own to close.
    socks = [lingering(port) for _ in range(count)]
    os.kill(victim, signal.SIGSTOP)
    try:
        send([sock.fileno() for sock in socks])
        for sock in socks:
            sock.close()
    finally:
        os.kill(victim, signal.SIGCONT)

def caller_of(relay):
    for name in os.listdir("/proc/self/fd"):
        try:
            sock = s.socket(fileno=os.dup(int(name)))
            made_by = struct.unpack("3i", sock.getsockopt(s.SOL_SOCKET, s.SO_PEERCRED, 12))[0]
        except OSError:
            continue
        if made_by == relay:
            return sock
"""


@pytest.fixture
def deaf() -> Iterator[int]:
    """The port of somebody who takes connections and reads nothing."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize(
    "send",
    [
        "lambda fds: control.send(ipc.Hello(2, 1), fds)",
        "lambda fds: s.send_fds(control.socket, [b'no message'], fds)",
        # The rest is never read.
        "lambda fds: [s.send_fds(control.socket, [b'no message'], [fd]) for fd in fds]",
    ],
)
def test_sockets_that_linger_hold_nobody_up(taken: PoolServer, deaf: int, send: str) -> None:
    """Closing one with unsent data and SO_LINGER would take the supervisor hours."""
    taken.until_idle()
    with taken.call() as attacker:
        run(attacker, LINGERING)
        count = 2 if "Hello" in send else 9
        attacker.send(f"leave({taken.pid}, {deaf}, {send}, {count})")
        until_ended(attacker)
    with taken.call() as next_one:
        assert run(next_one, "1 + 1") == 2


def test_sockets_that_linger_do_not_hold_up_the_relay(
    start_pool: Start, files: Files, deaf: int
) -> None:
    server = start_pool(app=APP, **files.settings)
    server.may_log_tracebacks = True
    server.trust = files.trust
    relay = server.status()["server"]["relay"]["pid"]
    with server.call() as attacker:
        run(attacker, LINGERING)
        send = f"lambda fds: s.send_fds(caller_of({relay}), [b'x'], fds)"
        attacker.send(f"leave({relay}, {deaf}, {send}, 9)")
        until_ended(attacker)
    with server.call() as next_one:
        assert run(next_one, "1 + 1") == 2


# --- what a worker can see -------------------------------------------------------------------

SCAN = """
import re
found = set()
pattern = re.compile(rb"open.sesame.[0-9]{10}.[0-9]{10}")
with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
    for line in maps:
        where, rights = line.split()[:2]
        start, end = (int(number, 16) for number in where.split("-"))
        if rights.startswith("rw"):
            try:
                memory.seek(start)
                found |= {each.hex() for each in pattern.findall(memory.read(end - start))}
            except (OSError, OverflowError):
                pass
sorted(found)
"""


def test_keys_reach_no_process_but_the_supervisor(
    start_pool: Start,
    install_driver: Callable[..., Driver],
    files: Files,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not by the settings, nor by the environment, nor by what a process is forked from."""
    install_driver(Card("GPU-0", 16 * GB))
    monkeypatch.setenv("VOICEPOOL_API_KEYS", KEY)
    monkeypatch.setenv("VOICEPOOL_API_KEY", KEY)  # for `voicepool status` on the same host
    server = start_pool(
        app=APP,
        api_keys=[KEY, CALLERS],
        gpus="auto",
        inspectable=True,
        **files.settings,
    )
    server.trust = files.trust
    others = {pid: _environ(pid) for pid in server.family() if pid != server.pid}
    names = {Path(f"/proc/{pid}/comm").read_text().strip() for pid in others}
    assert {"vp-zygote", "vp-tls-relay", "vp-worker-1"} <= names
    assert len(others) >= 5  # two workers, and the probe of the driver
    assert not any(KEY.encode() in environ for environ in others.values())
    assert KEY.encode() in _environ(server.pid)
    with server.call(additional_headers={"Authorization": f"Bearer {CALLERS}"}) as attacker:
        assert run(attacker, SCAN) == []


def _environ(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


SPY = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
PTRACE_ATTACH, PTRACE_DETACH = 16, 17

def read(path):
    with open(path, "rb", 0) as file:
        file.read(1)

def attach(pid):
    if libc.ptrace(PTRACE_ATTACH, pid, None, None) != 0:
        raise OSError(ctypes.get_errno(), "")
    os.waitpid(pid, 0x40000000)
    libc.ptrace(PTRACE_DETACH, pid, None, None)

def steal(pid):
    fd = libc.syscall(438, os.pidfd_open(pid), 0, 0)  # pidfd_getfd(2)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "")
    os.close(fd)

def attempts(pid):
    got = []
    for name, attempt in {
        "environ": lambda: read(f"/proc/{pid}/environ"),
        "memory": lambda: open(f"/proc/{pid}/mem", "rb", 0).close(),
        "descriptors": lambda: os.readlink(f"/proc/{pid}/fd/2"),
        "a socket": lambda: steal(pid),
        "control": lambda: attach(pid),
    }.items():
        try:
            attempt()
            got.append(name)
        except OSError:
            pass
    return got
"""


@pytest.mark.parametrize("inspectable", [False, True])
def test_a_worker_sees_nothing_of_other_processes(
    start_pool: Start,
    files: Files,
    monkeypatch: pytest.MonkeyPatch,
    inspectable: bool,
) -> None:
    """They belong to one user; but nobody may look into them unless an operator lets him."""
    monkeypatch.setenv(UNPRIVILEGED, "yes")
    server = start_pool(
        app=APP,
        inspectable=inspectable,
        **files.settings,
    )
    server.trust = files.trust
    status = server.status()
    with server.call() as neighbour, server.call() as attacker:
        run(attacker, SPY)
        victims = {
            "supervisor": server.pid,
            "zygote": status["server"]["zygote"]["pid"],
            "relay": status["server"]["relay"]["pid"],
            "neighbour": run(neighbour, "os.getpid()"),
        }
        got = {name: run(attacker, f"attempts({pid})") for name, pid in victims.items()}
    all_of_it = ["environ", "memory", "descriptors", "a socket", "control"]
    assert got == dict.fromkeys(victims, all_of_it if inspectable else [])


def test_a_worker_holds_no_socket_but_its_own_callers(taken: PoolServer) -> None:
    taken.until_idle()
    code = """
import socket as s
peers = []
for fd in os.listdir("/proc/self/fd"):
    try:
        sock = s.socket(fileno=os.dup(int(fd)))
        if sock.family != s.AF_UNIX:
            peers.append(sock.getpeername()[1])
    except OSError:
        pass
peers
"""
    with taken.call(), taken.call() as attacker:
        assert run(attacker, code) == [attacker.socket.getsockname()[1]]


def test_files_of_a_call_are_for_its_user_alone_and_go_with_it(taken: PoolServer) -> None:
    with taken.call() as caller:
        code = """
import tempfile
kept = tempfile.NamedTemporaryFile(delete=False)
plain = Path(tempfile.gettempdir(), "plain"); plain.write_text("words")
[[str(p), p.stat().st_mode & 0o777] for p in (Path(kept.name), plain, plain.parent)]
"""
        modes = dict(run(caller, code))
        assert list(modes.values()) == [0o600, 0o600, 0o700]
    taken.until(lambda: not any(os.path.exists(path) for path in modes), "swept up")  # noqa: PTH110


def test_a_process_ends_with_its_call(taken: PoolServer) -> None:
    with taken.call() as caller:
        pid = run(caller, "os.getpid()")
    taken.until(lambda: pid not in taken.family(), f"ended {pid}")
    with taken.call() as next_one:
        assert run(next_one, "os.getpid()") != pid


# --- what others can see ---------------------------------------------------------------------


AUTHORIZATION = {"Authorization": f"Bearer {KEY}"}


@contextlib.contextmanager
def introduced(server: PoolServer) -> Iterator[tuple[ClientConnection, dict[str, Any]]]:
    """A caller with the key who has said his name, and what the app was told of him."""
    with server.call(additional_headers=AUTHORIZATION) as caller:
        hello = json.loads(caller.recv(timeout=DEADLINE))
        caller.send("my name is Rumpelstiltskin")
        caller.recv(timeout=DEADLINE)
        yield caller, hello


def test_status_and_logs_name_no_key_and_no_caller(start_pool: Start) -> None:
    server = start_pool(api_keys=[KEY], admin_keys=[KEY], app="tests.apps.echo:create")
    with introduced(server) as (caller, hello):
        code, report = server.get("/status", **AUTHORIZATION)
        assert code == 200
        _, host, port, identity = hello["caller"]
        assert (host, port) == caller.socket.getsockname()
        seen = json.dumps(report["workers"])
        assert str(port) not in re.findall(r"\d+", seen)
        assert identity not in seen
    server.get("/status", Authorization="Bearer Rumpelstiltskin")
    server.get("/status?key=Rumpelstiltskin")
    server.logged("call ended")
    for text in (json.dumps(report), "".join(server.stderr)):
        assert KEY not in text
        assert KEY[:12] not in text
        assert "Rumpelstiltskin" not in text


def test_metrics_name_no_key_and_no_caller(start_pool: Start) -> None:
    server = start_pool(api_keys=[KEY], admin_keys=[KEY], app="tests.apps.echo:create")
    with introduced(server) as (_, hello):
        pass
    server.get("/status", Authorization="Bearer Rumpelstiltskin")
    server.get("/Rumpelstiltskin", **AUTHORIZATION)
    server.logged("call ended")
    status, _, text = scraping.get(server, **AUTHORIZATION)
    assert status == 200
    seen = scraping.parse(text)
    assert seen.of("refusals_total")["invalid_api_key"] == 1, "so what follows is of this server"
    _, host, port, identity = hello["caller"]
    assert str(port) not in re.findall(r"\d+", " ".join(seen))  # names and labels
    for word in (host, identity, KEY, "Rumpelstiltskin"):
        assert word not in text
