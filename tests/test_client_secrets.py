"""Client secrets from end to end: made with a key, good for calls and little more,
as OpenAI's clients and browsers use them."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI
from openai.types.beta.realtime import SessionCreateResponse
from openai.types.beta.realtime.transcription_session import TranscriptionSession
from openai.types.realtime import ClientSecretCreateResponse
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection
from websockets.typing import Subprotocol

from tests.pools import DEADLINE, PoolServer, hello
from tests.rawhttp import Answer, exchange, parse, read_all
from tests.scraping import scrape
from voicepool.keys import plain
from voicepool.request import MAX_BODY

Start = Callable[..., PoolServer]

KEY = "a-key-that-is-long-enough"
SECRETS = "/v1/realtime/client_secrets"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PoolServer]:
    """Speech, with a key, and a page elsewhere that may call."""
    server = PoolServer(
        tmp_path_factory.mktemp("runtime"),
        app="",
        workers=1,
        spare=1,
        api_keys=[KEY],
        allowed_origins=["https://page.example"],
        head_timeout=3.0,
        max_heads=4,
    )
    try:
        server.stage("serving")
        yield server
    finally:
        server.close()


@pytest.fixture
async def sdk(server: PoolServer) -> AsyncIterator[AsyncOpenAI]:
    host, port = server.address
    client = AsyncOpenAI(api_key=KEY, base_url=f"http://{host}:{port}/v1", max_retries=0)
    yield client
    await client.close()


def ask(server: PoolServer, path: str, body: bytes = b"", *headers: bytes) -> Answer:
    """POST with the key."""
    lines = (
        b"POST " + path.encode() + b" HTTP/1.1",
        b"Host: localhost",
        b"Authorization: Bearer " + KEY.encode(),
        b"Content-Length: " + str(len(body)).encode(),
        *headers,
    )
    with server.socket() as client:
        return exchange(client, b"\r\n".join((*lines, b"", body)))


def make(server: PoolServer, session: dict[str, Any] | None = None) -> str:
    answer = ask(server, SECRETS, json.dumps({"session": session}).encode())
    assert answer.status == 200, answer.body
    value: str = answer.json["value"]
    return value


def greeting(client: ClientConnection) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(client.recv(DEADLINE))
    assert event["type"] == "session.created"
    session: dict[str, Any] = event["session"]
    return session


def call(server: PoolServer, key: str, *subprotocols: str) -> ClientConnection:
    """As a browser: the key is one more subprotocol."""
    offered = ["realtime", *subprotocols, f"openai-insecure-api-key.{key}"]
    client = server.call("/v1/realtime?model=any", subprotocols=[Subprotocol(s) for s in offered])
    assert client.subprotocol == "realtime"
    return client


# --- made by the SDK -------------------------------------------------------------------------


async def test_the_sdk_makes_one_and_calls_with_it(server: PoolServer, sdk: AsyncOpenAI) -> None:
    made = await sdk.realtime.client_secrets.create(
        expires_after={"anchor": "created_at", "seconds": 60},
        session={"type": "realtime", "instructions": "Be brief.", "model": "gpt-realtime"},
    )
    ClientSecretCreateResponse.model_validate(made.model_dump(), strict=True)
    assert made.value.startswith("ek_")
    assert made.session.type == "realtime"
    assert made.session.instructions == "Be brief."
    browser = sdk.with_options(api_key=made.value)
    for _ in range(2):  # as often as one likes
        async with browser.realtime.connect(model="gpt-realtime") as connection:
            event = await connection.recv()
            assert event.type == "session.created"
            assert event.session.type == "realtime"
            assert event.session.instructions == "Be brief."


async def test_transcription_session(sdk: AsyncOpenAI) -> None:
    made = await sdk.realtime.client_secrets.create(session={"type": "transcription"})
    ClientSecretCreateResponse.model_validate(made.model_dump(), strict=True)
    async with sdk.with_options(api_key=made.value).realtime.connect(model="any") as connection:
        event = await connection.recv()
        assert event.type == "session.created"
        assert event.session.type == "transcription"


def test_without_a_body(server: PoolServer) -> None:
    answer = ask(server, SECRETS)
    assert answer.status == 200
    assert ClientSecretCreateResponse.model_validate(answer.json)


def test_beta_dialect(server: PoolServer) -> None:
    answer = ask(server, "/v1/realtime/sessions", b'{"voice":"alloy","instructions":"Hi."}')
    made = SessionCreateResponse.model_validate(answer.json)
    assert (made.voice, made.instructions) == ("alloy", "Hi.")
    with call(server, made.client_secret.value) as client:
        assert greeting(client)["instructions"] == "Hi."
    body = b'{"input_audio_transcription":{"model":"whisper-1"}}'
    answer = ask(server, "/v1/realtime/transcription_sessions", body)
    heard = TranscriptionSession.model_validate(answer.json)
    with call(server, heard.client_secret.value) as client:
        assert greeting(client)["type"] == "transcription"


# --- what a secret opens ---------------------------------------------------------------------


def test_a_secret_opens_calls_and_the_counts_and_nothing_else(server: PoolServer) -> None:
    secret = make(server)
    for method, path in (
        ("POST", SECRETS),
        ("POST", "/v1/realtime/sessions"),
        ("GET", "/metrics"),
        ("GET", "/v1/models"),
    ):
        code, body = server.get(path, method, Authorization=f"Bearer {secret}")
        assert (code, body["error"]["code"]) == (401, "invalid_api_key")
    code, body = server.get("/status", Authorization=f"Bearer {secret}")
    assert (code, body.keys()) == (200, {"pool"})
    _, seen_by_key = server.get("/status", Authorization=f"Bearer {KEY}")
    assert body["pool"].keys() == seen_by_key["pool"].keys()  # counts themselves may move on
    with call(server, secret, "openai-organization.o", "openai-project.p") as client:
        assert greeting(client)["type"] == "realtime"


def test_expired_and_unknown_secrets(server: PoolServer) -> None:
    for secret in ("ek_unknown", "ek_", "unknown"):
        with pytest.raises(InvalidStatus) as refused:
            call(server, secret)
        assert refused.value.response.status_code == 401
        body = json.loads(refused.value.response.body or b"")
        assert body["error"]["code"] == "invalid_api_key"
        code, body = server.get("/status", Authorization=f"Bearer {secret}")
        assert (code, body["error"]["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize(
    "header", [("Authorization", f"Bearer {KEY}"), ("api-key", KEY)], ids=["bearer", "api-key"]
)
def test_keys_wherever_clients_carry_them(server: PoolServer, header: tuple[str, str]) -> None:
    with server.call("/realtime", additional_headers=dict([header])) as client:
        assert greeting(client)["type"] == "realtime"
        assert client.subprotocol is None


def test_key_as_a_subprotocol(server: PoolServer) -> None:
    with call(server, KEY, "openai-agents-sdk.0.20.0") as client:
        assert greeting(client)["type"] == "realtime"


# --- mistakes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{", None),
        (b'{"expires_after":{"seconds":9}}', "expires_after.seconds"),
        (b'{"session":{"type":"other"}}', "session.type"),
        (b'{"session":{"audio":{"output":{"speed":9}}}}', "session.audio.output.speed"),
    ],
)
def test_bad_sessions(server: PoolServer, body: bytes, param: str | None) -> None:
    answer = ask(server, SECRETS, body)
    assert answer.status == 400
    assert answer.error["param"] == param
    assert answer.error["type"] == "invalid_request_error"


def test_bad_session_of_the_beta_dialect(server: PoolServer) -> None:
    answer = ask(server, "/v1/realtime/sessions", b'{"input_audio_format":"mp3"}')
    assert (answer.status, answer.error["param"]) == (400, "input_audio_format")


def test_large_sessions(server: PoolServer) -> None:
    fits = json.dumps({"session": {"instructions": "x" * 39_000}}).encode()
    assert ask(server, SECRETS, fits).status == 200
    too_large = json.dumps({"session": {"instructions": "x" * 60_000}}).encode()
    answer = ask(server, SECRETS, too_large)
    assert (answer.status, answer.error["code"]) == (400, "string_above_max_length")
    answer = ask(server, SECRETS, b" " * (MAX_BODY + 1))
    assert (answer.status, answer.error["code"]) == (413, "request_too_large")


def test_no_key(server: PoolServer) -> None:
    code, body = server.get(SECRETS, "POST")
    assert (code, body["error"]["code"]) == (401, "invalid_api_key")


def test_other_methods(server: PoolServer) -> None:
    code, body = server.get(SECRETS, "GET", Authorization=f"Bearer {KEY}")
    assert (code, body["error"]["code"]) == (405, "method_not_allowed")
    with server.socket() as client:
        answer = exchange(client, HEAD.replace(b"POST", b"HEAD") + b"\r\n\r\n")
    assert (answer.status, answer.body) == (405, b"")


# --- bodies ----------------------------------------------------------------------------------

HEAD = b"\r\n".join(
    (
        b"POST " + SECRETS.encode() + b" HTTP/1.1",
        b"Host: localhost",
        b"Authorization: Bearer " + KEY.encode(),
    )
)


def test_chunked_body_in_pieces(server: PoolServer) -> None:
    with server.socket() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in HEAD + b"\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n":
            client.sendall(bytes([byte]))
        assert parse(read_all(client)).status == 200


def test_client_that_offers_another_protocol(server: PoolServer) -> None:
    """As Java's does with its first request (RFC 7540, 3.2): the offer may be ignored."""
    lines = (HEAD, b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAM")
    with server.socket() as client:
        answer = exchange(client, b"\r\n".join((*lines, b"Content-Length: 2", b"", b"{}")))
    assert answer.status == 200


def test_expect_100_continue(server: PoolServer) -> None:
    with server.socket() as client:
        client.sendall(HEAD + b"\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 100 ")
        client.sendall(b"{}")
        assert parse(read_all(client)).status == 200
    with server.socket() as client:  # nobody is told to go on with what will not be taken
        client.sendall(HEAD + b"\r\nContent-Length: 99999\r\nExpect: 100-continue\r\n\r\n")
        assert parse(read_all(client)).status == 413


@pytest.mark.parametrize(
    ("rest", "status"),
    [
        (b"\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"\r\nTransfer-Encoding: chunked\r\n\r\n" + b"fff\r\n" + b" " * 4095 + b"\r\n", 408),
        (b"\r\nContent-Length: 5\r\n\r\n{}", 408),
    ],
)
def test_bodies_that_do_not_come(server: PoolServer, rest: bytes, status: int) -> None:
    with server.socket() as client:
        client.sendall(HEAD + rest)
        assert parse(read_all(client)).status == status


def test_cut_off_body(server: PoolServer) -> None:
    with server.socket() as client:
        client.sendall(HEAD + b"\r\nContent-Length: 5\r\n\r\n{}")
        client.shutdown(socket.SHUT_WR)
        answer = parse(read_all(client))
    assert (answer.status, answer.error["code"]) == (400, "bad_request")


def test_endless_chunks(server: PoolServer) -> None:
    with server.socket() as client:
        client.sendall(HEAD + b"\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.sendall((b"fff\r\n" + b" " * 4095 + b"\r\n") * 20)
        assert parse(read_all(client)).status == 413


def test_oldest_incomplete_body_makes_room(server: PoolServer) -> None:
    clients = [server.socket() for _ in range(6)]
    for client in clients:
        client.sendall(HEAD + b"\r\nContent-Length: 5\r\n\r\n{}")
    statuses = [parse(read_all(client)).status for client in clients]
    for client in clients:
        client.close()
    assert sorted(statuses) == [408] * 4 + [503] * 2


# --- beside secrets --------------------------------------------------------------------------


def test_models(server: PoolServer, sdk: AsyncOpenAI) -> None:
    assert server.get("/v1/models")[0] == 401


async def test_models_as_the_sdk_asks(sdk: AsyncOpenAI) -> None:
    (model,) = [model async for model in await sdk.models.list()]
    assert model.id == "voicepool"
    assert (await sdk.models.retrieve("voicepool")).owned_by == "voicepool"


def test_calls_of_other_kinds(server: PoolServer) -> None:
    with pytest.raises(InvalidStatus) as refused:
        server.call("/v1/realtime?call_id=rtc_1", additional_headers={"api-key": KEY})
    assert refused.value.response.status_code == 404
    assert json.loads(refused.value.response.body or b"")["error"]["code"] == "call_not_found"


def test_pages_elsewhere(server: PoolServer) -> None:
    origin = b"Origin: https://page.example"
    with server.socket() as client:
        asked = b"Access-Control-Request-Method: POST"
        wants = b"Access-Control-Request-Headers: authorization, content-type"
        line = b"OPTIONS " + SECRETS.encode() + b" HTTP/1.1"
        lines = (line, b"Host: localhost", origin, asked, wants, b"", b"")
        answer = exchange(client, b"\r\n".join(lines))
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == "https://page.example"
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert answer.headers["access-control-allow-headers"] == "authorization, content-type"
    answer = ask(server, SECRETS, b"", origin)
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == "https://page.example"
    assert answer.headers["vary"] == "Origin"


def test_pages_that_may_not(server: PoolServer) -> None:
    answer = ask(server, SECRETS, b"", b"Origin: https://evil.example")
    assert (answer.status, answer.error["code"]) == (403, "origin_not_allowed")
    assert "access-control-allow-origin" not in answer.headers


# --- an app of the user's own ----------------------------------------------------------------


def test_what_an_app_makes_of_a_session_reaches_its_call(start_pool: Start) -> None:
    server = start_pool(app="tests.apps.presetting:Presetting", api_keys=[KEY])
    answer = ask(server, SECRETS, b'{"session":{"a":1}}')
    assert answer.json["session"] == {"form": "realtime"}
    with call(server, answer.json["value"]) as client:
        assert client.recv(DEADLINE) == b'stored {"a":1}'
        assert hello(client)["caller"][3] == plain([KEY])[0].fingerprint
    with call(server, KEY) as client:
        assert client.recv(DEADLINE) == b""


def test_what_an_app_refuses(start_pool: Start) -> None:
    admin = "another-that-is-long-enough"
    server = start_pool(app="tests.apps.presetting:Presetting", api_keys=[KEY], admin_keys=[admin])
    refused = ask(server, SECRETS, b'{"session":{"instructions":"!refuse"}}')
    assert (refused.status, refused.error["code"]) == (400, "no")
    assert refused.error["param"] == "session.instructions"
    counted = scrape(server, Authorization=f"Bearer {admin}").of("refusals_total")
    assert counted["invalid_session"] == 1
    for _ in range(40):
        failed = ask(server, SECRETS, b'{"session":{"instructions":"!fault"}}')
        assert (failed.status, failed.error["code"]) == (500, "server_error")
    server.logged("preset failed", error="KeyError")
    assert sum(line["event"] == "preset failed" for line in server.logs) < 30, "counted instead"
    assert "what a client has sent" not in "".join(server.stderr)
    assert ask(server, SECRETS).status == 200


def test_app_without_presets(start_pool: Start) -> None:
    server = start_pool(app="tests.apps.presetting:Plain", api_keys=[KEY])
    assert ask(server, SECRETS).status == 404
    assert server.get("/v1/models", **{"api-key": KEY})[0] == 200


def test_app_on_another_path(start_pool: Start) -> None:
    server = start_pool()
    for path in (SECRETS, "/v1/models"):
        assert server.get(path)[0] == 404


def test_server_without_keys(start_pool: Start) -> None:
    server = start_pool(app="tests.apps.presetting:Presetting")
    answer = ask(server, SECRETS, b'{"session":{}}')
    with call(server, answer.json["value"]) as client:
        assert client.recv(DEADLINE) == b"stored {}"
    with call(server, "any-key") as client:
        assert client.recv(DEADLINE) == b""
    with pytest.raises(InvalidStatus) as refused:
        call(server, "ek_of_another_server")
    assert refused.value.response.status_code == 401


def test_while_the_zygote_is_away(start_pool: Start) -> None:
    server = start_pool(app="tests.apps.presetting:Presetting")
    zygote = server.status()["server"]["zygote"]["pid"]
    os.kill(zygote, signal.SIGSTOP)
    with server.socket() as client:
        client.sendall(HEAD + b"\r\nContent-Length: 0\r\n\r\n")
        server.until(lambda: _read_by_server(client), "read the request")
        os.kill(zygote, signal.SIGKILL)
        answer = parse(read_all(client))
    assert answer.status == 503
    assert "retry-after" in answer.headers
    server.logged("zygote ready")
    server.until_status(lambda s: s["server"]["zygote"]["restarts"] == 1, "had another")
    server.until(lambda: ask(server, SECRETS).status == 200, "made secrets again")


def _read_by_server(client: socket.socket) -> bool:
    """Whether nothing of what was sent is unread at the other end (tcp(7), /proc/net/tcp)."""
    ours, theirs = (f"{end[1]:04X}" for end in (client.getsockname(), client.getpeername()))
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        row = line.split()
        if row[1].endswith(":" + theirs) and row[2].endswith(":" + ours):
            return not int(row[4].split(":")[1], 16)
    return False
