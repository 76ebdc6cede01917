"""Three nodes behind the real HAProxy: who is placed where, and what becomes of callers when nodes
die, hang, drain and are upgraded. scripts/try-haproxy does the same with more callers."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import secrets
import ssl
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect as sync_connect

from tests.balancing import (
    CONFIGURATION,
    NAMES,
    Cluster,
    hang_a_node,
    haproxy,
    lose_a_node,
    node_of,
    upgrade_all,
)
from tests.certificates import Authority
from tests.pools import DEADLINE
from tests.ports import free_port

SLOTS = 4
ALL = SLOTS * len(NAMES)

pytestmark = pytest.mark.skipif(
    haproxy() is None and "CI" not in os.environ,
    reason="haproxy is not installed (Debian: apt install haproxy)",
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    # Shorter than as shipped, in the same order: a node that hangs is given up on after these.
    cluster = Cluster(
        tmp_path_factory.mktemp("cluster"),
        slots=SLOTS,
        queue_timeout=2.0,
        drain_notice=1.0,
        changes={
            "timeout server 10s": "timeout server 3s",
            r"queue\(calls\) ge 64": f"queue(calls) ge {ALL}",
        },
    )
    yield cluster
    cluster.close()


@pytest.fixture
async def callers(cluster: Cluster) -> Any:
    """Calls that hang up when the test is over, and a cluster where nobody calls."""
    cluster.until_current(0, *NAMES)
    for node in cluster.nodes.values():
        node.until_idle()
    async with contextlib.AsyncExitStack() as calls:

        async def call(count: int) -> list[ClientConnection]:
            """So many callers at the same moment, once all have their handshake."""
            pending = [
                connect(cluster.url, proxy=None, open_timeout=DEADLINE) for _ in range(count)
            ]
            return await asyncio.gather(*(calls.enter_async_context(each) for each in pending))

        yield call


async def _dial(url: str) -> ClientConnection:
    return await connect(url, proxy=None, open_timeout=DEADLINE)


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_the_configuration_as_it_is_shipped(secure: bool, tmp_path: Path) -> None:
    """Even a warning fails it (-dW). The user it names is Debian's, and needs not be there."""
    program = haproxy()
    assert program is not None
    env = {}
    if secure:
        env["VOICEPOOL_PEM"] = str(_pem(tmp_path)[0])
    text = CONFIGURATION.read_text()
    if os.geteuid() != 0:
        text = "\n".join(line for line in text.splitlines() if not line.endswith(" haproxy"))
    file = tmp_path / "haproxy.cfg"
    file.write_text(text)
    done = subprocess.run(
        [program, "-c", "-dW", "-f", str(file)],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _pem(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """Certificate and key in one file, as HAProxy wants them, and how to trust them."""
    files = Authority(folder).issue()
    pem = folder / "voicepool.pem"
    pem.write_bytes(files.cert.read_bytes() + files.key.read_bytes())
    return pem, files.trust


async def test_every_slot_is_filled_before_anybody_waits(cluster: Cluster, callers: Any) -> None:
    before = cluster.balancer.stats()["BACKEND"]
    calls = await callers(ALL)
    nodes = Counter(await asyncio.gather(*map(node_of, calls)))
    assert nodes == dict.fromkeys(NAMES, SLOTS)
    after = cluster.balancer.stats()["BACKEND"]
    # Each was placed right at once: nobody was sent on, nobody queued.
    for count in ("wretr", "wredis", "qmax"):
        assert after[count] == before[count], count


async def test_who_finds_no_slot_waits_and_is_served(cluster: Cluster, callers: Any) -> None:
    first = await callers(ALL)
    await asyncio.gather(*map(node_of, first))
    second = asyncio.create_task(callers(ALL))
    await asyncio.to_thread(
        cluster.until, lambda stats: int(stats["BACKEND"]["qcur"]) == ALL, "queued everybody"
    )
    # All slots come free at once, before a single replacement is warm: the nodes hold the callers.
    await asyncio.gather(*(call.close() for call in first))
    nodes = Counter(await asyncio.gather(*map(node_of, await second)))
    assert nodes == dict.fromkeys(NAMES, SLOTS)
    for name in NAMES:
        assert int(cluster.balancer.stats()[name]["smax"]) == SLOTS


async def test_a_caller_who_hangs_up_while_waiting_takes_no_slot(
    cluster: Cluster, callers: Any
) -> None:
    first = await callers(ALL)
    await asyncio.gather(*map(node_of, first))
    before = cluster.balancer.stats()
    gone = cluster.balancer.said().count(" CQ-- ")  # "client, while queued"
    waiting = asyncio.create_task(_dial(cluster.url))

    def queued(stats: dict[str, dict[str, str]]) -> bool:
        return int(stats["BACKEND"]["qcur"]) == 1

    def hung_up(stats: dict[str, dict[str, str]]) -> bool:
        return cluster.balancer.said().count(" CQ-- ") == gone + 1

    await asyncio.to_thread(cluster.until, queued, "queued the caller")
    waiting.cancel()
    await asyncio.to_thread(cluster.until, hung_up, "noticed it")
    after = cluster.balancer.stats()
    assert after["BACKEND"]["qcur"] == "0"
    for name in NAMES:
        assert after[name]["stot"] == before[name]["stot"]


async def test_the_queue_is_bounded_and_says_so(cluster: Cluster, callers: Any) -> None:
    calls = await callers(ALL)
    await asyncio.gather(*map(node_of, calls))
    assert cluster.balancer.ask("/readyz")[0] == 200
    second = asyncio.create_task(callers(ALL))
    await asyncio.to_thread(
        cluster.until, lambda stats: int(stats["BACKEND"]["qcur"]) == ALL, "queued everybody"
    )
    with pytest.raises(InvalidStatus) as refused:
        await connect(cluster.url, proxy=None)
    response = refused.value.response
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) > 0
    assert response.body is not None
    assert json.loads(response.body)["error"]["code"] == "full"
    assert cluster.balancer.ask("/readyz")[0] == 503
    await asyncio.gather(*(call.close() for call in calls))
    await asyncio.gather(*map(node_of, await second))


async def test_a_wait_that_lasts_too_long_is_refused(cluster: Cluster, callers: Any) -> None:
    calls = await callers(ALL)
    await asyncio.gather(*map(node_of, calls))
    hasty = cluster.balance({"timeout queue 8s": "timeout queue 100ms"})
    cluster.until_status("node1", "UP", hasty)
    for name in NAMES:
        hasty.command(f"set server calls/{name} state drain")
    hasty.command("set server calls/node1 state ready")
    hasty.command("set maxconn server calls/node1 1")
    url = "ws://{}:{}/echo".format(*hasty.address)
    # The node is full: it holds the first of them and refuses him; the second waits here meanwhile.
    first = asyncio.create_task(_dial(url))
    await asyncio.to_thread(
        cluster.until, lambda stats: int(stats["node1"]["scur"]) == 1, "sent the first", hasty
    )
    with pytest.raises(InvalidStatus) as refused:
        await connect(url, proxy=None, open_timeout=DEADLINE)
    assert refused.value.response.status_code == 503
    assert refused.value.response.body is not None
    assert json.loads(refused.value.response.body)["error"]["code"] == "timeout"
    first.cancel()


async def test_callers_keep_their_addresses_and_cannot_choose_one(
    cluster: Cluster, callers: Any
) -> None:
    async with connect(
        cluster.url, proxy=None, additional_headers={"X-Forwarded-For": "203.0.113.9"}
    ) as client:
        _, address, _, _ = json.loads(await client.recv())["caller"]
    assert address == "127.0.0.1"


def test_what_the_callers_port_says_of_itself(cluster: Cluster) -> None:
    status, _, body = cluster.balancer.ask("/healthz")
    assert (status, json.loads(body)) == (200, {"status": "alive"})
    assert cluster.balancer.ask("/status")[0] == 404
    assert cluster.balancer.ask("/metrics")[0] == 404
    status, _, body = cluster.balancer.ask("/nothing")
    assert status == 404
    assert json.loads(body)["error"]["code"] == "not_found"  # by a node


async def test_the_operator_can_ask_every_node_although_all_slots_are_taken(
    cluster: Cluster, callers: Any
) -> None:
    calls = await callers(ALL)
    await asyncio.gather(*map(node_of, calls))
    for name in NAMES:
        status, _, body = cluster.balancer.ask(f"/{name}/status", operator=True)
        assert status == 200
        assert json.loads(body)["server"]["url"] == cluster.nodes[name].url
    status, _, body = cluster.balancer.ask("/metrics", operator=True)
    assert status == 200
    assert 'haproxy_server_status{proxy="calls",server="node1",state="UP"} 1' in body
    assert cluster.balancer.ask("/haproxy", operator=True)[0] == 200


async def test_tls(cluster: Cluster, tmp_path: Path) -> None:
    pem, trust = _pem(tmp_path)
    balancer = cluster.balance({":443 ssl": f"127.0.0.1:{(port := free_port())} ssl"}, pem=pem)
    cluster.until_status("node1", "UP", balancer)
    async with connect(f"wss://127.0.0.1:{port}/echo", ssl=trust, proxy=None) as client:
        await client.recv()
        await client.send("private")
        assert await client.recv() == "private"
    status, headers, _ = balancer.ask("/", Host="voice.example.org")
    assert status == 308
    assert headers["location"] == "https://voice.example.org/"


async def test_a_killed_node_cuts_its_own_callers_and_refuses_nobody(cluster: Cluster) -> None:
    crowd = await lose_a_node(cluster, ALL)
    verdicts = crowd.verdicts()
    assert verdicts["refused"] == 0, crowd.troubles()
    assert 1 <= verdicts["cut"] <= SLOTS
    assert {call.node for call in crowd.troubles()} <= {"node2", ""}


async def test_a_node_that_hangs_cuts_and_refuses_nobody(cluster: Cluster) -> None:
    crowd = await hang_a_node(cluster, ALL)
    assert crowd.troubles() == []


async def test_an_upgrade_of_all_nodes_cuts_and_refuses_nobody(cluster: Cluster) -> None:
    crowd = await upgrade_all(cluster, ALL)
    assert crowd.troubles() == []
    assert {call.node for call in crowd.calls} == set(NAMES)


def test_the_calls_of_a_client_secret_go_to_the_node_that_made_it(tmp_path: Path) -> None:
    key = secrets.token_hex(24)
    cluster = Cluster(tmp_path, slots=1, app="", profile="embedded", api_keys=[key])
    try:
        made = [_mint(cluster, form, key) for form in ("client_secrets", "sessions") * 3]
        for number, secret in enumerate(made):
            options: dict[str, Any] = (
                {"additional_headers": {"Authorization": f"Bearer {secret}"}}
                if number % 2
                else {"subprotocols": ["realtime", f"openai-insecure-api-key.{secret}", "beta"]}
            )
            url = "ws://{}:{}/v1/realtime".format(*cluster.balancer.address)
            with sync_connect(url, proxy=None, open_timeout=DEADLINE, **options) as client:
                assert json.loads(client.recv(timeout=DEADLINE))["type"] == "session.created"
    finally:
        cluster.close()


def _mint(cluster: Cluster, form: str, key: str) -> str:
    client = http.client.HTTPConnection(*cluster.balancer.address, timeout=DEADLINE)
    client.request(
        "POST", f"/v1/realtime/{form}", body=b"{}", headers={"Authorization": f"Bearer {key}"}
    )
    made = json.loads(client.getresponse().read())
    client.close()
    secret: str = made["client_secret"]["value"] if "client_secret" in made else made["value"]
    return secret
