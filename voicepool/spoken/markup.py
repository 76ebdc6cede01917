"""Markdown and HTML taken out of text that arrives clause by clause.

Parsers of Markdown (CommonMark: https://spec.commonmark.org) need a paragraph's end to say what a
mark in it means, and keep no positions within a line. Speech can wait for neither, and needs less:
whatever opens or closes emphasis, a link or a cell is silent, wherever its other half is. Only what
is left out as a whole, a code block or a link's address, is followed from clause to clause.
"""

from __future__ import annotations

import html
import re

from voicepool.sentences import Clause
from voicepool.spoken.aligned import Aligned, Draft, rewrite

# Possessive quantifiers, bounds and lookbehinds below keep the search linear in the text's length.

_FENCE_OPENS = re.compile(
    r"(?m)(?<!`)(?:^[ \t>]*(?P<mark>`{3,}+|~{3,}+)[^`\n]*$|(?P<late>`{3,}+)[\w+#-]*[ \t]*$)"
)
"""A code block may also begin at a line's end: models write "For example: ```python"."""

_RULE = r"[ \t]*(?:[-=*_|:+][ \t]*){3,}+$"
_DEFINITION = r"[ \t]*\[[^\[\]\n]{1,100}\]:[ \t]*(?:https?:|www\.|[</#])[^\n]*"
_LINE_MARKS = r"(?:[ \t]*(?:>|\#{1,6}(?=\s)|[-*+\u2022\u2023\u25e6\u2013](?=\s)))++"
_TASK_BOX = r"(?:[ \t]+\[[ xX]\](?=\s))?"
_LINE_START = re.compile(rf"(?m)^(?:{_RULE}|{_DEFINITION}|{_LINE_MARKS}{_TASK_BOX})")
_LATER_LINE_START = re.compile(rf"(?m)(?<=\n)(?:{_RULE}|{_DEFINITION}|{_LINE_MARKS}{_TASK_BOX})")

_ADDRESS = r"\([ \t]{0,3}[^()\s]*+(?:\([^()\s]*+\)[^()\s]*+)*+"
_ADDRESSED = rf"{_ADDRESS}(?:[ \t]+(?:\"[^\"\n]*+\"|'[^'\n]*+'))?[ \t]{{0,3}}\)"
_SEPARATING = "br|p|li|ul|ol|tr|td|th|table|thead|tbody|div|hr|h[1-6]|pre|dl|dt|dd"
_INLINE_TAGS = (
    "a|b|i|u|s|q|em|strong|code|del|ins|sub|sup|small|mark|kbd|samp|var|cite|abbr|img|span|font"
    "|big|center|details|summary|blockquote"
)
_INLINE = re.compile(
    rf"""(?=[\\<&!\[\]`~*_|#])(?:
      (?P<escape>   \\(?P<literal>[!-/:-@\[-`{{-~]))
    | (?P<auto>     <(?P<target>https?://[^<>\s]++|[\w.+-]{{1,64}}@[\w.-]{{1,255}})>)
    | (?P<space>    </?(?:{_SEPARATING})\b[^<>]*+>)
    | (?P<tag>      </?(?:{_INLINE_TAGS})\b[^<>]*+> | <!--[^\n]{{0,500}}?-->)
    | (?P<entity>   &(?:\#\d{{1,7}}|\#[xX][\da-fA-F]{{1,6}}|[a-zA-Z][a-zA-Z\d]{{1,31}});)
    | (?P<note>     \[\^[^\[\]\s]{{1,32}}\]:? | \[\d{{1,3}}\](?:{_ADDRESSED})?)
    | (?P<address>  \](?:{_ADDRESSED}|\[[^\[\]\n]{{0,100}}\]))
    | (?P<bracket>  !?\[|\])
    | (?P<silent>   `++|~~++|(?<=\s)\#++(?=[ \t]*$))
    | (?P<stars>    \*++)
    | (?P<unders>   _++)
    | (?P<cell>     \|[\s|]*+)
    )""",
    re.VERBOSE | re.MULTILINE | re.IGNORECASE,
)

_OPEN_ADDRESS = re.compile(rf"\]{_ADDRESS}(?:\([^()\s]*+)?\Z")
_OPEN_URL = re.compile(r"(?i)(?:https?://|www\.)[!-~]*+\Z")
_REST_OF_ADDRESS = re.compile(r"[!-~]*+")
_IN_ADDRESS = re.compile(r"(?i)(?:https?://|www\.|[a-z\d-]\.[a-z][a-z\d-]{1,62}/)\S*+\Z")
_LONGEST_ADDRESS = 256


class Markup:
    """The marks in one message, whose clauses come in order. `code`: what is said of a block."""

    def __init__(self, code: str) -> None:
        self._code = code
        self._fence = ""
        """The mark that opened the code block that the text is in."""
        self._halved = False
        """Whether the last clause ends in an address, which goes on if the next follows at once."""
        self._end = 0
        """Where the last clause ended in the message."""

    def strip(self, clause: Clause) -> Aligned:
        """The clause without marks."""
        text = Aligned.identity(clause.text)
        halved = self._halved and clause.start == self._end
        self._end = clause.start + len(clause.text)
        if halved:
            text = self._without_rest(text)
        text = self._without_code(text)
        text = rewrite(text, _LINE_START if clause.opens_line else _LATER_LINE_START, _nothing)
        self._halved = bool(halved and not text.text) or _OPEN_URL.search(text.text) is not None
        return rewrite(self._without_half(text), _INLINE, _inline)

    def _without_code(self, text: Aligned) -> Aligned:
        if not self._fence and _FENCE_OPENS.search(text.text) is None:
            return text
        draft = Draft(text)
        at = 0
        while at < len(text.text):
            if self._fence:
                closes = text.text.find(self._fence, at)
                if closes < 0:
                    break
                at = closes + len(self._fence)
                while text.text.startswith(self._fence[0], at):
                    at += 1
                self._fence = ""
            else:
                opens = _FENCE_OPENS.search(text.text, at)
                draft.keep(at, opens.start() if opens else len(text.text))
                if opens is None:
                    break
                draft.say(self._code, opens.end())
                self._fence = opens["mark"] or opens["late"]
                at = opens.end()
        return draft.finish()

    def _without_half(self, text: Aligned) -> Aligned:
        opened = _OPEN_ADDRESS.search(text.text)
        if opened is None:
            return text
        self._halved = True
        draft = Draft(text)
        draft.keep(0, opened.start())
        return draft.finish()

    @staticmethod
    def _without_rest(text: Aligned) -> Aligned:
        rest = _REST_OF_ADDRESS.match(text.text)
        draft = Draft(text)
        draft.keep(rest.end() if rest else 0, len(text.text))
        return draft.finish()


def _nothing(match: re.Match[str]) -> str:
    return ""


def _inline(match: re.Match[str]) -> str | None:
    before = match.string[max(match.start() - 2, 0) : match.start()]
    after = match.string[match.end() : match.end() + 2]
    match match.lastgroup:
        case "escape":
            return match["literal"]
        case "auto":
            return match["target"]
        case "entity":
            return html.unescape(match.group()).replace("\xa0", " ")
        case "space":
            return " "
        case "stars":
            return _stars(match.group(), before, after)
        case "unders":
            return _unders(match, before, after)
        case "cell":
            return _cell(before, after)
    return ""


def _stars(stars: str, before: str, after: str) -> str | None:
    if stars == "*" and before.strip()[-1:].isdigit() and after.strip()[:1].isdigit():
        return None  # a product
    return " " if stars == "*" and before[-1:].isalnum() and after[:1].isalnum() else ""


def _unders(match: re.Match[str], before: str, after: str) -> str | None:
    if not (before[-1:].isalnum() and after[:1].isalnum()):
        return ""
    start = match.start()
    if _IN_ADDRESS.search(match.string, max(start - _LONGEST_ADDRESS, 0), start):
        return None  # a blank would end the address, and what is behind it would be read out
    return " "


def _cell(before: str, after: str) -> str:
    if not before.strip() or not after:
        return " "
    return " " if before.rstrip()[-1:] in ".,;:!?" else ", "
