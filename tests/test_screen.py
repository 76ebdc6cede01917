"""What a call looks like, on a terminal and in a file."""

from __future__ import annotations

import io

import pytest

from voicepool.dialogue import Line, Side
from voicepool.screen import Screen

CALL = [
    Line(Side.CALLER, "what", final=False),
    Line(Side.CALLER, "what", final=False),
    Line(Side.CALLER, "what time", final=False),
    Line(Side.CALLER, "what time is it"),
    Line(Side.VOICE, "Ten", final=False),
    Line(Side.VOICE, "Ten past", final=False),
    Line(Side.NOTE, "the server reports: bad\x1b[2J\nnews"),
    Line(Side.VOICE, "Ten past four."),
]


def shown(lines: list[Line], **options: bool) -> str:
    stream = io.StringIO()
    screen = Screen(stream, **{"live": False, "color": False, **options})
    for line in lines:
        screen.show(line)
    screen.close()
    return stream.getvalue()


def rendered(text: str) -> list[str]:
    """What a terminal has on it at the end."""
    return [line.rpartition("\r\x1b[K")[2] for line in text.rstrip("\n").split("\n")]


def test_plain_lines_for_a_file() -> None:
    assert shown(CALL).splitlines() == [
        "you    what ...",
        "you    what time ...",
        "you    what time is it",
        "       the server reports: bad\\x1b[2J\\nnews",
        "voice  Ten past four.",
    ]


def test_on_a_terminal_a_line_grows_in_place() -> None:
    text = shown(CALL, live=True)
    assert "\r\x1b[Kyou    what time\r\x1b[Kyou    what time is it\n" in text
    assert rendered(text) == [
        "you    what time is it",
        "voice  Ten past",
        "       the server reports: bad\\x1b[2J\\nnews",
        "voice  Ten past four.",
    ]


def test_a_growing_line_never_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    (line,) = rendered(shown([Line(Side.VOICE, "word " * 50 + "end", final=False)], live=True))
    assert len(line) == 39
    assert line.startswith("voice  ...")
    assert line.endswith(" end")


def test_color() -> None:
    assert "\x1b[36mhello\x1b[0m" in shown([Line(Side.CALLER, "hello")], live=True, color=True)
