"""A real server behind the real HAProxy, which passes on bytes and sends PROXY headers.

HAProxy does not look into the connections, so nothing but its header can tell whose they are.
Callers are told apart by their addresses in 127/8.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from tests.balancing import Balancer, haproxy
from tests.certificates import Authority, Files
from tests.pools import PoolServer, hello
from tests.ports import free_port
from tests.proxying import LOCAL, UNSPEC, binary, header
from tests.rawhttp import Answer, exchange, parse, read_all, upgrade

pytestmark = pytest.mark.skipif(
    haproxy() is None and "CI" not in os.environ,
    reason="haproxy is not installed (Debian: apt install haproxy)",
)

FIRST, SECOND = "127.0.0.77", "127.0.0.78"
HEALTHZ = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
CONFIGURATION = """
global
    stats socket {folder}/haproxy.sock mode 600 level admin
defaults
    mode tcp
    timeout connect 5s
    timeout client 1m
    timeout server 1m
frontend one
    bind 127.0.0.1:{ports[1]}
    default_backend one
frontend two
    bind 127.0.0.1:{ports[2]}
    default_backend calls
backend one
    option httpchk GET /healthz
    http-check send hdr Host localhost
    server node {node} send-proxy check inter 200ms {secure}
backend calls
    option httpchk GET /healthz
    http-check send hdr Host localhost
    server node {node} send-proxy-v2 check inter 200ms {secure}
"""


class Proxied:
    """A server that takes PROXY headers, and the HAProxy before it."""

    def __init__(self, server: PoolServer, folder: Path) -> None:
        self.server = server
        self.direct = server.address
        self._ports = {version: free_port() for version in (1, 2)}
        text = CONFIGURATION.format(
            folder=folder,
            ports=self._ports,
            node="{}:{}".format(*self.direct),
            secure="check-ssl verify none" if server.trust else "",
        )
        address = ("127.0.0.1", self._ports[2])
        self.balancer = Balancer(folder, text, {}, address, address)
        self.speak(2)

    def speak(self, version: int) -> None:
        """From now on the server is called through that version of the protocol."""
        scheme = self.server.url.partition("://")[0]
        self.server.url = f"{scheme}://127.0.0.1:{self._ports[version]}"

    def checked(self) -> bool:
        """Whether HAProxy's own check of the server has passed."""
        stats = self.balancer.stats()
        return stats["node"]["check_status"] == "L7OK"

    def exchange(self, request: bytes) -> Answer:
        """Straight to the server."""
        with socket.create_connection(self.direct, timeout=60) as client:
            return exchange(client, request)

    def turns_away(self, address: str, request: bytes) -> bool:
        """Whether who comes from that address is cut off without a word."""
        with socket.create_connection(
            self.direct, timeout=60, source_address=(address, 0)
        ) as stranger:
            try:
                stranger.sendall(request)
                return not stranger.recv(1)
            except (BrokenPipeError, ConnectionResetError):
                return True


Start = Callable[..., Proxied]


@pytest.fixture
def proxied(start_pool: Callable[..., PoolServer], tmp_path: Path) -> Iterator[Start]:
    balancers: list[Balancer] = []

    def start(files: Files | None = None, **settings: Any) -> Proxied:
        settings = {"trusted_proxies": ["127.0.0.1"], **settings}
        server = start_pool(
            wait=False, proxy_protocol=True, **(files.settings if files else {}), **settings
        )
        server.trust = files.trust if files else None
        server.stage("serving")
        made = Proxied(server, tmp_path)
        balancers.append(made.balancer)
        server.until(lambda: (tmp_path / "haproxy.sock").exists() and made.checked(), "was checked")
        return made

    yield start
    for balancer in balancers:
        balancer.close()


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_a_call_has_its_caller_s_address(proxied: Start, tmp_path: Path, secure: bool) -> None:
    found = proxied(Authority(tmp_path).issue() if secure else None, address_calls=1)
    for version in (1, 2):
        found.speak(version)
        with found.server.call(source_address=(FIRST, 0)) as caller:
            _, host, port, _ = hello(caller)["caller"]
            assert (host, port) == caller.socket.getsockname()[:2]
            caller.send(b"x" * 70_000)
            assert caller.recv(60) == b"x" * 70_000
            # It counts as a call of that address, and of no other.
            with pytest.raises(InvalidStatus) as refused:
                found.server.call(source_address=(FIRST, 0))
            assert refused.value.response.status_code == 429
            with found.server.call(source_address=(SECOND, 0)) as other:
                assert hello(other)["caller"][1] == SECOND
        found.server.until_idle()
    assert found.server.status()["totals"]["completed"] == 4


def test_who_is_believed_of_what(proxied: Start) -> None:
    found = proxied(trusted_proxies=["127.0.0.1", SECOND])
    server = found.server
    claims = {"X-Forwarded-For": "198.51.100.1"}
    # What a client says of itself is not believed; what a further proxy says of its own is.
    for address, host in ((FIRST, FIRST), (SECOND, "198.51.100.1")):
        with server.call(source_address=(address, 0), additional_headers=claims) as caller:
            assert hello(caller)["caller"][1] == host
        server.until_idle()
    assert found.exchange(binary(UNSPEC, command=LOCAL) + HEALTHZ).status == 200
    assert found.exchange(b"PROXY UNKNOWN\r\n" + HEALTHZ).status == 200
    # The same bytes from somebody who is no proxy are not even read.
    assert found.turns_away(FIRST, header(2, "198.51.100.1") + HEALTHZ)
    server.logged("connection refused: not from a trusted proxy", address=FIRST)


def test_without_a_header_the_proxy_is_told_what_to_do(proxied: Start, tmp_path: Path) -> None:
    found = proxied(Authority(tmp_path).issue())
    for request in (HEALTHZ, b"\x16\x03\x01\x02\x00\x01\x00", binary(0x7F) + HEALTHZ):
        answer = found.exchange(request)
        assert (answer.status, answer.error["code"]) == (400, "bad_proxy_header")
    found.server.logged("connection refused: no PROXY header", address="127.0.0.1")
    # With it, TLS is still asked for.
    answer = found.exchange(header(1, FIRST) + HEALTHZ)
    assert (answer.status, answer.error["code"]) == (400, "tls_required")


def test_tls_strangers_and_clients_who_come_piece_by_piece(proxied: Start, tmp_path: Path) -> None:
    files = Authority(tmp_path).issue()
    found = proxied(files, address_heads=1, head_timeout=3600)
    assert found.turns_away(FIRST, header(2, FIRST))
    for version in (1, 2):
        with socket.create_connection(found.direct, timeout=60) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sent = header(version, FIRST)
            for at in range(len(sent)):
                sock.sendall(sent[at : at + 1])
            with files.trust.wrap_socket(sock, server_hostname="127.0.0.1") as client:
                for at in range(len(HEALTHZ)):
                    client.sendall(HEALTHZ[at : at + 1])
                assert parse(read_all(client)).status == 200
    # The address that counts is the header's: its second incomplete head costs it the first.
    heads = []
    for host in ("203.0.113.1", "203.0.113.2", "203.0.113.1"):
        sock = socket.create_connection(found.direct, timeout=60)
        sock.sendall(header(2, host))
        heads.append(files.trust.wrap_socket(sock, server_hostname="127.0.0.1"))
        heads[-1].sendall(b"GET")
        if len(heads) == 1:  # it is there before the others are
            assert found.server.get("/healthz")[0] == 200
    answer = parse(read_all(heads[0]))
    assert (answer.status, answer.error["code"]) == (429, "too_many_heads_from_address")
    heads[1].sendall(HEALTHZ[3:])
    assert parse(read_all(heads[1])).status == 200
    for head in heads:
        head.close()


def test_a_worker_that_dies_before_it_takes_the_call_costs_nobody_anything(proxied: Start) -> None:
    found = proxied(ack_timeout=1.0)
    server = found.server
    first = server.workers("idle")[0]
    os.kill(server.pid, signal.SIGSTOP)
    os.kill(first["pid"], signal.SIGSTOP)
    with socket.create_connection(found.direct, timeout=60) as caller, ThreadPoolExecutor() as pool:
        caller.sendall(header(2, FIRST) + upgrade())
        probe = pool.submit(found.exchange, header(2, FIRST) + HEALTHZ)
        os.kill(server.pid, signal.SIGCONT)
        assert probe.result(60).status == 200
        assert caller.recv(65536).startswith(b"HTTP/1.1 101 ")
        status = server.until_status(lambda s: s["totals"]["accepted"], "heard that he is served")
        totals = status["totals"]
        assert (totals["accepted"], totals["retried"], totals["lost"]) == (1, 1, 0)
    server.until_idle()


def test_a_reload_changes_whom_the_relay_trusts(proxied: Start, tmp_path: Path) -> None:
    found = proxied(Authority(tmp_path).issue())
    assert found.turns_away(SECOND, header(2, FIRST) + HEALTHZ)
    found.server.reload(trusted_proxies=["127.0.0.1", SECOND])
    found.server.logged("reloaded")
    with socket.create_connection(found.direct, source_address=(SECOND, 0)) as proxy:
        proxy.settimeout(60)
        answer = exchange(proxy, header(2, FIRST) + HEALTHZ)
        assert (answer.status, answer.error["code"]) == (400, "tls_required")
    # So does the next relay.
    os.kill(found.server.status()["server"]["relay"]["pid"], signal.SIGKILL)
    found.server.logged("TLS relay died")
    assert not found.turns_away(SECOND, header(2, FIRST) + HEALTHZ)
    # Without any it would be nobody's word, so that is refused, and nothing changes.
    found.server.reload(trusted_proxies=[])
    refused = found.server.logged("reload refused, nothing has changed")
    assert "proxy_protocol" in refused["error"]
