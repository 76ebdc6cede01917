"""Imports what Kokoro stands on, without its noise."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from voicepool.engines import options as engine_options


@contextmanager
def quiet() -> Iterator[None]:
    """What torch, spaCy and kokoro warn of while they are set up is for the authors of the others:
    deprecated ways to compile and to norm weights, dropout in an LSTM of one layer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def library(module: str, package: str) -> Any:
    """Import a module of `package`.

    Raises EngineUnavailable with the command that installs it.
    """
    with quiet():
        return engine_options.require(module, package, "models")
