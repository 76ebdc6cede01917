"""Typed or transcribed text -> the words that patterns are written in."""

from __future__ import annotations

import re
import unicodedata

_SPELLINGS = {
    "\u2019": "'",
    "\u2018": "'",
    "\u00d7": " times ",
    "*": " times ",
    "\u00f7": " divided by ",
    "+": " plus ",
    "\u2212": " minus ",
    "%": " percent ",
}
_DIGIT_MINUS = re.compile(r"(?<=\d)\s*-\s*(?=\d)")
_DIGIT_SLASH = re.compile(r"(?<=\d)\s*/\s*(?=\d)")
_DIGIT_X = re.compile(r"(?<=\d)\s*x\s*(?=\d)")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}\b)")
_UNKNOWN_NUMBER = re.compile(r"\d*\.\d+|(?<![\w)])-\s*\d+|\^")
_UNKNOWN = "<?>"
_WORDS = re.compile(r"[a-z']+|\d+|<\?>")

_CONTRACTIONS = {
    "'s": "is",
    "'re": "are",
    "'m": "am",
    "'ve": "have",
    "'ll": "will",
    "'d": "would",
}
_POSSESSIVES = {"today's"}
"""What ends in 's and hides no verb in the shipped phrases."""
_WHOLE = {
    "let's": "let us",
    "can't": "can not",
    "don't": "do not",
    "ok": "okay",
    "hi": "hello",
    "thanks": "thank you",
    "bye": "goodbye",
    "favourite": "favorite",
    "colour": "color",
    "kilometres": "kilometers",
}


def tokens(text: str) -> list[str]:
    """Lower-case words and digits of `text`; punctuation gone, contractions and signs spelt out.

    A fraction, a negative number or a power becomes a token that no pattern knows: "7.5" must not
    be taken for "7 5".
    """
    text = unicodedata.normalize("NFKC", text).lower()
    for sign, spelling in _SPELLINGS.items():
        text = text.replace(sign, spelling)
    text = _THOUSANDS.sub("", text)
    text = _DIGIT_MINUS.sub(" minus ", text)
    text = _UNKNOWN_NUMBER.sub(f" {_UNKNOWN} ", text)
    text = _DIGIT_SLASH.sub(" divided by ", text)
    text = _DIGIT_X.sub(" times ", text)
    return [token for word in _WORDS.findall(text) for token in _spell_out(word)]


def _spell_out(word: str) -> list[str]:
    word = word.strip("'")
    if word in _WHOLE:
        return _WHOLE[word].split()
    stem, mark, ending = word.partition("'")
    if mark and word not in _POSSESSIVES and mark + ending in _CONTRACTIONS:
        return [stem, _CONTRACTIONS[mark + ending]]
    return [word] if word else []
