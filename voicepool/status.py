"""`voicepool status`: the pool as a table that keeps itself up to date."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from voicepool.calling import http_url, no_server, trusting
from voicepool.config import is_loopback
from voicepool.errors import CallError, ExitCode
from voicepool.logs import escape
from voicepool.quantities import format_size

TIMEOUT = 5.0
PERIOD = 1.0
_LARGEST = 16 << 20
_STATE_STYLES = {
    "starting": "dim",
    "warming": "yellow",
    "idle": "green",
    "assigned": "cyan",
    "serving": "bold cyan",
    "retiring": "dim",
    "killing": "red",
}


def fetch(url: str, api_key: str, cafile: Path | None = None) -> dict[str, Any]:
    """The server's `/status` in full; arguments as for `fetch_pool`. Raises CallError, also where
    the key is for callers, who are shown the counts only."""
    report = fetch_pool(url, api_key, cafile)
    if not {"server", "workers"} <= report.keys():
        raise CallError(
            "this key is of scope call, and status needs one of scope admin: give that with "
            "VOICEPOOL_API_KEY or --api-key; where there is none, set admin_keys on the server, "
            "or add one to its keys_file: voicepool key new NAME --scope admin --file FILE",
            ExitCode.UNREACHABLE,
        )
    return report


def fetch_pool(url: str, api_key: str, cafile: Path | None = None) -> dict[str, Any]:
    """The server's `/status`, with as much besides "pool" as that key is shown, and perhaps not
    all of that. `url` may be its address in any form, `cafile` is for `calling.trusting`. Raises
    CallError."""
    address = http_url(url, "/status")
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    request = urllib.request.Request(address, headers=headers)
    # A proxy from the environment cannot reach this machine's own loopback.
    own = is_loopback(urlsplit(address).hostname or "")
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})] if own else []
    if address.startswith("https:"):
        handlers.append(urllib.request.HTTPSHandler(context=trusting(cafile)))
    opener = urllib.request.build_opener(*handlers)
    try:
        with opener.open(request, timeout=TIMEOUT) as response:
            return _checked(json.loads(response.read(_LARGEST)), address)
    except urllib.error.HTTPError as error:
        with error:
            raise _refused(error.code, address, _why(error)) from error
    except urllib.error.URLError as error:
        reason = error.reason if isinstance(error.reason, OSError) else OSError(str(error.reason))
        raise no_server(address, reason) from error
    except OSError as error:
        raise no_server(address, error) from error
    except (ValueError, RecursionError, http.client.HTTPException) as error:
        raise _stranger(address) from error


def _checked(report: Any, address: str) -> dict[str, Any]:
    if not isinstance(report, dict) or not isinstance(report.get("pool"), dict):
        raise _stranger(address)
    return report


def _stranger(address: str) -> CallError:
    return CallError(f"what answers at {address} is not voicepool", ExitCode.UNREACHABLE)


def _why(error: urllib.error.HTTPError) -> str:
    """The server's own words, if it has any."""
    try:
        return ": " + escape(str(json.loads(error.read(_LARGEST))["error"]["message"]), 400)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, http.client.HTTPException):
        return ""


def _refused(status: int, address: str, why: str) -> CallError:
    if status == 401:
        return CallError(
            f"the server wants a key{why}; give one with VOICEPOOL_API_KEY or --api-key",
            ExitCode.UNREACHABLE,
        )
    if status == 404:
        return _stranger(address)
    return CallError(f"{address} answered {status}{why}", ExitCode.UNREACHABLE)


def watch(url: str, api_key: str, console: Console, cafile: Path | None = None) -> None:
    """Show the table until interrupted. Raises CallError when the server goes away."""
    first = render(fetch(url, api_key, cafile))
    with Live(first, console=console, auto_refresh=False) as live:
        while True:
            time.sleep(PERIOD)
            live.update(render(fetch(url, api_key, cafile)), refresh=True)


def render(report: Mapping[str, Any]) -> Group:
    """The report as a summary and tables of devices, latencies and workers. Raises CallError where
    it is none."""
    try:
        parts = (_summary(report), _devices(report), _latencies(report), _workers(report))
        shown = [part for part in parts if part is not None]
        return Group(shown[0], *(row for part in shown[1:] for row in ("", part)))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise CallError(
            f"the server's status is of another version of voicepool ({error!r})",
            ExitCode.UNREACHABLE,
        ) from error


def _summary(report: Mapping[str, Any]) -> Table:
    server, pool, totals = report["server"], report["pool"], report["totals"]
    memory = report["memory"]
    states = pool["states"]
    table = Table.grid(padding=(0, 2))
    rows = {
        "server": f"{server['url']}  voicepool {server['version']}, "
        f"up {_span(server['uptime'])}, {server['profile']}",
        "pool": _condition(pool),
        "callers": f"{pool['callers']} of {pool['max_connections']}, "
        f"{pool['waiting']} of {pool['max_waiting']} waiting, {_refusals(totals['refused'])}",
        "workers": f"{states.get('idle', 0)} idle of {pool['target']} wanted"
        + "".join(f", {n} {state}" for state, n in states.items() if n and state != "idle"),
        "calls": f"{totals['completed']} completed, {totals['lost']} lost, "
        f"{totals['gone']} hung up before an answer",
        "memory": _room(memory, pool),
    }
    if pool["last_error"]:
        rows["error"] = str(pool["last_error"])
    for name, value in rows.items():
        table.add_row(Text(name, style="dim"), Text(escape(value)))
    return table


def _room(memory: Mapping[str, Any], pool: Mapping[str, Any]) -> str:
    most = pool["max_connections"] + pool["spare"]
    fits = int(memory["fits"])
    # What fits is counted only up to what may live: beyond that no device was found to be full.
    if sum(pool["states"].values()) + fits >= most:
        room = "all that may run at once fit"
    else:
        room = f"{fits or 'no'} more would fit, then {memory['binds']} is full"
    basis = "" if memory["measured"] else ", by estimate: no worker has been measured yet"
    driver = f"; NVIDIA driver {memory['driver']}" if memory["driver"] else ""
    return f"{room}{basis}{driver}"


def _condition(pool: Mapping[str, Any]) -> str:
    if pool["draining"]:
        return "draining: no new calls"
    if pool["halted"]:
        return "halted: the configuration must be mended"
    if pool["retry_in"] is not None:
        return f"workers fail to come up; next try in {_span(pool['retry_in'])}"
    return "ready" if pool["ready"] else "not ready"


def _refusals(refused: Mapping[str, int]) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in refused.items() if count)
    return f"{sum(refused.values())} refused" + (f" ({reasons})" if reasons else "")


_SIZES = {
    "total": "total",
    "others": "others",
    "zygote": "zygote",
    "reserved": "reserved",
    "reserve": "kept",
    "cap": "cap",
    "per_worker": "each",
}
"""A device's amounts of memory and what they are called; one that no device has is not shown."""


def _devices(report: Mapping[str, Any]) -> Table:
    devices = report["memory"]["devices"]
    sizes = [name for name in _SIZES if any(device[name] for device in devices)]
    models = any(device["device"] != "host" for device in devices)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("device", no_wrap=True)
    for name in (*(_SIZES[name] for name in sizes), "workers", "fit"):
        table.add_column(name, justify="right")
    if models:
        table.add_column("model")
    for device in devices:
        table.add_row(
            Text(escape(str(device["device"])), style="red" if device["missing"] else ""),
            *(Text(format_size(device[name]) if device[name] else "") for name in sizes),
            Text(str(int(device["workers"]))),
            Text("cannot be read" if device["missing"] else f"+{int(device['fits'])}"),
            *([Text(escape(str(device["model"])))] if models else []),
        )
    return table


_LATENCIES = {
    "queue": "queue",
    "handoff": "hand-off",
    "warm_up": "warm-up",
    "voice_to_voice": "voice to voice",
    "stt": "stt",
    "llm": "llm",
    "tts": "tts",
}
"""The latencies and what they are called; one that nobody has met yet is not shown."""


def _latencies(report: Mapping[str, Any]) -> Table | None:
    seen = {name: row for name in _LATENCIES if (row := report["latency"][name])["count"]}
    if not seen:
        return None
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("latency", style="dim")
    for name in seen:
        table.add_column(_LATENCIES[name], justify="right")
    for name, shown in (("p50", _took), ("p95", _took), ("count", _counted)):
        table.add_row(name, *(Text(shown(latency[name])) for latency in seen.values()))
    return table


def _counted(count: float) -> str:
    return str(int(count))


def _took(seconds: float) -> str:
    """A time that people may feel: "0.4 ms", "38 ms", "1.52 s"."""
    if seconds < 0.01:
        return f"{seconds * 1000:.1f} ms"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _workers(report: Mapping[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    for name in ("worker", "pid", "state", "for", "device", "memory", "VRAM", "caller"):
        table.add_column(name, justify="left" if name in ("state", "device") else "right")
    for worker in report["workers"]:
        state = str(worker["state"])
        table.add_row(
            Text(escape(str(worker["worker"]))),
            Text(escape(str(worker["pid"] or ""))),
            Text(escape(state), style=_STATE_STYLES.get(state, "")),
            Text(_span(worker["in_state"])),
            Text(escape(str(worker["device"]))),
            Text("" if worker["private"] is None else format_size(worker["private"])),
            Text("" if worker["vram"] is None else format_size(worker["vram"])),
            Text(escape(str(worker["connection"] or ""))),
        )
    return table


def _span(seconds: float) -> str:
    """Roughly, for people: "42 s", "3 min", "5 h"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
