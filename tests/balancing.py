"""Several voicepool hosts behind the real HAProxy, on loopback, with the configuration we ship.

`Cluster` has the nodes and the balancer, `Crowd` the callers. Each node has an address of its own
in 127/8, so that nothing in the configuration has to change but addresses, ports and times.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tests.pools import DEADLINE, PoolServer
from tests.ports import free_port

CONFIGURATION = Path(__file__).parent.parent / "deploy" / "haproxy" / "haproxy.cfg"
NAMES = ("node1", "node2", "node3")
ECHOES_PER_SECOND = 5


def haproxy() -> str | None:
    """The program, where it is installed."""
    return shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def replaced(text: str, changes: Mapping[str, str]) -> str:
    """`text` with each pattern replaced; one that is not there is an error."""
    for pattern, new in changes.items():
        text, count = re.subn(pattern, new, text, flags=re.MULTILINE)
        if not count:
            raise ValueError(f"{pattern!r} is not in the configuration")
    return text


class Balancer:
    """HAProxy, run in the foreground with a configuration of ours."""

    def __init__(
        self,
        folder: Path,
        text: str,
        env: Mapping[str, str],
        address: tuple[str, int],
        operator: tuple[str, int],
    ) -> None:
        """`address` and `operator`: where `text` has the callers' and the operator's port."""
        program = haproxy()
        assert program is not None
        self.address, self.operator = address, operator
        self._stats = folder / "haproxy.sock"
        file = folder / "haproxy.cfg"
        file.write_text(text)
        self._log = (folder / "haproxy.log").open("w+")
        self.process = subprocess.Popen(
            [program, "-db", "-f", str(file)],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **env},
        )

    def command(self, line: str) -> str:
        """What the stats socket answers."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(DEADLINE)
            client.connect(str(self._stats))
            client.sendall(line.encode() + b"\n")
            return client.makefile().read()

    def stats(self) -> dict[str, dict[str, str]]:
        """Each server of the backend "calls", and that as a whole as BACKEND."""
        rows = csv.DictReader(self.command("show stat").removeprefix("# ").splitlines())
        return {row["svname"]: row for row in rows if row["pxname"] == "calls"}

    def ask(
        self, path: str, *, operator: bool = False, **headers: str
    ) -> tuple[int, dict[str, str], str]:
        """A GET on the callers' port, or on the operator's: status, headers and body."""
        client = http.client.HTTPConnection(
            *(self.operator if operator else self.address), timeout=DEADLINE
        )
        try:
            client.request("GET", path, headers=headers)
            response = client.getresponse()
            return response.status, dict(response.getheaders()), response.read().decode()
        finally:
            client.close()

    def cpu(self) -> float:
        """CPU seconds used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def said(self) -> str:
        self._log.seek(0)
        return self._log.read()

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(DEADLINE)
        finally:
            self.process.kill()
            self._log.close()


class Cluster:
    """Three nodes and their balancer."""

    def __init__(
        self,
        folder: Path,
        *,
        slots: int = 4,
        changes: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> None:
        """`changes` to the configuration besides where everything is; `settings` of every node."""
        self._balancers = 0
        self._folder = folder
        self._close = contextlib.ExitStack()
        self.slots = slots
        network = f"127.{random.randrange(1, 255)}.{random.randrange(256)}"
        self._hosts = {name: f"{network}.1{number}" for number, name in enumerate(NAMES, 1)}
        ports = {"port": free_port(), "agent_port": free_port()}
        self.settings: dict[str, Any] = {
            "workers": slots,
            "max_connections": slots,
            "heartbeat_timeout": 30.0,
            "drain_timeout": 20.0,
            "log_level": "info",
            "trusted_proxies": ["127.0.0.0/8"],
            **ports,
            **settings,
        }
        self._network = network
        self.nodes: dict[str, PoolServer] = {}
        try:
            for name in NAMES:
                self.start(name)
            for name in NAMES:
                self.nodes[name].stage("serving")
            self.balancer = self.balance(changes)
            for name in NAMES:
                self.until_status(name, "UP")
        except BaseException:
            self.close()
            raise

    def balance(
        self, changes: Mapping[str, str] | None = None, pem: Path | None = None
    ) -> Balancer:
        """One more balancer for the nodes, closed with the cluster. With `pem` it speaks TLS."""
        self._balancers += 1
        folder = self._folder / f"haproxy-{self._balancers}"
        folder.mkdir()
        address = (f"{self._network}.1", free_port())
        operator = (f"{self._network}.1", free_port())
        port, agent_port = self.settings["port"], self.settings["agent_port"]
        known = {
            r"^ +(user|group) haproxy$": "",
            r"/dev/log": "stdout format raw",
            r"/run/haproxy/admin\.sock": str(folder / "haproxy.sock"),
            r"^    bind :80$": "    bind {}:{}".format(*address),
            r"^    bind 127\.0\.0\.1:8404$": "    bind {}:{}".format(*operator),
            r"^(    server node\d) 10\.0\.0\.(1\d):8000": rf"\1 {self._network}.\2:{port}",
            r"\bagent-port 8001\b": f"agent-port {agent_port}",
            r"\bmaxconn 16\b": f"maxconn {self.slots}",
        }
        text = replaced(CONFIGURATION.read_text(), {**known, **(changes or {})})
        env = {"VOICEPOOL_PEM": str(pem)} if pem else {}
        balancer = Balancer(folder, text, env, address, operator)
        self._close.callback(balancer.close)
        return balancer

    @property
    def url(self) -> str:
        return "ws://{}:{}/echo".format(*self.balancer.address)

    def start(self, name: str) -> None:
        """Begin to start a node, for the first time or again."""
        runtime = self._folder / f"{name}-{sum(1 for _ in self._folder.glob(f'{name}-*'))}"
        node = PoolServer(runtime, host=self._hosts[name], **self.settings)
        self._close.callback(node.close)
        self.nodes[name] = node

    def until(
        self,
        condition: Callable[[dict[str, dict[str, str]]], Any],
        what: str,
        balancer: Balancer | None = None,
    ) -> None:
        """Wait until the balancer's statistics look so."""
        balancer = balancer or self.balancer
        end = time.monotonic() + DEADLINE
        stats: dict[str, dict[str, str]] = {}
        while True:
            with contextlib.suppress(ConnectionRefusedError, FileNotFoundError):
                stats = balancer.stats()
                if condition(stats):
                    return
            if time.monotonic() > end or balancer.process.poll() is not None:
                raise AssertionError(f"never {what}: {stats}\n{balancer.said()[-2000:]}")
            time.sleep(0.02)  # HAProxy tells nobody when something changes

    def until_status(self, name: str, status: str, balancer: Balancer | None = None) -> None:
        """Wait until the balancer sees the node as UP, DOWN or DRAIN.

        UP at its start it only supposes; here it is UP when the agent has said so.
        """

        def seen(stats: dict[str, dict[str, str]]) -> bool:
            supposed = status == "UP" and stats[name]["agent_status"] != "L7OK"
            return stats[name]["status"].split(" ")[0] == status and not supposed

        self.until(seen, f"saw {name} as {status}", balancer)

    def until_current(self, count: int, *names: str) -> None:
        """Wait until these nodes have so many callers between them."""
        self.until(
            lambda stats: sum(int(stats[name]["scur"]) for name in names) == count,
            f"had {count} callers on {names}",
        )

    def close(self) -> None:
        self._close.close()


@dataclass(slots=True)
class Call:
    """How one call went."""

    verdict: str = "refused"
    """served; refused (it never began); cut (it began and did not end as it should)"""
    node: str = ""
    waited: float = 0.0
    """From connect() to the first message, in seconds."""
    detail: str = ""


@dataclass
class Crowd:
    """So many callers at once, each of whom calls again and again."""

    url: str
    size: int
    seconds: tuple[float, float] = (0.4, 1.2)
    """The shortest and the longest call."""
    options: dict[str, Any] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _callers: list[asyncio.Task[None]] = field(default_factory=list)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def start(self) -> None:
        self._callers = [asyncio.create_task(self._keep_calling()) for _ in range(self.size)]

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait until it is true, looking again when a call has ended."""
        async with asyncio.timeout(DEADLINE), self._changed:
            await self._changed.wait_for(condition)

    async def more(self, count: int) -> None:
        """Wait until so many more calls have ended."""
        goal = len(self.calls) + count
        await self.until(lambda: len(self.calls) >= goal)

    async def stop(self) -> None:
        """Let the calls end that are going on or waited for."""
        self._stopping.set()
        await asyncio.gather(*self._callers)

    async def _keep_calling(self) -> None:
        while not self._stopping.is_set():
            done = await call(self.url, random.uniform(*self.seconds), **self.options)
            self.calls.append(done)
            async with self._changed:
                self._changed.notify_all()
            if done.verdict == "refused":
                await asyncio.sleep(0.05)  # so as not to ask a thousand times what is down

    def verdicts(self) -> Counter[str]:
        return Counter(done.verdict for done in self.calls)

    def troubles(self) -> list[Call]:
        return [done for done in self.calls if done.verdict != "served"]


async def call(url: str, seconds: float, **options: Any) -> Call:
    """One call that talks all the time, and how it went."""
    done = Call()
    began = time.monotonic()
    try:
        websocket = await connect(url, proxy=None, open_timeout=DEADLINE, **options)
    except (OSError, InvalidHandshake, TimeoutError) as error:
        done.detail = f"{type(error).__name__}: {error}"
        done.waited = time.monotonic() - began
        return done
    done.verdict = "cut"
    try:
        done.node = await node_of(websocket)
        done.waited = time.monotonic() - began
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            await _echo(websocket)
            await asyncio.sleep(1 / ECHOES_PER_SECOND)
        await websocket.close()
        if websocket.close_code == 1000:
            done.verdict = "served"
    except (ConnectionClosed, TimeoutError) as error:
        done.detail = f"{type(error).__name__}: {error}"
    finally:
        await websocket.close()
    return done


async def node_of(websocket: ClientConnection) -> str:
    """The node that serves this caller: the echo app's first message says where it runs."""
    async with asyncio.timeout(DEADLINE):
        hello = json.loads(await websocket.recv())
    match = re.search(r"/(node\d)-\d+/", hello["tmpdir"])
    assert match is not None
    return match[1]


async def _echo(websocket: ClientConnection) -> None:
    text = str(time.monotonic())
    async with asyncio.timeout(DEADLINE):
        await websocket.send(text)
        assert await websocket.recv() == text


# --- what happens to a cluster under load; each returns the crowd that lived through it ---------


async def lose_a_node(cluster: Cluster, callers: int, name: str = "node2") -> Crowd:
    """kill -9 of a supervisor, which takes its workers along; then it comes back."""
    crowd = Crowd(cluster.url, callers)
    crowd.start()
    await crowd.more(callers)
    cluster.nodes[name].signal(signal.SIGKILL)
    await asyncio.to_thread(cluster.until_status, name, "DOWN")
    await crowd.more(callers)
    cluster.start(name)
    await _until_back(cluster, crowd, name)
    await crowd.stop()
    return crowd


async def hang_a_node(cluster: Cluster, callers: int, name: str = "node2") -> Crowd:
    """SIGSTOP to a supervisor; its workers go on with their calls. Then it wakes up again."""
    crowd = Crowd(cluster.url, callers)
    crowd.start()
    await crowd.more(callers)
    node = cluster.nodes[name]
    node.signal(signal.SIGSTOP)
    try:
        await asyncio.to_thread(cluster.until_status, name, "DOWN")
        await crowd.more(callers)
    finally:
        node.signal(signal.SIGCONT)
    await _until_back(cluster, crowd, name)
    await crowd.stop()
    return crowd


async def upgrade_all(cluster: Cluster, callers: int) -> Crowd:
    """One node after the other drains, ends, and starts anew."""
    crowd = Crowd(cluster.url, callers)
    crowd.start()
    await crowd.more(callers)
    for name in NAMES:
        node = cluster.nodes[name]
        node.signal(signal.SIGTERM)
        status = await asyncio.to_thread(node.wait)
        assert status == 0, status
        cluster.start(name)
        await _until_back(cluster, crowd, name)
    await crowd.stop()
    return crowd


async def _until_back(cluster: Cluster, crowd: Crowd, name: str) -> None:
    """Wait until the node has served somebody who called from now on."""
    await asyncio.to_thread(cluster.until_status, name, "UP")
    seen = len(crowd.calls)
    await crowd.until(
        lambda: any(c.node == name and c.verdict == "served" for c in crowd.calls[seen:])
    )
