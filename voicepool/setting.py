"""One setting: how its value is written, read, checked and shown.

A settings class declares its fields with `setting` and `seconds`; `specs` turns the class into the
table that flags, environment names, help and documentation are made from.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, TypeVar

from voicepool.quantities import LONGEST, format_duration, format_size, parse_duration, parse_size

T = TypeVar("T")


def setting(
    section: str,
    default: T,
    help: str,
    *,
    unit: Literal["", "seconds", "bytes"] = "",
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    secret: bool = False,
) -> T:
    """A field of a settings class: `least <= value <= most` and `above < value`."""
    limits = {"least": least, "above": above, "most": most}
    metadata = {"section": section, "help": help, "unit": unit, "secret": secret, **limits}
    return field(default=default, metadata=metadata)


def seconds(
    section: str, default: float, help: str, *, zero: bool = False, least: float | None = None
) -> float:
    if zero:
        least = 0
    bound: dict[str, Any] = {"above": 0} if least is None else {"least": least}
    return setting(section, default, help, unit="seconds", **bound)


Kind = Literal["text", "choice", "integer", "number", "bytes", "boolean", "list"]


@dataclass(frozen=True, slots=True)
class Spec:
    """What can be said about one scalar or list setting without knowing its value."""

    name: str
    section: str
    help: str
    kind: Kind
    default: Any
    choices: tuple[str, ...]
    optional: bool
    secret: bool
    least: float | None
    above: float | None
    most: float | None

    @property
    def env(self) -> str:
        return f"VOICEPOOL_{self.name.upper()}"

    @property
    def flag(self) -> str | None:
        """None for a secret: everyone on the machine can read a process's arguments."""
        return None if self.secret else "--" + self.name.replace("_", "-")

    @property
    def expected(self) -> str:
        """What a value must look like, for error messages and the documentation."""
        words = {
            "text": "text",
            "choice": "one of " + ", ".join(self.choices),
            "integer": "a whole number",
            "number": 'seconds, or a duration such as "90s" or "5m"',
            "bytes": 'bytes, or a size such as "512MiB" or "2GB"',
            "boolean": "true or false",
            "list": "a list of texts",
        }[self.kind]
        return words + self._bounds()

    def _bounds(self) -> str:
        if self.most is not None:
            comma = "," if self.kind == "bytes" else ""
            return f"{comma} from {self._limit(self.least)} to {self._limit(self.most)}"
        if self.least is not None:
            return f", {self._limit(self.least)} or more"
        return "" if self.above is None else f", more than {self._limit(self.above)}"

    def _limit(self, limit: float | None) -> str:
        return format_size(int(limit)) if self.kind == "bytes" and limit else str(limit)

    def from_text(self, text: str) -> Any:
        """The value that `text` (of a flag or the environment) stands for. Raises ValueError."""
        if self.optional and text.lower() == "none":
            return None
        return self._checked(_TEXT_PARSERS[self.kind](text.strip()))

    def from_toml(self, value: Any) -> Any:
        """The value that a TOML value stands for. Raises ValueError."""
        wanted = _TOML_TYPES[self.kind]
        if not isinstance(value, wanted) or (isinstance(value, bool) and self.kind != "boolean"):
            raise ValueError("wrong type")
        if isinstance(value, str) and self.kind in ("number", "bytes"):
            value = _TEXT_PARSERS[self.kind](value)
        elif self.kind == "number" and isinstance(value, int | float) and value > LONGEST:
            raise ValueError("too long")
        if isinstance(value, list):
            if not all(isinstance(item, str) for item in value):
                raise ValueError("not all texts")
            value = tuple(value)
        return self._checked(float(value) if self.kind == "number" else value)

    def _checked(self, value: Any) -> Any:
        if self.kind == "choice" and value not in self.choices:
            raise ValueError("not a choice")
        if isinstance(value, str) and "\0" in value:
            raise ValueError("nothing that a file or a host could be called")
        if self.kind in ("integer", "number", "bytes"):
            low = -math.inf if self.least is None else self.least
            high = math.inf if self.most is None else self.most
            # Said so that NaN fails: every comparison with it is false.
            if not (low <= value <= high and value < math.inf):
                raise ValueError("out of range")
            if self.above is not None and value <= self.above:
                raise ValueError("out of range")
        return value

    def show(self, value: Any) -> str:
        """`value` as the configuration file would have it; secrets are only counted."""
        if self.secret:
            return f"({len(value)} key{'' if len(value) == 1 else 's'})"
        if value is None:
            return "none"
        if self.kind == "bytes":
            return format_size(value) if value else "0"
        if self.kind == "number":
            return format_duration(value)
        return json.dumps(value, ensure_ascii=False)


def _boolean(text: str) -> bool:
    try:
        return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[
            text.lower()
        ]
    except KeyError:
        raise ValueError("not a boolean") from None


def _list(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split(",") if item.strip())


_TEXT_PARSERS: Mapping[Kind, Callable[[str], Any]] = {
    "text": str,
    "choice": str,
    "integer": int,
    "number": parse_duration,
    "bytes": parse_size,
    "boolean": _boolean,
    "list": _list,
}
_TOML_TYPES: Mapping[Kind, type | tuple[type, ...]] = {
    "text": str,
    "choice": str,
    "integer": int,
    "number": (int, float, str),
    "bytes": (int, str),
    "boolean": bool,
    "list": list,
}


@cache
def specs(settings: type) -> Mapping[str, Spec]:
    """The fields of a settings class that were made by `setting`, by name, in their order."""
    hints = typing.get_type_hints(settings)
    fields = [f for f in dataclasses.fields(settings) if f.metadata]
    return {f.name: _spec(f, hints[f.name]) for f in fields}


def _spec(f: dataclasses.Field[Any], hint: Any) -> Spec:
    meta = dict(f.metadata)
    unit = meta.pop("unit")
    choices: tuple[str, ...] = ()
    optional = isinstance(hint, types.UnionType)
    kind: Kind
    if typing.get_origin(hint) is Literal:
        kind, choices = "choice", typing.get_args(hint)
    elif unit:
        kind = "bytes" if unit == "bytes" else "number"
    else:
        plain: dict[Any, Kind] = {str: "text", int: "integer", bool: "boolean"}
        kind = plain.get(hint, "list")
    return Spec(
        name=f.name, kind=kind, default=f.default, choices=choices, optional=optional, **meta
    )
