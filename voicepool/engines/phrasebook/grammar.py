"""The pattern language of the phrasebook: parse it, match words with it, write it as JSGF.

    words                plain lower-case words, letters and apostrophes
    [please]             optional
    (a joke | a story)   one of several; may stand in another
    {a:number}           a slot named a; its kind is `number` or a list of the phrasebook

The same tree serves the recogniser (through JSGF, https://www.w3.org/TR/jsgf/) and the matcher, so
the two cannot disagree on what a complete phrase is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from voicepool.engines.phrasebook import numbers

NUMBER = "number"
"""The built-in kind of slot. Typed text may hold any number there; what the recogniser listens for
is the list of this name."""


@dataclass(frozen=True, slots=True)
class Slot:
    """What was said in a slot."""

    words: str
    value: str | int
    """An int for a number, else what the list gives for the words."""


Slots = Mapping[str, Slot]
Lists = Mapping[str, Mapping[str, str]]
"""Kind of slot -> the words that fill it -> their value."""


@dataclass(frozen=True, slots=True)
class Word:
    text: str


@dataclass(frozen=True, slots=True)
class Optional:
    body: Node


@dataclass(frozen=True, slots=True)
class Choice:
    options: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Series:
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class SlotRef:
    name: str
    kind: str


Node = Word | Optional | Choice | Series | SlotRef


class PatternError(ValueError):
    """A pattern is not of this language; the message says where it stops making sense."""


_TOKEN = re.compile(r"\s*(?:(?P<word>[a-z][a-z']*)|(?P<slot>\{[^{}]*\})|(?P<mark>[\[\]()|]))")
_SLOT = re.compile(r"\{([a-z_]+):([a-z_]+)\}")


def _tokens(pattern: str) -> Iterator[str]:
    at = 0
    pattern = pattern.rstrip()
    while at < len(pattern):
        found = _TOKEN.match(pattern, at)
        if found is None:
            raise PatternError(
                f"{pattern[at:].strip()[:20]!r} is not a word: write lower-case letters and "
                "apostrophes, numbers as words"
            )
        at = found.end()
        yield found[0].strip()


def parse(pattern: str) -> Node:
    """The tree of a pattern. Raises PatternError."""
    tokens = list(_tokens(pattern))
    node, rest = _parse_choice(tokens, 0, closing="")
    assert rest == len(tokens)
    if matches_nothing(node):
        raise PatternError("it can be said with no word at all: leave one word outside [ ]")
    return node


_CLOSING = {"(": ")", "[": "]"}


def _parse_choice(tokens: Sequence[str], at: int, closing: str) -> tuple[Node, int]:
    options: list[Node] = []
    while True:
        node, at = _parse_sequence(tokens, at)
        options.append(node)
        mark = tokens[at] if at < len(tokens) else ""
        if mark == "|":
            at += 1
        elif mark == closing:
            end = at + 1 if closing else at
            return (options[0] if len(options) == 1 else Choice(tuple(options))), end
        else:
            raise PatternError(f"{closing or 'a word'!r} is missing before {mark or 'the end'!r}")


def _parse_sequence(tokens: Sequence[str], at: int) -> tuple[Node, int]:
    parts: list[Node] = []
    while at < len(tokens) and tokens[at] not in ")]|":
        token = tokens[at]
        at += 1
        if token in _CLOSING:
            body, at = _parse_choice(tokens, at, _CLOSING[token])
            parts.append(Optional(body) if token == "[" else body)
        elif token.startswith("{"):
            parts.append(_parse_slot(token))
        else:
            parts.append(Word(token))
    if not parts:
        raise PatternError("something is empty: a pattern, a bracket or a side of '|'")
    return (parts[0] if len(parts) == 1 else Series(tuple(parts))), at


def _parse_slot(token: str) -> SlotRef:
    found = _SLOT.fullmatch(token)
    if found is None:
        raise PatternError(f"{token} is not a slot: write {{name:kind}}, for example {{a:number}}")
    return SlotRef(found[1], found[2])


def matches_nothing(node: Node) -> bool:
    """Whether the pattern can be said with no word."""
    match node:
        case Optional():
            return True
        case Choice(options):
            return any(map(matches_nothing, options))
        case Series(parts):
            return all(map(matches_nothing, parts))
    return False


def walk(node: Node) -> Iterator[Node]:
    """The node and all below it."""
    yield node
    match node:
        case Optional(body):
            yield from walk(body)
        case Choice(children) | Series(children):
            for child in children:
                yield from walk(child)


def certain_slots(node: Node) -> frozenset[str]:
    """Names of the slots that are filled however the pattern is said."""
    match node:
        case SlotRef(name, _):
            return frozenset({name})
        case Choice(options):
            return frozenset.intersection(*map(certain_slots, options))
        case Series(parts):
            return frozenset().union(*map(certain_slots, parts))
    return frozenset()


def match(node: Node, tokens: Sequence[str], lists: Lists) -> Slots | None:
    """The slots of the first way in which `tokens` say the whole pattern, None where they do not.

    Where several ways fit, a longer slot goes before a shorter, an option before its absence.
    """
    for end, slots in _match(node, tokens, 0, lists):
        if end == len(tokens):
            return dict(slots)
    return None


_Found = tuple[int, tuple[tuple[str, Slot], ...]]
"""Index after the words, and the slots filled by them."""


def _match(node: Node, tokens: Sequence[str], at: int, lists: Lists) -> Iterator[_Found]:
    match node:
        case Word(text):
            if at < len(tokens) and tokens[at] == text:
                yield at + 1, ()
        case Optional(body):
            yield from _match(body, tokens, at, lists)
            yield at, ()
        case Choice(options):
            for option in options:
                yield from _match(option, tokens, at, lists)
        case Series(parts):
            yield from _match_parts(parts, tokens, at, lists)
        case SlotRef(name, kind):
            for length, slot in _match_slot(kind, tokens[at:], lists):
                yield at + length, ((name, slot),)


def _match_parts(
    parts: tuple[Node, ...], tokens: Sequence[str], at: int, lists: Lists
) -> Iterator[_Found]:
    if not parts:
        yield at, ()
        return
    for middle, first in _match(parts[0], tokens, at, lists):
        for end, rest in _match_parts(parts[1:], tokens, middle, lists):
            yield end, first + rest


def _match_slot(kind: str, tokens: Sequence[str], lists: Lists) -> Iterator[tuple[int, Slot]]:
    if kind == NUMBER:
        for length, number in numbers.parse(tokens):
            yield length, Slot(" ".join(tokens[:length]), number)
        return
    for said, value in lists[kind].items():
        needed = said.split()
        if tokens[: len(needed)] == needed:
            yield len(needed), Slot(said, value)


def slot_words(kind: str, lists: Lists) -> list[str]:
    """All that the recogniser listens for in a slot of this kind."""
    return list(lists[kind])


def sample(node: Node, lists: Lists, random: Random) -> str:
    """One way to say the pattern."""
    match node:
        case Word(text):
            return text
        case Optional(body):
            return sample(body, lists, random) if random.random() < 0.5 else ""
        case Choice(options):
            return sample(random.choice(options), lists, random)
        case Series(parts):
            said = (sample(part, lists, random) for part in parts)
            return " ".join(words for words in said if words)
        case SlotRef(_, kind):
            return random.choice(slot_words(kind, lists))


def to_jsgf(nodes: Sequence[Node], lists: Lists) -> str:
    """One grammar that accepts just what the patterns accept when spoken."""
    kinds = {part.kind for node in nodes for part in walk(node) if isinstance(part, SlotRef)}
    lines = ["#JSGF V1.0;", "grammar phrasebook;"]
    lines += [f"<{kind}> = {' | '.join(slot_words(kind, lists))};" for kind in sorted(kinds)]
    lines.append(f"public <phrase> = {' | '.join(_jsgf(node) for node in nodes)};")
    return "\n".join(lines) + "\n"


def _jsgf(node: Node) -> str:
    match node:
        case Word(text):
            return text
        case Optional(body):
            return f"[ {_jsgf(body)} ]"
        case Choice(options):
            return f"( {' | '.join(map(_jsgf, options))} )"
        case Series(parts):
            return " ".join(map(_jsgf, parts))
        case SlotRef(_, kind):
            return f"<{kind}>"
