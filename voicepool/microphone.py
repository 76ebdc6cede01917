"""The default microphone as a stream of pieces, where the `mic` extra is installed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import numpy as np

from voicepool.errors import CallError, ExitCode
from voicepool.remedies import install_extra
from voicepool.wavfile import Pcm

_MOST_PIECES = 250
"""Waiting to be sent; a network that is further behind loses sound instead of memory."""


def sounddevice_module() -> Any:
    """The library that records. Raises CallError (USAGE) where it cannot be loaded."""
    try:
        import sounddevice
    except ImportError as error:
        raise CallError(
            f"--mic needs sounddevice: {install_extra('mic')}", ExitCode.USAGE
        ) from error
    except OSError as error:  # the package is there, its library is not
        raise CallError(
            "--mic needs the PortAudio library (Debian: apt install libportaudio2)", ExitCode.USAGE
        ) from error
    return sounddevice


async def microphone(rate: int, piece: int) -> AsyncGenerator[Pcm, None]:
    """Pieces of `piece` samples, mono int16 at `rate`, as they are recorded; ends never.

    Raises CallError (USAGE) where there is no microphone.
    """
    sounddevice = sounddevice_module()
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[Pcm] = asyncio.Queue(_MOST_PIECES)

    def keep(sound: Pcm) -> None:
        if not pieces.full():
            pieces.put_nowait(sound)

    def recorded(data: Any, frames: int, clock: Any, status: Any) -> None:
        # In PortAudio's thread; `data` is reused after the call.
        loop.call_soon_threadsafe(keep, np.frombuffer(bytes(data), np.int16))

    try:
        stream = sounddevice.RawInputStream(
            samplerate=rate, blocksize=piece, channels=1, dtype="int16", callback=recorded
        )
    except sounddevice.PortAudioError as error:
        raise CallError(f"--mic: no microphone: {error}", ExitCode.USAGE) from error
    with stream:
        while True:
            yield await pieces.get()
