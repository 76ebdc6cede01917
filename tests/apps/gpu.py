"""An app that takes VRAM of the stand-in driver in tests/nvml, as much as a test says.

What is to be allocated is in files of the stand-in's folder, so that a test can change it while the
server runs: `load` bytes at loading, and by each worker in a call what its caller orders.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from websockets.asyncio.server import ServerConnection

from tests.apps.echo import Echo
from tests.nvml.driver import allocate


def _folder() -> Path:
    return Path(os.environ["NVML_STAND_IN"])


class UsesGpu(Echo):
    """Callers send a number of bytes: that is what it then has on its GPU."""

    def load(self, device: str) -> None:
        self.device = device
        self.gpu = os.environ.get("CUDA_VISIBLE_DEVICES")
        if device != "host":
            self._allocate(int((_folder() / "load").read_text()))
            self._ask_the_llm()

    def _ask_the_llm(self) -> None:
        """The first question makes an LLM server load its model: `llm` says who takes how much."""
        order = _folder() / "llm"
        if order.exists():
            pid, size = order.read_text().split()
            order.unlink()
            assert self.gpu is not None
            allocate(_folder(), self.gpu, int(size), int(pid))

    def _allocate(self, size: int) -> None:
        assert self.gpu is not None
        allocate(_folder(), self.gpu, size)

    async def serve(self, websocket: ServerConnection) -> None:
        await websocket.send(json.dumps({"device": self.device, "gpu": self.gpu}))
        async for message in websocket:
            self._allocate(int(message))
            await websocket.send("done")


def create() -> UsesGpu:
    return UsesGpu()
