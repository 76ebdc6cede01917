"""voicepool.sentences: clauses out of a streaming text."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from voicepool.sentences import LONGEST, Clause, Clauses


def clauses(*deltas: str) -> list[Clause]:
    splitter = Clauses()
    found = [clause for delta in deltas for clause in splitter.push(delta)]
    return found + splitter.flush()


def texts(text: str) -> list[str]:
    return [clause.text for clause in clauses(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("  \n ", []),
        ("...", []),
        ("Hello", ["Hello"]),
        ("Hello. How are you?", ["Hello.", "How are you?"]),
        ("Really?! Yes!", ["Really?!", "Yes!"]),
        ('He said "no." Then he left.', ['He said "no."', "Then he left."]),
        ("It costs 3.50 euros. Cheap.", ["It costs 3.50 euros.", "Cheap."]),
        ("Dr. Smith and Mrs. Jones met. Later.", ["Dr. Smith and Mrs. Jones met.", "Later."]),
        ("Ask J. S. Bach. He knows.", ["Ask J. S. Bach.", "He knows."]),
        ("Take fruit, e.g. apples. Or not.", ["Take fruit, e.g. apples.", "Or not."]),
        ("At 5 p.m. today. Fine.", ["At 5 p.m. today.", "Fine."]),
        ("Am I? It is I. Good.", ["Am I?", "It is I.", "Good."]),
        ("No. Yes.", ["No.", "Yes."]),
        ("1. Open it. 2. Close it.", ["1. Open it.", "2. Close it."]),
        ("The answer is 42. Next.", ["The answer is 42.", "Next."]),
        ("One line\nAnother line\n", ["One line", "Another line"]),
        ("Wait… what? Yes.", ["Wait…", "what?", "Yes."]),
        ("你好。再见。", ["你好。", "再见。"]),
        ("- \nHello.", ["- \nHello."]),
        ("**Yes.** It *is.* Now", ["**Yes.**", "It *is.*", "Now"]),
        ("## 1. Open it\n**2.** Close it", ["## 1. Open it", "**2.** Close it"]),
        ("Ask **Dr.** Who. Or `etc.` me.", ["Ask **Dr.** Who.", "Or `etc.` me."]),
        ("```\nx\n```\n", ["```", "x", "```"]),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert texts(text) == expected


def test_only_the_first_sentence_is_cut_at_a_comma() -> None:
    assert texts("Once upon a time, there was a fox, a red one. It ran, and ran, and ran.") == [
        "Once upon a time,",
        "there was a fox, a red one.",
        "It ran, and ran, and ran.",
    ]


def test_an_opening_that_is_too_short_is_not_cut() -> None:
    assert texts("Well, yes, of course, I do.") == ["Well, yes, of course,", "I do."]


def test_a_clause_is_given_out_as_soon_as_it_is_certain() -> None:
    splitter = Clauses()
    assert splitter.push("Hello there.") == [], "it may yet be 'Hello there.com'"
    assert splitter.push(" ") == [Clause("Hello there.", 0, opens_line=True)]
    assert splitter.push("How are") == []
    assert splitter.push(" you? I") == [Clause("How are you?", 13, opens_line=False)]
    assert splitter.flush() == [Clause("I", 26, opens_line=False)]


def test_the_marks_of_a_code_block_are_never_dropped() -> None:
    text = "~~~\n" + "=" * 250 + "\n~~~\n" + "=" * 470 + "~~~"
    assert "".join(texts(text)).count("~~~") == 3


def test_clauses_know_whether_a_line_begins_with_them() -> None:
    text = "One. Two\n  Three, four. Five\n \n😀\nSix.  \n Seven"
    assert [(clause.text, clause.opens_line) for clause in clauses(text)] == [
        ("One.", True),
        ("Two", False),
        ("Three, four.", True),
        ("Five", False),
        ("😀\nSix.", True),
        ("Seven", True),
    ]


def test_a_sentence_without_end_is_cut_at_a_space() -> None:
    found = texts("word " * 200)
    assert all(len(text) <= LONGEST for text in found)
    assert " ".join(found) == ("word " * 200).strip()
    assert len(found) == 5


def test_a_word_without_end_is_cut_anywhere() -> None:
    found = texts("x" * 1000)
    assert "".join(found) == "x" * 1000
    assert all(len(text) <= LONGEST for text in found)


@pytest.mark.parametrize(("piece", "times"), [("a", 500_000), ("word ", 100_000), (", ", 40_000)])
def test_a_book_at_once_takes_no_more_than_its_share(piece: str, times: int) -> None:
    """A search of all the rest for each clause would run for minutes here."""
    text = piece * times
    found = clauses(text)
    assert all(len(clause.text) <= LONGEST for clause in found)
    assert sum(map(str.isalnum, "".join(clause.text for clause in found))) == sum(
        map(str.isalnum, text)
    )


alphabet = st.sampled_from(
    [
        *"abI 1.,;!?\n\"')…。—😀",
        " ",
        " ",
        "Mr",
        "e.g",
        "word ",
        ". ",
        "x" * 90,
        "`",
        "```",
        "**",
        "\n",
    ]
)
any_text = st.lists(alphabet, max_size=60).map("".join)


@given(any_text, st.data())
@example("a. 1. b", None)
def test_any_split_gives_the_same_clauses_and_they_are_slices(
    text: str, data: st.DataObject | None
) -> None:
    whole = clauses(text)
    position = 0
    for clause in whole:
        assert clause.text == clause.text.strip()
        assert any(map(str.isalnum, clause.text)) or "```" in clause.text
        assert clause.opens_line == (not text[: clause.start].rpartition("\n")[2].strip())
        assert clause.start >= position
        assert text[clause.start : clause.start + len(clause.text)] == clause.text
        assert not any(map(str.isalnum, text[position : clause.start])), "a word was lost"
        position = clause.start + len(clause.text)
    assert not any(map(str.isalnum, text[position:]))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8))) if data else [1, 2, 3]
    bounds = [0, *cuts, len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(bounds)]
    assert clauses(*pieces) == whole
    assert clauses(*text) == whole
