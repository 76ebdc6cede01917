"""What the settings mean to the pool and to the door. Pure."""

from __future__ import annotations

from voicepool.access import Access
from voicepool.budgetspec import BudgetSettings, Cost, Limits
from voicepool.config import Settings
from voicepool.pool import PoolSettings


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
        budget=BudgetSettings(
            estimate=Cost(host=settings.ram_per_worker),
            reserve=Cost(host=settings.ram_reserve),
            caps=Limits(host=settings.ram_budget),
            soft_limit=Limits(host=settings.ram_soft_limit),
            hard_limit=Limits(host=settings.ram_hard_limit),
        ),
    )


def access_rules(settings: Settings) -> Access:
    """Who may talk to this server."""
    return Access(
        api_keys=settings.api_keys,
        bind_host=settings.host,
        allowed_hosts=settings.allowed_hosts,
        allowed_origins=settings.allowed_origins,
        trusted_proxies=settings.trusted_proxies,
    )
