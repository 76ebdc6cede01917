"""The service as it is shipped, under a real systemd (see tests/systemd)."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.certificates import Authority
from tests.pools import DEADLINE, hello
from tests.ports import free_port
from tests.rawhttp import upgrade
from tests.systemd.machine import ROOT, Machine, needed, unavailable
from voicepool import keysfile, unit, unithost
from voicepool.config import Settings
from voicepool.errors import ExitCode
from voicepool.keys import Key, Scope, digest_of

REASON = unavailable()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)

NAME = "voicepool.service"
CONFIG = Path("/run/settings/voicepool.toml")
LOG = "/run/log"
TLS = 'tls_cert = "/run/settings/server.pem"\ntls_key = "/run/settings/server.key"\n'
SLOW_APP = """
import time
from tests.apps.echo import Echo

class Slow(Echo):
    def preload(self):
        time.sleep(5)

def create():
    return Slow()
"""
HALF_BROKEN_APP = """
import os
from pathlib import Path
from tests.apps.echo import Echo
from voicepool.errors import EngineUnavailable

class HalfBroken(Echo):
    def load(self, device):
        try:
            Path(os.environ["RUNTIME_DIRECTORY"], "first").touch(exist_ok=False)
        except FileExistsError:
            Path("/run/settings/fail").read_bytes()  # until somebody has opened it
            raise EngineUnavailable("there was one model only") from None

def create():
    return HalfBroken()
"""
HANGING = """
import asyncio, signal, time

LOOP = asyncio.SelectorEventLoop
add = LOOP.add_signal_handler

def hang():
    time.sleep(1e6)

LOOP.add_signal_handler = lambda loop, number, callback, *arguments: add(
    loop, number, hang if number == signal.SIGUSR1 else callback, *arguments
)
"""
"""What Python reads at its start: the event loop hangs in what a signal calls."""


class Service:
    """voicepool on a machine of its own."""

    def __init__(self, machine: Machine, port: int) -> None:
        self.machine = machine
        self.port = port
        self.trust: ssl.SSLContext | None = None
        (machine.files / "run/settings").mkdir()
        self.configure()

    def secure(self) -> None:
        """Let it speak TLS from the next start on."""
        files = Authority(self.machine.files / "run/settings").issue()
        files.key.chmod(0o644)  # its user is made up at the start
        self.trust = files.trust
        self.configure()

    def configure(self, **pool: Any) -> None:
        """Write the settings; nobody is told."""
        lines = {"workers": 2, "max_connections": 4, "queue_timeout": "60s", "drain_timeout": "1h"}
        app = json.dumps(pool.pop("app", "tests.apps.echo:create"))
        text = "\n".join(f"{name} = {json.dumps(value)}" for name, value in (lines | pool).items())
        (self.machine.files / str(CONFIG)[1:]).write_text(
            f"[server]\nport = {self.port}\n{TLS if self.trust else ''}"
            f'[pool]\n{text}\n[budget]\ngpus = "none"\n'
            f"[speech]\napp = {app}\n"
        )

    def start(self) -> None:
        self.machine.systemctl("start", NAME)

    def show(self) -> dict[str, str]:
        return self.machine.show(NAME)

    def until(self, what: str, **properties: str) -> dict[str, str]:
        """Wait until the unit has these properties; a value may be a part of it."""

        def look() -> dict[str, str] | None:
            shown = self.show()
            fits = all(value in shown.get(name, "") for name, value in properties.items())
            return shown if fits else None

        return self.machine.until(look, f"{what}: {self.log[-3000:]}")  # type: ignore[no-any-return]

    def until_left(self) -> None:
        """Wait until the accept queue is left to the next server."""
        self.machine.until(lambda: "no more callers are let in" in self.log, "leaves the queue")

    @property
    def log(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            return (self.machine.files / LOG[1:]).read_text()
        return ""

    @property
    def pid(self) -> int:
        """The supervisor's."""
        return self.machine.outside(self.show()["MainPID"])

    def examine(self) -> set[tuple[str, str]]:
        """What the doctor says of the service that is not "ok": marks and texts."""
        program = [sys.executable, "-m", "voicepool", "doctor", "--json", "--app", "a:b"]
        done = self.machine.run("env", f"PYTHONPATH={ROOT}", *program)
        assert done.returncode in (ExitCode.OK, ExitCode.CANNOT_WARM), done.stderr
        (found,) = [s for s in json.loads(done.stdout)["sections"] if s["title"] == "service"]
        assert any("as this doctor" in finding["text"] for finding in found["findings"])
        return {(f["mark"], f["text"]) for f in found["findings"] if f["mark"] != "ok"}

    def connect(self) -> socket.socket:
        """As `call`, for who says everything himself."""
        plain = socket.create_connection(("127.0.0.1", self.port), DEADLINE)
        return self.trust.wrap_socket(plain, server_hostname="localhost") if self.trust else plain

    def status(self) -> dict[str, Any]:
        """Without TLS."""
        with urllib.request.urlopen(
            f"http://127.0.0.1:{self.port}/status", timeout=DEADLINE
        ) as told:
            return json.load(told)  # type: ignore[no-any-return]

    def call(self) -> ClientConnection:
        url = f"{'wss' if self.trust else 'ws'}://127.0.0.1:{self.port}/echo"
        return connect(url, proxy=None, open_timeout=DEADLINE, ssl=self.trust)


@pytest.fixture
def make_service(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Makes the one service of a test: the shipped units, but for paths and for time-outs."""
    with contextlib.ExitStack() as stack:

        def make(*, activated: bool = False, secure: bool = False, **directives: str) -> Service:
            settings = Settings(port=free_port())
            command = (sys.executable, "-m", "voicepool")
            home = unithost.needs_home(command, CONFIG)
            host = unit.Host(command, CONFIG, needs_home=home)
            given = {
                # Python may lie in a home, and there is no user database to add somebody to.
                "ProtectHome": "no",
                "DynamicUser": "yes",
                "Environment": f"PYTHONPATH={ROOT}:/run/settings",
                "BindReadOnlyPaths": " ".join(map(str, needed())),  # also where /tmp is private
                "StandardOutput": f"append:{LOG}",
                "StandardError": f"append:{LOG}",
                "RestartSec": "100ms",
                **directives,
            }
            drop_in = "[Service]\n" + "".join(f"{k}={v}\n" for k, v in given.items())
            units = {NAME: unit.service(host, settings), f"{NAME}.d/test.conf": drop_in}
            if activated:
                units["voicepool.socket"] = unit.socket(settings)
            machine = Machine(tmp_path / "units", units)
            stack.callback(machine.close)
            if activated:
                machine.systemctl("start", "voicepool.socket")
            service = Service(machine, settings.port)
            if secure:
                service.secure()
            return service

        yield make


class Load:
    """Callers who come one after another; each says something and leaves."""

    def __init__(self, service: Service, callers: int = 2) -> None:
        self._service = service
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self.served = 0
        self.failures: list[str] = []
        self._threads = [threading.Thread(target=self._run) for _ in range(callers)]

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with self._service.call() as caller:
                    hello(caller)
                    caller.send("x")
                    assert caller.recv(timeout=DEADLINE) == "x"
            except Exception as error:  # noqa: BLE001 - every failure counts
                self.failures.append(repr(error))
                self._stop.set()
            with self._changed:
                self.served += not self.failures
                self._changed.notify_all()

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(DEADLINE)

    def grows(self, by: int) -> None:
        """Wait until so many more have been served."""
        with self._changed:
            goal = self.served + by
            self._changed.wait_for(lambda: self.failures or self.served >= goal, DEADLINE)
        assert self.failures == []


# --- start -----------------------------------------------------------------------------------


def test_keys_of_roots_alone_come_as_a_credential(make_service: Callable[..., Service]) -> None:
    service = make_service(
        LoadCredential="keys:/run/settings/keys",
        Environment=f"PYTHONPATH={ROOT}:/run/settings VOICEPOOL_KEYS_FILE=%d/keys",
    )
    file = service.machine.files / "run/settings/keys"
    key = Key(digest_of("the-key"), frozenset({Scope.CALL}), "web")
    keysfile.append(file, key)
    assert file.stat().st_mode & 0o777 == 0o600
    service.start()
    with pytest.raises(InvalidStatus) as refused:
        service.call()
    assert refused.value.response.status_code == 401
    url = f"ws://127.0.0.1:{service.port}/echo"
    headers = {"Authorization": "Bearer the-key"}
    with connect(url, proxy=None, open_timeout=DEADLINE, additional_headers=headers) as caller:
        assert hello(caller)["caller"][3] == "web"
    assert "can be read by everybody" not in service.log


def test_start_returns_when_a_worker_is_warm_and_status_tells_counts(
    make_service: Callable[..., Service],
) -> None:
    service = make_service()
    service.start()
    shown = service.show()
    assert (shown["ActiveState"], shown["SubState"], shown["NRestarts"]) == (
        "active",
        "running",
        "0",
    )
    service.until("told its counts", StatusText="0 calls of at most 4, 2 idle, 0 waiting")
    with service.call() as caller:
        hello(caller)
        service.until("told of the call", StatusText="1 call of at most 4, ")
    status = Path(f"/proc/{service.pid}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert "0" not in fields["Uid"].split()
    assert (fields["NoNewPrivs"], int(fields["CapBnd"], 16)) == ("1", 0)


def test_models_that_load_longer_than_the_start_may_take_are_waited_for(
    make_service: Callable[..., Service],
) -> None:
    service = make_service(TimeoutStartSec="3")
    (service.machine.files / "run/settings/slow.py").write_text(SLOW_APP)
    service.configure(app="slow:create")
    service.start()
    assert service.show()["NRestarts"] == "0"


def test_wrong_setting_is_said_and_not_tried_again(make_service: Callable[..., Service]) -> None:
    service = make_service()
    service.configure(wokers=2)
    assert service.machine.systemctl("start", NAME, check=False).returncode != 0
    shown = service.until("given up", ActiveState="failed")
    assert (shown["ExecMainStatus"], shown["NRestarts"]) == ("2", "0")
    assert "did you mean workers?" in service.log
    found = {text.partition(":")[0] for mark, text in service.examine() if mark == "problem"}
    assert "it is failed (failed); it ended with code 2, a wrong setting (exit-code)" in found
    assert "the service's settings are wrong" in found


# --- restarts --------------------------------------------------------------------------------


@pytest.mark.parametrize("secure", [False, True])
def test_restart_under_load_refuses_nobody(
    make_service: Callable[..., Service], secure: bool
) -> None:
    service = make_service(activated=True, secure=secure)
    service.start()
    with Load(service) as load:
        for _ in range(2):
            load.grows(3)
            before = service.pid
            service.machine.systemctl("restart", NAME)
            assert service.pid != before
            load.grows(3)
    assert load.failures == []


@pytest.mark.parametrize("secure", [False, True])
def test_who_is_on_the_way_in_at_a_restart_is_served(
    make_service: Callable[..., Service], secure: bool
) -> None:
    service = make_service(activated=True, secure=secure)
    service.start()
    with service.connect() as caller:
        head = upgrade()
        caller.sendall(head[:-2])
        if not secure:  # that who speaks TLS has been let in is known by the handshake
            with service.call() as later:
                hello(later)
        service.machine.systemctl("restart", "--no-block", NAME)
        service.until_left()
        caller.sendall(head[-2:])
        assert caller.recv(65536).startswith(b"HTTP/1.1 101 ")


def test_who_was_given_to_a_worker_that_hangs_at_a_restart_is_served_by_another(
    make_service: Callable[..., Service],
) -> None:
    service = make_service(activated=True)
    service.configure(workers=1, ack_timeout="1h")
    service.start()
    (worker,) = service.status()["workers"]
    pid = service.machine.outside(str(worker["pid"]))
    os.kill(pid, signal.SIGSTOP)
    with service.connect() as caller:
        caller.sendall(upgrade())
        service.machine.until(
            lambda: service.status()["pool"]["states"]["assigned"], "gives the caller to the worker"
        )
        service.machine.systemctl("restart", "--no-block", NAME)
        service.until_left()
        os.kill(pid, signal.SIGKILL)
        assert caller.recv(65536).startswith(b"HTTP/1.1 101 ")


def test_server_that_gives_up_while_somebody_comes_in_lets_calls_end(
    make_service: Callable[..., Service],
) -> None:
    service = make_service(activated=True)
    settings = service.machine.files / "run/settings"
    (settings / "half.py").write_text(HALF_BROKEN_APP)
    os.mkfifo(settings / "fail")
    (settings / "fail").chmod(0o666)
    service.configure(app="half:create")
    service.start()
    with service.call() as caller, service.connect() as late:
        hello(caller)
        head = upgrade()
        late.sendall(head[:-2])
        assert service.status()["pool"]["callers"] == 1  # asked after him: he has been let in
        (settings / "fail").write_bytes(b"")
        service.until_left()  # it gives up: the next worker cannot load
        late.sendall(head[-2:])
        assert late.recv(65536).startswith(b"HTTP/1.1 503 ")
        caller.send("x")
        assert caller.recv(timeout=DEADLINE) == "x"
        assert "ending the calls" not in service.log


def test_first_caller_starts_the_service(make_service: Callable[..., Service]) -> None:
    service = make_service(activated=True)
    with service.call() as caller:
        hello(caller)
    assert "the service manager has chosen the address" not in service.log


def test_killed_supervisor_is_replaced_and_callers_wait_for_it(
    make_service: Callable[..., Service],
) -> None:
    service = make_service(activated=True)
    service.start()
    with service.call() as caller:
        worker = hello(caller)["pid"]
        os.kill(service.pid, signal.SIGKILL)
        with pytest.raises(ConnectionClosed):
            caller.recv(timeout=DEADLINE)
        with service.call() as another:
            assert hello(another)["pid"] != worker
    assert service.until("restarted", ActiveState="active")["NRestarts"] == "1"


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGUSR1], ids=["stopped", "event-loop"])
def test_hung_supervisor_is_caught_by_the_watchdog(
    make_service: Callable[..., Service], how: signal.Signals
) -> None:
    service = make_service(activated=True, WatchdogSec="1", TimeoutAbortSec="60")
    if how is signal.SIGUSR1:
        (service.machine.files / "run/settings/sitecustomize.py").write_text(HANGING)
    service.start()
    before = service.pid
    os.kill(before, how)
    # SIGCONT comes with systemd's SIGABRT.
    service.machine.until(
        lambda: "Fatal Python error: Aborted" in service.log, "told where it hung"
    )
    if how is signal.SIGUSR1:
        assert "in hang" in service.log
    with service.call() as caller:
        hello(caller)
    shown = service.until("restarted", ActiveState="active", NRestarts="1")
    assert service.pid != before
    assert shown["Result"] == "success"  # of the one that runs now


# --- reload ----------------------------------------------------------------------------------


def test_reload_is_told_of_and_a_bad_file_changes_nothing(
    make_service: Callable[..., Service],
) -> None:
    service = make_service(activated=True)
    service.start()
    before = service.pid
    with service.call() as through, Load(service) as load:
        hello(through)
        service.configure(wokers=2)
        service.machine.systemctl("reload", NAME)
        service.until("refused it", StatusText="reload refused: ", ActiveState="active")
        service.configure(workers=1, max_connections=3)
        service.machine.systemctl("reload", NAME)
        service.until("reloaded", StatusText=" of at most 3, ", ActiveState="active")
        assert "refused" not in service.show()["StatusText"]
        load.grows(3)
        through.send("undisturbed?")
        assert through.recv(timeout=DEADLINE) == "undisturbed?"
    assert service.pid == before
    assert service.show()["NRestarts"] == "0"


# --- stop ------------------------------------------------------------------------------------


def test_stop_lets_calls_end(make_service: Callable[..., Service]) -> None:
    service = make_service(TimeoutStopSec="1")  # extended as long as it drains
    service.start()
    with service.call() as caller:
        hello(caller)
        service.machine.systemctl("stop", "--no-block", NAME)
        service.until("drained", StatusText="draining: 1 call to finish")
        caller.send("still there?")
        assert caller.recv(timeout=DEADLINE) == "still there?"
    shown = service.until("stopped", ActiveState="inactive")
    assert (shown["Result"], shown["ExecMainStatus"]) == ("success", "0")


def test_stop_ends_calls_after_drain_timeout(make_service: Callable[..., Service]) -> None:
    service = make_service()
    service.configure(drain_timeout="300ms")
    service.start()
    with service.call() as caller:
        hello(caller)
        service.machine.systemctl("stop", NAME)
        with pytest.raises(ConnectionClosed) as closed:
            caller.recv(timeout=DEADLINE)
        assert closed.value.rcvd
        assert closed.value.rcvd.code == 1001
    assert service.show()["ActiveState"] == "inactive"


# --- the doctor ------------------------------------------------------------------------------


def test_doctor_finds_nothing_wrong_and_names_what_was_broken(
    make_service: Callable[..., Service],
) -> None:
    service = make_service(activated=True, User="nobody", Group="nogroup", DynamicUser="no")
    service.configure(queue_timeout="8s", drain_timeout="30s")  # as the unit was made for
    service.start()
    # Units in /run can be enabled for the time being only.
    (enabled,) = service.examine()
    assert "not enabled (disabled): it does not start with the host" in enabled[1]
    units = service.machine.files / "run/units"
    (service.machine.files / str(CONFIG)[1:]).chmod(0o600)
    (units / f"{NAME}.d/zz.conf").write_text("[Service]\nLimitNOFILE=100\n")
    socket_unit = units / "voicepool.socket"
    socket_unit.write_text(socket_unit.read_text().replace(f":{service.port}", ":1"))
    service.machine.systemctl("daemon-reload")
    found = service.examine() - {enabled}
    assert {mark for mark, _ in found} == {"problem"}
    assert {text.partition(",")[0] for _, text in found} == {
        f"{CONFIG} (settings) cannot be read by the service's user",
        "LimitNOFILE is 100",
        "voicepool.socket listens on 127.0.0.1:1",
    }
