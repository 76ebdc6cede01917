"""HUP after an installation: the new zygote runs the code that is installed by then."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pools import DEADLINE, PoolServer, hello
from tests.test_reload import Load, reloads, until_stale_only, zygote

Start = Callable[..., PoolServer]

ROOT = Path(__file__).parent.parent
APP = """
import voicepool
from tests.apps.echo import Echo

class Told(Echo):
    async def serve(self, websocket):
        if websocket.request.path == "/other":
            await websocket.send(voicepool.__version__)
        else:
            await super().serve(websocket)

def create():
    return Told()
"""


class Site:
    """A folder that voicepool is installed in, in place of this checkout."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._package = folder / "voicepool"
        (folder / "tests").symlink_to(ROOT / "tests")
        (folder / "told.py").write_text(APP)

    def install(self, version: str, *, protocol: int = 0) -> None:
        """Put this version there, where there is none. `protocol`: another one to speak."""
        made = self._folder / "made"
        shutil.copytree(ROOT / "voicepool", made, ignore=shutil.ignore_patterns("__pycache__"))
        _edit(made / "__init__.py", "__version__ = ", f'"{version}"')
        if protocol:
            _edit(made / "ipc.py", "PROTOCOL_VERSION: Final = ", str(protocol))
        made.rename(self._package)

    def uninstall(self) -> None:
        """What pip does first."""
        shutil.rmtree(self._package)


def _edit(file: Path, name: str, value: str) -> None:
    lines = file.read_text().splitlines()
    (at,) = (n for n, line in enumerate(lines) if line.startswith(name))
    lines[at] = name + value
    file.write_text("\n".join(lines) + "\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.chdir(folder)  # where `python -m` looks first
    site = Site(folder)
    site.install("1.0")
    return site


def version(server: PoolServer) -> str:
    """That of the worker that a new caller gets."""
    with server.call("/other") as caller:
        return str(caller.recv(timeout=DEADLINE))


def test_an_upgrade_under_load_refuses_nobody_and_keeps_every_call(
    start_pool: Start, site: Site
) -> None:
    server = start_pool(workers=2, spare=1, queue_timeout=60, app="told:create")
    parent = zygote(server)
    with server.call() as through, Load(server, 2) as load:
        pid = hello(through)["pid"]
        load.grows(2)
        site.uninstall()  # nothing that runs may need a file of what it runs
        load.grows(2)
        site.install("2.0")
        assert version(server) == "1.0"
        server.reload()
        server.until_status(lambda s: s["server"]["reloads"]["count"] == 1, "reloaded")
        until_stale_only(server, pid)
        assert version(server) == "2.0"
        load.grows(2)
        through.send("undisturbed?")
        assert through.recv(timeout=DEADLINE) == "undisturbed?"
        assert os.path.exists(f"/proc/{pid}")  # noqa: PTH110
    assert load.failures == []
    assert zygote(server) != parent
    status = server.status()
    assert status["totals"]["refused"] == {}
    assert status["totals"]["lost"] == 0
    assert server.process.poll() is None


def test_an_upgrade_that_speaks_another_protocol_asks_for_a_restart(
    start_pool: Start, site: Site
) -> None:
    server = start_pool(workers=1, app="told:create")
    parent = zygote(server)
    site.uninstall()
    site.install("2.0", protocol=999)
    server.reload()
    line = server.logged("reload refused, nothing has changed")
    assert "this process 999" in line["error"]
    assert "restart voicepool" in line["error"]
    assert reloads(server)["last_error"] == line["error"]
    assert zygote(server) == parent
    assert [version(server), version(server)] == ["1.0", "1.0"]
