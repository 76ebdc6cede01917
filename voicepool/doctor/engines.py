"""Looks whether engines would find what they need: `python -m voicepool.doctor.engines`.

In a process of its own, see `child`, because it imports engines and their libraries.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, Final

import msgspec

from voicepool.doctor.child import Child, Desk
from voicepool.doctor.facts import Checked

MODULE: Final = "voicepool.doctor.engines"
DEADLINE: Final = 60.0
"""Seconds for all that are asked about at once."""
PROBE_DEADLINE: Final = 330.0
"""The same where a model server may have to load its model before it is tried."""


class Wanted(msgspec.Struct, frozen=True):
    """An engine to look at: its stage, and its table with `engine` and all options."""

    stage: str
    table: dict[str, Any]


class Request(msgspec.Struct, frozen=True):
    wanted: list[Wanted]
    callers: int
    """How many are to talk at once."""
    probe: bool
    """Whether to have a model server answer them."""


class Look:
    """Children at work, one after another: the next one where one has died of an engine."""

    def __init__(self, wanted: Sequence[Wanted], callers: int, *, probe: bool) -> None:
        self._wanted = list(wanted)
        self._callers = callers
        self._probe = probe
        self._child = self._start(self._wanted)

    def _start(self, wanted: list[Wanted]) -> Child[Checked]:
        request = Request(wanted, self._callers, self._probe)
        return Child(MODULE, request, Checked, PROBE_DEADLINE if self._probe else DEADLINE)

    def results(self) -> list[Checked]:
        found: list[Checked] = []
        while True:
            with closing(self._child) as child:
                answers, ending = child.answers()
            found += answers
            if len(found) < len(self._wanted):
                found.append(Checked("fault", f"the check {ending or 'gave no answer'}"))
            if len(found) == len(self._wanted):
                return found
            self._child = self._start(self._wanted[len(found) :])

    def close(self) -> None:
        self._child.close()


# --- in the child ----------------------------------------------------------------------------


def check(stage: str, table: Mapping[str, Any], callers: int, *, probe: bool) -> Checked:
    """Judge one engine as a start would."""
    from voicepool.engines import registry
    from voicepool.engines.base import Advising, Checking
    from voicepool.errors import ConfigError, EngineError, EngineUnavailable

    try:
        engine = registry.make(stage, table)
        if isinstance(engine, Checking):
            engine.check()
        else:
            engine.preload()
        at_once = engine.measure_parallelism(callers) if probe and _measures(engine) else None
    except ConfigError as error:
        return Checked("config", str(error))
    except EngineUnavailable as error:
        return Checked("missing", str(error))
    except EngineError as error:
        return Checked("away", str(error))
    except Exception as error:  # noqa: BLE001 - libraries raise anything
        return Checked("fault", f"the check failed with {type(error).__name__}: {error}")
    advice = tuple(engine.advise(callers)) if isinstance(engine, Advising) else ()
    return Checked("ready", "", advice, at_once)


def _measures(engine: Any) -> bool:
    return hasattr(engine, "measure_parallelism")


def _answers(request: Request) -> Iterator[Checked]:
    for wanted in request.wanted:
        yield check(wanted.stage, wanted.table, request.callers, probe=request.probe)


def main() -> None:
    desk = Desk()
    for answer in _answers(desk.request(Request)):
        desk.tell(answer)


if __name__ == "__main__":
    main()
