"""Commands that users are told to type, spelled so that they work where they are typed."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path


def pip_install(what: str) -> str:
    """What installs `what` into the environment that runs: in another it would help nobody, and
    voicepool itself may not be found from there."""
    pip = shutil.which("pip")
    if pip and Path(pip).parent == Path(sys.executable).parent:
        return f"pip install {what}"
    return f"{python()} -m pip install {what}"


def install_extra(extra: str) -> str:
    """The same for what voicepool can be installed with."""
    return pip_install(f"'voicepool[{extra}]'")


def python() -> str:
    """The interpreter of this environment, as short as it can be written."""
    program = Path(sys.executable)
    known = shutil.which(program.name)
    if known and Path(known) == program:
        return program.name
    return from_folder(program)


def from_folder(program: Path) -> str:
    """A program as it is called from the current folder, for a shell."""
    here = Path.cwd()
    return shlex.quote(str(program.relative_to(here) if program.is_relative_to(here) else program))
