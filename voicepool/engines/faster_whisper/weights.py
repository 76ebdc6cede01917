"""Weights in 8 bits, made once for all workers.

Whisper models are published in 16 bits, and CTranslate2 makes 8 of them each time it loads one for
a CPU: for "base" 0.2 of the 0.25 s that its load takes. Here the zygote does it, by the same rule,
and workers load the result from memory that they share.

The file is CTranslate2's binary format, as `ModelSpec._serialize` of its
`ctranslate2/specs/model_spec.py` writes it: a head, variables and aliases, all little-endian.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

_VERSION: Final = 6
"""Of the format. CTranslate2 has read older ones since, but a newer one nobody knows."""
_FLOAT32, _INT8, _FLOAT16 = 0, 1, 4
_FLOATS: Final = {_FLOAT32: np.float32, _FLOAT16: np.float16}
_ROWS: Final = 4096
"""Of a matrix that are converted at a time, for the memory that this takes."""


class UnknownFormat(Exception):
    """A file that is not laid out as this module knows."""


@dataclass(frozen=True, slots=True)
class _Variable:
    name: str
    shape: tuple[int, ...]
    type: int
    data: memoryview


def to_int8(source: Path) -> int | None:
    """Convert a model.bin; a descriptor of memory that holds the result.

    None if it has nothing to convert. The descriptor survives forks and is the caller's to close.
    Takes about 0.5 s for "base". Raises UnknownFormat, OSError.
    """
    with source.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise UnknownFormat
        content = memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
    reader = _Reader(content)
    head = reader.head()
    variables = [reader.variable() for _ in range(reader.number("I"))]
    if not any(map(_is_matrix, variables)):
        return None
    memory = os.memfd_create("whisper-int8")
    try:
        with open(memory, "wb", closefd=False) as target:
            target.write(head)
            target.write(struct.pack("<I", len(variables) + sum(map(_is_matrix, variables))))
            for variable in variables:
                _write(target, variable)
            target.write(reader.rest())
    except BaseException:
        os.close(memory)
        raise
    return memory


def _is_matrix(variable: _Variable) -> bool:
    """Layer normalisation, biases and positions are vectors, or have other names; convolutions
    stay as they are when CTranslate2 converts a model that it loads."""
    return (
        variable.name.endswith("/weight") and len(variable.shape) == 2 and variable.type in _FLOATS
    )


def _write(target: BinaryIO, variable: _Variable) -> None:
    if not _is_matrix(variable):
        _write_head(target, variable.name, variable.shape, variable.type, len(variable.data))
        target.write(variable.data)
        return
    matrix = np.frombuffer(variable.data, _FLOATS[variable.type])
    rows = matrix.reshape(variable.shape[0], -1)
    _write_head(target, variable.name, variable.shape, _INT8, rows.size)
    scales = []
    for values, scale in _quantize(rows):
        target.write(values.tobytes())
        scales.append(scale)
    scale = np.concatenate(scales)
    _write_head(target, f"{variable.name}_scale", scale.shape, _FLOAT32, scale.nbytes)
    target.write(scale.tobytes())


def _quantize(rows: NDArray[np.floating]) -> Iterator[tuple[NDArray[np.int8], NDArray[np.float32]]]:
    """Integers whose largest in a row is 127, and the factor of each row (as `_quantize` of
    CTranslate2's `LayerSpec`)."""
    for at in range(0, len(rows), _ROWS):
        part = rows[at : at + _ROWS].astype(np.float32)
        largest = np.abs(part).max(axis=1)
        largest[largest == 0] = 127.0
        scale = np.float32(127) / largest
        part *= scale[:, None]
        yield np.rint(part).astype(np.int8), scale


def _write_head(
    target: BinaryIO, name: str, shape: tuple[int, ...], kind: int, length: int
) -> None:
    encoded = name.encode() + b"\0"
    target.write(struct.pack("<H", len(encoded)) + encoded)
    target.write(struct.pack(f"<B{len(shape)}I", len(shape), *shape))
    target.write(struct.pack("<BI", kind, length))


class _Reader:
    """Walks through the file. Raises UnknownFormat wherever it ends too early."""

    def __init__(self, content: memoryview) -> None:
        self._content = content
        self._at = 0

    def head(self) -> memoryview:
        """What comes before the variables: version, name and revision of the architecture."""
        if self.number("I") != _VERSION:
            raise UnknownFormat
        self._string()
        self.number("I")
        return self._content[: self._at]

    def variable(self) -> _Variable:
        name = self._string()
        shape = tuple(self.number("I") for _ in range(self.number("B")))
        return _Variable(name, shape, self.number("B"), self._take(self.number("I")))

    def rest(self) -> memoryview:
        return self._content[self._at :]

    def number(self, kind: str) -> int:
        (value,) = struct.unpack(f"<{kind}", self._take(struct.calcsize(f"<{kind}")))
        return int(value)

    def _string(self) -> str:
        try:
            return bytes(self._take(self.number("H"))[:-1]).decode()
        except UnicodeDecodeError:
            raise UnknownFormat from None

    def _take(self, length: int) -> memoryview:
        if self._at + length > len(self._content):
            raise UnknownFormat
        self._at += length
        return self._content[self._at - length : self._at]
