"""What the settings come to."""

from __future__ import annotations

from typing import Any

import pytest

from voicepool.budget import BudgetSettings, Cost, Limits
from voicepool.config import Settings
from voicepool.rules import ESTIMATES, estimate, gpu_need, pool_settings

CUDA_EARS = {"stt": {"engine": "faster_whisper", "model": "tiny", "device": "cuda"}}


@pytest.mark.parametrize(
    ("settings", "need"),
    [
        ({"profile": "embedded"}, "none"),
        ({"profile": "cpu"}, "none"),
        ({"profile": "cuda"}, "must"),
        ({"profile": "cpu", "engines": CUDA_EARS}, "must"),
        ({"app": "a:b"}, "some"),
        ({"app": "a:b", "gpus": "none"}, "none"),
        ({"app": "a:b", "gpus": "0"}, "must"),
    ],
)
def test_who_needs_a_gpu(settings: dict[str, Any], need: str) -> None:
    assert gpu_need(Settings(**settings)) == need


def test_a_worker_is_taken_to_need_what_its_profile_says_until_told_otherwise() -> None:
    for profile, cost in ESTIMATES.items():
        assert estimate(Settings(profile=profile)) == cost
    assert estimate(Settings(profile="cpu", engines=CUDA_EARS)) == ESTIMATES["cuda"]
    told = Settings(profile="cuda", ram_per_worker=1, vram_per_worker=2)
    assert estimate(told) == Cost(1, 2)
    assert estimate(Settings(app="a:b", vram_per_worker=2)).device == 2


def test_every_setting_of_the_budget_reaches_the_ledger() -> None:
    names = (
        *("ram_budget", "ram_reserve", "ram_per_worker", "ram_soft_limit", "ram_hard_limit"),
        *("vram_budget", "vram_reserve", "vram_per_worker", "vram_soft_limit", "vram_hard_limit"),
    )
    settings = Settings(**{name: number for number, name in enumerate(names, 1)})  # type: ignore[arg-type]
    assert pool_settings(settings).budget == BudgetSettings(
        estimate=Cost(3, 8),
        reserve=Cost(2, 7),
        caps=Limits(1, 6),
        soft_limit=Limits(4, 9),
        hard_limit=Limits(5, 10),
    )
