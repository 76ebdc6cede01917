"""The phrasebook: what it knows, read from TOML, checked, and matched against what people say.

    [[phrase]]
    id = "capital"                                  # unique; a user's entry replaces ours
    say = ["what is the capital of {land:country}"] # patterns, see grammar.py
    reply = ["{land.value} is its capital."]        # one is chosen; slots by name
    skill = "add"                                   # or: a function of skills.py makes the reply
    tool = "get_weather"                            # or: call this tool, slots are its arguments

    [lists]                                         # what can be said in a slot, and its value
    country = { france = "Paris" }                  # or a plain array of words
    [pronunciations]                                # of words that the dictionary lacks (ARPABET)
    voicepool = "V OY S P UW L"

An entry has exactly one of `reply`, `skill` and `tool`; beside `tool`, `reply` is what is said when
the session has not declared that tool. A slot named x is {x} (the words) or {x.value} in a reply.
At the top of the file, `replace = true` forgets the phrases that come with voicepool, and
`numbers = [1, 2]` says which numbers the recogniser listens for.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated

import msgspec

from voicepool.engines.options import nearest
from voicepool.engines.phrasebook import grammar, numbers, skills, text
from voicepool.engines.phrasebook.grammar import Lists, Node, Slots
from voicepool.errors import ConfigError

BUILT_IN = "phrasebook.toml"

MOST_TOKENS = 40
"""No phrase is longer; longer text is not even tried."""
MOST_CHARACTERS = 1000
"""Of a text that is cut into tokens: what is done to digits takes as long as their square."""

_PLACEHOLDER = re.compile(r"\{([a-z_]+)(\.value)?\}")
_PHONES = re.compile(r"[A-Z]+( [A-Z]+)*")
_Many = str | list[str]


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    id: Annotated[str, msgspec.Meta(min_length=1)]
    say: _Many
    reply: _Many = []
    skill: str = ""
    tool: str = ""


class _File(msgspec.Struct, forbid_unknown_fields=True):
    phrase: list[_Entry] = []
    lists: dict[str, list[str] | dict[str, str]] = {}
    pronunciations: dict[str, _Many] = {}
    numbers: list[Annotated[int, msgspec.Meta(ge=0, le=999)]] = []
    """What the recogniser listens for in a slot of numbers; [] leaves it as it was."""
    replace: bool = False
    """True: forget the phrases that come with voicepool."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing the assistant understands."""

    id: str
    say: tuple[str, ...]
    patterns: tuple[Node, ...]
    replies: tuple[str, ...]
    skill: str
    tool: str
    source: str
    """The file that it comes from, for error messages."""


@dataclass(frozen=True, slots=True)
class Match:
    entry: Entry
    slots: Slots


@dataclass(frozen=True, slots=True)
class Phrasebook:
    entries: tuple[Entry, ...]
    lists: Lists
    pronunciations: Mapping[str, tuple[str, ...]]
    """Word -> its pronunciations as ARPABET phones, beyond the recogniser's dictionary."""

    def match(self, said: str) -> Match | None:
        """The entry whose pattern `said` is, completely; None where there is none."""
        tokens = text.tokens(said) if len(said) <= MOST_CHARACTERS else []
        if not 0 < len(tokens) <= MOST_TOKENS:
            return None
        for entry in self.entries:
            for pattern in entry.patterns:
                slots = grammar.match(pattern, tokens, self.lists)
                if slots is not None:
                    return Match(entry, slots)
        return None

    def patterns(self) -> list[Node]:
        return [pattern for entry in self.entries for pattern in entry.patterns]

    def jsgf(self) -> str:
        return grammar.to_jsgf(self.patterns(), self.lists)

    def words(self) -> dict[str, Entry]:
        """Every word that can be spoken, with an entry that needs it."""
        found: dict[str, Entry] = {}
        for entry in self.entries:
            for node in (part for pattern in entry.patterns for part in grammar.walk(pattern)):
                for word in _spoken_words(node, self.lists):
                    found.setdefault(word, entry)
        return found


def _spoken_words(node: Node, lists: Lists) -> list[str]:
    match node:
        case grammar.Word(word):
            return [word]
        case grammar.SlotRef(_, kind):
            return " ".join(grammar.slot_words(kind, lists)).split()
    return []


def fill(template: str, slots: Slots) -> str:
    """A reply with its slots filled in."""

    def say(found: re.Match[str]) -> str:
        slot = slots[found[1]]
        return str(slot.value) if found[2] else slot.words

    return _PLACEHOLDER.sub(say, template)


def load(path: str = "") -> Phrasebook:
    """The phrasebook that comes with voicepool, with the user's file `path` laid over it.

    Raises ConfigError with the file, the entry and the remedy.
    """
    ours = resources.files(__package__).joinpath(BUILT_IN).read_text("utf-8")
    books = [(BUILT_IN, _decode(ours, BUILT_IN))]
    if path:
        books.append((path, _decode(_read(path), path)))
        if books[-1][1].replace:
            del books[0]
    return _assemble(books)


def _read(path: str) -> str:
    try:
        return Path(path).expanduser().read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"phrasebook {path!r} cannot be read: {error}; write the path of a UTF-8 TOML file"
        ) from None


def _decode(toml: str, source: str) -> _File:
    try:
        return msgspec.convert(tomllib.loads(toml), _File)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source} is not TOML: {error}") from None
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: {error} (entries are [[phrase]] tables)") from None


def _assemble(books: Sequence[tuple[str, _File]]) -> Phrasebook:
    lists: dict[str, dict[str, str]] = {}
    pronunciations: dict[str, tuple[str, ...]] = {}
    entries: dict[str, tuple[str, _Entry]] = {}
    for source, book in books:
        if book.numbers:
            lists[grammar.NUMBER] = {numbers.words(number): str(number) for number in book.numbers}
        for kind, values in book.lists.items():
            lists[kind] = _check_list(source, kind, values)
        for word, phones in book.pronunciations.items():
            pronunciations[word] = _check_phones(source, word, phones)
        seen: set[str] = set()
        for entry in book.phrase:
            if entry.id in seen:
                raise ConfigError(f"{source}: phrase {entry.id!r} is there twice; rename one")
            seen.add(entry.id)
            entries[entry.id] = (source, entry)
    if not entries:
        raise ConfigError(f"{books[-1][0]}: it has no [[phrase]]")
    checked = tuple(_check_entry(source, entry, lists) for source, entry in entries.values())
    return Phrasebook(checked, lists, pronunciations)


def _check_list(source: str, kind: str, values: list[str] | dict[str, str]) -> dict[str, str]:
    where = f"{source}: list {kind!r}"
    if kind == grammar.NUMBER or not re.fullmatch("[a-z_]+", kind):
        raise ConfigError(f"{where}: choose another name, of a-z and _, other than 'number'")
    if not values:
        raise ConfigError(f"{where}: it is empty")
    spoken = values if isinstance(values, dict) else {value: value for value in values}
    for said in spoken:
        _check_words(where, said.split() or [said])
    return {" ".join(said.split()): value for said, value in spoken.items()}


def _check_words(where: str, words: Sequence[str]) -> None:
    for word in words:
        spelt = text.tokens(word)
        if spelt != [word] or not word.replace("'", "").isalpha():
            hint = f"write {' '.join(spelt)!r}" if spelt else "write lower-case words"
            raise ConfigError(f"{where}: {word!r} would never be matched; {hint}")


def _check_phones(source: str, word: str, phones: _Many) -> tuple[str, ...]:
    many = (phones,) if isinstance(phones, str) else tuple(phones)
    for one in many:
        if not _PHONES.fullmatch(one):
            raise ConfigError(
                f"{source}: pronunciation of {word!r}: {one!r} is not ARPABET without stress "
                "marks; write for example 'HH AH L OW'"
            )
    if not many:
        raise ConfigError(f"{source}: {word!r} has an empty list of pronunciations")
    return many


def _check_entry(source: str, entry: _Entry, lists: Lists) -> Entry:
    where = f"{source}: phrase {entry.id!r}"
    says = (entry.say,) if isinstance(entry.say, str) else tuple(entry.say)
    replies = (entry.reply,) if isinstance(entry.reply, str) else tuple(entry.reply)
    if not says:
        raise ConfigError(f"{where}: `say` is empty; write what the caller says")
    if entry.skill and entry.skill not in skills.SKILLS:
        raise ConfigError(
            f"{where}: no skill {entry.skill!r}; {nearest(entry.skill, skills.SKILLS)}"
        )
    if bool(entry.skill) == bool(replies) or (entry.skill and entry.tool):
        raise ConfigError(f"{where}: write either `reply`, or `tool` and `reply`, or `skill`")
    patterns = tuple(_check_pattern(where, say, lists) for say in says)
    if entry.skill:
        _check_numbers(where, patterns, skills.SKILLS[entry.skill].numbers)
    wanted = {found[1] for reply in replies for found in _PLACEHOLDER.finditer(reply)}
    if entry.skill:
        wanted |= skills.SKILLS[entry.skill].slots
    for say, pattern in zip(says, patterns, strict=True):
        missing = wanted - grammar.certain_slots(pattern)
        if missing:
            raise ConfigError(
                f"{where}: {say!r} may be said without {{{min(missing)}:...}}, "
                "which its reply or skill needs; add the slot to the pattern"
            )
    return Entry(entry.id, says, patterns, replies, entry.skill, entry.tool, source)


def _check_pattern(where: str, say: str, lists: Lists) -> Node:
    try:
        pattern = grammar.parse(say)
    except grammar.PatternError as error:
        raise ConfigError(f"{where}: in {say!r}: {error}") from None
    for node in grammar.walk(pattern):
        match node:
            case grammar.Word(word):
                _check_words(f"{where}: in {say!r}", [word])
            case grammar.SlotRef(name, kind) if kind not in lists:
                raise ConfigError(
                    f"{where}: {{{name}:{kind}}}: no list {kind!r}; {nearest(kind, lists)}"
                )
    return pattern


def _check_numbers(where: str, patterns: Sequence[Node], names: frozenset[str]) -> None:
    for node in (part for pattern in patterns for part in grammar.walk(pattern)):
        match node:
            case grammar.SlotRef(name, kind) if name in names and kind != grammar.NUMBER:
                raise ConfigError(f"{where}: its skill needs a number: write {{{name}:number}}")
