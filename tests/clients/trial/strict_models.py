"""Holds recorded events of the server to the models of the frameworks that validate strictly:
strict_models.py FILE..., each a dialogue of tests/golden."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from agents.realtime.openai_realtime import get_server_event_type_adapter
from pipecat.services.openai.realtime.events import parse_server_event

from tests.clients.trial.caller import tell

Event = dict[str, Any]


BEYOND = {
    # The beta dialect; rates of PCM that OpenAI does not have.
    "openai-agents": {"beta", "beta_transcription", "formats"},
    # The same; and sessions that only transcribe, and items of MCP servers.
    "pipecat-ai": {
        "beta",
        "beta_transcription",
        "formats",
        "transcription_session",
        "unusual_items",
    },
}
"""Package -> the dialogues that it cannot lead."""


def sent(paths: list[Path]) -> Iterator[Event]:
    """What the server said in these dialogues."""
    for path in paths:
        for line in path.read_text().splitlines():
            if line.startswith("S "):
                yield json.loads(line[2:])


def of_pipecat(event: Event) -> None:
    """As Pipecat reads it. It cannot say some settings, and then need not read them."""
    session = event.get("session", {})
    transcription = session.get("audio", {}).get("input", {}).get("transcription") or {}
    if "delay" in transcription or isinstance(session.get("tool_choice"), dict):
        return
    parse_server_event(json.dumps(event))


def of_agents(event: Event) -> None:
    """As openai-agents reads it: a null previous_item_id is made "" first, by itself too."""
    if event.get("previous_item_id", "") is None:
        event = {**event, "previous_item_id": ""}
    get_server_event_type_adapter().validate_python(event)


def check(package: str, paths: list[Path], read: Callable[[Event], None]) -> None:
    print(json.dumps({"package": package, "version": version(package)}))
    events = list(sent([path for path in paths if path.stem not in BEYOND[package]]))
    wrong = []
    for event in events:
        try:
            read(event)
        except Exception as error:  # noqa: BLE001 (Pipecat raises no other)
            wrong.append(f"{event['type']}: {str(error)[:300]}")
    detail = f"{len(events)} recorded events of {len({each['type'] for each in events})} types"
    tell("strict models", not wrong, "; ".join(wrong) or detail)


def main() -> None:
    paths = [Path(path) for path in sys.argv[1:]]
    check("pipecat-ai", paths, of_pipecat)
    check("openai-agents", paths, of_agents)


if __name__ == "__main__":
    main()
