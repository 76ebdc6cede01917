"""The npm packages `openai` and `@openai/agents-realtime`, unmodified, against a running server."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.clients import javascript
from tests.clients import sayings as sayings_of_callers
from tests.clients.javascript import Conversation, node, secure_server
from tests.clients.trial.caller import RATE
from tests.pools import PoolServer
from tests.realtime import Brackets, validate
from tests.servers import speech_server

__all__ = ["node", "secure_server", "speech_server"]

PAUSE = 5.0
"""Seconds of silence after a saying: more than the longest that ends a turn by semantic VAD."""
WHOLE_STORY = 1_000
"""Characters that it has at least."""
SAYINGS = {"color": "what is your favorite color", "stop": "please stop talking now"}


@pytest.fixture(scope="module")
def sayings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of WAV files: what a caller says."""
    folder = tmp_path_factory.mktemp("sayings")
    sayings_of_callers.write(folder, SAYINGS, pause=PAUSE)
    return folder


@pytest.fixture(scope="module")
def sdk(secure_server: tuple[PoolServer, Path], sayings: Path) -> Conversation:
    """A conversation by the package `openai`, which speaks TLS unless it is made not to."""
    return converse_securely("sdk.mjs", *secure_server, sayings)


@pytest.fixture(scope="module", params=["plain", "tls"])
def agents(request: pytest.FixtureRequest, node: None, sayings: Path) -> Conversation:
    """A conversation by the package `@openai/agents-realtime`."""
    if request.param == "tls":
        secure, ca = request.getfixturevalue("secure_server")
        return converse_securely("agents.mjs", secure, ca, sayings)
    server: PoolServer = request.getfixturevalue("speech_server")
    return javascript.converse("agents.mjs", http_url(server), str(sayings))


def converse_securely(script: str, server: PoolServer, ca: Path, sayings: Path) -> Conversation:
    arguments = (http_url(server), str(sayings))
    return javascript.converse(script, *arguments, NODE_EXTRA_CA_CERTS=str(ca))


def http_url(server: PoolServer) -> str:
    return server.url.replace("ws", "http", 1)  # wss becomes https


def check_events(conversation: Conversation) -> None:
    """Each is one that the models know, and the script came to its end without a word."""
    brackets = Brackets()
    for event in conversation.events:
        brackets.see(validate(event))
    assert not brackets.open
    assert conversation.status == 0, conversation.stderr
    assert conversation.stderr == ""
    assert "closed" in conversation.facts


def test_sdk_is_sent_what_the_models_know(sdk: Conversation) -> None:
    check_events(sdk)


def test_agents_sdk_is_sent_what_the_models_know(agents: Conversation) -> None:
    check_events(agents)


def test_sdk_configures_its_session(sdk: Conversation) -> None:
    assert sdk["connected"] == {"model": "gpt-realtime", "instructions": "Be brief."}


def test_sdk_spoken_turn(sdk: Conversation) -> None:
    turn = sdk["spoken turn"]
    assert turn["transcript"] == SAYINGS["color"]
    assert turn["status"] == "completed"
    assert re.search("green|purple", turn["reply"], re.IGNORECASE)
    assert turn["bytes"] > RATE


def test_sdk_text_turn(sdk: Conversation) -> None:
    assert "49" in sdk["text turn"]["text"]
    assert sdk["text turn"]["status"] == "completed"


def test_sdk_tool_call(sdk: Conversation) -> None:
    call = sdk["tool call"]
    assert (call["name"], call["arguments"]) == ("count_waiting_callers", "{}")
    assert "3" in call["reply"]


def test_sdk_barge_in(sdk: Conversation) -> None:
    told = sdk["barge-in"]
    assert told["left"].startswith("Once")
    assert len(told["left"]) < 60
    assert told["status"] in ("cancelled", "completed")
    assert told["answered"] == "completed"


def test_sdk_out_of_band_response(sdk: Conversation) -> None:
    assert sdk["out of band"]["metadata"] == {"topic": "name"}
    assert "phrasebook" in sdk["out of band"]["reply"]


def test_sdk_mistakes_are_typed_errors(sdk: Conversation) -> None:
    mistake = sdk["mistake"]
    assert mistake["typed"]
    assert (mistake["code"], mistake["cause"]) == ("response_cancel_not_active", "mine")
    assert mistake["message"].startswith("Cancellation failed")
    assert mistake["errors"] == 1, "the only one of the conversation"
    assert sdk["closed"] == {"code": 1000}


def test_agents_sdk_configures_its_session(agents: Conversation) -> None:
    connected = agents["connected"]
    assert connected["instructions"] == "Be brief."
    assert connected["tools"] == ["count_waiting_callers"]
    # Without it the SDK sends a cancellation of its own whenever the caller speaks.
    assert connected["turns"]["interrupt_response"] is True
    assert connected["errors"] == 0


def test_agents_sdk_spoken_turn(agents: Conversation) -> None:
    turn = agents["spoken turn"]
    *_, heard, reply = turn["history"]
    assert (heard["role"], heard["text"]) == ("user", SAYINGS["color"])
    assert (reply["role"], reply["status"]) == ("assistant", "completed")
    assert re.search("green|purple", reply["text"], re.IGNORECASE)
    assert turn["bytes"] > RATE
    assert turn["errors"] == 0


def test_agents_sdk_text_turn(agents: Conversation) -> None:
    assert "49" in agents["text turn"]["text"]
    *_, typed, reply = agents["text turn"]["history"]
    assert (typed["role"], reply["role"]) == ("user", "assistant")
    assert reply["text"] == agents["text turn"]["text"]


def test_agents_sdk_runs_its_tool(agents: Conversation) -> None:
    call = agents["tool call"]
    assert call["name"] == "count_waiting_callers"
    assert call["result"] == call["output"] == '{"waiting":3}'
    assert "3" in call["reply"]


def test_agents_sdk_barge_in(agents: Conversation) -> None:
    left = agents["barge-in"]["left"]
    assert left.startswith("Once")
    assert len(left) < WHOLE_STORY / 2, "the SDK truncates by its clock"
    assert agents["barge-in"]["errors"] == 0


def test_agents_sdk_hands_over_to_another_agent(agents: Conversation) -> None:
    assert agents["other agent"] == {"instructions": "Be polite.", "errors": 0}


def test_agents_sdk_tells_of_mistakes(agents: Conversation) -> None:
    assert agents["mistake"] == {"code": "item_delete_invalid_item_id", "cause": "mine"}


def test_pages_in_browsers_call_with_a_client_secret(
    node: None, start_pool: Callable[..., PoolServer], tmp_path: Path
) -> None:
    files = Authority(tmp_path).issue()
    server = start_pool(wait=False, app="", workers=2, api_keys=["sk-test"], **files.settings)
    server.trust = files.trust
    server.stage("serving")
    told = javascript.converse(
        "browser.mjs", http_url(server), OPENAI_API_KEY="sk-test", NODE_EXTRA_CA_CERTS=str(files.ca)
    )
    assert told["secret"] == {"prefix": "ek_", "instructions": "Be brief."}
    # The one with the key in it must not be the one selected.
    assert told["sdk"]["protocol"] == told["agents sdk"]["protocol"] == "realtime"
    assert told["sdk"]["instructions"] == "Be brief."
    assert "49" in told["sdk"]["text"]
    assert told["models"] == {"names": ["voicepool"]}
    assert told.status == 0, told.stderr


def test_the_lock_file_names_no_registry() -> None:
    lock = (javascript.FOLDER / "package-lock.json").read_text()
    assert '"resolved"' not in lock


def test_sdk_calls_again_when_its_call_was_too_long(
    node: None, start_pool: Callable[..., PoolServer]
) -> None:
    server = start_pool(app="", workers=2, call_limit=4.0)
    told = javascript.converse("reconnect.mjs", http_url(server))
    assert told["error"] == {"code": "session_expired"}
    assert told["reconnecting"] == {"code": 1001}
    assert told["called again"] == {"anew": True}
    assert "49" in told["answered"]["text"]
    assert told["closed"] == {"code": 1000}
    for event in told.events:
        validate(event)


def test_sdk_calls_until_a_line_is_free(node: None, start_pool: Callable[..., PoolServer]) -> None:
    """It takes the refusal of a full server for one that passes."""
    server = start_pool(app="", workers=1, max_connections=1, spare=1, max_waiting=0)
    told = javascript.converse("busy.mjs", http_url(server))
    assert "refused" in told.facts
    assert told["served"] == {"model": "gpt-realtime"}
    assert told["closed"] == {"code": 1000}
    assert told.status == 0, told.stderr
