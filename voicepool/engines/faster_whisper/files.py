"""The files of a Whisper model: where they are, and how workers get them without reading a disk.

What is done before the fork and what after it, for "base" (published in 16 bits, used in 8) in a
forked worker on one core, is in the docstring of `ModelFiles.arrange`.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from pathlib import Path
from typing import Any, Final

from voicepool.engines import hub
from voicepool.engines import options as engine_options
from voicepool.engines.faster_whisper import weights
from voicepool.errors import ConfigError, EngineUnavailable

WEIGHTS: Final = "model.bin"
TOKENIZER: Final = "tokenizer.json"
_NEEDED: Final = (WEIGHTS, TOKENIZER, "config.json", "vocabulary.*")
_OPTIONAL: Final = ("preprocessor_config.json",)
"""Absent, the model takes 80 bands of frequencies, as those before large-v3 do."""


class Source:
    """Where a model comes from: a folder of this machine, or a repository of the Hub."""

    def __init__(self, model: str, cache: str) -> None:
        """`model`: a folder's path, "owner/name" of a repository, or a name such as "base".

        Raises ConfigError for what is none of them, EngineUnavailable without faster-whisper.
        """
        self._model = model
        self._cache = str(Path(cache).expanduser()) if cache else ""
        path = Path(model).expanduser()
        self._folder = path if path.is_dir() else None
        self.repository = "" if self._folder else _repository(model)
        """"" for a folder."""

    def find(self) -> Path:
        """The folder with the model's files. Raises EngineUnavailable that names the file which
        is missing."""
        folder = self._folder
        if folder is None:
            weights = hub.find(self.repository, WEIGHTS, cache=self._cache)
            folder = weights.parent if weights else None
        for pattern in _NEEDED:
            if folder is None or not any(folder.glob(pattern)):
                raise EngineUnavailable(self._missing(pattern))
        assert folder is not None
        return folder

    def fetch(self, report: hub.Report) -> None:
        """Download what is missing. Raises EngineUnavailable."""
        if self._folder is not None:
            self.find()  # there is nothing to download it from, but it may be said now
            return
        hub.fetch(
            self.repository,
            _NEEDED,
            report,
            label=f"faster-whisper {self._model}",
            optional=_OPTIONAL,
            cache=self._cache,
        )

    def _missing(self, name: str) -> str:
        if self._folder is None:
            return (
                f"faster-whisper: {name} of the model {self._model!r} ({self.repository}) is not "
                "on this machine; download it with: voicepool prefetch"
            )
        remedy = "convert the model with: ct2-transformers-converter --copy_files tokenizer.json "
        return (
            f"faster-whisper: the folder {self._folder} has no {name}; {remedy}"
            "preprocessor_config.json ..."
        )


def _repository(model: str) -> str:
    utils: Any = engine_options.require("faster_whisper.utils", "faster-whisper", "models")
    # The library has no public way from a name to its repository.
    if model in utils._MODELS:
        return str(utils._MODELS[model])
    if "/" not in model:
        known = utils.available_models()
        problem = f"{model!r} does not exist; {engine_options.nearest(model, known)}"
    elif hub.is_repository(model):
        return model
    else:
        problem = f"there is no folder {model!r}"
    raise ConfigError(f"[stt] engine faster_whisper: model: {problem}")


class ModelFiles:
    """A model's files, made ready in the zygote for the loads of all workers."""

    def __init__(self, folder: Path, *, int8: bool) -> None:
        """Reads all files once, so that they are in the page cache. `int8`: the model will be used
        with weights in 8 bits on the CPU. Raises EngineUnavailable."""
        self._folder = folder
        self._weights: int | None = None
        tokenizers = engine_options.require("tokenizers", "tokenizers", "models")
        try:
            self.tokenizer: Any = tokenizers.Tokenizer.from_file(str(folder / TOKENIZER))
        except Exception as error:  # the library raises that very type
            raise EngineUnavailable(
                f"faster-whisper: {folder / TOKENIZER} cannot be read ({error}); delete it and "
                "run: voicepool prefetch"
            ) from error
        self._stub = tokenizers.Tokenizer(tokenizers.models.BPE())
        if int8:
            # Else CTranslate2 will convert them, or say what is wrong with the file.
            with contextlib.suppress(weights.UnknownFormat, OSError):
                self._weights = weights.to_int8(folder / WEIGHTS)
        if self._weights is not None:
            weakref.finalize(self, os.close, self._weights)
        if self._weights is None:
            _read_through(folder / WEIGHTS)

    def arrange(self, folder: Path) -> None:
        """Lay the model out in an empty folder for WhisperModel to load; afterwards it may go.

        Before the fork the tokenizer has been built and weights have been converted, so the folder
        has a tokenizer that is quickly read in the place of `tokenizer`, which the caller hands to
        the model, and the weights' memory. That makes the load of "base" in a worker 0.05 s
        instead of 0.30 (0.19 of it the conversion, 0.07 the tokenizer) and its private memory
        13 MB less. Giving WhisperModel the bytes by `files` instead would keep a second copy of
        all in each worker (+90 MB in 8 bits, +190 in 16) and is slower (0.09 s; 0.29 in 16 bits).
        """
        for path in self._folder.iterdir():
            (folder / path.name).symlink_to(path.absolute())
        _replace(folder / TOKENIZER).write_text(self._stub.to_str())
        if self._weights is not None:
            _replace(folder / WEIGHTS).symlink_to(f"/proc/self/fd/{self._weights}")


def _replace(path: Path) -> Path:
    path.unlink()
    return path


def _read_through(path: Path) -> None:
    """Into the page cache. One call of posix_fadvise would be cut off at the read-ahead window."""
    with path.open("rb", buffering=0) as file:
        piece = bytearray(1 << 20)
        while file.readinto(piece):
            pass
