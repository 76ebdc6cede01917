"""voicepool.turns: the turn-taking state machine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.instruments import WINDOW, LoudnessStream
from voicepool.audio import Windows
from voicepool.events import TurnSettings
from voicepool.patience import Patience
from voicepool.turns import (
    LONGEST_TURN,
    PAUSE,
    Idled,
    Paused,
    Resumed,
    Started,
    Stopped,
    TurnDetector,
    TurnEvent,
    milliseconds_of,
    samples_of,
)

W = WINDOW
PLAIN = TurnSettings(
    threshold=0.5, prefix_padding_ms=0, minimum_speech_ms=96, silence_duration_ms=320
)
"""3 windows begin a turn, 10 end it, 5 are the pause."""


def run(settings: TurnSettings, script: str) -> list[TurnEvent]:
    """Events of a script: S a speech window, u an unsure one, . silence."""
    detector = TurnDetector(settings, W)
    levels = {"S": 0.9, "u": 0.4, ".": 0.1}
    return [event for letter in script for event in detector.push(levels[letter])]


@pytest.mark.parametrize(
    ("script", "events"),
    [
        ("....", []),
        ("uuuu", []),
        ("SS.", []),
        ("S.S.S.S.", []),
        ("..SSS", [Started(2 * W)]),
        ("SuuS", [Started(0)]),
        ("SSS" + "." * 4, [Started(0)]),
        ("SSS" + "." * 5, [Started(0), Paused(8 * W)]),
        ("SSS" + "." * 4 + "S" + "." * 4, [Started(0)]),
        ("SSS" + "." * 6 + "S", [Started(0), Paused(8 * W), Resumed(10 * W)]),
        ("SSS" + "." * 5 + "uuuuu", [Started(0), Paused(8 * W), Stopped(13 * W)]),
        ("SSS" + "u" * 50, [Started(0)]),
        (
            "SSS" + "." * 10 + "SSS",
            [Started(0), Paused(8 * W), Stopped(13 * W), Started(13 * W)],
        ),
    ],
)
def test_events_of_a_script(script: str, events: list[TurnEvent]) -> None:
    assert run(PLAIN, script) == events


def test_prefix_padding_is_part_of_the_turn_but_never_of_the_turn_before() -> None:
    padded = replace(PLAIN, prefix_padding_ms=64)
    assert run(padded, "....SSS") == [Started(2 * W)]
    assert run(padded, "SSS") == [Started(0)]
    assert run(padded, "SSS" + "." * 11 + "SSS")[-1] == Started(13 * W)


def test_minimum_speech_of_nothing_starts_at_once() -> None:
    assert run(replace(PLAIN, minimum_speech_ms=0), ".S") == [Started(W)]


def test_a_silence_shorter_than_the_pause_ends_a_turn_without_one() -> None:
    assert run(replace(PLAIN, silence_duration_ms=64), "SSS..") == [Started(0), Stopped(5 * W)]


def test_silence_of_nothing_ends_a_turn_with_the_first_silent_window() -> None:
    assert run(replace(PLAIN, silence_duration_ms=0), "SSS.") == [Started(0), Stopped(4 * W)]


def test_threshold_zero_hears_speech_always_and_never_stops() -> None:
    assert run(replace(PLAIN, threshold=0.0), "." * 50) == [Started(0)]


def test_other_settings_count_from_the_next_window() -> None:
    detector = TurnDetector(PLAIN, W)
    for _ in range(3):
        detector.push(0.9)
    for _ in range(4):
        assert detector.push(0.0) == []
    detector.settings = replace(PLAIN, silence_duration_ms=32)
    assert detector.push(0.0) == [Stopped(8 * W)]


def test_end_turn_stops_it_and_the_next_begins_after_it() -> None:
    detector = TurnDetector(replace(PLAIN, prefix_padding_ms=300), W)
    for _ in range(5):
        detector.push(0.9)
    assert detector.end_turn() == [Stopped(5 * W)]
    assert detector.end_turn() == []
    assert [detector.push(0.9) for _ in range(3)] == [[], [], [Started(5 * W)]]


def test_end_turn_forgets_a_rise() -> None:
    detector = TurnDetector(PLAIN, W)
    detector.push(0.9)
    detector.push(0.9)
    assert detector.end_turn() == []
    assert detector.push(0.9) == []


def test_a_turn_without_end_is_cut() -> None:
    detector = TurnDetector(PLAIN, W)
    events = [event for _ in range(LONGEST_TURN // W + 2) for event in detector.push(0.9)]
    assert [type(event) for event in events] == [Started, Stopped]
    stopped = events[1]
    assert isinstance(stopped, Stopped)
    assert LONGEST_TURN <= stopped.end < LONGEST_TURN + W


def test_idle_time_counts_from_the_end_of_the_reply_and_is_told_once() -> None:
    detector = TurnDetector(replace(PLAIN, idle_timeout_ms=96), W)
    detector.expect_speech(2 * W)
    told = [event for _ in range(20) for event in detector.push(0.0)]
    assert told == [Idled(2 * W, 5 * W)]


def test_speech_ends_the_wait_for_speech_and_a_click_does_not() -> None:
    settings = replace(PLAIN, idle_timeout_ms=320)
    detector = TurnDetector(settings, W)
    detector.expect_speech(0)
    click = [0.0, 0.9, 0.0]
    told = [event for level in [*click, *[0.0] * 10] for event in detector.push(level)]
    assert told == [Idled(0, 10 * W)]
    detector.expect_speech(detector.now)
    spoken = [event for level in [*[0.9] * 3, *[0.0] * 40] for event in detector.push(level)]
    assert not any(isinstance(event, Idled) for event in spoken)


def test_sound_that_nobody_judged_is_no_idle_time() -> None:
    detector = TurnDetector(replace(PLAIN, idle_timeout_ms=96), W)
    detector.expect_speech(0)
    detector.advance(100 * W)
    told = [event for _ in range(5) for event in detector.push(0.1)]
    assert told == [Idled(100 * W, 103 * W)]


def test_no_idle_time_where_none_is_set_or_expected() -> None:
    detector = TurnDetector(PLAIN, W)
    detector.expect_speech(0)
    assert [event for _ in range(100) for event in detector.push(0.0)] == []
    detector.settings = replace(PLAIN, idle_timeout_ms=32)
    detector.expect_speech(None)
    assert [event for _ in range(100) for event in detector.push(0.0)] == []


def test_milliseconds_and_samples() -> None:
    assert samples_of(1000) == 16_000
    assert milliseconds_of(samples_of(96)) == 96
    assert milliseconds_of(PAUSE) == 160


def test_turn_ended_by_hand_at_the_moment_of_its_pause() -> None:
    detector = TurnDetector(PLAIN, W)
    levels = [*[0.9] * 10, *[0.0] * (PAUSE // W)]
    events = [event for level in levels for event in detector.push(level)]
    assert events[-1] == Paused(detector.now)
    assert detector.end_turn() == [Stopped(detector.now)]


# -- silence by what was said

WAITS = replace(PLAIN, patience=Patience(finished_ms=192, unknown_ms=320, longest_ms=640))
"""6, 10 and 20 windows."""


def closing_windows(understood: dict[int, float], script: str = "") -> int:
    """Windows of silence from the end of speech, or of `script`, to the end of the turn.

    `understood`: completeness told after so many of them.
    """
    detector = TurnDetector(WAITS, W)
    levels = {"S": 0.9, ".": 0.1}
    for letter in f"SSSSS{script}":
        detector.push(levels[letter])
    for count in range(1, 100):
        if any(isinstance(event, Stopped) for event in detector.push(0.0)):
            return count
        if count in understood:
            detector.understand(understood[count])
    raise AssertionError("the turn never ended")


@pytest.mark.parametrize(
    ("understood", "windows"),
    [
        ({}, 10),
        ({5: 1.0}, 6),
        ({5: 0.5}, 10),
        ({5: 0.0}, 20),
        ({8: 1.0}, 9),  # told late: the next window ends it
        ({5: 0.0, 9: 1.0}, 10),  # the words have changed, and the deadline with them
        ({5: 1.0, 6: 0.0}, 6),
    ],
)
def test_the_closing_silence_follows_what_was_said(
    understood: dict[int, float], windows: int
) -> None:
    assert closing_windows(understood) == windows


def test_what_was_said_before_the_caller_went_on_counts_no_more() -> None:
    detector = TurnDetector(WAITS, W)
    for level in [0.9] * 5 + [0.0] * 5:
        detector.push(level)
    detector.understand(0.0)
    for level in [0.0] * 10 + [0.9] * 3 + [0.0] * 9:
        assert not any(isinstance(event, Stopped) for event in detector.push(level))
    assert detector.push(0.0) == [Stopped(detector.now)]


def test_nobody_is_understood_while_they_speak() -> None:
    detector = TurnDetector(WAITS, W)
    detector.understand(1.0)
    for _ in range(5):
        detector.push(0.9)
        detector.understand(1.0)
    for _ in range(9):
        assert not any(isinstance(event, Stopped) for event in detector.push(0.0))


patiences = st.lists(st.integers(1, 900), min_size=3, max_size=3).map(
    lambda times: Patience(*sorted(times))
)
any_settings = st.builds(
    TurnSettings,
    threshold=st.floats(0, 1),
    prefix_padding_ms=st.integers(0, 1000),
    minimum_speech_ms=st.integers(0, 300),
    silence_duration_ms=st.integers(0, 800),
    patience=st.none() | patiences,
    idle_timeout_ms=st.none() | st.integers(0, 500),
)
probabilities = st.sampled_from([0.0, 0.2, 0.36, 0.49, 0.5, 0.7, 1.0]) | st.floats(0, 1)
runs = st.lists(st.tuples(probabilities, st.integers(1, 20)), max_size=30)
"""Probabilities, each for a number of windows: turns need some in a row."""


STEPS = ["go on", "go on", "end", "advance", "expect", "understand", "configure"]


@given(any_settings, runs, st.data())
def test_turns_are_well_formed_whatever_happens(
    settings: TurnSettings, levels: list[tuple[float, int]], data: st.DataObject
) -> None:
    detector = TurnDetector(settings, W)
    events: list[TurnEvent] = []
    for level, count in levels:
        for _ in range(count):
            before = detector.now
            new = detector.push(level)
            for event in new:
                assert not isinstance(event, Stopped) or event.end == detector.now
                assert not isinstance(event, Started) or event.start <= before
            events += new
        match data.draw(st.sampled_from(STEPS)):
            case "end":
                events += detector.end_turn()
            case "advance":
                detector.advance(data.draw(st.integers(0, 2000)))
            case "expect":
                detector.expect_speech(detector.now)
            case "understand":
                detector.understand(data.draw(st.floats(0, 1)))
            case "configure":
                detector.settings = data.draw(any_settings)
    check_well_formed(events)


def check_well_formed(events: list[TurnEvent]) -> None:
    """Started and Stopped alternate; Paused and Resumed lie between; no time goes back."""
    last = began = 0
    started = paused = False
    for event in events:
        match event:
            case Started(start):
                assert not started
                assert start >= last
                started, last, began = True, start, start
            case Stopped(end):
                assert started
                # Ended by hand it may be over at the very moment of its last pause.
                assert end > began
                assert end >= last
                started = paused = False
                last = end
            case Paused(at):
                assert started
                assert not paused
                assert at > last
                paused, last = True, at
            case Resumed(at):
                assert started
                assert paused
                assert at > last
                paused, last = False, at
            case Idled(start, end):
                assert not started
                assert start <= end


clear_settings = st.builds(replace, any_settings, threshold=st.floats(0.2, 1))
"""That take 0 for silence."""
LONGEST = 29
"""Windows of the longest closing silence that `any_settings` can ask for, and one more."""


@given(st.lists(st.integers(10, 20), max_size=4), st.data())
def test_no_change_of_settings_loses_or_doubles_a_turn(
    bursts: list[int], data: st.DataObject
) -> None:
    """Each burst is long enough for every minimum, each silence for every closing one. What
    changes in mid-burst, or in mid-silence, changes when its turn ends, and nothing else."""
    detector = TurnDetector(data.draw(clear_settings), W)
    ends: list[int] = []
    starts = 0
    for burst in bursts:
        levels = [1.0] * burst + [0.0] * LONGEST
        change_at = data.draw(st.integers(0, len(levels) - 1))
        for number, level in enumerate(levels):
            if number == change_at:
                detector.settings = data.draw(clear_settings)
            detector.understand(data.draw(st.sampled_from([0.0, 0.5, 1.0])))
            for event in detector.push(level):
                starts += isinstance(event, Started)
                if isinstance(event, Stopped):
                    ends.append(number - burst + 1)
    assert starts == len(ends) == len(bursts)
    assert all(0 < silence <= LONGEST for silence in ends)


@given(patiences, st.lists(st.tuples(st.integers(1, 60), st.floats(0, 1)), max_size=6))
def test_the_closing_silence_is_bounded_whatever_was_understood(
    patience: Patience, told: list[tuple[int, float]]
) -> None:
    detector = TurnDetector(replace(PLAIN, patience=patience), W)
    for _ in range(5):
        detector.push(0.9)
    understood = dict(told)
    for count in range(1, 100):
        if detector.push(0.0) and not detector.in_turn:
            break
        if count in understood:
            detector.understand(understood[count])
    silence = milliseconds_of(count * W)
    assert patience.finished_ms <= silence < patience.longest_ms + milliseconds_of(W) + 1


@given(any_settings, runs, st.data())
def test_any_split_of_the_sound_gives_the_same_events(
    settings: TurnSettings, levels: list[tuple[float, int]], data: st.DataObject
) -> None:
    sound = np.concatenate(
        [np.zeros(0, np.float32)]
        + [np.full(count * 300, level / 2, np.float32) for level, count in levels]
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sound)), max_size=12)))

    def events(pieces: list[np.ndarray]) -> list[TurnEvent]:
        windows, ear, detector = Windows(W), LoudnessStream(), TurnDetector(settings, W)
        return [
            event
            for piece in pieces
            for window in windows.push(piece)
            for event in detector.push(ear.push(window))
        ]

    assert events(np.split(sound, cuts)) == events([sound])
