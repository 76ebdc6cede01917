"""How engines check their options and import what they stand on, each said in one place."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any, TypeVar

import msgspec

from voicepool.errors import ConfigError, EngineUnavailable
from voicepool.remedies import install_extra

T = TypeVar("T", bound=msgspec.Struct)


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of an error message: the nearest of the `known` names, else all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(names)}" if names else "it takes none"


def convert(options: Mapping[str, Any], to: type[T], where: str) -> T:
    """Check an engine's table of options against its typed struct.

    `where` says whose options they are, for example "[tts] engine espeak". Raises ConfigError.
    """
    known = [field.encode_name for field in msgspec.structs.fields(to)]
    for key in options:
        if key not in known:
            raise ConfigError(f"{where}: unknown option {key!r}; {nearest(key, known)}")
    try:
        return msgspec.convert(dict(options), to)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `$.")
        key = path.rstrip("`") or "options"
        raise ConfigError(f"{where}: {key}: {what[:1].lower()}{what[1:]}") from None


def require(module: str, package: str, extra: str) -> ModuleType:
    """Import an engine's library. Raises EngineUnavailable with the command that installs it."""
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:  # OSError: its shared library does not load
        raise EngineUnavailable(
            f"{package} cannot be imported ({error}); install it with: {install_extra(extra)}"
        ) from error


def require_installed(module: str, package: str, extra: str) -> None:
    """The same without an import, for libraries whose import takes seconds."""
    if importlib.util.find_spec(module) is None:
        raise EngineUnavailable(
            f"{package} is not installed; install it with: {install_extra(extra)}"
        )
