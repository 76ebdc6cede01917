"""Golden transcripts of the Realtime protocol, in tests/golden.

    # ...            a comment
    C {...}          the client sends this
    P Name {...}     the pipeline tells of this event ("ms" and "rate" make the samples of a sound)
    R name {...}     the pipeline refuses the last action: a function of errors.py, its arguments
    B                from here on the client hears the beta dialect
    A ...            the protocol wants this done
    S {...}          the server sends this

C, P, R and B lines are written by hand. `REWRITE_GOLDEN=1 pytest tests/test_wire_golden.py` writes
the A and S lines anew; read the difference before it is committed.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.realtime import BETA_MODELS, Wire, validate
from voicepool import events
from voicepool.wire import actions
from voicepool.wire.realtime import errors
from voicepool.wire.realtime.audio import MU_LAW
from voicepool.wire.realtime.responses import Wishes

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.txt"))


def pipeline_event(text: str) -> Any:
    name, _, fields = text.partition(" ")
    values = json.loads(fields)
    if name == "ResponseAudio":
        count = values.pop("ms") * values["rate"] // 1000
        return events.ResponseAudio(**values, samples=np.full(count, 0.25, np.float32))
    if name == "ResponseStarted":
        request = values["request"]
        asked = MU_LAW if request.pop("format", None) == "pcmu" else None
        wishes = Wishes(request.pop("metadata", None), asked)
        return events.ResponseStarted(
            values["response_id"], events.ResponseRequest(**request, tag=wishes)
        )
    return msgspec.convert(values, getattr(events, name))


def refusal(text: str) -> errors.WireError:
    name, _, arguments = text.partition(" ")
    error = getattr(errors, name)(**json.loads(arguments))
    assert isinstance(error, errors.WireError)
    return error


def brief(value: object) -> str:
    """The repr of an action, without the fields that have their defaults."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return repr(value)
    given = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
    defaults = {
        f.name: f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
        for f in dataclasses.fields(value)
    }
    shown = [f"{k}={brief(v)}" for k, v in given.items() if v != defaults[k]]
    return f"{type(value).__name__}({', '.join(shown)})"


class Player:
    """Plays the hand-written lines of a transcript; yields all the lines that it should have."""

    def __init__(self) -> None:
        self.wire = Wire()
        self.last: actions.Action | None = None

    def play(self, script: str) -> Iterator[str]:
        yield from self.shown(self.wire.protocol.open())
        for line in script.splitlines():
            mark, _, rest = line.partition(" ")
            if mark in ("A", "S"):
                continue
            yield line
            if mark == "B":
                self.wire.models = BETA_MODELS
            elif mark == "C":
                yield from self.shown(self.wire.protocol.receive(rest))
            elif mark == "P":
                yield from self.shown(self.wire.protocol.emit(pipeline_event(rest)))
            elif mark == "R":
                assert self.last is not None
                yield from self.shown(self.wire.protocol.refuse(self.last, refusal(rest)))

    def shown(self, wanted: list[actions.Action]) -> Iterator[str]:
        for action in wanted:
            if isinstance(action, actions.Send):
                self.wire.brackets.see(validate(action.data, self.wire.models))
                yield f"S {action.data.decode()}"
                continue
            self.last = action
            yield f"A {brief(action)}"
            if isinstance(action, actions.InsertItem):
                yield from self.shown(self.wire.protocol.inserted(action))
            elif isinstance(action, actions.TruncateItem):
                yield from self.shown(self.wire.protocol.truncated(action, "It is"))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    script = path.read_text()
    player = Player()
    played = "\n".join(player.play(script)) + "\n"
    if os.environ.get("REWRITE_GOLDEN"):
        path.write_text(played)
    assert played == script
    assert not player.wire.brackets.open


def test_there_are_transcripts() -> None:
    assert len(GOLDEN) >= 8
