"""What /metrics tells that the server has anyway: its state and its totals, read at a scrape."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import voicepool
from voicepool import logs
from voicepool.budgetspec import HOST
from voicepool.metricspec import EXITS

if TYPE_CHECKING:
    from voicepool.metrics import State
    from voicepool.poolview import Snapshot, Totals
    from voicepool.supervisor import Supervisor


def metric_state(supervisor: Supervisor) -> State:
    """Every metric of METRICS whose source is STATE."""
    view = supervisor.pool.snapshot()
    return {
        "build_info": {voicepool.__version__: 1},
        "ready": supervisor.reception.ready,
        "draining": supervisor.draining,
        "configured_workers": supervisor.settings.workers,
        "zygote_restarts_total": supervisor.zygote_restarts,
        "relay_restarts_total": max(0, supervisor.door.doorway.restarts),
        "reloads_total": {
            "done": supervisor.reloader.count,
            "refused": supervisor.reloader.refusals,
        },
        "log_lines_dropped_total": logs.lines_dropped(),
        **_pool(view),
        **_totals(view.totals),
        **_devices(view),
        "workers_pss_bytes": sum(handle.pss for handle in supervisor.workers.values()),
    }


def _pool(view: Snapshot) -> State:
    return {
        "halted": view.halted,
        "workers": {state.value: count for state, count in view.states.items()},
        "idle_target": view.target,
        "slots": view.max_connections,
        "calls": view.callers,
        "waiting_callers": view.waiting,
        "waiting_limit": view.max_waiting,
        "spawn_failures_in_a_row": view.failures,
    }


def _totals(totals: Totals) -> State:
    return {
        "callers_total": totals.arrived,
        "calls_accepted_total": totals.accepted,
        "callers_gone_total": totals.gone,
        "callers_retried_total": totals.retried,
        "limits_total": dict(totals.limits),
        "worker_spawns_total": totals.spawned,
        "worker_exits_total": {**dict.fromkeys(EXITS, 0), **totals.exits},
        "worker_failures_total": totals.failures,
    }


def _devices(view: Snapshot) -> State:
    vram = Counter({device.device: 0 for device in view.devices if device.device != HOST})
    for worker in view.workers:
        if worker.vram is not None and worker.device in vram:
            vram[worker.device] += worker.vram
    return {
        "device_memory_bytes": {device.device: device.total for device in view.devices},
        "device_others_bytes": {device.device: device.others for device in view.devices},
        "device_reserved_bytes": {device.device: device.reserved for device in view.devices},
        "device_room_workers": {device.device: device.fits for device in view.devices},
        "device_missing": {device.device: device.missing for device in view.devices},
        "workers_vram_bytes": vram,
    }
