"""voicepool.wire.rvc.frames: whatever a page, or who pretends to be one, may send."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.rvc import BLOCK, Microphone, block
from voicepool.wire.rvc.frames import (
    MAX_BLOCK_BYTES,
    MAX_WISH_CHARS,
    Block,
    BlockClip,
    ClearHistory,
    Dry,
    Playing,
    SetSpeed,
    read_block,
    read_wish,
)


def test_a_block_of_the_page() -> None:
    sound = np.linspace(-1, 1, BLOCK, dtype=np.float32)
    (message,) = Microphone(48_000, starts_at=(1 << 32) - 1).blocks(sound)
    assert len(message) == 4104
    read = read_block(message)
    assert read is not None
    assert (read.milliseconds, read.playing, read.samples) == (41, False, BLOCK)
    heard = np.concatenate(list(BlockClip(read.pcm, 48_000).pieces()))
    np.testing.assert_allclose(heard, sound, atol=2 / 32_768)


@pytest.mark.parametrize(("flags", "playing"), [(0, False), (1, True), (2, False), (3, True)])
def test_the_lowest_bit_tells_that_the_page_plays(flags: int, playing: bool) -> None:
    message = bytes(4) + flags.to_bytes(4, "big") + b"\1\0"
    assert read_block(message) == Block(0, playing, b"\1\0")


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, MAX_BLOCK_BYTES + 1])
def test_what_is_no_block(size: int) -> None:
    assert read_block(bytes(size)) is None


def test_half_a_sample_is_dropped() -> None:
    assert read_block(block(5, b"\1\2\3")) == Block(5, False, b"\1\2")


@given(st.binary(max_size=64) | st.integers(0, MAX_BLOCK_BYTES + 99).map(bytes))
def test_any_bytes_are_whole_samples_or_nothing(message: bytes) -> None:
    read = read_block(message)
    if read is not None:
        pieces = list(BlockClip(read.pcm, 44_100).pieces())
        assert sum(map(len, pieces)) == read.samples > 0
        assert max(map(len, pieces)) <= BLOCK * 4


@pytest.mark.parametrize(
    ("message", "wish"),
    [
        ('{"type":"tts_start"}', Playing()),
        ('{"type":"tts_stop"}', Dry()),
        ('{"type":"clear_history"}', ClearHistory()),
        ('{"type":"set_speed","speed":40}', SetSpeed(40)),
        ('{"type":"set_speed","speed":0.5,"more":[1,{"a":null}]}', SetSpeed(0.5)),
    ],
)
def test_wishes(message: str, wish: object) -> None:
    assert read_wish(message) == wish


@pytest.mark.parametrize(
    "message",
    [
        *("null", "", "{", "[]", "3", '"tts_stop"', "{}", '{"type":7}', '{"type":"stop"}'),
        '{"type":"set_speed"}',
        '{"type":"set_speed","speed":"fast"}',
        '{"type":"set_speed","speed":null}',
        '{"type":"set_speed","speed":1e999}',
        '{"type":"set_speed","speed":NaN}',
        '{"type":"tts_stop","a":' + "[" * 4_000 + "]" * 4_000 + "}",
        '{"type":"tts_stop","a":"' + "x" * MAX_WISH_CHARS + '"}',
        "\ud800",
    ],
)
def test_what_is_no_wish(message: str) -> None:
    assert read_wish(message) is None


@given(st.text() | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_any_text_is_a_wish_or_nothing(message: str) -> None:
    assert read_wish(message) is None
