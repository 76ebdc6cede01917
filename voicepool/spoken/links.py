"""Addresses as people say them: whose they are, not every character of them."""

from __future__ import annotations

import re

from voicepool.spoken.lexicon import Lexicon
from voicepool.spoken.rules import Rule

_LABEL = r"[^\W_][\w-]{0,62}"
_URL = rf"""
    (?<!\w)(?:[hH][tT]{{2}}[pP][sS]?://(?:[^\s/@]{{1,64}}@)?|[wW]{{3}}\.)
    (?:www\.)?
    (?P<host>{_LABEL}(?:\.{_LABEL}){{0,8}})
    (?P<rest>[^\s<>"\u3000-\u303f\uff00-\uffef]*+)
"""
_EMAIL = rf"(?<![\w.+-])(?P<user>[\w.+-]{{1,64}})@(?P<domain>{_LABEL}(?:\.{_LABEL}){{1,8}})"
# What is no end of a sentence: "sentence.Another" may well be one.
_NAME = r"""
    (?<![\w.@/-])(?P<name>[^\W\d_][\w-]{1,62}(?:\.[a-z][a-z\d-]{1,62}){1,4})(?![\w-]|\.\w)
    (?P<path>/[^\s<>"]*+)?
"""
_TRAILING = re.compile(r"[.,;:!?'\")\]}\u2026]+\Z")


def rules(lexicon: Lexicon | None) -> list[Rule]:
    """URLs, e-mail addresses, names of hosts and files; without a lexicon only their rests go."""

    def spelt(name: str) -> str:
        return name.replace(".", f" {lexicon.dot} ") if lexicon else name

    def url(match: re.Match[str]) -> str:
        return spelt(match["host"]) + _after(match["rest"])

    def email(match: re.Match[str]) -> str | None:
        if lexicon is None:
            return None
        user = spelt(match["user"]).replace("+", f" {lexicon.signs['+']} ")
        return f"{user} {lexicon.at} {spelt(match['domain'])}"

    def name(match: re.Match[str]) -> str:
        return spelt(match["name"]) + _after(match["path"] or "")

    return [(_URL, url), (_EMAIL, email), (_NAME, name)]


def _after(rest: str) -> str:
    """The punctuation behind an address, which is the sentence's."""
    found = _TRAILING.search(rest[-8:])
    return found[0] if found else ""
