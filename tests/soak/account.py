"""What became of every call, by the callers' own word, and whether the server's books agree.

Pure.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.soak.plan import Part


class Outcome(enum.StrEnum):
    """How a call ended for its caller. Every call has exactly one."""

    ANSWERED = "answered"
    """All that was to be answered was, and the call was closed in good order."""
    TOLD = "told that the model is away"
    """The same, but for replies that failed with a typed error while the model server was away;
    after each the session was usable."""
    REFUSED = "refused"
    """503, with Retry-After and a reason."""
    CUT = "cut off"
    """Its connection broke, and the soak had shot its worker."""
    HUNG_UP = "hung up by itself"
    NO_CALL = "was no call"
    """An HTTP request, or none."""
    WRONG = "wrong"
    """Anything else: a fault."""


@dataclass(frozen=True, slots=True)
class Ended:
    """One call of the generator, when it was over."""

    part: Part
    outcome: Outcome
    asked: bool
    """It sent a whole WebSocket request, so the server has to count it."""
    opened: bool = False
    """It knows that it had a worker: it saw the 101, or the worker was shot before it could."""
    detail: str = ""
    """A refusal's reason; of what is wrong, why."""


@dataclass(frozen=True, slots=True)
class Books:
    """What the server's `/status` says, and whom the soak has shot."""

    totals: Mapping[str, Any]
    waiting: int
    callers: int
    shot_in_call: int
    """Workers shot that had a caller's connection."""
    still_open: int = 0
    """Calls of the generator that go on."""


def outcomes(ended: Sequence[Ended]) -> Counter[Outcome]:
    return Counter(call.outcome for call in ended)


def judge(started: int, ended: Sequence[Ended], books: Books) -> list[str]:
    """What is wrong with the account; nothing, if all is well."""
    return [*_generator(started, ended, books), *_server(ended, books)]


def _generator(started: int, ended: Sequence[Ended], books: Books) -> Iterator[str]:
    over = len(ended) + books.still_open
    if started != over:
        yield f"{started} calls were started, and {over} are accounted for"
    for call in ended:
        if call.outcome is Outcome.WRONG:
            yield f"a caller who {call.part}: {call.detail}"
    cut = outcomes(ended)[Outcome.CUT]
    if cut > books.shot_in_call:
        yield f"{cut} calls were cut off, and {books.shot_in_call} workers in a call were shot"


def _server(ended: Sequence[Ended], books: Books) -> Iterator[str]:
    totals = books.totals
    refused: Mapping[str, int] = totals["refused"]
    refusals = sum(refused.values())
    asked = sum(call.asked for call in ended) + books.still_open
    if totals["arrived"] != asked:
        yield f"the server counted {totals['arrived']} callers, and {asked} asked for a call"
    ends = totals["accepted"] + refusals + totals["gone"] + books.waiting
    if totals["arrived"] != ends:
        yield f"{totals['arrived']} callers arrived at the server, and {ends} are accounted for"
    over = totals["completed"] + totals["lost"] + books.callers
    if totals["accepted"] != over:
        yield f"the server accepted {totals['accepted']} calls, and {over} are accounted for"
    if totals["lost"] > books.shot_in_call:
        yield f"{totals['lost']} calls were lost, and {books.shot_in_call} workers in one were shot"
    yield from _both(ended, books, refused)


def _both(ended: Sequence[Ended], books: Books, refused: Mapping[str, int]) -> Iterator[str]:
    """Callers and server saw the same. Who hung up before an answer came knows of none: each of
    these is a gone one, a refused one or an accepted one of the server's."""
    blind = sum(call.part is Part.IMPATIENT and not call.opened for call in ended)
    told = Counter(call.detail for call in ended if call.outcome is Outcome.REFUSED)
    opened = sum(call.opened for call in ended) + books.still_open
    unseen = [
        books.totals["accepted"] - opened,
        books.totals["gone"],
        *(refused.get(reason, 0) - told[reason] for reason in {*refused, *told}),
    ]
    if min(unseen) < 0 or sum(unseen) != blind:
        yield (
            f"callers saw {opened} calls and the refusals {dict(told)}, {blind} saw nothing; the "
            f"server says {books.totals['accepted']} accepted, {books.totals['gone']} gone and "
            f"refused {dict(refused)}"
        )
