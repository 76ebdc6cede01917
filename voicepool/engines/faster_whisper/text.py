"""What goes into Whisper as text, and what comes out."""

from __future__ import annotations

import re
import zlib
from typing import Final

_SPECIAL: Final = re.compile(r"<\|[^|]*\|>")
_LOOP: Final = re.compile(r"(.{2,80}?)\1{3,}", re.DOTALL)
_MOST_COMPRESSED: Final = 2.4
"""How many times shorter zlib may make a transcript: Whisper's own sign of a loop."""


def unspecial(prompt: str) -> str:
    """A prompt as plain text: no control tokens (the tokenizer would take "<|endoftext|>" for
    one), and no halves of characters, which it cannot encode."""
    whole = prompt.encode("utf-8", "ignore").decode()
    while (stripped := _SPECIAL.sub("", whole)) != whole:
        whole = stripped
    return whole


def clean(text: str) -> str:
    """A transcript without spaces around it; "" where it has no letter or digit.

    Where Whisper has fallen into a loop, which silence and noise bring about, what repeats is said
    once.
    """
    encoded = text.encode()
    if len(encoded) > _MOST_COMPRESSED * len(zlib.compress(encoded)):
        text = _LOOP.sub(r"\1", text)
    return text.strip() if any(map(str.isalnum, text)) else ""
