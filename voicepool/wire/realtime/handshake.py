"""What a client asks for before the first message: by the URL's query and by its headers.

    ?model=NAME                 echoed
    ?intent=transcription       a transcription session
    OpenAI-Beta: realtime=v1    the beta dialect; also as the subprotocol of browsers

Anything else is ignored.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qs

from voicepool.wire.realtime.beta import HEADER, SUBPROTOCOL
from voicepool.wire.realtime.config import DEFAULT_MODEL

MAX_MODEL_NAME = 256
MAX_QUERY_FIELDS = 64


@dataclass(frozen=True, slots=True)
class Handshake:
    """See the module."""

    model: str = DEFAULT_MODEL
    type: Literal["realtime", "transcription"] = "realtime"
    is_beta: bool = False


def read(target: str, headers: Iterable[tuple[str, str]]) -> Handshake:
    """Of a request for `target`, a path with its query. Raises nothing."""
    try:
        query = parse_qs(target.partition("?")[2], max_num_fields=MAX_QUERY_FIELDS)
    except ValueError:
        query = {}
    model = query.get("model", [""])[0]
    known = model.isprintable() and 0 < len(model) <= MAX_MODEL_NAME
    return Handshake(
        model=model if known else DEFAULT_MODEL,
        type="transcription" if "transcription" in query.get("intent", ()) else "realtime",
        is_beta=any(_asks_for_beta(name.lower(), value) for name, value in headers),
    )


def _asks_for_beta(name: str, value: str) -> bool:
    tokens = {token.strip() for token in value.split(",")}
    if name == HEADER[0].lower():
        return HEADER[1] in tokens
    return name == "sec-websocket-protocol" and SUBPROTOCOL in tokens
