"""The microphone on machines that have none: what a user is told to do."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from voicepool.errors import CallError, ExitCode
from voicepool.microphone import microphone


async def attempt() -> CallError:
    with pytest.raises(CallError) as caught:
        await anext(microphone(24_000, 480))
    return caught.value


async def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    error = await attempt()
    assert error.code == ExitCode.USAGE
    assert "pip install 'voicepool[mic]'" in str(error)


async def test_without_its_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """sounddevice from the package index has no PortAudio on Linux and says so like this."""
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    error = await attempt()
    assert error.code == ExitCode.USAGE
    assert "libportaudio2" in str(error)


async def test_pieces_arrive_and_the_device_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the sound card, which no test machine has."""
    closed = []

    class Card:
        def __init__(self, *, callback: Any, blocksize: int, **_: Any) -> None:
            self.callback, self.blocksize = callback, blocksize

        def __enter__(self) -> None:
            for number in (1, 2):
                self.callback(bytes([number, 0]) * self.blocksize, self.blocksize, None, None)

        def __exit__(self, *_: object) -> None:
            closed.append(True)

    card = types.SimpleNamespace(RawInputStream=Card, PortAudioError=OSError)
    monkeypatch.setitem(sys.modules, "sounddevice", card)
    pieces = microphone(24_000, 480)
    first, second = await anext(pieces), await anext(pieces)
    await pieces.aclose()
    assert (first.tolist(), second.tolist()) == ([1] * 480, [2] * 480)
    assert closed == [True]
