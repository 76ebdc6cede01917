"""Reasoning taken out of a stream of text."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicepool.engines.chat.thinking import ThoughtFilter

LONGEST_TAG = len("</reasoning>")
PIECES = (
    "<think>",
    "</think>",
    "<THINKING>",
    "</Reasoning>",
    "[THINK]",
    "[/think]",
    "<",
    "</",
    "[",
    "[/",
    "]",
    "think",
    "ing",
    ">",
    " ",
    "\n",
    "a",
    "<b>",
    "5 < 6",
    "rea\u017foning",
    "thin\u212a>",
)
"""The last two match "reasoning" and "think" only where case is folded beyond ASCII."""

texts = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


def filtered(*pieces: str, thinking: bool = False) -> str:
    thoughts = ThoughtFilter(thinking=thinking)
    return "".join(map(thoughts.feed, pieces)) + thoughts.flush()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Hello.", "Hello."),
        ("<think>Hm.</think>Hello.", "Hello."),
        ("<think>\nHm.\n</think>\n\nHello.", "Hello."),
        ("Well. <thinking>Hm.</thinking> Hello.", "Well. Hello."),
        ("Well<think>Hm.</think> hello.", "Well hello."),
        ("Well. <REASONING>Hm.", "Well. "),
        ("one</think>two", "onetwo"),
        ("[THINK]Hm. [x] <b>[/THINK]Hello.", "Hello."),
        ("<thought>Hm.</thought>Hello [1] and [thin", "Hello [1] and [thin"),
        ("<think>a</think>b<think>c</think>d", "bd"),
        ("3 < 4 and <b>bold</b> <thin", "3 < 4 and <b>bold</b> <thin"),
        ("", ""),
    ],
)
def test_what_is_said(text: str, said: str) -> None:
    assert filtered(text) == said
    assert filtered(*text) == said


def test_a_text_may_begin_inside_a_thought() -> None:
    assert filtered("Hm. So", " what.</thi", "nk>\nHello.", thinking=True) == "Hello."


@given(texts, st.data())
def test_any_split_says_the_same(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    edges = [0, *cuts, len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(edges)]
    assert filtered(*pieces) == filtered(text) == filtered(*text)


@given(texts)
def test_it_is_the_text_without_its_thoughts(text: str) -> None:
    tag = "(?:think|thinking|reasoning|thought)>"
    opening, closing = rf"(?:<{tag}|\[think\])", rf"(?:</{tag}|\[/think\])"
    thought = re.compile(
        rf"{opening}.*?(?:{closing}|\Z)|{closing}", re.IGNORECASE | re.ASCII | re.DOTALL
    )
    assert "".join(filtered(text).split()) == "".join(thought.sub("", text).split())


@given(st.text(alphabet="<think/> reasoning", max_size=60))
def test_little_is_held_back(text: str) -> None:
    thoughts = ThoughtFilter()
    said = 0
    for index, letter in enumerate(text, 1):
        said += len(thoughts.feed(letter))
        if thoughts.thinking or "</" in text[:index]:
            return
        assert index - said < LONGEST_TAG


def test_what_cannot_become_a_tag_any_more_is_let_go_at_once() -> None:
    thoughts = ThoughtFilter()
    assert thoughts.feed("a <thin") == "a "
    assert thoughts.feed("g") == "<thing"
