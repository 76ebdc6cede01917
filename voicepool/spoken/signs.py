"""Signs between words: some have a name, most are for the eye."""

from __future__ import annotations

import re

from voicepool.spoken.lexicon import Lexicon
from voicepool.spoken.rules import Rule

_PICTURES = (
    "\u00a9\u00ae\u2122\u2300-\u23ff\u2500-\u27bf\u2b00-\u2bff\u3030\u303d\u3297\u3299"
    "\U0001f000-\U0001faff"
)
"""Pictographs, shapes and boxes (https://www.unicode.org/Public/emoji/latest/emoji-data.txt)."""
_JOINTS = "\u200d\ufe0e\ufe0f\u20e3\U000e0020-\U000e007f"
"""What makes one picture of several; within words, some scripts need the first of them."""
_PICTURE = rf"[{_PICTURES}][{_PICTURES}{_JOINTS}]*+|[{_JOINTS[1:]}]++"
_EMOTICON = r"(?<!\w)(?:[:;=]['\u2019]?-?[()DPp/|\]\[])(?![\w/])|<3(?=\W{0,8}\Z)"
_INVISIBLE = r"[\u00ad\u200b\u2060\ufeff]"

_ARROW = "<?[-=]{1,2}>|<-{1,2}|[\u2190-\u21ff\u27f0-\u27ff\u2900-\u297f]"
_BULLET = r"(?<=\s)[\u2022\u2023\u25e6\u00b7](?=\s)"
_SLASH = r"(?<=[^\W\d_])/(?=[^\W\d_])"
_NOISE = r"[*_`|\\{}\[\]#^<>\u00ac]++"

_TIMES = r"(?<=\d)[ ]?[x\u00d7*][ ]?(?=\d)"
_NUMBER = r"\#(?=\d)"
_SHARP = r"(?<=\b[A-G])\#"
_AT = r"(?<![\w@])@(?=\w)"
_ABOUT = r"~(?=[ ]?[\d$\u20ac\u00a3])"
_POWER = r"\^(?=-?\d)"
_SQUARE = r"(?<=\w)[\u00b2\u00b3]"
_COMPARED = {"<=": "\u2264", ">=": "\u2265", "!=": "\u2260", "==": "=", "===": "="}
_SIGN = "!=|[<>]=|={1,3}|[+&\u00d7\u00f7\u00b1\u2248\u2260\u2264\u2265\u221e\u221a]"
_SPACED_SIGN = r"(?<=[\s\d])[<>\u2212](?=[\s\d])|(?<=\d)%"


def rules(lexicon: Lexicon | None) -> list[Rule]:
    """What is left of signs when links and numbers are words, and pictures."""
    found: list[Rule] = [
        (_PICTURE, _space),
        (_EMOTICON, _space),
        (_INVISIBLE, _nothing),
        (_ARROW, _pause),
        (_BULLET, _pause),
        (_SLASH, _space),
    ]
    if lexicon is not None:
        found += _named(lexicon)
    return [*found, (_NOISE, _space)]


def _named(lexicon: Lexicon) -> list[Rule]:
    def sign(match: re.Match[str]) -> str | None:
        written = match.group().strip()
        return name(_COMPARED.get(written, written))

    def name(of: str) -> str | None:
        return f" {lexicon.signs[of]} " if of in lexicon.signs else None

    return [
        (_TIMES, lambda match: name("\u00d7")),
        (_NUMBER, lambda match: f" {lexicon.number} "),
        (_SHARP, lambda match: " sharp "),
        (_AT, lambda match: f" {lexicon.at} "),
        (_ABOUT, lambda match: name("~")),
        (_POWER, lambda match: name("^")),
        (f"{_SQUARE}|{_SIGN}|{_SPACED_SIGN}", sign),
    ]


def _space(match: re.Match[str]) -> str:
    return " "


def _nothing(match: re.Match[str]) -> str:
    return ""


def _pause(match: re.Match[str]) -> str:
    return ", "
