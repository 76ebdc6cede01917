"""`voicepool bench call`: how long callers wait for an answer, the more of them there are.

M callers speak the same WAV file to a running server at the pace of speech, as `voicepool talk`
does. Voice to voice is from the end of a caller's words to the first sound of the reply, as it
arrives; its stages are what the protocol's events tell from outside, so any server of the OpenAI
Realtime protocol can be measured.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table

from voicepool.bench.samples import percentile
from voicepool.dialogue import Turn
from voicepool.errors import CallError, ExitCode
from voicepool.status import fetch_pool
from voicepool.talk import Report, TalkOptions, talk

SPREAD_SECONDS = 1.0
"""Callers of a round begin over so long a time: people do not speak in time with each other."""
WARM_SECONDS = 600.0
"""How long the server may take to have a warm worker for each caller of the next round."""
LOOK_SECONDS = 0.5
P95 = 0.95


@dataclass(frozen=True, slots=True)
class Wait:
    """One answered turn, in seconds from the end of the caller's words. Each ends a stage."""

    noticed: float
    """The server has noticed the end of the turn: silence, and the detector."""
    transcript: float
    text: float
    """The reply's first word."""
    sound: float
    """The reply's first sound: voice to voice."""

    @classmethod
    def of(cls, turn: Turn) -> Wait | None:
        """None for a turn that was not answered aloud."""
        reply = turn.reply
        if reply is None or turn.spoke_until is None or reply.first_audio_at is None:
            return None
        sound = reply.first_audio_at - turn.spoke_until
        # What a server does not tell, or tells later, held up nothing: the stage took no time.
        moments = (turn.stopped_at, turn.transcript_at, reply.first_text_at)
        earlier: list[float] = []
        for moment in moments:
            since = earlier[-1] if earlier else 0.0
            if moment is not None:
                since = min(sound, max(since, moment - turn.spoke_until))
            earlier.append(since)
        return cls(earlier[0], earlier[1], earlier[2], sound)

    @property
    def stages(self) -> tuple[float, float, float, float]:
        """Seconds of each: end of turn, recogniser, language model, synthesiser."""
        return (
            self.noticed,
            self.transcript - self.noticed,
            self.text - self.transcript,
            self.sound - self.text,
        )


STAGES = ("end of turn", "transcript", "first word", "first sound")


@dataclass(frozen=True, slots=True)
class Round:
    """What M callers at once experienced."""

    callers: int
    connects: tuple[float, ...]
    """Seconds from `connect()` to the session's first event."""
    waits: tuple[Wait, ...]
    unanswered: int
    """Turns that got no spoken reply."""
    failures: tuple[str, ...]
    """Why calls failed."""

    def voice_to_voice(self, p: float) -> float:
        """A percentile of the waits; infinite where nobody was answered."""
        return percentile([wait.sound for wait in self.waits], p) if self.waits else math.inf

    def fits(self, limit: float) -> bool:
        """Whether every call went well and the 95th percentile stays within `limit` seconds."""
        return not self.failures and not self.unanswered and self.voice_to_voice(P95) <= limit


# --- which rounds to play ----------------------------------------------------------------------


class Ramp:
    """How many callers to try next, to find how many fit. Pure.

    Doubles until it is too many, then halves the difference.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.fits = 0
        """The most callers that are known to fit."""
        self._too_many = most + 1

    @property
    def next(self) -> int | None:
        """None when it is known."""
        if self._too_many - self.fits <= 1:
            return None
        doubled = max(1, 2 * self.fits)
        if self._too_many > self._most and doubled <= self._most:
            return doubled
        if self._too_many > self._most:
            return self._most
        return (self.fits + self._too_many) // 2

    def learn(self, callers: int, fits: bool) -> None:
        if fits:
            self.fits = max(self.fits, callers)
        else:
            self._too_many = min(self._too_many, callers)


# --- playing them ------------------------------------------------------------------------------


async def play(
    options: TalkOptions, callers: int, turns: int, tell: Callable[[str], None]
) -> Round:
    """Let `callers` call at once, again and again until at least `turns` turns were spoken.

    Raises CallError where the server cannot be called at all.
    """
    reports: list[Report] = []
    failures: list[str] = []
    spoken = 0
    while spoken < turns:
        tell(f"{callers} callers: waiting for warm workers")
        await _until_warm(options, callers)
        tell(f"{callers} callers: {spoken} of {turns} turns measured")
        made, failed = await _call_at_once(options, callers)
        reports += made
        failures += failed
        counted = sum(len(report.dialogue.turns) for report in made)
        if not counted:
            break
        spoken += counted
    found = [Wait.of(turn) for report in reports for turn in report.dialogue.turns]
    waits = tuple(wait for wait in found if wait is not None)
    connects = tuple(report.connect for report in reports if report.connect is not None)
    return Round(callers, connects, waits, len(found) - len(waits), tuple(failures))


async def _call_at_once(options: TalkOptions, callers: int) -> tuple[list[Report], list[str]]:
    reports = [Report() for _ in range(callers)]

    async def call(number: int) -> None:
        await asyncio.sleep(SPREAD_SECONDS * number / callers)
        await talk(options, reports[number], lambda line: None)

    outcomes = await asyncio.gather(*map(call, range(callers)), return_exceptions=True)
    return reports, [_why(outcome) for outcome in outcomes if outcome is not None]


def _why(outcome: BaseException) -> str:
    if not isinstance(outcome, CallError):
        raise outcome
    if outcome.code == ExitCode.USAGE:
        raise outcome
    return str(outcome)


async def _until_warm(options: TalkOptions, callers: int) -> None:
    """Wait until a worker is warm for each caller, so that no refill runs beside the measure.

    A server that is not voicepool, or does not tell, is taken as it is.
    """
    deadline = asyncio.get_running_loop().time() + WARM_SECONDS
    while asyncio.get_running_loop().time() < deadline:
        try:
            status = await asyncio.to_thread(
                fetch_pool, options.url, options.api_key, options.cafile
            )
        except CallError:
            return
        if _is_warm(status["pool"], callers):
            return
        await asyncio.sleep(LOOK_SECONDS)
    raise CallError(
        f"the server had no {callers} warm workers within {WARM_SECONDS:.0f} s; see: "
        "voicepool status",
        ExitCode.UNREACHABLE,
    )


def _is_warm(pool: Mapping[str, Any], callers: int) -> bool:
    """Whether as many workers are idle as the callers need; where the server does not tell how
    many it keeps, as it does not tell callers, whether nothing else is going on."""
    states: dict[str, int] = pool["states"]
    idle = int(states.get("idle", 0))
    if "target" in pool:
        return idle >= min(callers, int(pool["target"]))
    return idle >= callers or 0 < idle == int(sum(states.values()))


def most_callers(options: TalkOptions) -> int:
    """How many the server takes at once. Raises CallError where it does not tell."""
    status = fetch_pool(options.url, options.api_key, options.cafile)
    return int(status["pool"]["max_connections"])


async def search(
    limit: float, most: int, round_of: Callable[[int], Awaitable[Round]]
) -> tuple[int, list[Round]]:
    """The most callers up to `most` whose 95th percentile stays within `limit`, and all rounds."""
    ramp, rounds = Ramp(most), []
    while (callers := ramp.next) is not None:
        found = await round_of(callers)
        rounds.append(found)
        ramp.learn(callers, found.fits(limit))
    return ramp.fits, rounds


# --- showing it --------------------------------------------------------------------------------


def table(rounds: Sequence[Round], *, markdown: bool = False) -> Table:
    """A line for each number of callers; stages as medians in ms."""
    shown = Table(box=box.MARKDOWN if markdown else None, pad_edge=markdown)
    for name in ("callers", "turns", "connect p95", *STAGES, "voice to voice p50", "p95", "worst"):
        shown.add_column(name, justify="right")
    shown.add_column("failed", justify="right")
    for found in sorted(rounds, key=lambda found: found.callers):
        shown.add_row(*_cells(found))
    return shown


def _cells(found: Round) -> Iterator[str]:
    yield str(found.callers)
    yield str(len(found.waits))
    yield f"{1000 * percentile(found.connects, P95):.1f} ms" if found.connects else ""
    if found.waits:
        stages = zip(*(wait.stages for wait in found.waits), strict=True)
        yield from (f"{1000 * percentile(stage, 0.5):.0f} ms" for stage in stages)
        for p in (0.5, P95, 1.0):
            yield f"{found.voice_to_voice(p):.2f} s"
    else:
        yield from [""] * (len(STAGES) + 3)
    lost = len(found.failures) + found.unanswered
    yield str(lost) if lost else ""


def verdict(fits: int, limit: float, rounds: Sequence[Round], most: int | None = None) -> str:
    """What the rounds came to, in a sentence for people. `most`: how many the server takes at
    once, where that is known."""
    by_callers = {found.callers: found for found in rounds}
    beyond = min((number for number in by_callers if number > fits), default=None)
    if fits:
        callers = "1 caller fits" if fits == 1 else f"{fits} callers fit"
        text = f"{callers}: p95 {by_callers[fits].voice_to_voice(P95):.2f} s of {limit:g} s"
    elif beyond == 1:
        text = f"not even one caller fits into {limit:g} s"
    else:
        text = f"{beyond} callers do not fit into {limit:g} s; fewer were not tried"
    if beyond is None:
        end = "that is all the server takes (max_connections)"
        return f"{text}; {end if fits == most else 'more were not tried'}"
    found = by_callers[beyond]
    lost = len(found.failures) + found.unanswered
    with_more = "calls failed" if lost else f"it was {found.voice_to_voice(P95):.2f} s"
    return f"{text}; with {beyond} {with_more}"


def document(rounds: Sequence[Round], limit: float | None, fits: int | None) -> dict[str, Any]:
    """The rounds as JSON-ready types; times in seconds."""
    return {
        "limit_p95": limit,
        "callers_that_fit": fits,
        "rounds": [
            {
                "callers": found.callers,
                "connects": [round(seconds, 5) for seconds in found.connects],
                "turns": [
                    dict(zip(STAGES, (round(s, 4) for s in wait.stages), strict=True))
                    | {"voice_to_voice": round(wait.sound, 4)}
                    for wait in found.waits
                ],
                "unanswered": found.unanswered,
                "failures": list(found.failures),
            }
            for found in sorted(rounds, key=lambda found: found.callers)
        ],
    }
