"""Takes a model's reasoning out of a stream of text. Pure.

Servers that know a model's format keep its reasoning in a field of its own. Where they do not, it
stands in the text between tags, which come in any pieces.
"""

from __future__ import annotations

import re

TAGS = ("think", "thinking", "reasoning", "thought")
"""What models call it: DeepSeek-R1, Qwen 3 and most others use the first."""

_OPENING = (*(f"<{tag}>" for tag in TAGS), "[think]")
"""The last is of Mistral's models."""
_CLOSING = (*(f"</{tag}>" for tag in TAGS), "[/think]")
_CLOSING_TAG = re.compile("|".join(map(re.escape, _CLOSING)), re.IGNORECASE | re.ASCII)
_ANY_TAG = re.compile("|".join(map(re.escape, _OPENING + _CLOSING)), re.IGNORECASE | re.ASCII)


class ThoughtFilter:
    """Lets through what is said, not what is thought, the same for any split of the text.

    Text before a tag is kept; a tag that is never closed swallows the rest. A closing tag without
    an opening one is dropped. After a thought, white space goes where white space, or nothing, was
    before it. At most a tag's length of text is held back, and only while it may become a tag.

    `thinking`: the text begins inside a thought, as it does where the chat template has written
    the opening tag into the prompt.
    """

    def __init__(self, *, thinking: bool = False) -> None:
        self.thinking = thinking
        """Whether the text so far ends in a thought."""
        self._held = ""
        self._spaced = True
        """Whether what was let through is empty or ends in white space."""
        self._swallow_space = False

    def feed(self, text: str) -> str:
        """Take a piece of the stream; returns what of it, or of the text held back, is said."""
        text = self._held + text
        said = []
        while tag := (_CLOSING_TAG if self.thinking else _ANY_TAG).search(text):
            if not self.thinking:
                said.append(self._let(text[: tag.start()]))
            self.thinking = tag[0][1] != "/"
            self._swallow_space = True
            text = text[tag.end() :]
        held = _possible_tag(text, _CLOSING if self.thinking else _OPENING + _CLOSING)
        self._held = text[len(text) - held :]
        if not self.thinking:
            said.append(self._let(text[: len(text) - held]))
        return "".join(said)

    def flush(self) -> str:
        """What is held back and said, because the text, or this part of it, is over."""
        held, self._held = self._held, ""
        return "" if self.thinking else self._let(held)

    def _let(self, text: str) -> str:
        if self._swallow_space and self._spaced:
            text = text.lstrip()
        if text:
            self._spaced = text[-1].isspace()
            self._swallow_space = False
        return text


def _possible_tag(text: str, tags: tuple[str, ...]) -> int:
    """The length of the end of `text` that may be the beginning of one of `tags`."""
    start = max(text.rfind("<"), text.rfind("["))
    if start < 0:
        return 0
    ending = text[start:]
    if not ending.isascii() or not any(tag.startswith(ending.lower()) for tag in tags):
        return 0
    return len(ending)
