"""voicepool.spoken: what is said of what is written, and what of it was heard by then."""

from __future__ import annotations

import tomllib
from contextlib import suppress
from decimal import Decimal
from importlib.resources import files
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from voicepool.engines import espeak, phrasebook
from voicepool.sentences import Clause, Clauses
from voicepool.spoken.aligned import Aligned, Draft
from voicepool.spoken.lexicon import LEXICONS
from voicepool.spoken.numerals import MOST_DIGITS, Unsayable, numerals
from voicepool.spoken.reader import Reader, Spoken, prepare
from voicepool.spoken.units import APART, CODES, CURRENCIES, UNITS


def read(text: str, language: str = "en") -> list[Spoken]:
    splitter, reader = Clauses(), Reader(language)
    return [reader.read(clause) for clause in (*splitter.push(text), *splitter.flush())]


def said(text: str, language: str = "en") -> str:
    return " | ".join(spoken.text for spoken in read(text, language) if spoken.text)


# --- markup ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        (
            "It is **very** *good*, ***really*** __so__ _or_ ~~so~~.",
            "It is very good, | really so or so.",
        ),
        ("**Two sentences. Both bold.** Not.", "Two sentences. | Both bold. | Not."),
        ("A **bold beginning. Then** none.", "A bold beginning. | Then none."),
        ("un*frigging*believable ab**cd**", "un frigging believable abcd"),
        ("Call `get_name()` or `__init__`.", "Call get name() or init."),
        ("snake_case_word", "snake case word"),
        ("# One\n## Two ##\n### 3. Three", "One | Two | 3. Three"),
        (
            "- one\n* two\n+ three\n• four\n  - [x] five\n1. six",
            "one | two | three | four | five | 1. six",
        ),
        ("> quoted\n> > twice", "quoted | twice"),
        ("One.\n---\nTwo.\n***\nThree.", "One. | Two. | Three."),
        ("Title\n=====\nText", "Title | Text"),
        ("See [the docs](https://docs.python.org/3/#x_(y) 'Docs').", "See the docs."),
        ("[One. Two](https://example.com/a.b) three", "One. | Two three"),
        ("[https://example.com](https://example.com/x)", "example dot com"),
        ("See ![a grey cat](cat.png) here", "See a grey cat here"),
        ('[text][ref]\n\n[ref]: https://example.com "x"', "text"),
        (
            "Known[1], shown [2](https://example.com), noted[^n].\n[^n]: A note.",
            "Known, shown, | noted. | A note.",
        ),
        (
            "<https://example.com/x> and <me@example.com>",
            "example dot com and me at example dot com",
        ),
        ("a<br/>b <b>c</b> <a href='x'>d</a> <!-- e --> f", "a b c d f"),
        ("Vec<int> 5 < 6 and x <y> z", "Vec int 5 less than 6 and x y z"),
        ("Q&amp;A &lt;x&gt; caf&eacute;&nbsp;x &bogus; &#65;", "Q and A x | café x and bogus; A"),
        (r"\*not bold\* \#5 \[x\] snake\_case", "not bold number 5 x snake case"),
        ("| Name | Age |\n|:-----|----:|\n| Bob! | 42 | |", "Name, Age | Bob! | 42"),
        ("Euler: $e^{ix} = 5$ stays", "Euler: $e ix equals 5$ stays"),
    ],
)
def test_marks_are_silent(written: str, spoken: str) -> None:
    assert said(written) == spoken


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("Look:\n```python\nx = 1. Or\n\n# no\n```\nDone.", "Look: | Code omitted. | Done."),
        ("```\nx\n```\nThen\n```\ny\n```", "Code omitted. | Then | Code omitted."),
        ("Here goes: ```js\nx()\n```\nDone.", "Here goes: Code omitted. | Done."),
        ("````\n```\nx\n```\ny\n````\nDone.", "Code omitted. | Done."),
        ("~~~\nx\n~~~\nDone.", "Code omitted. | Done."),
        ("> ```\n> x\n> ```\n> Done.", "Code omitted. | Done."),
        ("1. Run\n   ```bash\n   x\n   ```\n2. Done", "1. Run | Code omitted. | 2. Done"),
        ("```\n" + "=" * 600 + "\n```\nDone.", "Code omitted. | Done."),
        ("Run ```ls -la``` now.", "Run ls -la now."),
        ("```\nnever closed. Nor\nended", "Code omitted."),
    ],
)
def test_code_blocks_are_mentioned_and_not_read(written: str, spoken: str) -> None:
    assert said(written) == spoken


def test_a_block_in_a_language_without_words_is_silent() -> None:
    assert said("甲。\n```\nx\n```\n乙。", "zh") == "甲。 | 乙。"


def test_what_the_longest_clause_cuts_in_half_is_silent_to_its_end() -> None:
    picture = "![a cat](data:image/png;base64," + "iVBORw0KGgo" * 500 + ") sat"
    assert said(picture) == "a | cat | sat"
    assert (
        said("See https://example.com/" + "abc" * 500 + " there.")
        == "See | example dot com | there."
    )
    assert said("[x](https://a.example/" + "a(b)" * 200 + ")y z") == "x | z"
    assert said("去 https://example.com。下一句。", "zh") == "去 example.com。 | 下一句。"


# --- addresses -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("https://www.example.com/a/b?c=d#e", "example dot com"),
        (
            "Go to http://user:pw@sub.example.co.uk:8080/x, or",
            "Go to sub dot example dot co dot uk, or",
        ),
        ("(see www.example.org/x.)", "(see example dot org.)"),
        ("example.com/x/y or Example.org!", "example dot com or Example dot org!"),
        (
            "Ask me.first+x@mail.example.com.",
            "Ask me dot first plus x at mail dot example dot com.",
        ),
        ("Edit main.py and archive.tar.gz", "Edit main dot py and archive dot tar dot gz"),
        ("e.g. the U.S. at 5 p.m. or Ph.D. i.e. so", "e.g. the U.S. at 5 p.m. or Ph.D. i.e. so"),
        ("https://x.example.org/New_York_(a_b)_c?d_e=f_g. Or", "x dot example dot org. Or"),
        ("Get github.com/some_body/a_b_c, or a_b", "Get github dot com, or a b"),
        ("the end.Next one", "the end.Next one"),
        ("http:// and www. x", "http:// and www. x"),
    ],
)
def test_addresses_are_named_by_their_hosts(written: str, spoken: str) -> None:
    assert Reader("en").read(Clause(written, 0, opens_line=True)).text == spoken


# --- numbers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        # plain ones are the synthesiser's
        ("1, 23, 456 and 90210", "1, 23, 456 and 90210"),
        ("2D, 4K, B12, GPT-4, COVID-19, F-16", "2D, 4K, B12, GPT-4, COVID-19, F-16"),
        ("a 5-year-old, 10-minute walk", "a 5-year-old, 10-minute walk"),
        # amounts
        (
            "1,234,567",
            "one million two hundred and thirty-four thousand five hundred and sixty-seven",
        ),
        (
            "12,34,567",
            "one million two hundred and thirty-four thousand five hundred and sixty-seven",
        ),
        ("3.14, 0.5 and 3.10.", "three point one four, zero point five and three point one zero."),
        ("-5 and \u22122.5 and +3", "minus 5 and minus two point five and plus 3"),
        ("5%, 12.5 % and 5-10%", "5 percent, twelve point five percent and 5 to 10 percent"),
        ("1 km, 5 km, 60 km/h", "1 kilometer, 5 kilometers, 60 kilometers per hour"),
        (
            "20\u00b0C, -5 \u00b0F, 90\u00b0",
            "20 degrees Celsius, minus 5 degrees Fahrenheit, 90 degrees",
        ),
        (
            "16 GB, 3.5GHz, 30 m\u00b2",
            "16 gigabytes, three point five gigahertz, 30 square meters",
        ),
        ("5m people, 30 m long", "5m people, 30 meters long"),
        ("12,345,67 and 1.2,3", "12,345,67 and 1.2,3"),
        # money
        (
            "$5, $1, $5.20, $0.99",
            "five dollars, one dollar, five dollars and twenty cents, ninety-nine cents",
        ),
        ("\u20ac20.50, 20 \u20ac, 1 EUR", "twenty euros and fifty cents, twenty euros, one euro"),
        ("$1,234.56", "one thousand two hundred and thirty-four dollars and fifty-six cents"),
        (
            "$1.5 million, $3bn, $20k",
            "one point five million dollars, three billion dollars, twenty thousand dollars",
        ),
        (
            "-$5, US$5, CHF 10, $0.005",
            "minus five dollars, five dollars, ten Swiss francs, zero point zero zero five dollars",
        ),
        ("$5-10 or $5\u2013$10", "5 to ten dollars or 5 to ten dollars"),
        # years, dates and times
        (
            "In 1687, 1905, 2005 and 2024",
            "In sixteen eighty-seven, nineteen oh-five, 2005 and twenty twenty-four",
        ),
        ("1990\u20131995", "nineteen ninety to nineteen ninety-five"),
        ("the 1990s, 80s and '60s", "the nineteen nineties, eighties and sixties"),
        ("2024-05-01, 2024-02-31", "May first, twenty twenty-four, 2024-02-31"),
        ("2024-12-25T14:30:00Z", "December twenty-fifth, twenty twenty-four, fourteen thirty"),
        ("May 5, 2024", "May fifth, twenty twenty-four"),
        ("At 10:30 PM, 9:05, 7:00am", "At ten thirty PM, nine oh five, seven am"),
        ("12:00, 17:00, 10:15:30", "twelve o'clock, seventeen hundred, ten fifteen 30"),
        ("9:00-17:30", "nine o'clock to seventeen thirty"),
        ("It is 3:05 in the afternoon.", "It is three oh five in the afternoon."),
        # codes
        ("(555) 123-4567", "5 5 5, 1 2 3, 4 5 6 7"),
        ("555-1234, 1-800-555-1234", "5 5 5, 1 2 3 4, 1, 8 0 0, 5 5 5, 1 2 3 4"),
        ("+49 30 1234567", "plus 4 9, 3 0, 1 2 3 4 5 6 7"),
        ("4111 1111 1111 1111", "4 1 1 1, 1 1 1 1, 1 1 1 1, 1 1 1 1"),
        ("48291042, 007, 5000000", "4 8 2 9 1 0 4 2, 0 0 7, 5000000"),
        ("1234567890123456", "1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6"),
        ("+4930123456", "plus 4 9 3 0 1 2 3 4 5 6"),
        ("+1 (555) 123-4567", "plus 1, 5 5 5, 1 2 3, 4 5 6 7"),
        ("+3 10 20", "plus 3 10 20"),
        ("v1.2, version v3, 1.2.3", "version 1 point 2, version 3, 1 point 2 point 3"),
        ("192.168.0.1", "192 dot 168 dot 0 dot 1"),
        ("ISBN 978-3-16-148410-0, 12-34-56", "ISBN 978-3-16-148410-0, 12-34-56"),
        ("10-555-123-4567", "10-555-123-4567"),
        # relations
        (
            "1st, 2nd, 23rd, 100th, 1,000th",
            "first, second, twenty-third, one hundredth, one thousandth",
        ),
        ("1/2, 3/4, 2 2/3, 5/8", "one half, three quarters, 2 and two thirds, five eighths"),
        (
            "\u00bd, 2\u00be, 1 \u2153, \u215b",
            "one half, 2 and three quarters, 1 and a third, one eighth",
        ),
        ("8/10, 24/7, 9/11", "eight out of ten, 24 7, 9/11"),
        ("3:1 and 16:9", "3 to 1 and 16 to 9"),
        ("pages 5-10 and 10 - 3", "pages 5 to 10 and 10 minus 3"),
    ],
)
def test_numbers_that_synthesisers_get_wrong_are_words(written: str, spoken: str) -> None:
    assert Reader("en").read(Clause(written, 0, opens_line=False)).text == spoken


@pytest.mark.parametrize(
    ("language", "written", "spoken"),
    [
        ("de", "1.234,50 €", "eintausendzweihundertvierunddreißig Euro und fünfzig Cent"),
        ("de", "3,5 km und 5 %", "drei Komma fünf Kilometer und 5 Prozent"),
        ("de", "am 2024-05-01 um 14:30", "am 1. Mai 2024 um 14 Uhr 30"),
        ("de", "am 1.5.2024, der 3. Mann, 1990", "am 1.5.2024, der 3. Mann, 1990"),
        ("de", "um 10:30 Uhr oder 9:00 Uhr", "um 10 Uhr 30 oder 9 Uhr"),
        ("pt-BR", "R$ 3,50", "três vírgula cinco zero Reais brasileiros"),
        ("de", "€ 5 oder 5 €", "fünf Euro oder fünf Euro"),
        ("de-AT", "10-20 kg", "10 bis 20 Kilogramm"),
        ("fr", "1 234,5 km", "mille deux cent trente-quatre virgule cinq kilomètres"),
        ("fr", "5 € & 5,20 €", "cinq euros et cinq euros et vingt centimes"),
        ("es", "20 km/h", "20 kilómetros por hora"),
        ("it", "https://example.it/x = 2", "example punto it uguale 2"),
        ("pt_BR", "16,0%", "dezesseis vírgula zero por cento"),
        ("pt", "16,0%", "dezasseis vírgula zero por cento"),
        ("it", "-2,05 \u00b0C", "meno due virgola zero cinque gradi Celsius"),
        ("es-ES", "3,5 o 5\u20137", "tres coma cinco o 5 a 7"),
        ("de-XX", "5,5 %", "fünf Komma fünf Prozent"),
        (
            "zh",
            "**1,234** $5.20 & 10:30 https://example.com/x 😀",
            "1,234 $5.20 & 10:30 example.com",
        ),
        ("", "1,234 $5.20 5-10", "1,234 $5.20 5-10"),
        ("no such language", "1,234 $5.20", "1,234 $5.20"),
    ],
)
def test_numbers_in_other_languages(language: str, written: str, spoken: str) -> None:
    assert Reader(language).read(Clause(written, 0, opens_line=True)).text == spoken


LANGUAGES = [*LEXICONS, "en-GB", "en-IN", "de-CH", "es-CO", "fr-CH", "pt-BR"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_has_words_for_numbers_of_every_size(language: str) -> None:
    """What has to hold before a language is let in: no number may be lost, or grow without end."""
    spoken = numerals(language, "point")
    told = {spoken.words(number) for number in range(1000)}
    told |= {spoken.words(digit * 10**zeros + 7) for digit in range(1, 10) for zeros in range(3, 9)}
    assert len(told) == 1000 + 9 * 6
    for zeros in range(3, MOST_DIGITS):
        with suppress(Unsayable):  # India's English ends below the others
            for number in (10**zeros, 7 * 10**zeros + 77, 10 ** (zeros + 1) - 1):
                words = spoken.words(number)
                assert 0 < len(words) < 300
                assert not any(map(str.isdecimal, words))
    for number in range(1, 200):
        assert spoken.ordinal(number)
    assert spoken.words(Decimal("0.120")).split() == [
        *spoken.words(0).split(),
        "point",
        *(spoken.words(digit) for digit in (1, 2, 0)),
    ]


@pytest.mark.parametrize("language", LANGUAGES)
def test_units_and_currencies_have_names_in_a_language(language: str) -> None:
    spoken = numerals(language, "point")
    for unit in {*UNITS.values(), *APART.values()}:
        for amount in (Decimal(1), Decimal(2), Decimal("2.5")):
            said = spoken.unit(amount, "many", unit)
            assert said.startswith("many "), unit
    for currency in {*CURRENCIES.values(), *CODES.split("|")}:
        for price in ("1", "2", "0.50", "1234.56", "0.005"):
            said = spoken.money(Decimal(price), currency)
            assert len(said.split()) > 1, currency
            assert not any(map(str.isdecimal, said)), currency


def test_a_number_that_nobody_could_follow_is_left_as_it_is() -> None:
    with pytest.raises(Unsayable):
        numerals("en", "point").parse("1" + "0" * MOST_DIGITS)
    assert said("$1" + "0" * 20) == "$1" + "0" * 20


@given(st.sampled_from(LANGUAGES), st.integers(0, 10**16), st.integers(0, 999), st.data())
def test_no_amount_in_any_language_is_too_much(
    language: str, whole: int, part: int, data: st.DataObject
) -> None:
    point = numerals(language, "").decimal
    shape = data.draw(st.sampled_from(["{}", "-{}", "${}", "{} €", "{} km", "{}%", "{0}-{0} kg"]))
    written = shape.format(f"{whole}{point}{part}")
    assert Reader(language).read(Clause(written, 0, opens_line=True)).text


# --- signs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("Hello 😀 there 👩‍👩‍👧! Great👍🏽 fun 🇩🇪.", "Hello there! Great fun."),
        ("😀 First. ✅ done ™ © 1️⃣", "First. done 1"),
        ("Hi :) you ;-) ok :D <3", "Hi you ok"),
        ("n <3 or m < 3 items", "n less than 3 or m less than 3 items"),
        ("at 5:30) or a:b", "at five thirty) or a:b"),
        ("Settings → Privacy -> Location => end", "Settings, Privacy, Location, end"),
        ("Tom & Jerry, R&D", "Tom and Jerry, R and D"),
        ("2 + 2 = 4, 1+1=2", "2 plus 2 equals 4, 1 plus 1 equals 2"),
        (
            "5 - 3, 5 \u2212 3, 3 x 4, 3\u00d74, 3*4, 6 \u00f7 2",
            "5 minus 3, 5 minus 3, 3 times 4, 3 times 4, 3 times 4, 6 divided by 2",
        ),
        ("x\u00b2 + 2^10", "x squared plus 2 to the power of 10"),
        (
            "a < b, 5 > 3, a != b, c <= d",
            "a less than b, 5 greater than 3, a not equal to b, c less than or equal to d",
        ),
        ("C++, C#, F#", "C plus plus, C sharp, F sharp"),
        ("#1, #tag, @name, user@home", "number 1, tag, at name, user@home"),
        ("and/or, 3 / 4, TCP/IP", "and or, 3 / 4, TCP IP"),
        ("~5 km, home ~ away", "about 5 kilometers, home ~ away"),
        ("Wait\u2026 what... \u2014 yes \u2013 no", "Wait\u2026 what... \u2014 yes \u2013 no"),
        ("{a} \\b |c|", "a b, c"),
        ("zero\u200bwidth so\u00adft", "zerowidth soft"),
        ("हिन्दी क्\u200dष", "हिन्दी क्\u200dष"),
    ],
)
def test_signs_have_names_or_none(written: str, spoken: str) -> None:
    assert Reader("en").read(Clause(written, 0, opens_line=False)).text == spoken


@pytest.mark.parametrize("written", ["[1]: https://example.com", "```x", "[^1]", "&#8203;", "🇩🇪 ™"])
def test_a_clause_of_signs_alone_is_silent(written: str) -> None:
    reader = Reader("")
    assert reader.read(Clause(written, 0, opens_line=True)).text == ""


# --- the account -----------------------------------------------------------------------------


def test_words_stand_for_what_they_were_made_from() -> None:
    (spoken,) = read("It **costs** $5.20 at [home](https://example.com).")
    assert spoken.text == "It costs five dollars and twenty cents at home."
    clause = spoken.clause.text

    def heard(words: str) -> str:
        return clause[: spoken.written(spoken.text.index(words) + len(words))]

    assert heard("It") == "It"
    assert heard("costs") == "It **costs"
    assert heard("five") == heard("cents") == "It **costs** $5.20"
    assert heard("at") == "It **costs** $5.20 at"
    assert heard("home") == "It **costs** $5.20 at [home"
    assert spoken.written(0) == 0
    assert spoken.written(10_000) == len(clause)


def test_a_real_synthesisers_words_tell_how_much_was_heard() -> None:
    synthesizer = espeak.create({})
    synthesizer.preload()
    (spoken,) = read("The **price** is $1,234.56 ([list](https://example.com/x)) at 10:30 😀.")
    words = [word for chunk in synthesizer.synthesize(spoken.text) for word in chunk.words]
    heard = [spoken.clause.text[: spoken.written(word.text_end)] for word in words]
    assert heard[0] == "The"
    assert heard[3] == "The **price** is $1,234.56", "with its first word, the amount is begun"
    assert heard[-1].endswith(" at 10:30 😀.")
    assert all(longer.startswith(shorter) for shorter, longer in pairwise(heard))


def test_what_the_phrasebook_says_without_numbers_is_said_as_it_is_written() -> None:
    source = (files(phrasebook) / "phrasebook.toml").read_text()
    replies = [
        reply for entry in tomllib.loads(source)["phrase"] for reply in entry.get("reply", ())
    ]
    plain = [reply for reply in replies if not set(reply) & set("0123456789{")]
    assert len(plain) > 50
    for reply in plain:
        for spoken in read(reply):
            assert spoken.text == spoken.clause.text


def test_a_draft_of_nothing_is_nothing() -> None:
    assert Draft(Aligned.identity("abc")).finish().text == ""
    assert Aligned.identity("abc").covered(-1) == 0


plain_words = st.lists(
    st.sampled_from(
        ["Hello", "there,", "it's", "a", "fox", '"quoted"', "(so)", "42", "well-known", "no."]
    ),
    min_size=1,
    max_size=30,
).map(" ".join)


@given(plain_words.filter(lambda text: any(map(str.isalpha, text))))
def test_plain_text_is_said_as_it_is_written(text: str) -> None:
    spoken = Reader("en").read(Clause(text, 0, opens_line=False))
    assert spoken.text == text
    assert [spoken.written(count) for count in range(len(text) + 1)] == list(range(len(text) + 1))


_PIECES = """
    a Word x1 1 23 1,234 3.14 1990 $ € % & # @ * ** _ ` ``` ~~~ ~ [ ] ( ) ]( ![ < > </b> <br> &amp;
    | - -- --- + = / \\ . , ; : ! ? … 😀 ‍ ️ → https:// www. example.com me@example.com :) km/h °C st
    -5 10:30 2024-05-01 5-10 ½ ² 世 界。
"""
anything = st.lists(
    st.one_of(
        st.sampled_from(_PIECES.split()),
        st.sampled_from([" ", " ", "\n", "\u00a0"]),
        st.text(max_size=3),
    ),
    max_size=60,
).map("".join)


@given(anything, st.sampled_from(["en", "de", "ja", ""]))
@example("```", "en")
@example("](" * 150, "en")
def test_whatever_is_written_the_account_is_in_order_and_complete(text: str, language: str) -> None:
    for spoken in read(text, language):
        assert spoken.text == spoken.text.strip()
        assert not spoken.text or any(map(str.isalnum, spoken.text))
        counts = [spoken.written(count) for count in range(len(spoken.text) + 1)]
        assert all(low <= high for low, high in pairwise(counts))
        assert all(0 <= count <= len(spoken.clause.text) for count in counts)


@given(anything, st.sampled_from(["en", "fr"]))
def test_what_is_said_can_be_said(text: str, language: str) -> None:
    """None of what misleads synthesisers is left, whatever was written."""
    for spoken in read(text, language):
        assert not set(spoken.text) & set("*`|\\{}[]😀→️")


_HOSTILE = """
    a 1 1, * ` [ ]( <b &a ~ a. a@ +1_ www. | >_ 1- 1: : http:// _a ](_" ( - =_ 1/ 1. ,_ <!-- [^a a-
    +1234567890123 1,234,567,890, 123_123_123_ 1-1- +1_(1)_ 1.234. 12:30- 2024-05- a.b@c. v1.2. $1k_
    a/ 😀 aa.aa. 1,234, <http://a @ ^ a_ # ## \\ &#1 ‍ ⬛ ``` ~~~ v1. 1_1/2_ '
"""


@pytest.mark.parametrize("piece", [*_HOSTILE.split(), " ", "\u00a0", "\n- ", "\n[a", "\n", "> > "])
def test_a_hundred_thousand_characters_at_once_take_no_more_than_their_share(piece: str) -> None:
    """Clauses are short; were they not, a search in quadratic time would run for minutes here."""
    written = (piece.replace("_", " ") * 100_000)[:100_000]
    for language in ("en", "fr"):
        spoken = Reader(language).read(Clause(written, 0, opens_line=True))
        assert spoken.written(len(spoken.text)) <= len(written)


def test_a_language_may_be_prepared_before_it_is_needed() -> None:
    for language in ("en-us", "zz", "", "pt-BR"):
        prepare(language)
