"""Whether the supervisor's own machinery runs: what the service manager's watchdog is fed by.

A pool whose workers cannot start, or wait for memory, is healthy: to start the server again would
cost the calls in progress and mend nothing. `/status` and the manager's STATUS tell of it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from voicepool.supervisor import Supervisor

log = logging.getLogger("voicepool.supervisor")

OVERDUE_SECONDS: Final = 5.0
"""How late the pool's timer may be."""


def ailment(supervisor: Supervisor) -> str:
    """What stands still, "" while nothing does. That it is asked shows that the event loop goes
    round; then the pool must take a step, meet its deadlines, be told of memory, and have a zygote
    or one on its way."""
    if supervisor.prober is None or supervisor.draining:
        return ""  # not all of it is there yet, or any more
    try:
        supervisor.tick()
    except Exception:
        log.exception("the pool fails")
        return "the pool fails"
    deadline = supervisor.pool.next_deadline
    overdue = asyncio.get_running_loop().time() - OVERDUE_SECONDS
    if deadline is not None and deadline < overdue and not supervisor.catching_up:
        return "the pool's deadlines are not met"
    if supervisor.prober.done():
        return "memory is not looked at any more"
    return "" if supervisor.forker.alive else "no zygote is coming"
