"""The phrasebook's file, its patterns, its words and its skills."""

from __future__ import annotations

import datetime
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicepool.engines.base import Message
from voicepool.engines.phrasebook import book, grammar, numbers, skills, text
from voicepool.errors import ConfigError

BOOK = book.load()
NOON = datetime.datetime(2026, 12, 24, 12, 5, tzinfo=datetime.UTC)


def answer(said: str, *history: Message, now: datetime.datetime = NOON) -> str:
    """What a skill answers to a phrase."""
    found = BOOK.match(said)
    assert found is not None, said
    ask = skills.Ask(found.slots, history, BOOK, Random(1), now)
    return skills.SKILLS[found.entry.skill].run(ask)


def write(folder: Path, toml: str) -> str:
    path = folder / "my.toml"
    path.write_text(toml, "utf-8")
    return str(path)


# --- the book that comes with voicepool ------------------------------------------------------


def test_the_book_has_at_least_sixty_patterns() -> None:
    assert len(BOOK.entries) >= 60


def test_every_way_to_say_a_phrase_leads_to_its_entry() -> None:
    random = Random(2)
    for entry in BOOK.entries:
        for pattern in entry.patterns:
            for _ in range(10):
                said = grammar.sample(pattern, BOOK.lists, random)
                found = BOOK.match(said)
                assert found is not None
                assert found.entry is entry, said


def test_every_entry_answers() -> None:
    random = Random(3)
    for entry in BOOK.entries:
        said = grammar.sample(entry.patterns[0], BOOK.lists, random)
        found = BOOK.match(said)
        assert found is not None
        for reply in entry.replies:
            filled = book.fill(reply, found.slots)
            assert filled
            assert "{" not in filled
        if entry.skill:
            assert answer(said)


def test_every_skill_is_used_by_the_book() -> None:
    assert {entry.skill for entry in BOOK.entries if entry.skill} == set(skills.SKILLS)


# --- patterns --------------------------------------------------------------------------------

LISTS = {"city": {"paris": "Paris", "hong kong": "Hong Kong"}, "number": {"two": "2"}}


@pytest.mark.parametrize(
    ("pattern", "said", "fits"),
    [
        ("tell me a joke", "tell me a joke", True),
        ("tell me a joke", "tell me a", False),
        ("tell me a joke", "tell me a joke now", False),
        ("[please] stop [now]", "stop", True),
        ("[please] stop [now]", "please stop now", True),
        ("[please] stop [now]", "please now", False),
        ("(good | very good) day", "very good day", True),
        ("(good | very [very] good) day", "very very good day", True),
        ("go to {where:city}", "go to hong kong", True),
        ("go to {where:city}", "go to hong", False),
        ("add {a:number} and {b:number}", "add twenty one and 7", True),
        ("add {a:number} and {b:number}", "add and 7", False),
    ],
)
def test_matching(pattern: str, said: str, fits: bool) -> None:
    assert (grammar.match(grammar.parse(pattern), said.split(), LISTS) is not None) is fits


def test_slots_have_words_and_values() -> None:
    pattern = grammar.parse("from {a:city} in {b:number} days")
    slots = grammar.match(pattern, text.tokens("from hong kong in forty two days"), LISTS)
    assert slots == {
        "a": grammar.Slot("hong kong", "Hong Kong"),
        "b": grammar.Slot("forty two", 42),
    }


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "[",
        "a ]",
        "(a | )",
        "( a",
        "a | (b",
        "[please]",
        "{a}",
        "{a:}",
        "Hello",
        "room 7",
        "a, b",
        "{",
    ],
)
def test_what_is_no_pattern_is_refused(wrong: str) -> None:
    with pytest.raises(grammar.PatternError):
        grammar.parse(wrong)


words = st.sampled_from(["red", "green", "blue", "sky"]).map(grammar.Word)
nodes = st.recursive(
    words | st.just(grammar.SlotRef("a", "city")),
    lambda inner: st.one_of(
        inner.map(grammar.Optional),
        st.lists(inner, min_size=2, max_size=3).map(lambda some: grammar.Choice(tuple(some))),
        st.lists(inner, min_size=2, max_size=3).map(lambda some: grammar.Series(tuple(some))),
    ),
    max_leaves=8,
)


@given(nodes, st.integers())
def test_what_a_pattern_says_it_matches(node: grammar.Node, seed: int) -> None:
    said = grammar.sample(node, LISTS, Random(seed)).split()
    slots = grammar.match(node, said, LISTS)
    assert slots is not None
    assert grammar.certain_slots(node) <= slots.keys()
    assert said or grammar.matches_nothing(node)


def test_jsgf_of_a_small_book() -> None:
    patterns = [grammar.parse("[please] go to {where:city}"), grammar.parse("stop | (wait here)")]
    assert grammar.to_jsgf(patterns, LISTS) == (
        "#JSGF V1.0;\n"
        "grammar phrasebook;\n"
        "<city> = paris | hong kong;\n"
        "public <phrase> = [ please ] go to <city> | ( stop | wait here );\n"
    )


# --- words -----------------------------------------------------------------------------------


@given(st.integers(0, 999))
def test_number_words_and_back(number: int) -> None:
    said = numbers.words(number).split()
    assert (len(said), number) in numbers.parse(said)
    assert max(numbers.parse(said))[1] == number


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("What's 7x8?", "what is 7 times 8"),
        ("WHAT\u2019S 7 \u00d7 8", "what is 7 times 8"),
        ("what is 1,000 - 1", "what is 1000 minus 1"),
        ("what is 6/3", "what is 6 divided by 3"),
        ("What is today's date?!", "what is today's date"),
        ("  Hi,  there...computer ", "hello there computer"),
        ("I'm bored", "i am bored"),
        ("\x00\ud800 ✨", ""),
    ],
)
def test_typed_text(typed: str, words: str) -> None:
    assert text.tokens(typed) == words.split()


@pytest.mark.parametrize(
    "typed",
    ["what is 7.5 plus 2", "what is -5 plus 3", "what is .5 plus 3", "what is 2^3 plus 1", "", "?"],
)
def test_numbers_that_it_cannot_handle_are_not_taken_for_others(typed: str) -> None:
    assert BOOK.match(typed) is None


def test_text_that_is_much_too_long_is_not_looked_at() -> None:
    assert BOOK.match("what is 2 plus 2" + " " * 900) is not None
    assert BOOK.match("what is 2 plus 2" + " " * 1000) is None
    assert BOOK.match("9" * 1_000_000) is None  # within the patience of any test


@given(st.text())
def test_any_text_can_be_looked_up(said: str) -> None:
    BOOK.match(said)


# --- skills ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("what is 7 plus 8", "7 plus 8 is 15."),
        ("what is 999999 times 1000001", "999,999 times 1,000,001 is 999,999,999,999."),
        ("what is five minus twenty", "5 minus 20 is minus 15."),
        ("calculate 100 divided by 7", "100 divided by 7 is 14, and 2 is left over."),
        ("calculate 42 divided by 7", "42 divided by 7 is exactly 6."),
        ("calculate 42 divided by 0", "Nothing can be divided by zero, not even by me."),
        ("what is the square of twelve", "The square of 12 is 144."),
        ("is seven an even number", "7 is an odd number."),
        ("convert 21 degrees celsius to fahrenheit", "21 degrees Celsius is 69.8 Fahrenheit."),
        ("how many kilometers are 10 miles", "10 miles is about 16.1 kilometers."),
        ("please count up to twelve", "1, 2, 3, 4, 5, 6, 7, 8, 9, 10. 11, 12."),
        ("please count up to 0", "There is nothing to count."),
        ("please count up to 999999999", "That would take me too long. I count to 100 at most."),
        ("count backwards from 3", "3, 2, 1. Lift-off!"),
        ("what time is it", "It is 12:05 in the afternoon."),
        ("what is today's date", "Today is Thursday, December 24, 2026."),
        ("which day of the week is it today", "It is Thursday, and tomorrow will be Friday."),
        ("how many days until christmas", "1 day until Christmas."),
        ("how do you spell the word rhythm", "Rhythm is spelled: R, H, Y, T, H, M."),
        ("please repeat that", "I have not said anything yet."),
        ("what did i just say", "I have not understood anything from you yet."),
        (
            "do you remember my name",
            "You have not told me your name. Say: my name is, and then your name.",
        ),
    ],
)
def test_skills(said: str, expected: str) -> None:
    assert answer(said) == expected


@pytest.mark.parametrize(("day", "days"), [(25, "today"), (26, "364 days")])
def test_christmas_comes_every_year(day: int, days: str) -> None:
    assert days in answer("how many days until christmas", now=NOON.replace(day=day))


def test_skills_remember_by_the_conversation_alone() -> None:
    told = (
        Message("user", "My name is Sophie."),
        Message("assistant", "Hello, Sophie!"),
        Message("user", ""),
    )
    assert answer("do you remember my name", *told) == "Of course. Your name is Sophie."
    assert answer("please repeat that", *told) == "Hello, Sophie!"
    assert answer("what did i just say", *told[:2]) == "You said: My name is Sophie."


# --- a user's own file -----------------------------------------------------------------------


def test_a_file_adds_replaces_and_gives_lists(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        numbers = [9]
        [[phrase]]
        id = "hello"
        say = "greetings machine"
        reply = "Greetings."
        [[phrase]]
        id = "deploy"
        say = ["deploy the {what:service} service [now]"]
        reply = "Deploying {what}, that is {what.value}."
        [lists]
        service = { billing = "B-1" }
        [pronunciations]
        deploy = "D IH P L OY"
        """,
    )
    mine = book.load(path)
    assert mine.match("hello there computer") is None
    assert mine.match("what is 2 plus 2") is not None
    found = mine.match("deploy the billing service")
    assert found is not None
    assert book.fill(found.entry.replies[0], found.slots) == "Deploying billing, that is B-1."
    assert mine.pronunciations == {"deploy": ("D IH P L OY",)}
    assert grammar.slot_words("number", mine.lists) == ["nine"]


def test_a_file_can_replace_the_whole_book(tmp_path: Path) -> None:
    path = write(tmp_path, 'replace = true\n[[phrase]]\nid = "a"\nsay = "hi there"\nreply = "Yes."')
    with pytest.raises(ConfigError, match="write 'hello'"):
        book.load(path)
    path = write(tmp_path, 'replace = true\n[[phrase]]\nid = "a"\nsay = "wake up"\nreply = "Yes."')
    assert [entry.id for entry in book.load(path).entries] == ["a"]


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("x = ", "is not TOML"),
        ("phrases = 1", "phrases"),
        ("replace = true", r"it has no \[\[phrase\]\]"),
        ('[[phrase]]\nid = "a"\nreply = "b"', "say"),
        ('[[phrase]]\nid = "a"\nsay = "b"', "'a': write either `reply`"),
        ('[[phrase]]\nid = "a"\nsay = []\nreply = "c"', "'a': `say` is empty"),
        ('[[phrase]]\nid = "a"\nsay = "[b]"\nreply = "c"', "no word at all"),
        ('[[phrase]]\nid = "a"\nsay = "what\'s up"\nreply = "c"', "write 'what is'"),
        ('[[phrase]]\nid = "a"\nsay = "b"\nskill = "tme"', "did you mean 'time'"),
        ('[[phrase]]\nid = "a"\nsay = "b"\nskill = "add"', "may be said without {a:...}"),
        (
            '[[phrase]]\nid = "a"\nsay = "b [{x:city}]"\nreply = "{x}"',
            "may be said without {x:...}",
        ),
        (
            '[[phrase]]\nid = "a"\nsay = "b {a:city} {b:number}"\nskill = "add"',
            "write {a:number}",
        ),
        ('[[phrase]]\nid = "a"\nsay = "b {x:citty}"\nreply = "c"', "did you mean 'city'"),
        ('[[phrase]]\nid = "a"\nsay = "b"\nreply = "c"\n' * 2, "'a' is there twice"),
        ('[[phrase]]\nid = "a"\nsay = "b"\nreply = "c"\nrelpy = "d"', "relpy"),
        ('[lists]\nnumber = ["one"]', "choose another name"),
        ("[lists]\ncity = []", "it is empty"),
        ('[lists]\ncity = ["New York"]', "write 'new'"),
        ('[pronunciations]\nab = "ey b"', "is not ARPABET"),
        ("[pronunciations]\nab = []", "empty list"),
        ("numbers = [1000]", "<= 999"),
    ],
)
def test_a_wrong_file_is_explained(tmp_path: Path, toml: str, message: str) -> None:
    path = write(tmp_path, toml)
    with pytest.raises(ConfigError, match=message) as raised:
        book.load(path)
    assert path in str(raised.value)


def test_a_users_my_name_may_have_no_slot(tmp_path: Path) -> None:
    path = write(tmp_path, '[[phrase]]\nid = "my_name"\nsay = "it is me again"\nreply = "Aha."')
    mine = book.load(path)
    told = [Message("user", "it is me again")]
    ask = skills.Ask({}, told, mine, Random(1), NOON)
    assert "not told me" in skills.SKILLS["name"].run(ask)


def test_a_missing_file_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        book.load(str(tmp_path / "none.toml"))
