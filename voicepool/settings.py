"""Settings: their names, defaults, limits and help.

`Settings` is the one table. TOML keys, environment names, flags, `--help` and the table in
docs/operations.md all follow from its fields; `config.py` gathers their values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from voicepool.keys import Key
from voicepool.setting import Spec, seconds, setting, specs

STAGES = ("vad", "stt", "llm", "tts")
"""The tables of the configuration file that name an engine each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The effective settings. Times are seconds, sizes bytes."""

    # [server]
    host: str = setting("server", "127.0.0.1", "address to listen on")
    port: int = setting(
        "server", 8000, "port to listen on; 0 takes a free one", least=0, most=65535
    )
    agent_port: int = setting(
        "server",
        0,
        "port for HAProxy's agent-check on the same address; 0: none",
        least=0,
        most=65535,
    )
    api_keys: tuple[str, ...] = setting(
        "server",
        (),
        "keys of scope call: they open calls, and nothing of the inside; where no key is "
        "configured at all, anyone may do everything",
        secret=True,
    )
    admin_keys: tuple[str, ...] = setting(
        "server", (), "keys of scope admin: /status in full, /metrics", secret=True
    )
    keys_file: str = setting(
        "server",
        "",
        "file of keys with names, scopes and expiry, as hashes; see voicepool key --help",
    )
    keys: tuple[Key, ...] = ()
    """All keys without their texts, once `keysfile.sealed` has made them; `api_keys` and
    `admin_keys` are empty then."""
    no_auth: bool = setting(
        "server", False, "let anyone call although the address is public and no key is set"
    )
    allowed_hosts: tuple[str, ...] = setting(
        "server",
        (),
        "names besides localhost and addresses that a Host header may carry; * allows all",
    )
    allowed_origins: tuple[str, ...] = setting(
        "server",
        (),
        "web origins besides our own whose pages may call, as https://example.org; * allows all",
    )
    trusted_proxies: tuple[str, ...] = setting(
        "server",
        (),
        "addresses or networks of proxies; what they say of their callers' addresses is believed",
    )
    proxy_protocol: bool = setting(
        "server",
        False,
        "every connection begins with a PROXY header, and comes from one of trusted_proxies",
    )
    tls_cert: str = setting(
        "server",
        "",
        "file with the certificate and those that lead to its authority, PEM: callers use TLS",
    )
    tls_key: str = setting("server", "", "file with the certificate's private key, PEM")
    static: str = setting(
        "server",
        "",
        "folder of client files to serve at / and /static/; empty: the page of our own at /",
    )
    head_timeout: float = seconds("server", 5.0, "time a client has to send its request head")
    max_heads: int = setting(
        "server", 1024, "unfinished request heads to keep; beyond it the oldest goes", least=1
    )
    runtime_dir: str = setting(
        "server",
        "",
        "folder for this server's temporary files; empty: one of its own in the system's",
    )
    inspectable: bool = setting(
        "server",
        False,
        "let debuggers and core dumps of this user at the memory of calls and keys",
    )
    # [limits]
    address_calls: int = setting(
        "limits",
        0,
        "calls, and callers who wait, of one address at once; 0: no limit",
        least=0,
        most=65536,
    )
    address_rate: int = setting(
        "limits",
        0,
        "requests of one address, a minute, for a call or what takes a key; 0: no limit",
        least=0,
        most=1_000_000,
    )
    total_rate: int = setting(
        "limits",
        0,
        "such requests of all addresses but for /status and /metrics, a minute; 0: no limit",
        least=0,
        most=1_000_000,
    )
    address_heads: int = setting(
        "limits",
        64,
        "unfinished request heads of one address; beyond it its oldest goes; 0: no limit",
        least=0,
        most=65536,
    )
    address_failed_keys: int = setting(
        "limits",
        30,
        "wrong keys of one address, a minute; beyond it none is looked at; 0: no limit",
        least=0,
        most=1_000_000,
    )
    # [pool]
    workers: int = setting(
        "pool", 2, "warm workers to keep ready; unset: max_connections", least=1, most=4096
    )
    max_connections: int = setting(
        "pool", 2, "callers served at once; unset: workers", least=1, most=4096
    )
    spare: int = setting(
        "pool",
        0,
        "processes beyond max_connections, so that a refill starts while the pool is full",
        least=0,
        most=4096,
    )
    max_waiting: int = setting(
        "pool", 64, "callers that may wait for a worker; more get a 503", least=0, most=65536
    )
    queue_timeout: float = seconds(
        "pool", 8.0, "longest wait for a worker before the caller gets a 503", zero=True
    )
    warmups: int = setting(
        "pool", 1, "workers that warm up at once, per device", least=1, most=1024
    )
    hello_timeout: float = seconds("pool", 30.0, "time from fork to a worker's first message")
    warm_up_timeout: float = seconds("pool", 300.0, "time a worker has to load its engines")
    ack_timeout: float = seconds("pool", 3.0, "time a worker has to take the caller handed to it")
    heartbeat_interval: float = seconds(
        "pool", 2.0, "time between a worker's signs of life", least=0.05
    )
    heartbeat_timeout: float = seconds("pool", 20.0, "silence after which a worker is killed")
    stop_timeout: float = seconds("pool", 5.0, "time a worker has to exit when told to")
    drain_timeout: float = seconds("pool", 30.0, "time calls have to end after SIGTERM", zero=True)
    drain_notice: float = seconds(
        "pool",
        0.0,
        "time to go on serving after SIGTERM, not ready, so that balancers notice first",
        zero=True,
    )
    call_limit: float = seconds("pool", 3600.0, "longest call")
    idle_limit: float = seconds(
        "pool",
        600.0,
        "longest time for which nobody uses a call: the caller says nothing, asks for nothing and "
        "has nothing to hear; 0: as long as the call",
        zero=True,
    )
    max_message_size: int | None = setting(
        "pool",
        None,
        "largest message that a caller may send; unset, or above that: what the app takes",
        unit="bytes",
        least=256 << 10,
        most=64 << 20,
    )
    worker_age: float = seconds(
        "pool",
        86_400.0,
        "time for which a worker may be idle, give or take a tenth, before a fresh one takes its "
        "place; 0: for ever",
        zero=True,
    )
    strict: bool = setting("pool", False, "fail at start unless every worker fits and comes up")
    # [budget]
    ram_budget: int | None = setting(
        "budget",
        None,
        "most RAM for all workers together; unset: what the host has",
        unit="bytes",
        above=0,
    )
    ram_reserve: int = setting("budget", 512 << 20, "RAM to leave free", unit="bytes", least=0)
    ram_per_worker: int | None = setting(
        "budget",
        None,
        "a worker's RAM until the first one has been measured; unset: by profile",
        unit="bytes",
        above=0,
    )
    ram_soft_limit: int | None = setting(
        "budget", None, "a worker above it retires when its call is over", unit="bytes", above=0
    )
    ram_hard_limit: int | None = setting(
        "budget", None, "a worker above it is killed", unit="bytes", above=0
    )
    gpus: str = setting(
        "budget",
        "auto",
        "GPUs for workers, where the profile or the app uses any: auto for all that are visible, "
        "none, or a list of numbers as nvidia-smi has them (0:1 for a MIG instance) and UUIDs",
    )
    vram_budget: int | None = setting(
        "budget",
        None,
        "most VRAM for all workers together, on each GPU; unset: what it has",
        unit="bytes",
        above=0,
    )
    vram_reserve: int = setting(
        "budget", 512 << 20, "VRAM to leave free on each GPU", unit="bytes", least=0
    )
    vram_per_worker: int | None = setting(
        "budget",
        None,
        "a worker's VRAM until the first one has been measured; unset: by profile",
        unit="bytes",
        above=0,
    )
    vram_soft_limit: int | None = setting(
        "budget",
        None,
        "a worker with more VRAM retires when its call is over",
        unit="bytes",
        above=0,
    )
    vram_hard_limit: int | None = setting(
        "budget", None, "a worker with more VRAM is killed", unit="bytes", above=0
    )
    visible_gpus: str | None = None
    """CUDA_VISIBLE_DEVICES as voicepool was started with; None: unset."""
    # [speech]
    app: str = setting(
        "speech", "", "your own app as package.module:factory instead of the speech pipeline"
    )
    profile: str = setting(
        "speech", "auto", "set of engines; auto: the best that this machine can run"
    )
    speculate: bool = setting(
        "speech",
        True,
        "begin replies before it is certain that the caller has finished; nobody hears of those "
        "that do not fit, but the language model is asked more often",
    )
    engines: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The tables [vad], [stt], [llm] and [tts]: `engine` names it, the rest are its options."""
    # [log]
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        "log", "info", "least important messages to log"
    )
    log_format: Literal["auto", "pretty", "json"] = setting(
        "log", "auto", "auto: pretty on a terminal, JSON lines elsewhere"
    )

    @property
    def asks_for_keys(self) -> bool:
        """Whether there is a key to be asked for. A keys file says so even if it has none: who
        takes the last one out of it does not mean to let everybody in."""
        return bool(self.api_keys or self.admin_keys or self.keys_file or self.keys)


SPECS: Mapping[str, Spec] = specs(Settings)
"""Every setting but `engines`, `keys` and `visible_gpus`, by name."""
