"""Callers who may call: let into the waiting room, or refused by the pool."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from voicepool import pool
from voicepool.access import Admitted
from voicepool.answers import refuse
from voicepool.callers import Candidate, WaitingRoom
from voicepool.frontdoor import Farewells, Visitor
from voicepool.logs import FloodGuard
from voicepool.pool import Reason
from voicepool.pooldriver import PoolDriver
from voicepool.ratelimits import Limits

log = logging.getLogger("voicepool.supervisor")

REFUSALS: Final = {
    Reason.FULL: "every worker is in a call and the waiting room is full",
    Reason.TIMEOUT: "no worker came free in time",
    Reason.UNAVAILABLE: "no worker can be started: see /status and the server's log",
    Reason.DRAINING: "the server is shutting down",
}


class Admission:
    """Gives callers their numbers, and the pool's refusals their words."""

    def __init__(
        self, driver: PoolDriver, waiting: WaitingRoom, farewells: Farewells, limits: Limits
    ) -> None:
        """`limits` is told here who comes in; the driver tells it who is out again."""
        self._driver = driver
        self._limits = limits
        self._waiting = waiting
        self._farewells = farewells
        self._connections = 0
        self._flood = FloodGuard(log)
        self._loop = asyncio.get_running_loop()

    def arrive(self, visitor: Visitor, address: str, admitted: Admitted) -> None:
        """A caller asks for a worker. Most have one, or a refusal, when this returns."""
        self._connections += 1
        number = self._connections
        self._limits.call_begins(number, address)
        candidate = Candidate(number, visitor, address, admitted, self._loop.time())
        self._waiting.add(candidate)
        self._driver.tell(pool.ConnectionArrived(number))
        if number in self._waiting:
            self._waiting.watch(number)

    def refuse(self, command: pool.Refuse) -> None:
        candidate = self._waiting.take(command.connection)
        who = {"identity": candidate.admitted.identity} if candidate.admitted.identity else {}
        self._flood.info(
            "caller refused", connection=command.connection, reason=command.reason.value, **who
        )
        message = f"{REFUSALS[command.reason]}; try again in {command.retry_after} s"
        headers = {"Retry-After": str(command.retry_after)}
        response = refuse(503, message, command.reason.value, headers)
        self._farewells.answer(candidate.visitor, response)
