"""The server under test and the model server beside it, as processes; what /proc says of them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks.processes import pss_bytes
from tests.certificates import Authority
from tests.ports import free_port
from tests.soak.disk import LogDisk
from tests.soak.growth import Footprint, Holding
from tests.soak.model import NAME
from tests.soak.site import KEY
from voicepool.errors import CallError
from voicepool.status import fetch

DEADLINE: Final = 120.0
LOOK_SECONDS: Final = 0.2

POOL: Final[Mapping[str, Any]] = {
    "workers": 3,
    "max_connections": 6,
    "spare": 2,
    "max_waiting": 4,
    "queue_timeout": 4.0,
    "ack_timeout": 1.5,
    "heartbeat_interval": 1.0,
    "heartbeat_timeout": 10.0,
    "drain_timeout": 60.0,
    "drain_notice": 2.0,
}


class ModelServer:
    """The stand-in, on one port through all its lives."""

    def __init__(self) -> None:
        self.port = free_port()
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Returns when it listens."""
        command = [sys.executable, "-m", "tests.soak.model", str(self.port)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline().strip() == str(self.port)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def hang(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


class Server:
    """`voicepool start` with a configuration file, its log on `disk`."""

    def __init__(self, folder: Path, disk: LogDisk, model: ModelServer, *, tls: bool) -> None:
        self.port = free_port()
        self.config = folder / "voicepool.toml"
        self.runtime = folder / "runtime"
        self._model = model
        self._log = disk.path
        self.certificate = Authority(folder).issue() if tls else None
        self.configure()
        self._marker = f"SOAK_MARK={uuid.uuid4()}"
        name, _, value = self._marker.partition("=")
        self._output = (folder / "stdout.txt").open("wb")
        stderr = disk.stderr()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "voicepool", "start", "--config", str(self.config)],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=stderr,
            env={**os.environ, name: value},
        )
        os.close(stderr)

    # -- settings

    def configure(self, **pool: Any) -> None:
        """Write the settings, with these of [pool] instead of the usual ones."""
        tables: dict[str, Mapping[str, Any]] = {
            "server": {
                "port": self.port,
                "runtime_dir": str(self.runtime),
                "api_keys": [KEY],
                "admin_keys": [KEY],
                **(self.certificate.settings if self.certificate else {}),
            },
            "pool": {**POOL, **pool},
            "budget": {"gpus": "none"},
            "speech": {"profile": "embedded"},
            "llm": {
                "engine": "openai",
                "base_url": f"http://127.0.0.1:{self._model.port}/v1",
                "model": NAME,
                "timeout": 4.0,
            },
        }
        lines = []
        for table, fields in tables.items():
            lines += [f"[{table}]", *(f"{key} = {_toml(value)}" for key, value in fields.items())]
        self._write("\n".join(lines) + "\n")

    def spoil_configuration(self) -> None:
        self._write("[pool]\nworkers = many\n")

    def _write(self, text: str) -> None:
        new = self.config.with_suffix(".new")
        new.write_text(text)
        new.rename(self.config)  # at no moment is it half written

    # -- asking it

    def status(self) -> dict[str, Any]:
        """Raises CallError where it is not to be had, even at a second try: a machine with too much
        to do is no fault of the server's."""
        cafile = self.certificate.ca if self.certificate else None
        url = f"{'wss' if cafile else 'ws'}://127.0.0.1:{self.port}"
        with contextlib.suppress(CallError):
            return fetch(url, KEY, cafile)
        return fetch(url, KEY, cafile)

    def until_serving(self) -> None:
        """Wait until all workers are warm."""
        end = time.monotonic() + DEADLINE
        while True:
            with contextlib.suppress(CallError):
                if is_quiet(self.status()):
                    return
            if self.process.poll() is not None or time.monotonic() > end:
                last = self._log.read_text()[-1000:]
                raise RuntimeError(f"the server does not come up: {self.process.poll()}, {last}")
            time.sleep(LOOK_SECONDS)

    # -- its processes

    def family(self) -> list[psutil.Process]:
        """Every living process that descends from it, itself included."""
        name, _, value = self._marker.partition("=")
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(name) == value:
                    found.append(process)
        return found

    def footprint(self, began: float, calls: int) -> Footprint:
        """What it holds now. Raises psutil.Error and OSError where a process ends meanwhile."""
        status = self.status()
        supervisor, zygote = self.process.pid, status["server"]["zygote"]["pid"]
        workers = [_holding(w["pid"], self._model.port) for w in status["workers"]]
        relay = status["server"]["relay"]
        descendants = psutil.Process(supervisor).children(recursive=True)
        return Footprint(
            at=time.monotonic() - began,
            calls=calls,
            processes=1 + len(descendants),
            files=sum(1 for _ in self.runtime.rglob("*")),
            holdings={
                "supervisor": _holding(supervisor),
                "zygote": _holding(zygote),
                **({"relay": _holding(relay["pid"])} if relay else {}),
                "worker": Holding(
                    fds=max(held.fds for held in workers),
                    threads=max(held.threads for held in workers),
                    pss=sum(held.pss for held in workers) // len(workers),
                ),
            },
        )

    def close(self) -> None:
        """End what is left of it."""
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.process.kill()
        self.process.wait()
        self._output.close()


def is_quiet(status: Mapping[str, Any]) -> bool:
    """Nobody calls, and the pool is at its target with workers of the latest code alone."""
    pool, workers = status["pool"], status["workers"]
    idle = all(worker["state"] == "idle" and not worker["stale"] for worker in workers)
    nobody = not (pool["callers"] or pool["waiting"] or pool["incomplete_heads"])
    return idle and nobody and len(workers) == pool["workers"]


def _holding(pid: int, model_port: int = 0) -> Holding:
    """A connection to the model server is not counted: a worker keeps one for its caller where the
    reply of its rehearsal was complete before it was cancelled."""
    process = psutil.Process(pid)
    connections = process.net_connections("tcp") if model_port else []
    kept = sum(bool(c.raddr) and c.raddr.port == model_port for c in connections)
    return Holding(process.num_fds() - kept, process.num_threads(), pss_bytes([pid]))


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)
