"""Small skills of the phrasebook: functions from what was said to what is answered.

A skill gets an `Ask` and returns the reply's text. It keeps nothing: what it remembers of a
conversation, it finds in the conversation.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from random import Random
from typing import TYPE_CHECKING

from voicepool.engines.phrasebook import grammar
from voicepool.engines.phrasebook.grammar import Slots

if TYPE_CHECKING:
    from voicepool.engines.base import Message
    from voicepool.engines.phrasebook.book import Phrasebook

MOST_COUNTED = 100


@dataclass(frozen=True, slots=True)
class Ask:
    """What a skill may know."""

    slots: Slots
    history: Sequence[Message]
    """The conversation before what was said now."""
    book: Phrasebook
    random: Random
    now: datetime.datetime
    """Local time, with its zone."""

    def number(self, slot: str) -> int:
        value = self.slots[slot].value
        assert isinstance(value, int)
        return value


@dataclass(frozen=True, slots=True)
class Skill:
    run: Callable[[Ask], str]
    numbers: frozenset[str] = frozenset()
    """Slots of numbers that a phrase must have to use it."""
    words: frozenset[str] = frozenset()
    """Other slots that it must have."""

    @property
    def slots(self) -> frozenset[str]:
        return self.numbers | self.words


SKILLS: dict[str, Skill] = {}
"""Name in the phrasebook -> skill."""


def _skill(
    name: str, *numbers: str, words: Sequence[str] = ()
) -> Callable[[Callable[[Ask], str]], Callable[[Ask], str]]:
    def enter(run: Callable[[Ask], str]) -> Callable[[Ask], str]:
        SKILLS[name] = Skill(run, frozenset(numbers), frozenset(words))
        return run

    return enter


# --- the clock -------------------------------------------------------------------------------


@_skill("time")
def tell_time(ask: Ask) -> str:
    hour = ask.now.hour % 12 or 12
    half = "in the morning" if ask.now.hour < 12 else "in the afternoon"
    if ask.now.hour >= 18:
        half = "in the evening"
    minute = f":{ask.now.minute:02}" if ask.now.minute else " o'clock"
    return f"It is {hour}{minute} {half}."


@_skill("date")
def tell_date(ask: Ask) -> str:
    return f"Today is {ask.now:%A}, {ask.now:%B} {ask.now.day}, {ask.now.year}."


@_skill("weekday")
def tell_weekday(ask: Ask) -> str:
    tomorrow = ask.now + datetime.timedelta(days=1)
    return f"It is {ask.now:%A}, and tomorrow will be {tomorrow:%A}."


@_skill("until_christmas")
def tell_days_until_christmas(ask: Ask) -> str:
    today = ask.now.date()
    christmas = datetime.date(today.year, 12, 25)
    if today > christmas:
        christmas = datetime.date(today.year + 1, 12, 25)
    days = (christmas - today).days
    if days == 0:
        return "It is today. Merry Christmas!"
    return f"{plural(days, 'day')} until Christmas."


# --- numbers ---------------------------------------------------------------------------------


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


@_skill("add", "a", "b")
def add(ask: Ask) -> str:
    a, b = ask.number("a"), ask.number("b")
    return f"{a:,} plus {b:,} is {a + b:,}."


@_skill("subtract", "a", "b")
def subtract(ask: Ask) -> str:
    a, b = ask.number("a"), ask.number("b")
    return f"{a:,} minus {b:,} is {signed(a - b)}."


@_skill("multiply", "a", "b")
def multiply(ask: Ask) -> str:
    a, b = ask.number("a"), ask.number("b")
    return f"{a:,} times {b:,} is {a * b:,}."


@_skill("divide", "a", "b")
def divide(ask: Ask) -> str:
    a, b = ask.number("a"), ask.number("b")
    if b == 0:
        return "Nothing can be divided by zero, not even by me."
    whole, rest = divmod(a, b)
    if rest == 0:
        return f"{a:,} divided by {b:,} is exactly {whole:,}."
    return f"{a:,} divided by {b:,} is {whole:,}, and {rest:,} is left over."


@_skill("square", "a")
def square(ask: Ask) -> str:
    a = ask.number("a")
    return f"The square of {a:,} is {a * a:,}."


@_skill("even", "a")
def even_or_odd(ask: Ask) -> str:
    a = ask.number("a")
    return f"{a:,} is an {'odd' if a % 2 else 'even'} number."


@_skill("celsius", "a")
def celsius_to_fahrenheit(ask: Ask) -> str:
    a = ask.number("a")
    return f"{plural(a, 'degree')} Celsius is {decimal(Fraction(a) * 9 / 5 + 32)} Fahrenheit."


@_skill("miles", "a")
def miles_to_kilometers(ask: Ask) -> str:
    a = ask.number("a")
    kilometers = round(Fraction(a) * Fraction("1.609344"), 1)
    return f"{plural(a, 'mile')} is about {decimal(kilometers)} kilometers."


def signed(number: int) -> str:
    return f"minus {-number:,}" if number < 0 else f"{number:,}"


def decimal(number: Fraction) -> str:
    """Exact for what is written here: fractions with at most one decimal place."""
    tenths = int(number * 10)
    return f"{tenths // 10:,}.{tenths % 10}" if tenths % 10 else f"{tenths // 10:,}"


@_skill("count_up", "a")
def count_up(ask: Ask) -> str:
    return _count(range(1, ask.number("a") + 1))


@_skill("count_down", "a")
def count_down(ask: Ask) -> str:
    return _count(range(ask.number("a"), 0, -1)) + " Lift-off!"


def _count(numbers: Sequence[int]) -> str:
    if len(numbers) > MOST_COUNTED:
        return f"That would take me too long. I count to {MOST_COUNTED} at most."
    if not numbers:
        return "There is nothing to count."
    # A full stop now and then makes sentences, so that speaking begins before all is written.
    tens = [numbers[at : at + 10] for at in range(0, len(numbers), 10)]
    return " ".join(", ".join(map(str, ten)) + "." for ten in tens)


# --- chance ----------------------------------------------------------------------------------


@_skill("coin")
def flip_coin(ask: Ask) -> str:
    return f"I flipped it. It is {ask.random.choice(('heads', 'tails'))}."


@_skill("dice")
def roll_dice(ask: Ask) -> str:
    a, b = ask.random.randint(1, 6), ask.random.randint(1, 6)
    return f"I rolled a {a} and a {b}. That makes {a + b}."


@_skill("random_number")
def pick_number(ask: Ask) -> str:
    return f"I picked {ask.random.randint(1, 100)}."


# --- words and the conversation --------------------------------------------------------------


@_skill("spell", words=["word"])
def spell(ask: Ask) -> str:
    word = ask.slots["word"].words
    return f"{word.capitalize()} is spelled: {', '.join(word.replace(' ', '').upper())}."


@_skill("repeat")
def repeat(ask: Ask) -> str:
    for message in reversed(ask.history):
        if message.role == "assistant" and message.content:
            return message.content
    return "I have not said anything yet."


@_skill("what_did_i_say")
def what_did_i_say(ask: Ask) -> str:
    for message in reversed(ask.history):
        if message.role == "user":
            if not message.content:
                break
            return f"You said: {message.content}"
    return "I have not understood anything from you yet."


@_skill("name")
def tell_name(ask: Ask) -> str:
    for message in reversed(ask.history):
        if message.role != "user":
            continue
        found = ask.book.match(message.content)
        if found is not None and found.entry.id == "my_name" and "name" in found.slots:
            return f"Of course. Your name is {found.slots['name'].value}."
    return "You have not told me your name. Say: my name is, and then your name."


@_skill("help")
def help_(ask: Ask) -> str:
    return (
        f"I know {len(ask.book.entries)} things by heart. "
        f"Try saying: {'; or: '.join(examples(ask.book, ask.random, 3))}."
    )


def examples(book: Phrasebook, random: Random, count: int) -> list[str]:
    """Some phrases to say, each of another entry."""
    entries = random.sample(book.entries, min(count, len(book.entries)))
    return [grammar.sample(entry.patterns[0], book.lists, random) for entry in entries]


def not_understood(ask: Ask) -> str:
    """The answer to all that is not in the book."""
    return (
        "I only know my phrasebook; configure an LLM for more. "
        f"Try saying: {'; or: '.join(examples(ask.book, ask.random, 2))}."
    )
