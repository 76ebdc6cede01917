"""The set-up scripts: which Python they take, when they install, and what survives an interrupt.

A stand-in for Python makes environments whose pip only keeps count, so that these tests need no
network; CI itself runs the same code with the real one.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DEADLINE = 60

FAKE_PYTHON = f"""#!/bin/sh
# Makes environments of its own kind; is a real Python for all else.
if [ "$1" = -m ] && [ "$2" = venv ]; then
    for folder; do :; done
    rm -rf "$folder"
    mkdir -p "$folder/bin"
    cp "$FAKE/pip" "$folder/bin/python"
    cp "$FAKE/voicepool" "$folder/bin/voicepool"
    exit
fi
exec {sys.executable} "$@"
"""

FAKE_PIP = """#!/bin/sh
echo "pip $*" >> "$FAKE/log"
[ "$3" != install ] || echo "Collecting numpy>=1.26 (from voicepool==0.1.0)"
if [ -e "$FAKE/gate" ]; then
    echo waiting > "$FAKE/gate"
    read -r _ < "$FAKE/gate.open"
fi
[ ! -e "$FAKE/broken" ]
"""

FAKE_VOICEPOOL = """#!/bin/sh
echo "in $PWD:" "$@"
"""


SKIPPED = """
from tests import scraping, test_haproxy, test_prometheus, test_proxy_protocol, test_tls, test_unit
from tests import test_watching

marks = (
    scraping.needs_promtool,
    test_haproxy.pytestmark,
    test_prometheus.pytestmark,
    test_proxy_protocol.pytestmark,
    test_tls.needs_openssl,
    test_unit.needs_analyze,
    test_watching.needs_promtool,
)
print([mark.kwargs["reason"] for mark in marks if mark.args[0]])
"""
"""Says what is not tested for want of a program."""


class Checkout:
    """A copy of what the scripts need, and the stand-in."""

    def __init__(self, root: Path, fake: Path) -> None:
        self.root, self.fake = root, fake
        root.mkdir()
        fake.mkdir()
        shutil.copytree(ROOT / "scripts", root / "scripts")
        for name in ("setup.cfg", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, root / name)
        scripts = {"python": FAKE_PYTHON, "pip": FAKE_PIP, "voicepool": FAKE_VOICEPOOL}
        for name, text in scripts.items():
            self.put(name, text)
        self.environ = {**os.environ, "FAKE": str(fake), "PYTHON": str(fake / "python")}

    def put(self, name: str, text: str) -> None:
        (self.fake / name).write_text(text)
        (self.fake / name).chmod(0o755)

    def launch(self, *arguments: str, script: str = "start") -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(self.root / "scripts" / script), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.fake,
            env=self.environ,
            start_new_session=True,
        )

    def run(self, *arguments: str, script: str = "start") -> tuple[int, str, str]:
        process = self.launch(*arguments, script=script)
        out, err = process.communicate(timeout=DEADLINE)
        return process.returncode, out, err

    @property
    def installs(self) -> int:
        log = self.fake / "log"
        return len(log.read_text().splitlines()) if log.exists() else 0

    def gate(self) -> None:
        """From now on pip waits, and says so, until the gate is opened."""
        os.mkfifo(self.fake / "gate")
        os.mkfifo(self.fake / "gate.open")

    def await_pip(self) -> None:
        (self.fake / "gate").read_text()

    def open_gate(self) -> None:
        (self.fake / "gate.open").write_text("go\n")


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "a checkout", tmp_path / "fake")


def test_start_installs_once_and_passes_its_arguments_on(checkout: Checkout) -> None:
    code, out, err = checkout.run("--workers", "3", "two words")
    assert code == 0
    # The server runs where it was called from: that is where its files are looked for.
    assert out == f"in {checkout.fake}: start --workers 3 two words\n"
    assert "installing voicepool[embedded]" in err
    assert err.splitlines()[1:] == ["  fetching numpy"]
    assert checkout.run()[1:] == (f"in {checkout.fake}: start\n", "")
    assert checkout.installs == 1
    (line,) = (checkout.fake / "log").read_text().splitlines()
    assert f"--constraint {checkout.root}/constraints.txt" in line


@pytest.mark.parametrize("name", ["setup.cfg", "constraints.txt", "pyproject.toml"])
def test_what_changes_the_requirements_installs_again(checkout: Checkout, name: str) -> None:
    checkout.run()
    with (checkout.root / name).open("a") as file:
        file.write("\n# changed\n")
    checkout.run()
    checkout.run()
    assert checkout.installs == 2


def test_a_failed_install_says_so_and_is_tried_again(checkout: Checkout) -> None:
    checkout.put("broken", "")
    code, out, err = checkout.run()
    assert (code, out) == (1, "")
    assert "the install failed" in err
    # pip's own words, which are kept to one step a line while all goes well.
    assert "Collecting numpy>=1.26 (from" in err
    (checkout.fake / "broken").unlink()
    assert checkout.run()[0] == 0
    assert checkout.installs == 2


def test_an_interrupted_install_is_done_anew(checkout: Checkout) -> None:
    checkout.gate()
    process = checkout.launch()
    checkout.await_pip()
    leftover = checkout.root / ".venv" / "half-installed"
    leftover.touch()
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=DEADLINE)
    (checkout.fake / "gate").unlink()
    assert checkout.run()[0] == 0
    assert checkout.installs == 2
    assert not leftover.exists()


def test_two_at_once_take_turns(checkout: Checkout) -> None:
    checkout.gate()
    first = checkout.launch("one")
    checkout.await_pip()
    second = checkout.launch("two")
    assert second.stderr is not None
    assert second.stderr.readline().startswith("voicepool: waiting for another install")
    (checkout.fake / "gate").unlink()
    checkout.open_gate()
    for process, word in ((first, "one"), (second, "two")):
        out, _ = process.communicate(timeout=DEADLINE)
        assert out == f"in {checkout.fake}: start {word}\n"
    assert checkout.installs == 1


def test_no_python_that_fits_is_one_clear_line(checkout: Checkout) -> None:
    checkout.environ["PYTHON"] = "/bin/false"
    code, out, err = checkout.run()
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("voicepool: needs Python 3.11 or 3.12 with venv")
    assert not (checkout.root / ".venv").exists()


def test_a_shim_that_fails_is_passed_over(checkout: Checkout) -> None:
    del checkout.environ["PYTHON"]
    checkout.put("python3.12", "#!/bin/sh\necho 'no such version' >&2\nexit 127\n")
    checkout.put("python3.11", FAKE_PYTHON)
    checkout.environ["PATH"] = f"{checkout.fake}:{os.environ['PATH']}"
    code, _, err = checkout.run()
    assert code == 0
    assert "no such version" not in err


def test_test_passes_its_arguments_to_pytest_and_builds_afresh_on_demand(
    checkout: Checkout,
) -> None:
    for arguments in (["-k", "x"], ["--fresh", "-x"], []):
        checkout.run(*arguments, script="test")
    lines = (checkout.fake / "log").read_text().splitlines()
    pytest = "pip -m pytest -n 2 --dist worksteal"
    assert [line for line in lines if line.startswith("pip -m pytest")] == [
        f"{pytest} -k x",
        f"{pytest} -x",
        pytest,
    ]
    assert len([line for line in lines if " install " in line]) == 2


def test_where_ci_runs_nothing_is_skipped_for_want_of_a_program(tmp_path: Path) -> None:
    env = {**os.environ, "CI": "true", "PATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", SKIPPED],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
        cwd=ROOT,
        env=env,
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
