"""voicepool.response: where the time went. What a response tells is in test_pipeline.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from voicepool.events import Timing
from voicepool.generation import Generation, Stamps
from voicepool.response import Stopwatch, new_id
from voicepool.stages import Span


def made(stamps: Stamps) -> Generation:
    """What a stopwatch reads of a generation."""
    return cast(Generation, SimpleNamespace(stamps=stamps))


def test_what_the_engines_did_not_take_is_overhead() -> None:
    stopwatch = Stopwatch(10.0, stt=Span(10.1, 10.3), transcript=10.4, first_audio=12.0)
    stamps = Stamps(llm=Span(10.5, 11.0), clause=Span(11.0, 11.2), tts=Span(11.3, 11.6))
    timing = stopwatch.timing(made(stamps))
    assert timing.transcript == pytest.approx(0.4)
    assert timing.first_token == pytest.approx(1.0)
    assert timing.first_audio == pytest.approx(2.0)
    assert (timing.stt, timing.llm) == pytest.approx((0.2, 0.5))
    assert (timing.clause, timing.tts) == pytest.approx((0.2, 0.3))
    assert timing.overhead == pytest.approx(2.0 - 0.2 - 0.5 - 0.2 - 0.3)


def test_work_done_ahead_counts_as_no_time_and_hides_no_overhead() -> None:
    stopwatch = Stopwatch(10.0, stt=Span(9.0, 9.2), transcript=10.1, first_audio=10.5)
    stopwatch.speculated = True
    stamps = Stamps(llm=Span(9.2, 9.6), clause=Span(9.6, 9.9), tts=Span(9.9, 10.2))
    timing = stopwatch.timing(made(stamps))
    assert timing.first_token == 0
    assert timing.llm == pytest.approx(0.4), "it took it all the same"
    assert timing.overhead == pytest.approx(0.5 - 0.2), "less what of it fell after the turn"
    assert timing.speculated


def test_what_did_not_run_has_no_time() -> None:
    assert Stopwatch(10.0).timing(None) == Timing()
    assert Stopwatch(10.0).timing(made(Stamps())) == Timing()


def test_ids_are_short_enough_for_every_client_and_unique() -> None:
    ids = {new_id("item") for _ in range(1_000)}
    assert len(ids) == 1_000
    assert all(len(each) <= 32 and each.startswith("item_") for each in ids)
