"""The few words that no library has: what is said of signs, links and code blocks.

The languages that are here are those whose numbers become words. Others must be checked before they
are added (tests/test_spoken.py): some of num2words' converters lose digits, and one takes memory
without end for a large number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Lexicon:
    """One language's words. Signs without a word are left to the synthesiser."""

    point: str
    """Between a number's whole part and its decimals."""
    dot: str
    """In the name of a host or file."""
    at: str
    """In an e-mail address or before somebody's name."""
    to: str
    """Between the ends of a range."""
    number: str
    """Before "#1"."""
    code: str
    """What is said in place of a block of code."""
    clock: tuple[str, str]
    """A time of day with and without minutes, with the fields h and m."""
    signs: Mapping[str, str]


_SIGNS = "&+=\u2212\u00d7\u00f7~\u00b2\u00b3\u221e"


def _signs(words: str) -> dict[str, str]:
    return dict(zip(_SIGNS, words.split(", "), strict=True))


_ENGLISH_ONLY = {
    "<": "less than",
    ">": "greater than",
    "\u2264": "less than or equal to",
    "\u2265": "greater than or equal to",
    "\u2260": "not equal to",
    "\u2248": "about",
    "\u00b1": "plus or minus",
    "%": "percent",
    "^": "to the power of",
    "\u221a": "the square root of",
}

LEXICONS: Mapping[str, Lexicon] = MappingProxyType(
    {
        "en": Lexicon(
            point="point",
            dot="dot",
            at="at",
            to="to",
            number="number",
            code="Code omitted.",
            clock=("{h} {m}", "{h}"),
            signs=_signs(
                "and, plus, equals, minus, times, divided by, about, squared, cubed, infinity"
            )
            | _ENGLISH_ONLY,
        ),
        "de": Lexicon(
            point="Komma",
            dot="Punkt",
            at="at",
            to="bis",
            number="Nummer",
            code="Code ausgelassen.",
            clock=("{h} Uhr {m}", "{h} Uhr"),
            signs=_signs(
                "und, plus, gleich, minus, mal, geteilt durch, etwa, zum Quadrat, hoch drei, "
                "unendlich"
            ),
        ),
        "es": Lexicon(
            point="coma",
            dot="punto",
            at="arroba",
            to="a",
            number="n\u00famero",
            code="C\u00f3digo omitido.",
            clock=("{h} y {m}", "{h} en punto"),
            signs=_signs(
                "y, m\u00e1s, igual a, menos, por, entre, unos, al cuadrado, al cubo, infinito"
            ),
        ),
        "fr": Lexicon(
            point="virgule",
            dot="point",
            at="arobase",
            to="\u00e0",
            number="num\u00e9ro",
            code="Code omis.",
            clock=("{h} heures {m}", "{h} heures"),
            signs=_signs(
                "et, plus, \u00e9gale, moins, fois, divis\u00e9 par, environ, au carr\u00e9, "
                "au cube, infini"
            ),
        ),
        "it": Lexicon(
            point="virgola",
            dot="punto",
            at="chiocciola",
            to="a",
            number="numero",
            code="Codice omesso.",
            clock=("{h} e {m}", "{h} in punto"),
            signs=_signs(
                "e, pi\u00f9, uguale, meno, per, diviso, circa, al quadrato, al cubo, infinito"
            ),
        ),
        "pt": Lexicon(
            point="v\u00edrgula",
            dot="ponto",
            at="arroba",
            to="a",
            number="n\u00famero",
            code="C\u00f3digo omitido.",
            clock=("{h} e {m}", "{h} em ponto"),
            signs=_signs(
                "e, mais, igual a, menos, vezes, dividido por, cerca de, ao quadrado, ao cubo, "
                "infinito"
            ),
        ),
    }
)
"""By ISO 639-1 code."""
