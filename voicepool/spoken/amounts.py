"""Numbers as words where synthesisers are known to stumble: amounts, dates, times, telephones.

A plain whole number is left as it is, in any language: all synthesisers read it right.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal

from voicepool.spoken.english import English
from voicepool.spoken.lexicon import Lexicon
from voicepool.spoken.numerals import Numerals, Unsayable
from voicepool.spoken.rules import DASH, NUMBER_ENDS, NUMBER_STARTS, Rule
from voicepool.spoken.units import APART, CODES, CURRENCIES, SCALES, UNITS


def _any(symbols: Iterable[str]) -> str:
    """A pattern for one of them, the longest that is there."""
    return "|".join(re.escape(symbol) for symbol in sorted(symbols, key=len, reverse=True))


_GAP = "[ \u00a0\u202f]"
_MINUS = "\u2212"
_BEFORE = rf"(?:(?:{_any(CURRENCIES)})[ \u00a0]?|(?:{CODES})[ \u00a0])"

_DATE = r"(?<![\w-])(?P<year>\d{4})-(?P<month>\d\d)-(?P<day>\d\d)(?:(?P<T>T)(?=\d\d:)|(?![\w-]))"
_TIME = r"""
    (?<![\dA-SU-Za-z_:.])
    (?P<hour>[01]?\d|2[0-3]):(?P<minute>[0-5]\d)(?::(?P<second>[0-5]\d)(?:\.\d{1,6})?)?Z?
    (?=(?P<half>\s?[aApP]\.?[mM])?(?!\w))(?!:\d)
"""
_BETWEEN_TIMES = rf"(?<=:\d\d){_GAP}?[{DASH}]{_GAP}?(?=\d{{1,2}}:\d\d)"
_TELEPHONE = rf"""
    (?<![\w.,/{DASH}])(?:
        \+(?=(?:[ .()-]{{0,2}}\d){{7}})\d{{1,15}}+(?:[ .-]?\(\d{{1,5}}\)|[ .-]\d{{1,12}}+){{0,6}}+
      | (?:1[ .-])?(?:\(\d{{3}}\)[ .-]?|\d{{3}}[ .-])\d{{3}}[ .-]\d{{4}}
      | \d{{3}}-(?!\d\d00\b)\d{{4}}
      | \d{{3}}-\d\d-\d{{4}}
      | \d{{4}}(?:[ -]\d{{4}}){{2,4}}
    ){NUMBER_ENDS}
"""

LONGEST_COUNT = 6
"""Digits of a number that people say as one; more, unless in round thousands, are a code."""


class Amounts:
    """The rules for numbers of a language."""

    def __init__(self, numerals: Numerals, lexicon: Lexicon) -> None:
        self._numerals = numerals
        self._lexicon = lexicon

    def rules(self) -> list[Rule]:
        """In the order in which they must be tried."""
        return [
            (_DATE, self._date),
            (_TIME + self._clock_word(), self._time),
            (_BETWEEN_TIMES, self._between),
            (_TELEPHONE, self._telephone),
            *(English(self._numerals).rules() if self._numerals.english else ()),
            (self._pattern(), self._amount),
        ]

    def _clock_word(self) -> str:
        """A pattern for what some write behind the time, and its words hold: "10:30 Uhr"."""
        word = self._lexicon.clock[1].removeprefix("{h}").strip()
        return rf"(?:{_GAP}{re.escape(word)}(?!\w))?" if word else ""

    def _pattern(self) -> str:
        number = self._numerals.pattern
        scale = rf"(?:{_GAP}?(?P<scale>{_any(SCALES)})(?!\w))?" if self._numerals.english else ""
        return rf"""
            (?:(?<![\w)\]])(?P<sign>[-\u2212+])(?={_BEFORE}?\d)|{NUMBER_STARTS})
            (?P<paid>{_BEFORE})?
            (?P<low>{number})
            (?:(?P<dash>{_GAP}?[{DASH}]{_GAP}?){_BEFORE}?(?P<high>{number}))?
            (?(paid){scale}|(?:
                {_GAP}?(?P<unit>{_any(UNITS)})
              | {_GAP}(?P<apart>{_any(APART)})
              | {_GAP}?(?P<price>{_any(CURRENCIES)}|{CODES})
            )?)
            {NUMBER_ENDS}
        """

    def _amount(self, match: re.Match[str]) -> str:
        low, high = match["low"], match["high"]
        unit = UNITS.get(match["unit"] or "") or APART.get(match["apart"] or "")
        paid = match["paid"] or match["price"]
        counted = bool(unit or paid or match["sign"])  # and so no year
        words = self._number(high or low, counted)
        said = self._signed(match["sign"]) if match["sign"] else ""
        if high:
            said += self._number(low, counted) + self._joint(match)
        if unit:
            return said + self._numerals.unit(self._numerals.parse(high or low), words, unit)
        if paid:
            return said + self._money(self._numerals.parse(high or low), paid.strip(), match)
        return said + words

    def _money(self, amount: Decimal, sign: str, match: re.Match[str]) -> str:
        if match["price"] == "$" and match.string.find("$", 0, match.start()) >= 0:
            raise Unsayable  # the end of a formula in TeX
        currency = CURRENCIES.get(sign, sign)
        scale = match["scale"] if self._numerals.english else None
        if scale is None:
            return self._numerals.money(amount, currency)
        words = self._numerals.words(amount)
        name = self._numerals.currency(Decimal(2), currency)
        return f"{words} {SCALES[scale]} {name}"

    def _number(self, written: str, counted: bool) -> str:
        if not written.isdecimal():
            return self._numerals.words(self._numerals.parse(written))
        if counted:
            return written
        too_long = len(written) > LONGEST_COUNT and not written.endswith("000")
        if too_long or (written.startswith("0") and len(written) > 1):
            return " ".join(written)
        number = int(written)
        if self._numerals.english and (1100 <= number < 2000 or 2010 <= number < 2100):
            return self._numerals.year(number)
        return written

    def _signed(self, sign: str) -> str:
        return f"{self._lexicon.signs['+' if sign == '+' else _MINUS]} "

    def _joint(self, match: re.Match[str]) -> str:
        """What is said of the dash between two numbers: a difference is written with spaces."""
        dash = match["dash"]
        first, second = (self._numerals.parse(match[name]) for name in ("low", "high"))
        if _MINUS in dash or ("-" in dash and dash != "-" and first > second):
            return f" {self._lexicon.signs[_MINUS]} "
        return f" {self._lexicon.to} "

    def _date(self, match: re.Match[str]) -> str:
        said = self._numerals.date(*(int(match[part]) for part in ("year", "month", "day")))
        return f"{said}, " if match["T"] else said

    def _time(self, match: re.Match[str]) -> str:
        hour, minute = int(match["hour"]), int(match["minute"])
        if self._numerals.english:
            said = self._english_time(hour, minute, bool(match["half"]))
        else:
            said = self._lexicon.clock[not minute].format(h=hour, m=minute)
        if seconds := int(match["second"] or 0):
            said += f" {seconds}"
        half = match["half"]
        return f"{said} " if half and not half[0].isspace() else said

    def _english_time(self, hour: int, minute: int, halved: bool) -> str:
        hours = self._numerals.words(hour)
        if minute >= 10:
            return f"{hours} {self._numerals.words(minute)}"
        if minute:
            return f"{hours} oh {self._numerals.words(minute)}"
        if halved:
            return hours
        return f"{hours} o'clock" if hour <= 12 else f"{hours} hundred"

    def _between(self, match: re.Match[str]) -> str:
        return f" {self._lexicon.to} "

    def _telephone(self, match: re.Match[str]) -> str:
        plus = self._signed("+") if match.group().startswith("+") else ""
        return plus + ", ".join(" ".join(group) for group in re.findall(r"\d+", match.group()))
