"""Text on its way into Whisper and out of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicepool.engines.faster_whisper.text import clean, unspecial


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        (" What is that? ", "What is that?"),
        ("", ""),
        (" . ", ""),
        (" ♪♪ ...", ""),
        (" 你好。", "你好。"),
        (" 7", "7"),
        (" No, no, no, no.", "No, no, no, no."),
        (" One million is 1000000.", "One million is 1000000."),
    ],
)
def test_transcripts_are_trimmed_and_marks_alone_are_nothing(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


def test_a_loop_is_said_once() -> None:
    assert clean(" Tell me more." + " Thank you." * 40) == "Tell me more. Thank you."
    assert clean("请" + "谢谢你。" * 50) == "请谢谢你。"


def test_a_long_text_without_a_loop_stays() -> None:
    text = " ".join(f"The {number} is followed by {number + 1}." for number in range(60))
    assert clean(text) == text


@pytest.mark.parametrize(
    ("prompt", "plain"),
    [
        ("Names: Ada, Brigitte.", "Names: Ada, Brigitte."),
        ("a<|endoftext|>b<|0.00|>", "ab"),
        ("<|end<|notimestamps|>oftext|>", ""),
        ("x < y | y > z", "x < y | y > z"),
        ("half \ud83d a character", "half  a character"),
    ],
)
def test_prompts_hold_no_control_tokens(prompt: str, plain: str) -> None:
    assert unspecial(prompt) == plain


@given(st.lists(st.sampled_from(["<|", "|>", "a", "<", "|", ">", "\udc80"])).map("".join))
def test_no_prompt_comes_through_that_the_tokenizer_takes_for_control(prompt: str) -> None:
    plain = unspecial(prompt)
    plain.encode()
    assert unspecial(plain) == plain
