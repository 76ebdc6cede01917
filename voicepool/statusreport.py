"""The JSON of `/status`: what the pool, the processes and the host are doing."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any

import voicepool

if TYPE_CHECKING:
    from collections.abc import Mapping

    from voicepool.budgetspec import DeviceView
    from voicepool.gpu import Gpu
    from voicepool.poolview import Snapshot, Totals, WorkerView
    from voicepool.supervisor import Supervisor


def status_report(supervisor: Supervisor) -> dict[str, Any]:
    """Everything an operator asks for, as builtin types. Sizes are bytes, times seconds."""
    now = asyncio.get_running_loop().time()
    view = supervisor.pool.snapshot()
    return {
        "server": _server(supervisor),
        "pool": {
            **_pool(view, now),
            "workers": supervisor.settings.workers,
            "spare": supervisor.settings.spare,
            "incomplete_heads": supervisor.door.heads,
        },
        "totals": _totals(view.totals),
        "memory": {
            "measured": view.proven,
            "fits": view.room,
            "binds": view.binding,
            "driver": supervisor.probe.driver,
            "devices": [device_report(device, supervisor.probe.gpus) for device in view.devices],
        },
        "latency": supervisor.metrics.latency(),
        "workers": [
            {**_worker(worker, now), **_process(supervisor, worker)} for worker in view.workers
        ],
    }


def pool_counts(supervisor: Supervisor) -> dict[str, Any]:
    """As much of the status as callers may see: what a page needs to draw the pool."""
    view = supervisor.pool.snapshot()
    return {
        "pool": {
            "draining": view.draining,
            "max_connections": view.max_connections,
            "states": {state.value: count for state, count in view.states.items()},
            "callers": view.callers,
            "waiting": view.waiting,
        }
    }


def device_report(view: DeviceView, gpus: Mapping[str, Gpu]) -> dict[str, Any]:
    """One device's account. `gpus`: what is known of each GPU besides, by device."""
    gpu = gpus.get(view.device)
    return {
        "device": view.device,
        "model": gpu.name if gpu else "RAM",
        "uuid": gpu.uuid if gpu else None,
        "total": view.total,
        "others": view.others,
        "zygote": view.zygote,
        "reserved": view.reserved,
        "reserve": view.reserve,
        "cap": view.cap,
        "per_worker": view.per_worker,
        "workers": view.workers,
        "fits": view.fits,
        "missing": view.missing,
    }


def _server(supervisor: Supervisor) -> dict[str, Any]:
    return {
        "version": voicepool.__version__,
        "pid": os.getpid(),
        "url": supervisor.url,
        "uptime": round(time.time() - supervisor.started_at, 1),
        "app": supervisor.settings.app or "speech",
        "profile": supervisor.settings.profile,
        "paths": sorted(supervisor.reception.paths or ()),
        "zygote": {
            "pid": supervisor.forker.pid,
            "restarts": supervisor.zygote_restarts,
        },
        "reloads": {
            "count": supervisor.reloader.count,
            "last_error": supervisor.reloader.error,
        },
        "relay": _relay(supervisor) if supervisor.settings.tls_cert else None,
    }


def _relay(supervisor: Supervisor) -> dict[str, Any]:
    doorway = supervisor.door.doorway
    return {"pid": doorway.pid, "restarts": max(0, doorway.restarts)}


def _pool(view: Snapshot, now: float) -> dict[str, Any]:
    wait = None if view.backoff_until is None else round(max(0.0, view.backoff_until - now), 3)
    return {
        "ready": view.ready,
        "draining": view.draining,
        "halted": view.halted,
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
        "retry_in": wait,
    }


def _totals(totals: Totals) -> dict[str, Any]:
    return {
        "arrived": totals.arrived,
        "accepted": totals.accepted,
        "completed": totals.completed,
        "lost": totals.lost,
        "gone": totals.gone,
        "retried": totals.retried,
        "refused": {reason.value: count for reason, count in totals.refused.items()},
        "spawned": totals.spawned,
        "ready": totals.ready,
        "failures": totals.failures,
        "exits": dict(totals.exits),
        "limits": dict(totals.limits),
    }


def _worker(worker: WorkerView, now: float) -> dict[str, Any]:
    return {
        "worker": worker.number,
        "state": worker.state.value,
        "device": worker.device,
        "age": round(now - worker.born, 3),
        "in_state": round(now - worker.since, 3),
        "private": worker.private,
        "vram": worker.vram,
        "connection": worker.connection,
        "stale": worker.stale,
    }


def _process(supervisor: Supervisor, worker: WorkerView) -> dict[str, Any]:
    handle = supervisor.workers.get(worker.number)
    if handle is None:
        return {"pid": None, "pss": None}
    return {"pid": handle.pid, "pss": handle.pss or None}
