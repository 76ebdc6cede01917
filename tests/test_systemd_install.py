"""scripts/install and its undo, on a copy of this machine's folders, with a stand-in for pip and
for systemctl. It needs root and namespaces."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pools import DEADLINE
from tests.systemd.machine import ROOT, openings, unavailable
from tests.test_unit import needs_analyze

REASON = unavailable()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)

FAKE_PYTHON = f"""#!/bin/sh
# Makes environments whose pip only keeps count, and whose voicepool is the real one.
if [ "$1" = -m ] && [ "$2" = venv ]; then
    mkdir -p "$3/bin"
    touch "$3/pyvenv.cfg"
    printf '#!/bin/sh\\necho "pip $*" >> "$LOG"\\n[ ! -e "$LOG.broken" ]\\n' > "$3/bin/python"
    printf '#!/bin/sh\\nexec {sys.executable} -m voicepool "$@"\\n' > "$3/bin/voicepool"
    chmod +x "$3/bin/python" "$3/bin/voicepool"
    exit
fi
exec {sys.executable} "$@"
"""
FAKE_SYSTEMCTL = """#!/bin/sh
[ "$1" = --version ] || echo "systemctl $*" >> "$LOG"
"""
IN_A_COPY = """
set -eu
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /opt
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/etc /run/kept /run/systemd /run/systemd/system
cp -a /etc/. /run/etc
mount --bind /run/etc /etc
rm -rf /etc/systemd/system /etc/voicepool
mkdir -p /etc/systemd/system
for place in $PLACES; do
    folder=${place%%:*} path=${place#*:}
    mount --rbind "$path" /run/kept
    mount -t tmpfs -o mode=755 tmpfs "$folder"
    mkdir -p "$path"
    mount --rbind /run/kept "$path"
done
cd /
"""


class Host:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.put("python", FAKE_PYTHON)
        self.put("systemctl", FAKE_SYSTEMCTL)

    def put(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(0o755)

    def run(self, script: str, **environ: str) -> str:
        """Run this on a fresh copy; what it printed."""
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", IN_A_COPY + script],
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
            env={
                **os.environ,
                "PATH": f"{self.folder}:{os.environ['PATH']}",
                "PYTHON": str(self.folder / "python"),
                "PYTHONPATH": str(ROOT),
                "LOG": str(self.log),
                "PLACES": " ".join(openings()),
                "INSTALL": str(ROOT / "scripts" / "install"),
                **environ,
            },
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


STATE = """
find /opt/voicepool /etc/voicepool /etc/systemd/system -printf '%p %M %u:%g\\n' 2> /dev/null | sort
getent passwd voicepool | cut -d: -f1,6,7 || :
"""


def test_install_makes_a_user_an_environment_settings_and_units(host: Host) -> None:
    out = host.run(
        f"$INSTALL --extras embedded,models; echo ---; {STATE} echo ---;"
        "cat /etc/systemd/system/voicepool.service; voicepool=/opt/voicepool/bin/voicepool;"
        "$voicepool config --config /etc/voicepool/voicepool.toml > /dev/null && echo understood"
    )
    _, state, units = out.split("---\n")
    assert "/etc/voicepool drwxr-x--- root:voicepool" in state
    assert "/etc/voicepool/voicepool.toml -rw-r----- root:voicepool" in state
    assert "/etc/voicepool/keys -rw-r----- root:voicepool" in state
    assert "/etc/systemd/system/voicepool.service -rw-r--r-- root:root" in state
    assert "/etc/systemd/system/voicepool.socket -rw-r--r-- root:root" in state
    assert "voicepool:/var/lib/voicepool:/usr/sbin/nologin" in state
    assert ".new" not in state
    assert "--config /etc/voicepool/voicepool.toml" in units
    assert "understood" in units
    pip, *control = host.log.read_text().splitlines()
    assert f"--constraint {ROOT}/constraints.txt" in pip
    assert pip.endswith("[embedded,models]")
    assert control == [
        "systemctl daemon-reload",
        "systemctl enable voicepool.socket voicepool.service",
    ]


@needs_analyze
def test_installed_units_are_clean_with_keys_where_they_belong(host: Host) -> None:
    """As they lie there: the program is where the unit says. An upgrade keeps a public address."""
    out = host.run(
        "$INSTALL; echo '[server]\nhost = \"0.0.0.0\"' > /etc/voicepool/voicepool.toml;"
        "echo VOICEPOOL_API_KEYS=0123456789abcdef01234567 > /etc/voicepool/environment;"
        "$INSTALL; echo ---; cd /etc/systemd/system;"
        "systemd-analyze verify --recursive-errors=no $PWD/voicepool.service 2>&1;"
        "systemd-analyze verify --recursive-errors=no $PWD/voicepool.socket 2>&1; echo ---;"
        "grep ListenStream voicepool.socket"
    )
    _, complaints, listens = out.split("---\n")
    assert complaints == ""
    assert listens.startswith("ListenStream=0.0.0.0:8000\n")


def test_second_install_keeps_settings_and_changes_nothing(host: Host) -> None:
    out = host.run(
        "$INSTALL; echo 'port = 1' > /etc/voicepool/voicepool.toml;"
        "sed -i 's/^port/[server]\\nport/' /etc/voicepool/voicepool.toml; echo ---;"
        "$INSTALL; echo ---; $INSTALL; echo ---; grep ListenStream /etc/systemd/system/*.socket"
    )
    _, second, third, listens = out.split("---\n")
    assert "voicepool.socket" in second  # its address follows from the settings
    assert "useradd" not in second
    assert "-m venv" not in second
    assert not [line for line in third.splitlines() if line.startswith(("+ install", "+ mv"))]
    assert "ListenStream=127.0.0.1:1" in listens


def test_keys_and_settings_are_given_to_the_service_again(host: Host) -> None:
    out = host.run(
        "$INSTALL; cd /etc/voicepool; rm keys;"
        "/opt/voicepool/bin/voicepool key new web --file keys > key; stat -c %a:%G keys;"
        "chmod 644 voicepool.toml; $INSTALL; echo ---; stat -c %a:%U:%G keys voicepool.toml;"
        "cat keys; /opt/voicepool/bin/voicepool key new ops --file keys > key;"
        "stat -c %a:%U:%G keys; echo ---; $INSTALL"
    )
    first, second, third = out.split("---\n")
    assert "600:root" in first
    assert second.startswith("640:root:voicepool\n640:root:voicepool\nweb call sha256:")
    assert second.endswith("640:root:voicepool\n")
    assert "chmod" not in third


def test_undo_takes_everything_away(host: Host) -> None:
    out = host.run(
        f"{STATE} echo ---; $INSTALL; echo ---; $INSTALL --undo --purge; echo ---; {STATE}"
        "echo ---; $INSTALL --undo"
    )
    before, _, _, after, _ = out.split("---\n")
    assert after == before
    assert "systemctl disable --now voicepool.socket" in host.log.read_text()


def test_undo_keeps_settings_and_what_is_not_ours(host: Host) -> None:
    out = host.run(
        "$INSTALL; $INSTALL --undo; ls /etc/voicepool;"
        "mkdir -p /opt/voicepool; touch /opt/voicepool/mine; $INSTALL --undo; ls /opt/voicepool"
    )
    assert "kept: /etc/voicepool" in out
    assert "voicepool.toml\n" in out
    assert out.endswith(("mine\n", "removes them)\n"))
    assert "mine\n" in out


def test_settings_that_undo_has_kept_are_the_services_again(host: Host) -> None:
    """Whose group has another number then, for its own is taken meanwhile."""
    out = host.run(
        "$INSTALL; gid=$(stat -c %g /etc/voicepool); $INSTALL --undo;"
        "getent group voicepool > /dev/null || groupadd --gid $gid others; echo ---;"
        "$INSTALL; echo ---; stat -c %a:%U:%G /etc/voicepool /etc/voicepool/*"
    )
    owned = out.split("---\n")[2].split()
    assert owned[:3] == ["750:root:voicepool", "640:root:voicepool", "640:root:voicepool"]


def test_wrong_settings_leave_the_units_as_they_are(host: Host) -> None:
    out = host.run(
        "$INSTALL; echo 'wrong' > /etc/voicepool/voicepool.toml; if $INSTALL; then exit 1; fi;"
        "echo ---; grep -c . /etc/systemd/system/voicepool.service"
    )
    assert "not valid TOML" in out
    assert int(out.split("---\n")[1].split()[0]) > 50


def test_dry_run_changes_nothing(host: Host) -> None:
    out = host.run(f"{STATE} echo ---; $INSTALL --dry-run; echo ---; {STATE}")
    before, says, after = out.split("---\n")
    assert before == after
    assert "+ useradd --system" in says
    assert not host.log.exists()


def test_failed_install_says_so_and_makes_no_units(host: Host) -> None:
    Path(f"{host.log}.broken").touch()
    out = host.run("if $INSTALL; then exit 1; fi; ls /etc/systemd/system")
    assert "the install failed" in out
    assert "voicepool.service" not in out.splitlines()


def test_python_that_the_service_could_not_reach_is_refused(host: Host) -> None:
    out = host.run(
        "mkdir -m 700 -p /run/python; mkdir /run/python/x; if $INSTALL; then exit 1; fi",
        **_shut_python(host),
    )
    assert "is shut to other users" in out


def _shut_python(host: Host) -> dict[str, str]:
    """A Python whose prefix looks as if it lay in a folder of root's alone."""
    text = FAKE_PYTHON.replace(
        f'exec {sys.executable} "$@"',
        f'if [ "$1" = - ]; then sed "s#sys.base_prefix#\'/run/python/x\'#" '
        f'| exec {sys.executable} "$@"; else exec {sys.executable} "$@"; fi',
    )
    host.put("shut", text)
    return {"PYTHON": str(host.folder / "shut"), "PLACES": " ".join(openings())}


def test_script_is_plain_shell() -> None:
    shell = shutil.which("dash") or "sh"
    script = str(ROOT / "scripts" / "install")
    assert subprocess.run([shell, "-n", script], check=False).returncode == 0
