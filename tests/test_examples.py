"""The examples do what they say, in a real pool."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np

from tests.pools import PoolServer


def test_own_pipeline_keeps_each_callers_state_apart(start_pool: Callable[..., PoolServer]) -> None:
    server = start_pool(app="examples.own_pipeline:create")
    tone = (8000 * np.sin(np.arange(16_000) * 2 * np.pi * 400 / 16_000)).astype("<i2")
    with server.call("/parrot") as one, server.call("/parrot") as two:
        for count in (1, 2):
            one.send(tone.tobytes())
            one.send("end")
            answer = b""
            while isinstance(message := one.recv(timeout=60), bytes):
                answer += message
            assert json.loads(message) == {"said": count, "seconds": 1.0}
        spectrum = np.abs(np.fft.rfft(np.frombuffer(answer, dtype="<i2")))
        assert abs(np.argmax(spectrum) - 800) <= 1
        two.send("end")
        while isinstance(message := two.recv(timeout=60), bytes):
            pass
        assert json.loads(message) == {"said": 1, "seconds": 0.0}
