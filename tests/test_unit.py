"""The systemd units: what is printed for a host, and that systemd takes it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pools import DEADLINE
from voicepool import unit, unithost
from voicepool.config import Settings
from voicepool.errors import ConfigError

ROOT = Path(__file__).parent.parent
HOST = unit.Host((sys.executable, "-m", "voicepool"))
EXPOSURE = 2.0
"""What `systemd-analyze security` says of the service, from 0 to 10; docs/service.md names it."""

needs_analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None and "CI" not in os.environ,
    reason="there is no systemd-analyze (Debian: apt install systemd)",
)


def lines(text: str) -> dict[str, str]:
    """Directives of a unit, the last of each name."""
    pairs = (line.partition("=") for line in text.splitlines() if not line.startswith("#"))
    return {name: value for name, mark, value in pairs if mark}


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *words],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


# --- what is in it ---------------------------------------------------------------------------


def test_units_in_scripts_are_those_of_a_standard_host() -> None:
    service = (ROOT / "scripts" / "voicepool.service").read_text()
    assert service == unit.service(unit.STANDARD, Settings())
    assert (ROOT / "scripts" / "voicepool.socket").read_text() == unit.socket(Settings())


def test_stopping_may_take_as_long_as_a_drain() -> None:
    settings = Settings(drain_timeout=600, stop_timeout=7, queue_timeout=3, head_timeout=1.5)
    assert lines(unit.service(HOST, settings))["TimeoutStopSec"] == str(612 + unit.SLACK)


@pytest.mark.parametrize(
    ("version", "kind", "reload"),
    [
        (0, "notify", "/bin/kill -HUP $MAINPID"),
        (252, "notify", "/bin/kill -HUP $MAINPID"),
        (253, "notify-reload", None),
    ],
)
def test_reload_waits_where_systemd_can(version: int, kind: str, reload: str | None) -> None:
    host = unit.Host(HOST.command, systemd=version)
    directives = lines(unit.service(host, Settings()))
    assert directives["Type"] == kind
    assert directives.get("ExecReload") == reload


def test_command_and_file_are_taken_literally() -> None:
    host = unit.Host(("/opt/100%/$x/voicepool",), Path("/etc/vp.toml"))
    directives = lines(unit.service(host, Settings()))
    assert directives["ExecStart"] == "/opt/100%%/$$x/voicepool start --config /etc/vp.toml"


@pytest.mark.parametrize(
    "config", ["/etc/with blank.toml", '/etc/"', "/etc/a;b", "/etc/a\nUser=root"]
)
def test_path_that_no_unit_can_hold(config: str) -> None:
    with pytest.raises(ConfigError, match="cannot stand in a unit"):
        unit.service(unit.Host(HOST.command, Path(config)), Settings())


@pytest.mark.parametrize("user", ["", "Root", "a b", "x\nExecStart=/bin/sh"])
def test_user_that_is_none(user: str) -> None:
    with pytest.raises(ConfigError, match="no name of a user"):
        unit.service(unit.Host(HOST.command, user=user), Settings())


@pytest.mark.parametrize(
    ("host", "listen"),
    [
        ("localhost", "127.0.0.1:8001"),
        ("0.0.0.0", "0.0.0.0:8001"),
        ("::1", "[::1]:8001"),
        ("[0::1]", "[::1]:8001"),
        ("2001:DB8:0:0::1", "[2001:db8::1]:8001"),
        ("::", "[::]:8001"),
    ],
)
def test_socket_listens_where_the_settings_say(host: str, listen: str) -> None:
    directives = lines(unit.socket(Settings(host=host, port=8001)))
    assert directives["ListenStream"] == listen
    assert directives.get("BindIPv6Only") == ("both" if host == "::" else None)


@pytest.mark.parametrize("settings", [Settings(host="example.org"), Settings(port=0)])
def test_socket_that_no_unit_can_have(settings: Settings) -> None:
    with pytest.raises(ConfigError, match="a socket unit needs"):
        unit.socket(settings)


# --- the command -----------------------------------------------------------------------------


def voicepool(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "voicepool", *words],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


def test_command_prints_units_for_this_host(tmp_path: Path) -> None:
    config = tmp_path / "voicepool.toml"
    config.write_text('[server]\nport = 8123\n[pool]\ndrain_timeout = "10m"\n')
    service = voicepool("unit", "--config", str(config), "--user", "root")
    directives = lines(service.stdout)
    assert directives["ExecStart"].endswith(f"voicepool start --config {config}")
    assert Path(directives["ExecStart"].split()[0]).exists()
    assert int(directives["TimeoutStopSec"]) > 600
    assert directives["User"] == "root"
    assert "does not exist" not in service.stderr
    socket = voicepool("unit", "--socket", "--config", str(config))
    assert lines(socket.stdout)["ListenStream"] == "127.0.0.1:8123"


def test_command_says_what_is_missing(tmp_path: Path) -> None:
    done = voicepool("unit", "--config", str(tmp_path / "no.toml"), "--user", "nobody-here")
    assert done.returncode == 0
    assert "no.toml does not exist yet" in done.stderr
    assert "useradd --system --user-group nobody-here" in done.stderr


def test_a_public_address_whose_keys_are_elsewhere_is_printed(tmp_path: Path) -> None:
    """scripts/install prints the units, and keys belong into the environment file."""
    config = tmp_path / "voicepool.toml"
    config.write_text('[server]\nhost = "0.0.0.0"\n')
    socket = voicepool("unit", "--socket", "--config", str(config))
    assert (socket.returncode, lines(socket.stdout)["ListenStream"]) == (0, "0.0.0.0:8000")
    service = voicepool("unit", "--config", str(config))
    assert service.returncode == 0
    assert "no key is seen: name a keys_file in the settings" in service.stderr


def test_variables_of_the_service_count(tmp_path: Path) -> None:
    environment, config = tmp_path / "environment", tmp_path / "voicepool.toml"
    key = "k" * 20
    environment.write_text(
        f"# keys\nVOICEPOOL_API_KEYS='{key}'\n; port\n VOICEPOOL_PORT=8123 \nHF_HOME=/x\n"
    )
    config.write_text('[server]\nhost = "0.0.0.0"\n')
    settings = unithost.settings_of(config, environment)
    assert (settings.api_keys, settings.port, settings.no_auth) == ((key,), 8123, False)
    assert not unithost.unguarded(settings)
    assert unithost.unguarded(unithost.settings_of(config, tmp_path / "none"))
    config.write_text('[server]\nhost = "0.0.0.0"\nkeys_file = "/etc/voicepool/keys"\n')
    assert not unithost.unguarded(unithost.settings_of(config, tmp_path / "none"))
    config.write_text("[server]\nhosst = 1\n")
    with pytest.raises(ConfigError, match="did you mean host"):
        unithost.settings_of(config, environment)


def test_what_a_unit_starts_can_be_read_from_it() -> None:
    host = unit.Host(("/opt/100%/$x/python", "-m", "voicepool"), Path("/etc/vp%.toml"))
    assert unit.started_by(unit.service(host, Settings())) == (host.command, host.config)
    assert unit.started_by("[Service]\nExecStart=/bin/true\n") is None


# --- what systemd says -----------------------------------------------------------------------


@needs_analyze
def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    files = {
        "voicepool.service": unit.service(HOST, Settings()),
        "voicepool.socket": unit.socket(Settings()),
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        done = analyze("verify", "--recursive-errors=no", str(tmp_path / name))
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_analyze
def test_misspelt_directive_would_be_found(tmp_path: Path) -> None:
    text = unit.service(HOST, Settings()).replace("KillMode", "KilMode")
    (tmp_path / "voicepool.service").write_text(text)
    done = analyze("verify", "--recursive-errors=no", str(tmp_path / "voicepool.service"))
    assert "KilMode" in done.stderr


@needs_analyze
def test_exposure_is_as_the_documentation_says() -> None:
    service = str(ROOT / "scripts" / "voicepool.service")
    limit = f"--threshold={EXPOSURE * 10:.0f}"
    done = analyze("security", "--offline=true", limit, "--no-pager", service)
    assert done.returncode == 0, done.stdout[-200:]
    assert f"{EXPOSURE}" in (ROOT / "docs" / "service.md").read_text()
