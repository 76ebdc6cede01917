"""Commands that users are told to type: they work where they are typed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from voicepool import remedies

BIN = Path(sys.executable).parent


def runs(command: str, cwd: Path, path: str) -> str:
    """What the shell makes of `command` there: the environment that it is about."""
    ask = command.partition(" install ")[0] + " --version"
    return subprocess.run(
        ["/bin/sh", "-c", ask],
        cwd=cwd,
        env={"PATH": path},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.mark.parametrize("at_home", [True, False])
@pytest.mark.parametrize("active", [True, False])
def test_what_installs_a_package_is_of_this_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, active: bool, at_home: bool
) -> None:
    """Pasted where another Python comes first, a bare pip would not even find voicepool."""
    path = f"{BIN}:/usr/bin:/bin" if active else "/usr/bin:/bin"
    here = BIN.parent.parent if at_home else tmp_path
    monkeypatch.setenv("PATH", path)
    monkeypatch.chdir(here)
    command = remedies.pip_install("'voicepool[models]'")
    assert command.endswith("pip install 'voicepool[models]'")
    assert str(BIN.parent) in runs(command, here, path)
    assert command.startswith("pip ") == active


def test_paths_survive_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "executable", "/a folder/bin/python")
    assert remedies.pip_install("x") == "'/a folder/bin/python' -m pip install x"
    assert remedies.python() == "'/a folder/bin/python'"
