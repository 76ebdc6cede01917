"""What a freshly forked worker does first: it becomes a process of its own."""

from __future__ import annotations

import faulthandler
import os
import random
import signal
import sys
import tempfile

from voicepool import ipc, linux


def settle(lifeline: int, number: int, tmpdir: str, gpu: str | None) -> None:
    """Become worker `number`; what the zygote had must not shine through. `gpu`: as in ipc.Fork."""
    os.setsid()
    linux.arm_lifeline(lifeline)
    linux.name_process(f"vp-worker-{number}")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    faulthandler.register(ipc.DUMP_SIGNAL, all_threads=True)
    os.environ["TMPDIR"] = tmpdir
    tempfile.tempdir = None
    _place_on(gpu)
    _reseed()


def _place_on(gpu: str | None) -> None:
    """Show CUDA the one GPU that the budget chose, or none; before anything initialises it.

    libcuda reads the variable in cuInit, which nothing has called yet (the zygote is checked for
    that), and torch looks at it anew until then, although it was imported long ago
    (`_parse_visible_devices` in torch/cuda/__init__.py).
    """
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu


def _reseed() -> None:
    """No two forks of one zygote may draw the same random numbers."""
    random.seed()
    if "numpy" in sys.modules:
        import numpy as np

        np.random.seed(int.from_bytes(os.urandom(4), "little"))
    if "torch" in sys.modules:
        import torch  # type: ignore[import-not-found, unused-ignore]

        torch.manual_seed(int.from_bytes(os.urandom(8), "little") >> 1)
