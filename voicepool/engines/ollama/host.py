"""What can be seen of an Ollama server on this machine, which it does not tell over HTTP."""

from __future__ import annotations

from pathlib import PurePath
from urllib.parse import SplitResult

import psutil

from voicepool.engines.chat.connecting import split_url

DEFAULT_PORT = 11434


def split_host(host: str) -> SplitResult:
    """The parts of an address as OLLAMA_HOST has it: "host", "host:port", ":port" or a URL.

    Raises ValueError.
    """
    return split_url(host if "://" in host else f"http://{host}")


def port_of(host: str) -> int:
    """The port of an address as `split_host` takes it. Raises ValueError."""
    scheme = host.partition("://")[0] if "://" in host else ""
    return split_host(host).port or {"http": 80, "https": 443}.get(scheme, DEFAULT_PORT)


def seen_parallel(port: int) -> int | None:
    """OLLAMA_NUM_PARALLEL of the `ollama serve` on this machine that listens on `port`.

    Its default, 1, where it is not set; None where no such process, or not its environment, can be
    seen (it belongs to another user, or runs in another container).
    """
    for process in psutil.process_iter(["cmdline"]):
        if not _is_server(process.info["cmdline"] or []):
            continue
        try:
            environ = process.as_dict(["environ"])["environ"] or {}
            if port_of(environ.get("OLLAMA_HOST") or "127.0.0.1") == port:
                return max(1, int(environ.get("OLLAMA_NUM_PARALLEL") or 1))  # as Ollama takes 0
        except (psutil.Error, ValueError):
            continue
    return None


def _is_server(command: list[str]) -> bool:
    return len(command) > 1 and PurePath(command[0]).name == "ollama" and "serve" in command[1:]
