"""Partial transcripts that never take back a word."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicepool.engines.faster_whisper.agreement import Agreement


def published(*guesses: str) -> list[str]:
    agreement = Agreement()
    return [agreement.hear(guess) for guess in guesses]


def test_a_word_is_published_when_two_guesses_in_a_row_agree() -> None:
    assert published(
        "what", "what is", "what is the", "what is the cup", "what is the capital"
    ) == [
        "",
        "what",
        "what is",
        "what is the",
        "what is the",
    ]


def test_a_word_that_comes_and_goes_is_not_published() -> None:
    assert published("a cap", "a cup", "a cap", "a cup", "a cup of") == ["", "a", "a", "a", "a cup"]


def test_case_and_punctuation_are_no_disagreement() -> None:
    assert published("I want.", "i want to go.", "I want to go home", "I want to go home.") == [
        "",
        "i want",
        "i want to go",
        "i want to go home",
    ]


def test_the_end_of_a_guess_is_not_the_end_of_a_sentence() -> None:
    assert published("Hello.", "Hello.", "Hello. How", "Hello. How are")[1:] == [
        "Hello",
        "Hello",
        "Hello How",
    ]
    assert published("Well -", "Well -")[1] == "Well"
    assert published("...", "...")[1] == ""


def test_what_is_published_stays_when_guesses_turn_away_from_it() -> None:
    assert published("red car", "red car", "blue car", "blue car now", "red car is", "red car is")[
        1:
    ] == ["red car", "red car", "red car", "red car", "red car is"]


@pytest.mark.parametrize(
    ("first", "second", "agreed"),
    [
        ("今天天气", "今天天气很好", "今天天气"),
        ("สวัสดีครับ", "สวัสดีค่ะ", "สวัสดีค"),
        ("私は Python が", "私は Python を", "私は Python"),
        ("हिन्दी में", "हिन्दी में", "हिन्दी में"),
    ],
)
def test_scripts_without_spaces_agree_by_characters(first: str, second: str, agreed: str) -> None:
    assert published(first, second)[-1] == agreed


words = st.sampled_from(["a", "B", "b.", "c,", "-", "好", "Ça", "?"])
guesses = st.lists(st.lists(words, max_size=6).map(" ".join), min_size=1, max_size=12)


@given(guesses | st.lists(st.text(max_size=12), min_size=1, max_size=8))
def test_partials_only_grow(heard: list[str]) -> None:
    agreement = Agreement()
    texts = [agreement.hear(guess) for guess in heard]
    for earlier, later in itertools.pairwise(texts):
        assert later.startswith(earlier)
    assert agreement.text == texts[-1]
    assert texts[0] == ""


def bare(text: str) -> list[str]:
    return [word for word in text.replace("好", " 好 ").casefold().split() if word.strip(".,-?")]


@given(guesses)
def test_nothing_is_published_that_two_guesses_did_not_say(heard: list[str]) -> None:
    agreement = Agreement()
    for before, guess in itertools.pairwise(["", *heard]):
        earlier = agreement.text
        if agreement.hear(guess) != earlier:
            said = [word.strip(".,") for word in bare(agreement.text)]
            for one in (before, guess):
                assert [word.strip(".,") for word in bare(one)][: len(said)] == said


@given(st.lists(words, max_size=8), st.integers(1, 5))
def test_a_guess_that_grows_steadily_is_published_but_for_its_end(
    spoken: list[str], step: int
) -> None:
    agreement = Agreement()
    for end in range(0, len(spoken) + step, step):
        agreement.hear(" ".join(spoken[:end]))
    agreement.hear(" ".join(spoken))
    assert [word.strip(".,") for word in bare(agreement.text)] == [
        word.strip(".,") for word in bare(" ".join(spoken))
    ]
