"""The JSON of `/status`: what the pool, the processes and the host are doing."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any

import voicepool
from voicepool import linux

if TYPE_CHECKING:
    from voicepool.supervisor import Supervisor


def status_report(supervisor: Supervisor) -> dict[str, Any]:
    """Everything an operator asks for, as builtin types. Sizes are bytes, times seconds."""
    now = asyncio.get_running_loop().time()
    view = supervisor.pool.snapshot()
    memory = linux.host_memory()
    return {
        "server": {
            "version": voicepool.__version__,
            "pid": os.getpid(),
            "url": supervisor.url,
            "uptime": round(time.time() - supervisor.started_at, 1),
            "app": supervisor.settings.app or "speech",
            "profile": supervisor.settings.profile,
            "paths": sorted(supervisor.reception.paths or ()),
            "zygote": {
                "pid": supervisor.forker.pid,
                "restarts": max(0, supervisor.forker.restarts),
            },
        },
        "pool": {
            "ready": view.ready,
            "draining": view.draining,
            "halted": view.halted,
            "workers": supervisor.settings.workers,
            "max_connections": view.max_connections,
            "target": view.target,
            "bound_by": view.bound_by,
            "states": {state.value: count for state, count in view.states.items()},
            "callers": view.callers,
            "waiting": view.waiting,
            "max_waiting": view.max_waiting,
            "refill_time": round(view.refill_time, 3),
            "last_error": view.last_error,
            "failures": view.failures,
            "retry_in": None
            if view.backoff_until is None
            else round(max(0.0, view.backoff_until - now), 3),
            "incomplete_heads": supervisor.door.heads,
        },
        "totals": {
            "arrived": view.totals.arrived,
            "accepted": view.totals.accepted,
            "completed": view.totals.completed,
            "lost": view.totals.lost,
            "gone": view.totals.gone,
            "retried": view.totals.retried,
            "refused": {reason.value: count for reason, count in view.totals.refused.items()},
            "spawned": view.totals.spawned,
            "ready": view.totals.ready,
            "failures": view.totals.failures,
            "exits": dict(view.totals.exits),
        },
        "memory": {
            "host": {"total": memory.total, "used": memory.used},
            "estimate": view.estimate.host,
            "zygote": supervisor.zygote_cost.host,
        },
        "workers": [
            {
                "worker": worker.number,
                "pid": handle.pid if (handle := supervisor.workers.get(worker.number)) else None,
                "state": worker.state.value,
                "device": worker.device,
                "age": round(now - worker.born, 3),
                "in_state": round(now - worker.since, 3),
                "private": worker.footprint.host if worker.footprint else None,
                "connection": worker.connection,
                "stale": worker.stale,
            }
            for worker in view.workers
        ],
    }
