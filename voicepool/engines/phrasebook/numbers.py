"""English number words and integers, for the numbers that people say to a phrasebook."""

from __future__ import annotations

from collections.abc import Sequence

# fmt: off
_UNITS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
    "nineteen",
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
# fmt: on

MOST_DIGITS = 15
"""Longer numbers in typed text are not taken: nobody could follow the answer by ear."""


def words(number: int) -> str:
    """The words for an integer in 0..999, without hyphens: 42 is "forty two"."""
    if not 0 <= number <= 999:
        raise ValueError(f"no words for {number}")
    if number >= 100:
        rest = f" {words(number % 100)}" if number % 100 else ""
        return f"{_UNITS[number // 100]} hundred{rest}"
    if number >= 20:
        rest = f" {_UNITS[number % 10]}" if number % 10 else ""
        return f"{_TENS[number // 10 - 2]}{rest}"
    return _UNITS[number]


_NUMBERS = {tuple(words(number).split()): number for number in range(1000)}
_LONGEST = max(map(len, _NUMBERS))


def parse(tokens: Sequence[str]) -> list[tuple[int, int]]:
    """Every number that `tokens` can begin with, as (how many tokens, value), longest first.

    Takes number words up to 999 and single tokens of digits.
    """
    found = []
    for length in range(min(_LONGEST, len(tokens)), 0, -1):
        value = _NUMBERS.get(tuple(tokens[:length]))
        if value is not None:
            found.append((length, value))
    if tokens and tokens[0].isascii() and tokens[0].isdecimal() and len(tokens[0]) <= MOST_DIGITS:
        found.append((1, int(tokens[0])))
    return found
