"""voicepool.playback: the sent-audio clock, and which words were heard by then."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicepool.engines.base import WordTime
from voicepool.playback import Loudspeaker, Playback
from voicepool.sentences import Clauses
from voicepool.spoken.reader import Reader


def spoken(text: str, *, timed: bool = True, finished: bool = True) -> Playback:
    """A reply whose words take 100 ms each."""
    playback = Playback(Loudspeaker())
    playback.text = text
    splitter, reader = Clauses(), Reader("en")
    for clause in [*splitter.push(text), *splitter.flush()]:
        read = reader.read(clause)
        playback.begin_clause(read)
        for number, word in enumerate(re.finditer(r"\S+", read.text)):
            times = (WordTime(word.start(), word.end(), number / 10),) if timed else ()
            playback.add_sound(0.1, times)
    if finished:
        playback.end_clause()
    return playback


@pytest.mark.parametrize(
    ("heard_ms", "text"),
    [
        (-5, ""),
        (0, ""),
        (1, "One"),
        (100, "One"),
        (101, "One two."),
        (200, "One two."),
        (250, "One two.  Three"),
        (400, "One two.  Three four!"),
        (9000, "One two.  Three four!"),
        (float("inf"), "One two.  Three four!"),
    ],
)
def test_words_that_have_begun_are_heard(heard_ms: float, text: str) -> None:
    assert spoken("One two.  Three four! ").text_until(heard_ms) == text


@pytest.mark.parametrize("seconds", [0.1004, 0.1005, 0.1006])
def test_the_end_of_a_clause_is_not_yet_the_next_one(seconds: float) -> None:
    playback = Playback(Loudspeaker())
    playback.text = "One. Two."
    splitter, reader = Clauses(), Reader("en")
    for clause in [*splitter.push(playback.text), *splitter.flush()]:
        playback.begin_clause(reader.read(clause))
        playback.add_sound(seconds, (WordTime(0, 4, 0.0),))
    heard_ms = round(seconds * 1000)
    assert playback.text_until(heard_ms) == "One."
    assert playback.text_until(heard_ms + 1) == "One. Two."


def test_without_word_times_text_is_spread_over_its_sound() -> None:
    playback = spoken("aaaa bbbb cccc dddd.", timed=False)
    assert playback.text_until(0) == ""
    assert playback.text_until(70) == ""
    assert playback.text_until(210) == "aaaa bbbb"
    assert playback.text_until(400) == "aaaa bbbb cccc dddd."


@pytest.mark.parametrize(
    ("heard_ms", "text"),
    [
        (100, "It"),
        (200, "It **costs"),
        (300, "It **costs** $5.20"),
        (700, "It **costs** $5.20"),
        (800, "It **costs** $5.20 [today"),
        (900, "It **costs** $5.20 [today](https://example.com)."),
    ],
)
def test_what_is_heard_is_told_in_the_words_that_were_written(heard_ms: float, text: str) -> None:
    """Said: "It costs five dollars and twenty cents today. Later." """
    playback = spoken("It **costs** $5.20 [today](https://example.com). Later.")
    assert playback.text_until(heard_ms).startswith(text)


def test_silent_clauses_go_with_what_was_heard_before_them() -> None:
    text = "One two.\n```\nx = 1\n```\nThree."
    playback = spoken(text)
    assert playback.text_until(100) == "One"
    assert playback.text_until(200) == "One two.", "what stands for the code was not heard"
    assert playback.text_until(201) == "One two.\n```"
    assert playback.text_until(400) == "One two.\n```\nx = 1\n```"
    assert playback.text_until(401) == text


def test_a_silent_end_is_heard_with_the_last_sound() -> None:
    text = "One two.\n[1]: https://example.com"
    playback = spoken(text)
    assert playback.text_until(0) == ""
    assert playback.text_until(150) == "One two."
    assert playback.text_until(playback.seconds * 1000) == text


def test_a_silent_beginning_is_heard_with_the_first_sound() -> None:
    playback = spoken("[1]: https://example.com\nOne two.")
    assert playback.text_until(0) == ""
    assert playback.text_until(1) == "[1]: https://example.com\nOne"


def test_a_clause_in_the_making_is_not_taken_for_heard() -> None:
    playback = Playback(Loudspeaker())
    text = "A sentence of forty-five characters, or so it is said."
    playback.text = text
    for clause in Clauses().push(text + " ") or Clauses().push(text):
        playback.begin_clause(Reader("en").read(clause))
        playback.add_sound(0.2, ())
        break
    heard = playback.text_until(200)
    assert len(heard.split()) <= 1, "0.2 s are three characters at an ordinary pace"


def test_the_clock_is_the_smaller_of_sent_and_elapsed() -> None:
    playback = spoken("One two three four.")
    assert playback.heard_ms(10.0) == 0
    playback.sent(0.2, now=10.0)
    assert playback.heard_ms(10.05) == 50
    assert playback.remaining(10.05) == pytest.approx(0.15)
    assert playback.unplayed(10.05) == pytest.approx(0.35)
    assert playback.heard_ms(10.5) == 200, "no more than was sent"
    playback.sent(0.2, now=11.0)
    assert playback.heard_ms(11.1) == 300, "the gap was not heard"
    assert playback.unplayed(11.2) == pytest.approx(0)


def test_a_reply_plays_after_the_one_before_it() -> None:
    line = Loudspeaker()
    first, second = Playback(line), Playback(line)
    first.sent(1.0, now=10.0)
    second.sent(1.0, now=10.1)
    assert (first.heard_ms(10.5), second.heard_ms(10.5)) == (500, 0)
    assert (first.heard_ms(11.25), second.heard_ms(11.25)) == (1000, 250)


def test_a_reply_that_is_stopped_is_heard_no_further() -> None:
    line = Loudspeaker()
    first = Playback(line)
    first.sent(1.0, now=10.0)
    first.stop(10.4)
    assert first.heard_ms(20.0) == 400
    assert first.unplayed(10.4) == 0
    second = Playback(line)
    second.sent(1.0, now=10.5)
    assert second.heard_ms(10.7) == 200, "the line was free"


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.5)), max_size=20), st.floats(0, 5))
def test_the_clock_never_runs_back_or_ahead(
    sendings: list[tuple[float, float]], later: float
) -> None:
    playback = Playback(Loudspeaker())
    now, sent, heard = 100.0, 0.0, 0
    for wait, seconds in sendings:
        now += wait
        assert heard <= playback.heard_ms(now) + 1
        heard = playback.heard_ms(now)
        playback.sent(seconds, now)
        sent += seconds
        assert playback.heard_ms(now) <= round(sent * 1000)
        assert playback.heard_ms(now) <= round((now - 100) * 1000) + 1
    assert playback.heard_ms(now + later) >= heard - 1


words = st.lists(st.sampled_from(["One", "two,", "three.", "four!", "3.5", "Dr."]), max_size=25)


@given(words, st.booleans(), st.lists(st.integers(-10, 3000), max_size=8))
def test_more_time_is_more_text_and_always_a_beginning(
    said: list[str], timed: bool, moments: list[int]
) -> None:
    playback = spoken(" ".join(said), timed=timed)
    texts = [playback.text_until(moment) for moment in sorted(moments)]
    for shorter, longer in pairwise(texts):
        assert longer.startswith(shorter)
    assert all(playback.text.startswith(text) for text in texts)
    assert playback.text_until(playback.seconds * 1000 + 1) == playback.text
