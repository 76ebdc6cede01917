"""Numbers in forms that English alone has, or that mean something else elsewhere."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

from voicepool.spoken.numerals import Numerals, Unsayable
from voicepool.spoken.rules import NUMBER_ENDS, NUMBER_STARTS, Rule

_DAY = rf"""
    \b(?P<month_name>January|February|March|April|May|June|July|August|September|October|November
    |December)[ ](?P<day_number>[12]?\d|3[01]){NUMBER_ENDS}
"""
_ORDINAL = rf"{NUMBER_STARTS}(?P<nth>\d{{1,3}}(?:,\d{{3}}){{1,3}}|\d{{1,12}})(?:st|nd|rd|th)\b"
_DECADE = r"(?<!\w)(?<!\d[.,])['\u2019]?(?P<decade>(?:1\d|20)?\d0)['\u2019]?s\b"
_VERSION = rf"""
    (?<!\w)(?P<v>[vV])\d{{1,6}}(?:\.\d{{1,6}}){{0,5}}{NUMBER_ENDS}
  | {NUMBER_STARTS}\d{{1,6}}(?:\.\d{{1,6}}){{2,5}}{NUMBER_ENDS}
"""
_FRACTION = rf"""
    {NUMBER_STARTS}(?:(?P<whole>\d{{1,3}})[ ])?
    (?P<over>\d{{1,3}})/(?P<under>\d{{1,3}}){NUMBER_ENDS}
"""
_VULGAR = r"(?:(?<![\w.,])(?P<before>\d{1,3})[ ]?)?(?P<vulgar>[\u00bc-\u00be\u2150-\u215e])"
_RATIO = rf"{NUMBER_STARTS}\d{{1,3}}:\d{{1,3}}{NUMBER_ENDS}"

_SPOKEN_DENOMINATORS = (2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 32, 64)
_SCORES = (10, 100)
"""Denominators of marks: "8/10" is eight out of ten."""


class English:
    """The rules, which go before those for amounts."""

    def __init__(self, numerals: Numerals) -> None:
        self._numerals = numerals

    def rules(self) -> list[Rule]:
        return [
            (_DAY, self._day),
            (_ORDINAL, self._ordinal),
            (_DECADE, self._decade),
            (_VERSION, self._version),
            (_FRACTION, self._fraction),
            (_VULGAR, self._vulgar),
            (_RATIO, self._ratio),
        ]

    def _day(self, match: re.Match[str]) -> str:
        return f"{match['month_name']} {self._numerals.ordinal(int(match['day_number']))}"

    def _ordinal(self, match: re.Match[str]) -> str:
        return self._numerals.ordinal(int(match["nth"].replace(",", "")))

    def _decade(self, match: re.Match[str]) -> str:
        year = self._numerals.year(int(match["decade"]))
        return f"{year[:-1]}ies" if year.endswith("y") else f"{year}s"

    def _version(self, match: re.Match[str]) -> str:
        parts = match.group().lstrip("vV").split(".")
        joint = " dot " if len(parts) == 4 and not match["v"] else " point "  # an IPv4 address
        said = joint.join(str(int(part)) for part in parts)
        before = match.string[max(match.start() - 8, 0) : match.start()]
        named = before.lower() == "version "
        return f"version {said}" if match["v"] and not named else said

    def _fraction(self, match: re.Match[str]) -> str:
        over, under = int(match["over"]), int(match["under"])
        if (over, under) == (24, 7):
            return "24 7"
        words = self._numerals.words
        if under in _SCORES and not match["whole"]:
            return f"{words(over)} out of {words(under)}"
        if under not in _SPOKEN_DENOMINATORS or not over:
            raise Unsayable
        return self._mixed(match["whole"], over, under)

    def _vulgar(self, match: re.Match[str]) -> str:
        value = Fraction(unicodedata.numeric(match["vulgar"])).limit_denominator(10)
        return self._mixed(match["before"], value.numerator, value.denominator)

    def _mixed(self, whole: str | None, over: int, under: int) -> str:
        named = {2: "half", 4: "quarter"}.get(under) or self._numerals.ordinal(under)
        if over != 1:
            named = "halves" if under == 2 else f"{named}s"
        if not whole:
            return f"{self._numerals.words(over)} {named}"
        return f"{whole} and {'a' if over == 1 else self._numerals.words(over)} {named}"

    def _ratio(self, match: re.Match[str]) -> str:
        return match.group().replace(":", " to ")
