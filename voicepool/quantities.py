"""Durations and sizes as people write them: "90s", "5m", "512MiB", "2GB"."""

from __future__ import annotations

import math
import re

_QUANTITY = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([A-Za-z]*)\s*")

_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_BYTES = {
    "": 1,
    "b": 1,
    **{f"{prefix}b": 1000**power for power, prefix in enumerate("kmgt", 1)},
    **{f"{prefix}i{b}": 1024**power for power, prefix in enumerate("kmgt", 1) for b in ("", "b")},
}
"""Units in lower case. "2G" is left out on purpose: programs disagree on what it means."""

LONGEST = 10 * 365 * 86_400.0
"""Seconds of the longest duration that anybody may ask for."""
_LARGEST = 1 << 48


def parse_duration(text: str) -> float:
    """Seconds in `text`: a number, or a number with ms, s, m, min or h. Raises ValueError."""
    number, unit = _split(text)
    seconds = number * _SECONDS[unit.lower()] if unit.lower() in _SECONDS else math.inf
    if seconds > LONGEST:
        raise ValueError(f"not a duration: {text!r}")
    return seconds


def parse_size(text: str) -> int:
    """Bytes in `text`: a number, or one with kB, MB, GB, TB or KiB, MiB, GiB, TiB.

    Raises ValueError.
    """
    number, unit = _split(text)
    size = number * _BYTES[unit.lower()] if unit.lower() in _BYTES else math.inf
    if size > _LARGEST:
        raise ValueError(f"not a size: {text!r}")
    return int(size)


def _split(text: str) -> tuple[float, str]:
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f"not a quantity: {text!r}")
    return float(match[1]), match[2]


def format_duration(seconds: float) -> str:
    """`seconds` in the largest unit that leaves it whole, otherwise in seconds: "5m", "2.5s"."""
    for unit, length in (("h", 3600), ("m", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds // length:.0f}{unit}"
    return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"


def format_size(size: int) -> str:
    """`size` bytes in binary units, to three digits: "512 MiB", "1.5 GiB"."""
    amount, units = float(size), iter(("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"))
    unit = next(units)
    while amount >= 999.5:
        amount, unit = amount / 1024, next(units)
    return f"{amount:.3g} {unit}"
