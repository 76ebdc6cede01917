"""Calls over TLS: the same as without, and what the relay between has to stand."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from tests import scraping
from tests.certificates import Authority, Files
from tests.pools import DEADLINE, PoolServer, hello
from tests.rawhttp import exchange, parse, read_all, upgrade

Start = Callable[..., PoolServer]

UPGRADE = upgrade()
RESET = b"\1\0\0\0\0\0\0\0"
"""SO_LINGER that makes close send RST."""
CLIENT_HELLO = bytes.fromhex("16030102000100")
"""The beginning of one."""

needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None and "CI" not in os.environ,
    reason="openssl is not installed (Debian: apt install openssl)",
)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Authority(tmp_path).issue()


@pytest.fixture
def start_tls(start_pool: Start, files: Files) -> Start:
    def start(**settings: Any) -> PoolServer:
        wait = settings.pop("wait", True)
        server = start_pool(wait=False, **files.settings, **settings)
        server.trust = files.trust
        if wait:
            server.stage("serving")
        return server

    return start


@contextlib.contextmanager
def secure(server: PoolServer) -> Iterator[ssl.SSLSocket]:
    """A raw TLS connection."""
    assert server.trust is not None
    with server.socket() as sock:
        # As clients do: what they send is there at once.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with server.trust.wrap_socket(sock, server_hostname="127.0.0.1") as client:
            yield client


def relay(server: PoolServer) -> int:
    pid: int = server.status()["server"]["relay"]["pid"]
    return pid


def connections(server: PoolServer, pid: int) -> int:
    """TCP and UNIX sockets of that process."""
    found = 0
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += str(fd.readlink()).startswith("socket:")
    return found


def until_refused(server: PoolServer, **reasons: int) -> None:
    """Wait until /metrics has so many of these refusals, which the relay tells a little later."""

    def told(seen: scraping.Scrape) -> bool:
        counted = seen.of("refusals_total")
        return {code: counted[code] for code in reasons} == reasons

    scraping.until(server, told, "had the refusals of the relay")


def idle(server: PoolServer, *pids: int) -> bool:
    """Whether these processes sleep nearly all of a second in which they are left alone."""
    before = [server.cpu(pid) for pid in pids]
    select.select([], [], [], 1.0)
    return all(server.cpu(pid) - was < 0.5 for pid, was in zip(pids, before, strict=True))


# --- as without TLS --------------------------------------------------------------------------


def test_a_call(start_tls: Start) -> None:
    server = start_tls()
    assert server.url.startswith("wss://")
    with server.call() as caller:
        _, host, port, _ = hello(caller)["caller"]
        assert (host, port) == caller.socket.getsockname()
        for size in (0, 1, 125, 126, 70_000, 1 << 20):
            caller.send(b"x" * size)
            assert caller.recv(DEADLINE) == b"x" * size
        negotiated = caller.socket
        assert isinstance(negotiated, ssl.SSLSocket)
        assert negotiated.version() == "TLSv1.3"
    assert caller.close_code == 1000
    server.until_idle()
    status = server.status()
    assert status["server"]["url"] == server.url
    assert status["totals"]["completed"] == 1


def test_http(start_tls: Start) -> None:
    server = start_tls()
    assert server.get("/healthz") == (200, {"status": "alive"})
    assert server.get("/nothing")[0] == 404
    with secure(server) as client:
        answer = exchange(client, b"BREW /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert answer.status == 405


def test_protocol_versions(start_tls: Start) -> None:
    server = start_tls()
    assert server.trust is not None
    server.trust.set_alpn_protocols(["h2", "http/1.1"])
    server.trust.maximum_version = ssl.TLSVersion.TLSv1_2
    with secure(server) as client:
        assert (client.version(), client.selected_alpn_protocol()) == ("TLSv1.2", "http/1.1")
    with server.call() as caller:
        assert hello(caller)


def test_plain_http_is_told_what_to_do(start_tls: Start) -> None:
    server = start_tls()
    for request in (b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n", UPGRADE, b"\0\1\2\3"):
        with server.socket() as client:
            answer = exchange(client, request)
            assert (answer.status, answer.error["code"]) == (400, "tls_required")
            assert "wss://" in answer.error["message"]
    until_refused(server, tls_required=3)


def test_full_server_and_callers_who_wait(start_tls: Start) -> None:
    server = start_tls(workers=1, max_waiting=1, queue_timeout=3600)
    with ThreadPoolExecutor() as pool:
        with server.call() as caller:
            hello(caller)
            # One hangs up while waiting, with a goodbye and without; then one waits for a turn.
            for leave in (ssl.SSLSocket.unwrap, _close_side):
                with secure(server) as client:
                    client.sendall(UPGRADE)
                    server.until_status(lambda s: s["pool"]["waiting"] == 1, "let it wait")
                    with contextlib.suppress(OSError):
                        leave(client)
                    server.until_status(lambda s: s["pool"]["waiting"] == 0, "noticed")
            second = pool.submit(server.call)
            server.until_status(lambda s: s["pool"]["waiting"] == 1, "let it wait")
            with pytest.raises(InvalidStatus) as refused:
                server.call()
            assert refused.value.response.status_code == 503
            assert "Retry-After" in refused.value.response.headers
            assert not second.done()
        with second.result(DEADLINE) as caller:
            assert hello(caller)
    assert server.status()["totals"]["gone"] == 2


def _close_side(client: ssl.SSLSocket) -> None:
    """Of TCP, without a goodbye in TLS."""
    socket.socket.shutdown(client, socket.SHUT_WR)


def test_killed_worker_ends_the_call(start_tls: Start) -> None:
    server = start_tls()
    with server.call() as caller:
        hello(caller)
        caller.send("!die")
        with pytest.raises(ConnectionClosedError):
            caller.recv(DEADLINE)
        assert caller.close_code == 1006
    server.until_idle()


def test_client_that_vanishes_ends_the_call(start_tls: Start) -> None:
    server = start_tls()
    with secure(server) as client:
        client.sendall(UPGRADE)
        assert b" 101 " in client.recv(200)
        server.until_status(lambda s: s["pool"]["callers"] == 1, "took the call")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    server.until_status(lambda s: s["pool"]["callers"] == 0, "noticed")
    server.until_idle()


def test_half_closed_client_gets_its_answer(start_tls: Start) -> None:
    server = start_tls()
    with secure(server) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        _close_side(client)
        assert parse(read_all(client)).status == 200


def test_half_a_head_and_a_close(start_tls: Start) -> None:
    server = start_tls(head_timeout=3600)
    with secure(server) as client:
        client.sendall(UPGRADE[:50])
        _close_side(client)
        assert parse(read_all(client)).status == 400


def test_too_long_a_head(start_tls: Start) -> None:
    server = start_tls(head_timeout=3600)
    with secure(server) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n" + b"X-Filler: y\r\n" * 2000)
        assert parse(read_all(client)).status == 431


# --- big and slow ----------------------------------------------------------------------------


def test_nothing_grows_for_a_client_that_does_not_read(start_tls: Start) -> None:
    server = start_tls(workers=1)
    pid = relay(server)
    with secure(server) as client:
        client.sendall(UPGRADE)
        assert b" 101 " in client.recv(200)
        before = psutil.Process(pid).memory_info().rss
        frame = b"\x82\xff" + (1 << 20).to_bytes(8, "big") + bytes(4) + bytes(1 << 20)
        client.settimeout(1.0)
        with pytest.raises(TimeoutError):  # the echo backs up until nobody takes any more
            client.sendall(frame * 64)
        assert psutil.Process(pid).memory_info().rss - before < 4 << 20
        assert idle(server, pid)
    server.until_idle()


def test_no_tickets_that_threads_could_stumble_over(start_tls: Start) -> None:
    server = start_tls()
    with secure(server) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert parse(read_all(client)).status == 200
        assert client.version() == "TLSv1.3"
        assert client.session is not None
        assert not client.session.has_ticket


def test_many_at_once_with_big_messages(start_tls: Start) -> None:
    server = start_tls(workers=4)

    def echo(number: int) -> bool:
        with server.call() as caller:
            hello(caller)
            message = bytes([number]) * (1 << 20)
            for _ in range(4):
                caller.send(message)
                if caller.recv(DEADLINE) != message:
                    return False
        return True

    with ThreadPoolExecutor() as pool:
        assert all(pool.map(echo, range(8)))


def test_slow_heads_and_handshakes_are_answered_in_time_and_spin_no_core(start_tls: Start) -> None:
    server = start_tls(head_timeout=3.0)
    with contextlib.ExitStack() as stack:
        silent, greeting, closing = (stack.enter_context(server.socket()) for _ in range(3))
        greeting.sendall(CLIENT_HELLO)
        closing.sendall(CLIENT_HELLO)
        closing.shutdown(socket.SHUT_WR)
        heads = [stack.enter_context(secure(server)) for _ in range(5)]
        for head in heads:
            head.sendall(UPGRADE[:50])
        assert closing.recv(100) == b""
        assert idle(server, server.pid, relay(server))
        for head in heads:
            assert parse(read_all(head)).status == 408
        for early in (silent, greeting):
            with contextlib.suppress(ConnectionResetError):
                assert early.recv(100) == b""


def test_head_in_many_records(start_tls: Start) -> None:
    server = start_tls()
    with secure(server) as client:
        for at in range(len(UPGRADE)):
            client.sendall(UPGRADE[at : at + 1])
        assert client.recv(4096).startswith(b"HTTP/1.1 101 ")


@needs_openssl
def test_who_asks_for_other_keys_before_its_request_is_answered(start_tls: Start) -> None:
    server = start_tls(head_timeout=3600)
    host, port = server.address
    command = ["openssl", "s_client", "-tls1_2", "-connect", f"{host}:{port}"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as client:
        try:
            assert client.stdin is not None
            client.stdin.write("R\n")
            client.stdin.flush()
            client.wait(DEADLINE)
        finally:
            client.kill()
        assert client.stdout is not None
        assert "no renegotiation" in client.stdout.read()


def test_a_thousand_idle_connections(start_tls: Start) -> None:
    server = start_tls(head_timeout=3600, max_heads=200)
    pid = relay(server)
    before = connections(server, pid)
    crowd = [socket.create_connection(server.address) for _ in range(1000)]
    watch = select.poll()
    for sock in crowd:
        watch.register(sock, select.POLLIN)
    try:
        # Who comes now must not be the oldest soon because others are still being let in.
        server.until(lambda: len(watch.poll(0)) >= 800, "let go of the oldest")
        with server.call() as caller:
            assert hello(caller)
        assert connections(server, pid) <= before + 210  # some are on their way out
    finally:
        for sock in crowd:
            sock.close()
    server.until(lambda: connections(server, pid) <= before, "let go of them")
    server.until_idle()


def test_oldest_incomplete_head_makes_room(start_tls: Start) -> None:
    server = start_tls(head_timeout=3600, max_heads=2)
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(secure(server))
        first.sendall(UPGRADE[:50])  # read before the other's handshake can be complete
        second = stack.enter_context(secure(server))
        second.sendall(UPGRADE[:50])
        with server.call() as caller:
            assert hello(caller)
        assert parse(read_all(first)).status == 503
    until_refused(server, overloaded=1)


# --- descriptors -----------------------------------------------------------------------------


@pytest.mark.parametrize("whose", ["relay", "supervisor"])
def test_out_of_descriptors(start_tls: Start, whose: str) -> None:
    server = start_tls(head_timeout=3600)
    pid = relay(server) if whose == "relay" else server.pid
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    with ThreadPoolExecutor(10) as pool:
        # Where the supervisor has none left, clients wait in the relay with a complete head.
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (server.fds(pid), limits[1]))
        asked = [pool.submit(server.get, "/healthz") for _ in range(10)]
        server.logged("out of file descriptors")
        assert idle(server, pid)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        assert [answer.result(DEADLINE)[0] for answer in asked] == [200] * 10


# --- life and death --------------------------------------------------------------------------


def test_killed_relay_ends_its_calls_and_nothing_else(start_tls: Start) -> None:
    server = start_tls()
    first = relay(server)
    with server.call() as caller:
        hello(caller)
        os.kill(first, signal.SIGKILL)
        with pytest.raises(ConnectionClosedError):
            caller.recv(DEADLINE)
    server.logged("TLS relay died", status=-signal.SIGKILL)
    with server.call() as caller:  # who comes meanwhile waits for the next relay
        assert hello(caller)
    server.until_idle()
    assert relay(server) != first
    assert server.status()["server"]["relay"]["restarts"] == 1


def test_reload_changes_what_the_relay_logs(start_tls: Start) -> None:
    """Also what the next one does."""
    server = start_tls(log_level="info")
    server.reload(log_level="debug")
    server.logged("reloaded")
    for restarts in (0, 1):
        if restarts:
            os.kill(relay(server), signal.SIGKILL)
            server.logged("TLS relay died")
        with server.socket() as client:
            client.sendall(CLIENT_HELLO)
        server.until(
            lambda: sum(line["event"] == "TLS handshake failed" for line in server.logs) > restarts,  # noqa: B023
            "logged what is of interest now",
        )


def test_killed_supervisor_leaves_no_relay(start_tls: Start, start_pool: Start) -> None:
    server = start_tls()
    with server.call() as caller:
        hello(caller)
        server.signal(signal.SIGKILL)
        server.wait()
        server.until_nobody()
    heir = start_pool(runtime_dir=str(server.runtime))
    heir.close()


def test_relay_that_stops_listening_is_ended(start_tls: Start) -> None:
    server = start_tls()
    os.kill(relay(server), signal.SIGSTOP)
    server.signal(signal.SIGTERM)
    assert server.wait() == 0


def test_drain_lets_calls_end_and_refuses_the_others(start_tls: Start) -> None:
    server = start_tls(workers=1, drain_timeout=3600)
    with server.call() as caller:
        hello(caller)
        server.signal(signal.SIGTERM)
        server.logged("draining")
        with pytest.raises(InvalidStatus) as refused:
            server.call()
        assert refused.value.response.status_code == 503
        caller.send("still here")
        assert caller.recv(DEADLINE) == "still here"
    assert server.wait() == 0
    assert caller.close_code == 1000


def test_who_has_just_come_is_answered_at_the_end(start_tls: Start) -> None:
    server = start_tls(workers=1)
    os.kill(relay(server), signal.SIGSTOP)
    with ThreadPoolExecutor() as pool:
        late = pool.submit(server.call)
        deadline = time.monotonic() + DEADLINE
        while not _queued(server) and time.monotonic() < deadline:
            select.select([], [], [], 0.02)
        pid = next(pid for pid in server.family() if _name(pid) == "vp-tls-relay")
        server.signal(signal.SIGTERM)
        server.logged("draining")
        os.kill(pid, signal.SIGCONT)
        with pytest.raises(InvalidStatus) as refused:
            late.result(DEADLINE)
    assert json.loads(refused.value.response.body or b"")["error"]["code"] == "draining"
    assert server.wait() == 0


def _name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def _queued(server: PoolServer) -> bool:
    """Whether somebody stands in the accept queue (proc_net_tcp(5): rx_queue of a listener)."""
    port = f":{server.address[1]:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(
        row[1].endswith(port) and row[3] == "0A" and int(row[4].split(":")[1], 16) for row in rows
    )


# --- renewal ---------------------------------------------------------------------------------


def test_renewed_certificate_is_used_and_a_broken_one_is_not(
    start_tls: Start, tmp_path: Path
) -> None:
    server = start_tls()

    def serial() -> bytes | None:
        with secure(server) as client:
            return client.getpeercert(binary_form=True)

    before = serial()
    with server.call() as caller:
        hello(caller)
        other = Authority(tmp_path)
        other.issue()
        server.trust = Files(tmp_path / "x", tmp_path / "x", tmp_path / "ca.pem").trust
        trust = server.trust
        # It is looked at once a second, when somebody comes.
        trust.check_hostname = False
        trust.verify_mode = ssl.CERT_NONE
        server.until(lambda: serial() != before, "showed the new certificate")
        caller.send("still here")
        assert caller.recv(DEADLINE) == "still here"
    renewed = serial()
    other.issue(not_after=datetime.now(UTC) - timedelta(days=1))
    server.until(lambda: serial() != renewed, "showed the expired certificate")
    server.until(
        lambda: any("has expired" in line.get("advice", "") for line in server.logs), "told of it"
    )
    renewed = serial()
    (tmp_path / "server.pem").write_bytes(b"half of a certif")
    server.until(lambda: serial() and _refused(server), "noticed the broken file")
    assert serial() == renewed


def _refused(server: PoolServer) -> bool:
    return any(line.get("event") == "the changed certificate is not used" for line in server.logs)
