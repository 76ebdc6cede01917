"""Looks whether the libraries can use a GPU: `python -m voicepool.doctor.cuda`, see `child`.

A process of its own, for each of these may hang or crash with a driver in trouble, and may leave a
CUDA context. What is checked is what a worker would meet: torch comes first where the engines
import it, because it brings CUDA's libraries into the process, and CTranslate2 finds them there.

CTranslate2 opens CUDA's libraries by name when it first uses a GPU, and which ones has changed from
version to version (cuDNN 8, cuDNN 9, none), so the names are read from its own files.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import mmap
import re
import sys
import warnings
from pathlib import Path
from typing import Any, Final

import msgspec

from voicepool.doctor.child import Desk
from voicepool.doctor.facts import CTranslate2, Driver, Library, Torch

MODULE: Final = "voicepool.doctor.cuda"
DEADLINE: Final = 60.0
"""Seconds; importing torch for CUDA from a cold disk takes most of them."""

_NAMES: Final = re.compile(rb"lib(?:cublas|cublasLt|cudart|cudnn\w*|cufft|nvrtc)\.so\.\d+")


class Request(msgspec.Struct, frozen=True):
    torch: bool
    """Whether the engines import it."""
    compute: bool
    """Whether to make it compute: that takes some hundred MB of VRAM for a moment."""


# --- in the child ----------------------------------------------------------------------------


def _driver() -> Driver:
    """cuDriverGetVersion needs no initialised driver (CUDA driver API, "Version Management")."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return Driver(error=str(error))
    version = ctypes.c_int()
    status = library.cuDriverGetVersion(ctypes.byref(version))
    if status:
        return Driver(error=f"cuDriverGetVersion fails with {status}")
    return Driver(f"{version.value // 1000}.{version.value % 1000 // 10}")


def _torch(compute: bool) -> Torch:
    if importlib.util.find_spec("torch") is None:
        return Torch(error="not installed")
    try:
        import torch
    except (ImportError, OSError) as error:
        return Torch(importlib.metadata.version("torch"), error=_line(error))
    version, built_for = str(torch.__version__), str(torch.version.cuda or "")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not devices:
        return Torch(version, built_for, 0, _line(caught[0].message) if caught else "")
    return Torch(version, built_for, devices, _trial(torch, devices) if compute else "")


def _trial(torch: Any, devices: int) -> str:
    """Why a GPU cannot compute, "" if all can."""
    try:
        for index in range(devices):
            square = torch.ones((8, 8), device=f"cuda:{index}")
            float((square @ square).sum())
    except RuntimeError as error:
        return f"it cannot compute: {_line(error)}"
    return ""


def _ctranslate2() -> CTranslate2:
    spec = importlib.util.find_spec("ctranslate2")
    if spec is None or spec.origin is None:
        return CTranslate2(error="not installed")
    names = library_names(Path(spec.origin).parent)
    libraries = tuple(_load(name) for name in names)
    version = importlib.metadata.version("ctranslate2")
    try:
        import ctranslate2

        return CTranslate2(version, ctranslate2.get_cuda_device_count(), "", libraries)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        return CTranslate2(version, 0, _line(error), libraries)


def library_names(package: Path) -> list[str]:
    """CUDA's libraries that are named in the package's own shared objects."""
    names: set[bytes] = set()
    bundled = package.parent / f"{package.name}.libs"
    for path in (*package.glob("*.so*"), *bundled.glob("*.so*")):
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            names.update(_NAMES.findall(data))
    return sorted(name.decode() for name in names)


def _load(name: str) -> Library:
    try:
        ctypes.CDLL(name)
    except OSError as error:
        places = (place for root in sys.path for place in Path(root).glob(f"nvidia/*/lib/{name}"))
        found = next(places, None)
        return Library(name, _line(error), str(found.parent) if found else "")
    return Library(name)


def _line(error: object) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:300]


def main() -> None:
    desk = Desk()
    request = desk.request(Request)
    desk.tell(_driver())
    if request.torch:
        desk.tell(_torch(request.compute))
    desk.tell(_ctranslate2())


if __name__ == "__main__":
    main()
