"""Clients over TLS: OpenAI's SDK, and our own commands with what they say of certificates."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from openai.resources.realtime.realtime import AsyncRealtimeConnection
from openai.types.realtime import RealtimeResponse

from tests.certificates import Authority, Files
from tests.pools import PoolServer
from voicepool.cli import main
from voicepool.errors import ExitCode

HELLO = Path(__file__).parent.parent / "examples/hello.wav"
Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Authority(tmp_path_factory.mktemp("certificates")).issue()


@pytest.fixture(scope="module")
def server(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PoolServer]:
    runtime = tmp_path_factory.mktemp("runtime")
    settings: dict[str, Any] = {"app": "", "workers": 1, "spare": 1, **files.settings}
    server = PoolServer(runtime, **settings)
    server.trust = files.trust
    try:
        server.stage("serving")
        yield server
    finally:
        server.close()


async def _until_done(connection: AsyncRealtimeConnection) -> RealtimeResponse:
    async for event in connection:
        if event.type == "response.done":
            return event.response
    raise AssertionError("the call ended before the response")


async def test_the_sdk(server: PoolServer, files: Files) -> None:
    host, port = server.address
    async with (
        DefaultAsyncHttpxClient(verify=files.trust) as http,
        AsyncOpenAI(
            api_key="none", base_url=f"https://{host}:{port}/v1", http_client=http
        ) as client,
    ):
        secret = await client.realtime.client_secrets.create(
            session={"type": "realtime", "output_modalities": ["text"]}
        )
        browser = client.with_options(api_key=secret.value)
        options = {"ssl": files.trust}
        async with browser.realtime.connect(
            model="any",
            websocket_connection_options=options,  # type: ignore[arg-type]
        ) as connection:
            await connection.conversation.item.create(
                item={
                    "type": "message",
                    "role": "user",
                    "content": [{"type": "input_text", "text": "what is two plus two"}],
                }
            )
            await connection.response.create()
            told = await _until_done(connection)
            assert told.status == "completed"
            assert "2 plus 2 is 4" in told.model_dump_json()


def test_talk_and_status(
    server: PoolServer, files: Files, tmp_path: Path, capsys: Captured
) -> None:
    trust = ["--url", server.url, "--cafile", str(files.ca)]
    out = tmp_path / "reply.wav"
    assert main(["talk", str(HELLO), "--fast", "--json", "--out", str(out), *trust]) == ExitCode.OK
    told = json.loads(capsys.readouterr().out)
    assert told["url"] == f"{server.url}/v1/realtime"
    assert told["turns"]
    assert main(["status", "--json", *trust]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out)["server"]["url"] == server.url


@pytest.mark.parametrize("command", [["talk", str(HELLO), "--out", "/dev/null"], ["status"]])
def test_what_they_say(
    server: PoolServer, files: Files, tmp_path: Path, capsys: Captured, command: list[str]
) -> None:
    def complaint(*options: str) -> tuple[int, str]:
        return main([*command, *options]), capsys.readouterr().err

    code, said = complaint("--url", server.url)
    assert code == ExitCode.UNREACHABLE
    assert "is not trusted" in said
    assert "--cafile" in said
    unnamed = server.url.replace("127.0.0.1", "127.1")
    code, said = complaint("--url", unnamed, "--cafile", str(files.ca))
    assert code == ExitCode.UNREACHABLE
    assert said.endswith("; call the server by a name that is in it\n")
    code, said = complaint("--url", server.url.replace("wss", "ws"))
    assert code == ExitCode.UNREACHABLE
    assert "this server speaks TLS" in said
    code, said = complaint("--url", server.url, "--cafile", str(tmp_path / "none"))
    assert (code, "--cafile" in said, "No such file" in said) == (ExitCode.USAGE, True, True)
    empty = tmp_path / "empty"
    empty.touch()
    code, said = complaint("--url", server.url, "--cafile", str(empty))
    assert (code, "no certificates" in said) == (ExitCode.USAGE, True)


def test_tls_with_a_server_that_speaks_none(
    start_pool: Callable[..., PoolServer], capsys: Captured
) -> None:
    plain = start_pool()
    assert main(["status", "--url", plain.url.replace("ws", "wss")]) == ExitCode.UNREACHABLE
    assert "called by ws:// or http://" in capsys.readouterr().err
