"""How a language writes and says numbers: num2words, and Babel's data of the Unicode CLDR
(https://cldr.unicode.org), behind one face."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from decimal import Decimal
from typing import Any

import num2words
from babel import Locale, UnknownLocaleError
from babel.dates import format_date
from babel.numbers import (
    format_decimal,
    get_currency_name,
    get_decimal_symbol,
    get_group_symbol,
)
from babel.units import format_unit

MOST_DIGITS = 15
"""Before the decimal separator: who could follow longer numbers by ear?"""

_SPACES = " \u00a0\u202f"


class Unsayable(Exception):
    """There are no words for it here: the synthesiser may know better."""


class Numerals:
    """Numbers, none of them negative, in one language. All methods may raise Unsayable."""

    def __init__(self, locale: Locale, point: str) -> None:
        self.english = locale.language == "en"
        self.decimal = get_decimal_symbol(locale)
        """The sign before decimals."""
        group = get_group_symbol(locale)
        self.group = _SPACES if group in _SPACES else group
        """The signs that may part thousands."""
        self._locale = locale
        self._point = point
        converters = num2words.CONVERTER_CLASSES
        self._base: Any = converters[locale.language]
        """For money: those of regions know no other currency than their own."""
        self._converter: Any = converters.get(str(locale), self._base)

    @property
    def pattern(self) -> str:
        """A regular expression, without groups, for a number without sign."""
        group, point = f"[{re.escape(self.group)}]", re.escape(self.decimal)
        # India parts pairs of digits above the thousands.
        above = r"\d{2,3}" if self.english else r"\d{3}"
        thousands = rf"\d{{1,3}}(?:{group}{above}){{0,5}}{group}\d{{3}}"
        return rf"(?:{thousands}|\d{{1,40}}+)(?:{point}\d{{1,20}}+)?"

    def parse(self, written: str) -> Decimal:
        """The value of what `pattern` matches."""
        bare = written.translate({ord(sign): None for sign in self.group})
        number = Decimal(bare.replace(self.decimal, "."))
        if number >= 10**MOST_DIGITS:
            raise Unsayable
        return number

    def words(self, number: Decimal | int) -> str:
        """Decimals are told digit by digit, as people do."""
        whole, _, decimals = f"{Decimal(number):f}".partition(".")
        with _saying():
            # num2words would drop the zeros of "3.10", and in Italian all decimals.
            told = [
                self._said(self._converter.to_cardinal(int(part))) for part in (whole, *decimals)
            ]
        if decimals:
            told.insert(1, self._point)
        return " ".join(told)

    def ordinal(self, number: int) -> str:
        with _saying():
            return self._said(self._converter.to_ordinal(number))

    def year(self, number: int) -> str:
        with _saying():
            return self._said(self._converter.to_year(number))

    def unit(self, amount: Decimal, words: str, unit: str) -> str:
        """`words` for `amount`, with a CLDR unit in the form that goes with that amount."""
        with _saying():
            written = format_unit(amount, unit, "long", locale=self._locale)
            if unit in written:  # Babel's way to say that it has no name for it
                raise Unsayable
            said = written.replace(format_decimal(amount, locale=self._locale), words, 1)
            return said.replace("\u00a0", " ")

    def money(self, amount: Decimal, currency: str) -> str:
        """`currency` is its ISO 4217 code."""
        with _saying():
            cents = amount * 100
            if cents != int(cents) or not self._names_coins(currency):
                return f"{self.words(amount)} {self.currency(amount, currency)}"
            whole, part = divmod(int(cents), 100)
            # The separator is ours, to tell the two apart where one of them is nothing.
            told = self._base.to_currency(amount, currency=currency, separator="\0")
            notes, _, coins = told.partition("\0")
            if currency == "EUR" and self.english and whole != 1:
                notes += "s"  # num2words has the "euro" of legal texts
            if not part:
                return self._said(notes)
            if not whole:
                return self._said(coins)
            if self.english:
                return self._said(f"{notes} and {coins}")
            return self._said(self._base.to_currency(amount, currency=currency))

    def currency(self, amount: Decimal, currency: str) -> str:
        """What so much of it is called, without the amount: "dollars"."""
        with _saying():
            if not self._names_coins(currency):
                return get_currency_name(currency, count=amount, locale=self._locale)
            said = self.money(Decimal(1 if amount == 1 else 2), currency)
            return said.split(" ", 1)[1]

    def _names_coins(self, currency: str) -> bool:
        return currency in self._base.CURRENCY_FORMS

    def date(self, year: int, month: int, day: int) -> str:
        with _saying():
            when = date(year, month, day)
            if self.english:
                name = format_date(when, "MMMM", locale=self._locale)
                return f"{name} {self.ordinal(day)}, {self.year(year)}"
            return format_date(when, "long", locale=self._locale)

    @staticmethod
    def _said(words: str) -> str:
        # The commas of "one thousand, two hundred" would be heard as pauses.
        return " ".join(words.replace(",", "").split())


@contextmanager
def _saying() -> Iterator[None]:
    """Every language is the work of other hands: no fault in one may cost the caller a sentence."""
    try:
        yield
    except Unsayable:
        raise
    except Exception as error:
        raise Unsayable from error


def numerals(language: str, point: str) -> Numerals:
    """Those of a language ("de", "pt-BR") that is known to both libraries."""
    try:
        locale = Locale.parse(language.replace("_", "-"), sep="-")
    except (UnknownLocaleError, ValueError):  # a region, or more, that they do not know
        locale = Locale.parse(re.split("[-_]", language)[0])
    return Numerals(locale, point)
