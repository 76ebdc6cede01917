"""Host your own pipeline class: `voicepool start --app examples.own_pipeline:create`.

`ParrotPipeline` stands for the class you have already: it takes long to build, and it holds the
state of one conversation, so two callers can never share one. `ParrotApp` is all that voicepool
needs to know about it. Whatever the caller says is repeated an octave higher.

    → binary    sound: mono 16-bit little-endian PCM
    → "end"     the utterance is over
    ← binary    the answer, in pieces
    ← text      {"said": 1, "seconds": 0.8} when it is complete
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import numpy as np
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.server import ServerConnection

PIECE = 4800


class ParrotPipeline:
    """A pipeline as people write them: models and one conversation's state in one object."""

    def __init__(self, window: np.ndarray) -> None:
        self.window = window  # the "model": read-only, so all workers can share its memory
        self.running_generation: asyncio.Task[None] | None = None
        self.requests_queue: asyncio.Queue[bytes] = asyncio.Queue(maxsize=64)
        self.history: list[float] = []

    async def answer(self, sound: bytes, rate: int = 16_000) -> AsyncIterator[bytes]:
        """Every second sample, twice over: an octave up at the same length."""
        samples = np.frombuffer(sound, dtype="<i2")
        self.history.append(len(samples) / rate)
        high = np.concatenate([samples[::2], samples[::2]]).astype(np.float32)
        fade = min(len(high) // 2, len(self.window) // 2)
        high[:fade] *= self.window[:fade]
        high[len(high) - fade :] *= self.window[len(self.window) - fade :]
        for start in range(0, len(high), PIECE):
            yield high[start : start + PIECE].astype("<i2").tobytes()
            await asyncio.sleep(0)


class ParrotApp:
    """What voicepool hosts; see `voicepool/app.py` for the contract."""

    paths = ("/parrot",)

    def preload(self) -> None:
        """Once, before any worker is forked: load what can be shared."""
        self.window = np.hanning(8192).astype(np.float32)

    def load(self, device: str) -> None:
        """In each worker: build the pipeline, on `device` if it needs a GPU."""
        self.pipeline = ParrotPipeline(self.window)

    def warm_up(self) -> None:
        """In each worker: one real inference, so that the first caller does not pay for it."""

        async def once() -> None:
            async for _ in self.pipeline.answer(bytes(32_000)):
                pass

        asyncio.run(once())
        self.pipeline.history.clear()

    async def rehearse(self, client: ClientConnection) -> None:
        """Optional: a whole fake call through the worker's own server."""
        await client.send(bytes(9600))
        await client.send("end")
        async for message in client:
            if isinstance(message, str):
                break
        self.pipeline.history.clear()

    async def serve(self, websocket: ServerConnection) -> None:
        """The one caller of this process: the pipeline's state is his alone."""
        heard = bytearray()
        async for message in websocket:
            if isinstance(message, bytes):
                heard += message
            elif message == "end":
                async for piece in self.pipeline.answer(bytes(heard[: len(heard) // 2 * 2])):
                    await websocket.send(piece)
                history = self.pipeline.history
                report = {"said": len(history), "seconds": round(history[-1], 3)}
                await websocket.send(json.dumps(report))
                heard.clear()


def create() -> ParrotApp:
    """What `--app` names."""
    return ParrotApp()
