"""Puts characters together whose halves come apart. Pure.

JSON writes a character beyond the first 65,536, an emoji for one, as two halves (surrogates), and a
server that cuts a reply by its tokens may send them in two pieces, or one of them alone. A half is
no text: neither a client nor the next request could be told it.
"""

from __future__ import annotations


class Halves:
    """A text in pieces; a half that stays alone becomes U+FFFD."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, text: str) -> str:
        """What is whole with this piece."""
        text = self._held + text
        self._held = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
        return whole(text[: len(text) - len(self._held)])

    def flush(self) -> str:
        """What is left, because the text is over."""
        held, self._held = self._held, ""
        return whole(held)


def whole(text: str) -> str:
    """A text in which every half has its other one, or is U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
