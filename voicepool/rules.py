"""What the settings mean to the pool, to the budget and to the door. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal

from voicepool.access import Access
from voicepool.budgetspec import BudgetSettings, Cost, Limits
from voicepool.config import Settings
from voicepool.engines.registry import AUTO, resolve_profile
from voicepool.gpu import NONE
from voicepool.newcomers import DoorRules
from voicepool.pool import PoolSettings
from voicepool.ratelimits import RateRules

_MIB: Final = 1 << 20

ESTIMATES: Final[Mapping[str, Cost]] = MappingProxyType(
    {
        "embedded": Cost(host=256 * _MIB),
        "cpu": Cost(host=1024 * _MIB),
        "cuda": Cost(host=2048 * _MIB, device=4096 * _MIB),
    }
)
"""What a worker is taken to need until the first one has been measured, by profile. Rather too
much: the pilot has to fit by it, and no second one starts before it is replaced by a measure."""

_APP_ESTIMATE: Final = Cost(host=256 * _MIB, device=2048 * _MIB)
"""The same for an app of the user's own."""


def gpu_need(settings: Settings) -> Literal["none", "some", "must"]:
    """Whether workers have no use for a GPU, would use one if there were any, or need one."""
    if settings.app:
        return {AUTO: "some", NONE: "none"}.get(settings.gpus, "must")  # type: ignore[return-value]
    choice = resolve_profile(settings.profile, settings.engines)
    return "must" if any(t.get("device") == "cuda" for t in choice.tables.values()) else "none"


def estimate(settings: Settings) -> Cost:
    """What a worker is taken to need, until one has been measured."""
    guess = _APP_ESTIMATE
    if not settings.app:
        profile = resolve_profile(settings.profile, settings.engines).profile
        guess = ESTIMATES["cuda" if gpu_need(settings) == "must" else profile]
    return Cost(
        host=settings.ram_per_worker or guess.host, device=settings.vram_per_worker or guess.device
    )


def pool_settings(settings: Settings) -> PoolSettings:
    """The pool's share of the settings."""
    return PoolSettings(
        workers=settings.workers,
        max_connections=settings.max_connections,
        spare=settings.spare,
        max_waiting=settings.max_waiting,
        queue_timeout=settings.queue_timeout,
        warmups=settings.warmups,
        hello_timeout=settings.hello_timeout,
        warm_up_timeout=settings.warm_up_timeout,
        ack_timeout=settings.ack_timeout,
        heartbeat_timeout=settings.heartbeat_timeout,
        stop_timeout=settings.stop_timeout,
        drain_timeout=settings.drain_timeout,
        call_limit=settings.call_limit,
        worker_age=settings.worker_age or None,
        budget=BudgetSettings(
            estimate=estimate(settings),
            reserve=Cost(settings.ram_reserve, settings.vram_reserve),
            caps=Limits(settings.ram_budget, settings.vram_budget),
            soft_limit=Limits(settings.ram_soft_limit, settings.vram_soft_limit),
            hard_limit=Limits(settings.ram_hard_limit, settings.vram_hard_limit),
        ),
    )


def door_rules(settings: Settings) -> DoorRules:
    """Who may come in, and how many of each address."""
    return DoorRules(settings.trusted_proxies, settings.address_heads, settings.log_level)


def rate_rules(settings: Settings) -> RateRules:
    """How often anybody may ask."""
    return RateRules(
        address_calls=settings.address_calls,
        address_rate=settings.address_rate,
        total_rate=settings.total_rate,
        address_failed_keys=settings.address_failed_keys,
    )


def access_rules(settings: Settings) -> Access:
    """Who may talk to this server. `settings` are sealed (`keysfile.sealed`)."""
    assert settings.api_keys == settings.admin_keys == ()  # nobody could use those
    return Access(
        keys=settings.keys,
        guarded=settings.asks_for_keys,
        bind_host=settings.host,
        allowed_hosts=settings.allowed_hosts,
        allowed_origins=settings.allowed_origins,
        trusted_proxies=settings.trusted_proxies,
    )
