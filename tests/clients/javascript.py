"""Runs the JavaScript clients of tests/clients/node against a server."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import Authority
from tests.pools import PoolServer

FOLDER = Path(__file__).parent / "node"
INSTALL_DEADLINE = 300.0
RUN_DEADLINE = 90.0


@dataclass
class Conversation:
    """What a script told: its facts by step, and the server's events."""

    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)
    """As JSON."""
    status: int = 0
    stderr: str = ""

    def __getitem__(self, step: str) -> dict[str, Any]:
        """The facts of a step; fails with the script's last words where it did not get there."""
        assert step in self.facts, f"never came to {step!r}:\n{self.stderr}"
        return self.facts[step]


@pytest.fixture(scope="module")
def node() -> None:
    """Node.js, and the packages."""
    need_node()
    install()


@pytest.fixture(scope="module")
def secure_server(
    node: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[PoolServer, Path]]:
    """A server that speaks TLS, and the file of its authority, which nobody knows."""
    files = Authority(tmp_path_factory.mktemp("certificates")).issue()
    settings: dict[str, Any] = {"app": "", "workers": 2, "spare": 2, **files.settings}
    server = PoolServer(tmp_path_factory.mktemp("runtime"), **settings)
    server.trust = files.trust
    try:
        server.stage("serving")
        yield server, files.ca
    finally:
        server.close()


def need_node() -> None:
    """Skips the test where there is no Node.js; on CI (`CI` is set) there must be."""
    missing = [name for name in ("node", "npm") if shutil.which(name) is None]
    if not missing:
        return
    reason = f"{' and '.join(missing)} not found: the JavaScript clients need Node.js 18 or later"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def install() -> None:
    """Installs what package-lock.json names, unless it is there. Two at once take turns."""
    lock = (FOLDER / "package-lock.json").read_bytes()
    modules, stamp = FOLDER / "node_modules", hashlib.sha256(lock).hexdigest()
    with _turn(FOLDER / ".install-lock"):
        with contextlib.suppress(FileNotFoundError):
            if (modules / ".stamp").read_text() == stamp:
                return
        npm = subprocess.run(
            ["npm", "ci", "--no-progress", "--loglevel=error"],
            cwd=FOLDER,
            capture_output=True,
            text=True,
            timeout=INSTALL_DEADLINE,
        )
        assert npm.returncode == 0, f"npm ci failed:\n{npm.stderr}"
        (modules / ".stamp").write_text(stamp)


@contextlib.contextmanager
def _turn(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def converse(script: str, *arguments: str, **environ: str) -> Conversation:
    """Run a script to its end."""
    environ.setdefault("OPENAI_API_KEY", "none")
    process = subprocess.run(
        ["node", str(FOLDER / script), *arguments],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=RUN_DEADLINE,
    )
    told = Conversation(status=process.returncode, stderr=process.stderr)
    for line in process.stdout.splitlines():
        said = json.loads(line)
        if "event" in said:
            told.events.append(json.dumps(said["event"]))
        else:
            told.facts[said.pop("step")] = said
    return told
