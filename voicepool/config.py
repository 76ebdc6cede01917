"""Settings: their names, defaults and help, and where each value came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The effective settings. Times are seconds, sizes bytes."""

    # [server]
    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = ()
    no_auth: bool = False
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    head_timeout: float = 5.0
    max_heads: int = 1024
    runtime_dir: str = ""
    # [pool]
    workers: int = 2
    max_connections: int = 2
    spare: int = 0
    max_waiting: int = 64
    queue_timeout: float = 8.0
    warmups: int = 1
    hello_timeout: float = 30.0
    warm_up_timeout: float = 300.0
    ack_timeout: float = 3.0
    heartbeat_interval: float = 2.0
    heartbeat_timeout: float = 20.0
    stop_timeout: float = 5.0
    drain_timeout: float = 30.0
    call_limit: float = 3600.0
    strict: bool = False
    # [budget]
    ram_budget: int | None = None
    ram_reserve: int = 512 << 20
    ram_per_worker: int = 256 << 20
    ram_soft_limit: int | None = None
    ram_hard_limit: int | None = None
    # [speech]
    app: str = ""
    profile: str = "auto"
    engines: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The tables [vad], [stt], [llm] and [tts]: `engine` names it, the rest are its options."""
    # [log]
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "pretty", "json"] = "auto"
