"""`voicepool bench call`: the search for how many callers fit, and rounds on a real server."""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pools import PoolServer
from voicepool.bench import call
from voicepool.bench.call import Ramp, Round, Wait
from voicepool.dialogue import Reply, Turn

HELLO = Path(__file__).parent.parent / "examples/hello.wav"


def round_of(callers: int, sound: float, *, failures: tuple[str, ...] = ()) -> Round:
    return Round(callers, (0.001,), (Wait(0.5, 0.5, 0.6, sound),) * 3, 0, failures)


@given(st.integers(1, 300), st.integers(0, 300))
def test_the_ramp_finds_the_most_that_fit_in_few_rounds(most: int, capacity: int) -> None:
    ramp = Ramp(most)
    asked = []
    while (callers := ramp.next) is not None:
        assert 1 <= callers <= most
        asked.append(callers)
        ramp.learn(callers, callers <= capacity)
    assert ramp.fits == min(most, capacity)
    assert len(asked) == len(set(asked))
    assert len(asked) <= 2 * math.log2(most) + 2


def test_a_search_says_what_fits_and_what_was_too_many() -> None:
    async def play(callers: int) -> Round:
        return round_of(callers, 0.3 * callers)

    fits, rounds = asyncio.run(call.search(1.0, 16, play))
    assert fits == 3
    words = call.verdict(fits, 1.0, rounds)
    assert words == "3 callers fit: p95 0.90 s of 1 s; with 4 it was 1.20 s"


@pytest.mark.parametrize(
    ("fits", "rounds", "words"),
    [
        (1, [round_of(1, 0.5)], "1 caller fits: p95 0.50 s of 1 s; that is all the server takes"),
        (0, [round_of(1, 2.0)], "not even one caller fits into 1 s; with 1 it was 2.00 s"),
        (
            1,
            [round_of(1, 0.5), round_of(2, 0.5, failures=("no",))],
            "1 caller fits: p95 0.50 s of 1 s; with 2 calls failed",
        ),
        (2, [round_of(2, 0.5)], "2 callers fit: p95 0.50 s of 1 s; more were not tried"),
        (
            0,
            [round_of(4, 2.0)],
            "4 callers do not fit into 1 s; fewer were not tried; with 4 it was 2.00 s",
        ),
    ],
)
def test_the_verdict_in_words(fits: int, rounds: list[Round], words: str) -> None:
    assert call.verdict(fits, 1.0, rounds, 1).startswith(words)


def test_a_round_with_a_failure_or_a_silence_does_not_fit() -> None:
    assert round_of(2, 0.5).fits(1.0)
    assert not round_of(2, 0.5, failures=("hung up",)).fits(1.0)
    assert not Round(1, (), (Wait(0.5, 0.5, 0.5, 0.5),), 1, ()).fits(1.0)
    assert not Round(1, (), (), 0, ()).fits(1.0)


def turn(**moments: float | None) -> Turn:
    reply = Reply(first_text_at=moments.get("text"), first_audio_at=moments.get("sound"))
    found = Turn("item", spoke_until=10.0, reply=reply)
    found.stopped_at, found.transcript_at = moments.get("stopped"), moments.get("transcript")
    return found


def test_stages_add_up_to_voice_to_voice() -> None:
    wait = Wait.of(turn(stopped=10.5, transcript=10.7, text=11.0, sound=11.5))
    assert wait is not None
    assert wait.sound == pytest.approx(1.5)
    assert wait.stages == pytest.approx((0.5, 0.2, 0.3, 0.5))


def test_what_a_server_does_not_tell_took_no_time() -> None:
    # A transcript that comes after the sound has held up nothing.
    wait = Wait.of(turn(stopped=10.5, transcript=14.0, text=None, sound=11.5))
    assert wait is not None
    assert sum(wait.stages) == pytest.approx(1.5)
    assert all(stage >= 0 for stage in wait.stages)
    assert Wait.of(turn(stopped=10.5)) is None


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "voicepool", "bench", "call", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_a_round_with_two_callers(start_pool: Callable[..., PoolServer], tmp_path: Path) -> None:
    server = start_pool(app="", profile="embedded", workers=2)
    kept = tmp_path / "call.json"
    done = bench(
        str(HELLO), "--url", server.url, "--callers", "2", "--turns", "2", "--json", str(kept),
        "--p95", "20s",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2 callers fit" in done.stdout
    found = json.loads(kept.read_text())
    assert found["callers_that_fit"] == 2
    (played,) = found["rounds"]
    assert played["callers"] == len(played["connects"]) == 2
    assert played["failures"] == []
    assert len(played["turns"]) >= 2
    for spoken in played["turns"]:
        stages = [spoken[name] for name in call.STAGES]
        assert sum(stages) == pytest.approx(spoken["voice_to_voice"], abs=1e-3)
        assert spoken["end of turn"] > 0.3, "the silence that ends a turn is part of the wait"


@pytest.mark.parametrize("how", [("--p95", "1s"), ("--callers", "1"), ()])
def test_no_server_is_a_line_and_a_code(how: tuple[str, ...]) -> None:
    done = bench(str(HELLO), "--url", "ws://127.0.0.1:9", *how)
    assert done.returncode == 5
    assert "no server at" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_a_file_that_is_no_wav_is_a_line_and_a_code(
    start_pool: Callable[..., PoolServer], tmp_path: Path
) -> None:
    server = start_pool(workers=1)
    file = tmp_path / "x.wav"
    file.write_bytes(b"nothing")
    done = bench(str(file), "--url", server.url)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_what_cannot_be_read_or_kept_is_told_before_anybody_calls(tmp_path: Path) -> None:
    no_server = ("--url", "ws://127.0.0.1:9")
    nowhere = tmp_path / "none" / "call.json"
    for wrong in ((str(HELLO), "--json", str(nowhere)), (str(tmp_path / "none.wav"),)):
        done = bench(*wrong, *no_server)
        assert done.returncode == 2, done.stderr
        assert wrong[-1] in done.stderr
