"""How long the pieces are that Kokoro speaks at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicepool.engines.kokoro.g2p import Word
from voicepool.engines.kokoro.pieces import (
    CONTINUED_SECONDS,
    FIRST_SECONDS,
    LONGEST,
    SHORTEST,
    Lead,
    Pace,
    cut,
)


def words(said: str) -> list[Word]:
    """Each of these words is pronounced as it is written."""
    return [Word(0, 1, f"{word} ") for word in said.split()]


def first(said: str, most: int) -> str:
    found = words(said)
    return "".join(word.phonemes for word in found[: cut(found, most)]).strip()


@pytest.mark.parametrize(
    ("most", "piece"),
    [
        (100, "one two three, four five six seven eight nine ten eleven twelve"),
        (45, "one two three, four five six seven eight nine ten eleven twelve"),
        (38, "one two three, four five six seven"),
        (32, "one two three, four five six"),
        (26, "one two three,"),
        (1, "one two three,"),
    ],
)
def test_a_piece_ends_where_the_text_pauses_or_between_words(most: int, piece: str) -> None:
    assert first("one two three, four five six seven eight nine ten eleven twelve", most) == piece


def test_a_pause_too_early_in_the_piece_is_not_waited_for() -> None:
    said = "yes, one two three four five six seven eight nine ten eleven twelve"
    assert first(said, 30) == "yes, one two three four five"


def test_a_word_is_never_cut() -> None:
    assert first("x" * 300 + " and so on and on and on and on", 30) == "x" * 300


@given(
    st.lists(st.text("ab,. ", min_size=1, max_size=60).map(lambda said: Word(0, 1, said))),
    st.integers(-10, 1000),
)
def test_pieces_are_all_of_it_and_fit_the_model(said: list[Word], most: int) -> None:
    left = said
    while left:
        count = cut(left, most)
        assert 1 <= count <= len(left)
        phonemes = sum(len(word.phonemes) for word in left[:count])
        assert phonemes <= min(max(most, SHORTEST) + max(SHORTEST, 60), LONGEST)
        left = left[count:]


def test_a_device_nothing_is_known_of_speaks_it_all_at_once() -> None:
    assert Pace().affordable(0.1) == LONGEST


def test_a_device_is_as_fast_as_it_was_lately() -> None:
    pace = Pace()
    pace.observe(100, 1.0)
    assert pace.affordable(0.5) == 50
    for _ in range(20):
        pace.observe(100, 2.0)
    assert pace.affordable(0.5) == pytest.approx(25, abs=1)
    pace.observe(100, 0.0)
    assert 25 < pace.affordable(0.5) < LONGEST
    assert pace.affordable(1e9) == LONGEST


def test_the_first_piece_is_waited_for() -> None:
    lead = Lead()
    lead.begin(100.0)
    assert lead.budget(100.0) == FIRST_SECONDS


def test_while_sound_is_heard_more_can_be_made() -> None:
    lead = Lead()
    lead.begin(100.0)
    lead.add(2.0, 101.0)
    lead.add(3.0, 101.5)
    assert lead.budget(102.0) == pytest.approx(4.0)
    assert lead.budget(105.9) == FIRST_SECONDS


@pytest.mark.parametrize(("pause", "left"), [(CONTINUED_SECONDS / 2, True), (1.0, False)])
def test_only_a_text_that_follows_at_once_is_a_continuation(pause: float, left: bool) -> None:
    lead = Lead()
    lead.begin(100.0)
    lead.add(9.0, 101.0)
    lead.end(101.0)
    lead.begin(101.0 + pause)
    assert (lead.budget(101.0 + pause) > FIRST_SECONDS) == left


def test_nothing_is_left_of_a_text_that_was_broken_off() -> None:
    lead = Lead()
    lead.begin(100.0)
    lead.add(9.0, 101.0)
    lead.begin(101.0)
    assert lead.budget(101.0) == FIRST_SECONDS
