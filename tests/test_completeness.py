"""voicepool.completeness: how finished a transcript sounds."""

from __future__ import annotations

import itertools
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicepool.closedwords import FILLERS, LANGUAGES
from voicepool.completeness import (
    FINISHED,
    LIKELY_FINISHED,
    LIKELY_UNFINISHED,
    UNFINISHED,
    UNKNOWN,
    UNMARKED,
    completeness,
)
from voicepool.engines.phrasebook import book, grammar


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        (" ... ", None),
        ("?!", None),
        # without punctuation, as pocketsphinx writes
        ("i would like to", UNFINISHED),
        ("i would like", UNFINISHED),
        ("i went to the store and", UNFINISHED),
        ("please turn on the lights in the", UNFINISHED),
        ("because", UNFINISHED),
        ("could you", UNFINISHED),
        ("so um", UNFINISHED),
        ("uh", UNFINISHED),
        ("set a timer for", LIKELY_UNFINISHED),
        ("the capital of france is", LIKELY_UNFINISHED),
        ("tell me", LIKELY_UNFINISHED),
        ("the weather in paris", UNKNOWN),
        ("what are you looking at", UNKNOWN),
        ("what time is it", LIKELY_FINISHED),
        ("tell me a very long story", LIKELY_FINISHED),
        ("yes", FINISHED),
        ("thank you very much", FINISHED),
        # with it, as Whisper does
        ("I would like to", UNFINISHED),
        ("I would like to...", UNFINISHED),
        ("I would like to\u2026", UNFINISHED),
        ("Well,", UNFINISHED),
        ("I wanted to ask \u2013", UNFINISHED),
        ("Hello. I would like", UNFINISHED),
        ("I would like to.", LIKELY_UNFINISHED),
        ("Um.", LIKELY_UNFINISHED),
        ("That is what I live for.", LIKELY_FINISHED),
        ("The weather in Paris", UNMARKED),
        ("I would like to hear a story.", FINISHED),
        ("What are you looking at?", FINISHED),
        ("Stop it!", FINISHED),
        ("\u201cI am done.\u201d", FINISHED),
        # numbers come in groups
        ("My number is 555", UNKNOWN),
        ("My number is 555-12.", UNKNOWN),
        ("I have 5.", FINISHED),
    ],
)
def test_english(text: str, expected: float | None) -> None:
    assert completeness(text, "en") == expected


@pytest.mark.parametrize(
    ("language", "unfinished", "open_", "finished"),
    [
        ("de", "ich möchte", "das Wetter in Paris", "ja"),
        ("de-AT", "mach das Licht an und", "das Licht geht an", "vielen Dank"),
        ("es", "me gustaría", "el tiempo en Madrid", "muchas gracias"),
        ("fr", "je voudrais une", "la météo à Paris", "s\u2019il vous plaît"),
        ("it", "vorrei un", "il tempo a Roma", "va bene"),
        ("pt_BR", "eu queria", "o tempo em Lisboa", "bom dia"),
        ("nl", "ik wil een", "het weer in Utrecht", "ja graag"),
    ],
)
def test_other_languages(language: str, unfinished: str, open_: str, finished: str) -> None:
    assert completeness(unfinished, language) == UNFINISHED
    assert completeness(open_, language) in (UNKNOWN, UNMARKED)
    assert completeness(finished, language) == FINISHED


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("今日はいい天気です。", FINISHED),
        ("今日は、", UNFINISHED),
        ("今日はいい天気です", UNKNOWN),
        ("كيف حالك؟", FINISHED),
        ("आप कैसे हैं।", FINISHED),
        ("Jak se máš?", FINISHED),
        ("a chciałbym", UNKNOWN),
        ("chciałbym um", UNFINISHED),
    ],
)
def test_a_language_without_a_table_has_its_punctuation(text: str, expected: float) -> None:
    assert completeness(text, "xx") == expected


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("I would like to hear about the", "en"),
        ("ich hätte gern noch einen Termin für den", "de"),
        ("quisiera saber cuándo sale el", "es"),
        ("je voudrais savoir quand part le", "fr"),
        ("vorrei sapere quando parte il", "it"),
        ("eu queria saber quando sai o", "pt"),
        ("ik wil weten wanneer de", "nl"),
    ],
)
def test_the_language_is_told_from_the_words(text: str, language: str) -> None:
    assert completeness(text) == completeness(text, language) == UNFINISHED


def test_tables_are_of_words_that_a_transcript_can_have() -> None:
    for table in LANGUAGES.values():
        for words in (table.unfinished, table.unsure, table.whole, table.questions, table.commands):
            assert all(word == word.lower() and len(word.split()) <= 4 for word in words)
        assert not table.unfinished & table.unsure
        assert not table.whole & (table.unfinished | FILLERS)


def test_no_phrase_of_the_phrasebook_sounds_unfinished_and_its_beginnings_seldom_finished() -> None:
    phrasebook, random = book.load(), Random(1)
    early = []
    for pattern in phrasebook.patterns():
        said = grammar.sample(pattern, phrasebook.lists, random)
        whole = completeness(said, "en")
        assert whole is not None
        assert whole >= UNKNOWN, said
        words = said.split()
        starts = [" ".join(words[:count]) for count in range(1, len(words))]
        early += [start for start in starts if completeness(start, "en") == FINISHED]
    greetings = {"good morning", "good evening", "goodbye", "hello"}
    assert set(early) <= greetings | {"thank you", "thank you very much", "never mind"}


PIECES = "I would like to hear the story and um yes ? . , what tell 5 55 Ja"
texts = st.text(max_size=60) | st.lists(st.sampled_from(PIECES.split())).map(" ".join)


@given(texts, st.sampled_from(["", "en", "de", "xx", "en-US"]))
def test_any_text_has_a_place_between_nothing_and_all(text: str, language: str) -> None:
    found = completeness(text, language)
    assert found is None or UNFINISHED <= found <= FINISHED
    assert (found is None) == (not any(map(str.isalnum, text)))


@given(texts, st.sampled_from(sorted(LANGUAGES)))
def test_the_stronger_the_mark_the_more_finished(text: str, language: str) -> None:
    bare = "".join(letter if letter.isalnum() else " " for letter in text).strip()
    marked = [completeness(bare + mark, language) for mark in (",", "", ".", "?")]
    found = [share for share in marked if share is not None]
    assert len(found) == (4 if bare else 0)
    assert all(one <= two for one, two in itertools.pairwise(found)), (bare, marked)
