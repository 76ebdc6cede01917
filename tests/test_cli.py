"""The command as its users meet it: help, mistakes, exit codes, and a server that starts."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from voicepool import __main__, __version__, cli, commands
from voicepool.cli import main
from voicepool.config import SPECS, Settings
from voicepool.errors import ExitCode
from voicepool.progress import Progress
from voicepool.startup import banner
from voicepool.supervisor import _url

ROOT = Path(__file__).parent.parent
KEY = "0123456789abcdef-secret"
DEADLINE = 60.0


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No setting of whoever runs the tests may reach them."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith("VOICEPOOL_") or name == "MAX_CONNECTIONS":
            monkeypatch.delenv(name)
    return tmp_path


def run(*arguments: str) -> int:
    """The exit code, also of an argparse exit."""
    try:
        return main(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)


def mistake(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and complaint, which is no traceback."""
    code = run(*arguments)
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert captured.err.startswith("voicepool: ")
    assert captured.out == ""
    return code, captured.err


# --- help ------------------------------------------------------------------------------------


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == ExitCode.OK
    assert capsys.readouterr().out == f"voicepool {__version__}\n"


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == ExitCode.OK
    out = capsys.readouterr().out
    assert all(word in out for word in ("start", "talk", "status", "config", "examples:"))
    assert all(f" {code.value} " in out for code in ExitCode)


def test_help_of_start_has_every_setting_but_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("start", "--help") == ExitCode.OK
    out = capsys.readouterr().out
    for spec in SPECS.values():
        if spec.flag is not None:
            assert f"  {spec.flag} " in out
    assert "--api-keys" not in out
    assert "--admin-keys" not in out


@pytest.mark.parametrize("command", [("talk",), ("status",), ("bench", "call")])
def test_help_of_callers_says_how_a_key_stays_private(
    capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    assert run(*command, "--help") == ExitCode.OK
    out = " ".join(capsys.readouterr().out.split())
    assert "VOICEPOOL_API_KEY is more private" in out


# --- mistakes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "COMMAND"),
        (("strat",), "invalid choice: 'strat'"),
        (("start", "--wrokers", "3"), "unknown argument --wrokers; did you mean --workers?"),
        (("config", "--wrokers=3"), "did you mean --workers?"),
        (("talk", "a.wav", "--port", "8001"), "--port; where the server is, is said by --url"),
        (("status", "--host=10.0.0.1"), "--host=10.0.0.1; where the server is, is said by --url"),
        (("prefetch", "--workers", "3"), "--workers; that is for voicepool start"),
        (("start", "--workers", "0"), "--workers: expected a whole number from 1 to 4096"),
        (("start", "--host", "0.0.0.0"), "--no-auth"),
        (("start", "--config", "no.toml"), "no.toml: cannot be read"),
        (("start", "--profile", "cudda"), "profile 'cudda' does not exist"),
        (("talk",), "FILE.wav --mic"),
        (("talk", "no.wav"), "no.wav: cannot be read: No such file or directory"),
        (("talk", "a.wav", "--wait", "long"), "--wait: expected seconds"),
        (("talk", "a.wav", "--url", "ftp://x"), "--url, or VOICEPOOL_URL: expected an address"),
        (
            ("talk", "a.wav", "--url", "ws://x:99999"),
            "--url, or VOICEPOOL_URL: expected an address",
        ),
        (("talk", "a.wav", "--out", "a.wav"), "--out: a.wav is the file to send"),
        (("talk", "a.wav", "--out", "no/a.wav"), "--out: no/a.wav cannot be written"),
        (("status", "--url", "http://"), "--url, or VOICEPOOL_URL: expected an address"),
    ],
)
def test_a_wrong_command_line(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    code, complaint = mistake(capsys, *arguments)
    assert code == ExitCode.USAGE
    assert words in complaint


def test_a_fault_of_ours_shows_where_and_how_to_report_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(commands, "as_text", fault)
    assert run("config") == ExitCode.FAULT
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "RuntimeError: a bug" in err
    assert "report it" in err


def test_control_c(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "as_text", interrupted)
    assert run("config") == ExitCode.INTERRUPTED


def test_control_c_before_there_is_anything_to_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    class Importing:
        __getattr__ = interrupted

    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "voicepool.cli", Importing())
        assert __main__.run() == ExitCode.INTERRUPTED
    monkeypatch.setattr(cli, "_parser", interrupted)
    try:
        code = run("config")
    except KeyboardInterrupt:  # which would end the tests
        code = -1
    assert code == ExitCode.INTERRUPTED


BUFFERED = {"PYTHONUNBUFFERED": ""}
"""As most environments are: what is printed fails when it is flushed, which may be at exit."""


def printed_to(stdout: int, *arguments: str) -> tuple[int, str]:
    """Exit code and complaint of a command with that output."""
    done = subprocess.run(
        [sys.executable, "-m", "voicepool", *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **BUFFERED},
        timeout=DEADLINE,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("command", ["config", "--help"])
def test_a_reader_that_has_enough(command: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert printed_to(writer, command) == (0, "")
    finally:
        os.close(writer)


def test_a_disk_that_is_full() -> None:
    with Path("/dev/full").open("w") as full:
        code, complaint = printed_to(full.fileno(), "config")
    assert code == ExitCode.USAGE
    assert complaint == "voicepool: cannot write: No space left on device\n"


def test_a_folder_that_is_gone(
    own_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = own_folder / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    code, complaint = mistake(capsys, "config")
    assert code == ExitCode.USAGE
    assert "the folder that this was started in is gone" in complaint


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_a_terminal_that_lacks_a_letter(errors: str) -> None:
    """One that is no UTF-8: a table's dots, or a reply, shall not end the program."""
    program = r"from voicepool import cli; cli._hold_streams(); print('caf\u00e9 \u2026')"
    environ = {**os.environ, "PYTHONIOENCODING": f"latin-1:{errors}"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environ,
        capture_output=True,
        timeout=DEADLINE,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"caf\xe9 \\u2026\n")


def test_standard_streams_that_are_closed() -> None:
    """Their numbers are not given to sockets, and nothing fails for want of them."""
    command = 'exec "$0" -m voicepool talk examples/hello.wav --url ws://127.0.0.1:9 >&- <&-'
    done = subprocess.run(
        ["bash", "-c", command, sys.executable],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == ExitCode.UNREACHABLE, done.stderr
    assert done.stderr.startswith("voicepool: no server at ws://127.0.0.1:9/")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_started_without_a_standard_stream_it_has_one_that_leads_nowhere(closed: str) -> None:
    script = """
import os, socket, sys
from voicepool.cli import main
code = main(["config"])
with socket.socket() as sock:
    ours = sock.fileno() > 2 and not None in (sys.stdin, sys.stdout, sys.stderr)
sys.exit(code if ours and all(map(os.get_inheritable, range(3))) else 9)
"""
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, cwd=ROOT, timeout=DEADLINE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("key", ["two words", "schl\u00fcssel", "line\r", "two\nlines"])
def test_a_key_that_no_header_can_carry_is_not_repeated(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    code, complaint = mistake(capsys, "status", "--api-key", key, "--url", "ws://127.0.0.1:9")
    assert code == ExitCode.USAGE
    assert complaint.startswith("voicepool: --api-key: a key has letters, digits and signs")
    assert key not in complaint
    monkeypatch.setenv("VOICEPOOL_API_KEY", key)
    code, complaint = mistake(capsys, "talk", str(ROOT / "examples/hello.wav"))
    assert code == ExitCode.USAGE
    assert complaint.startswith("voicepool: VOICEPOOL_API_KEY: a key has")
    assert key not in complaint


# --- config ----------------------------------------------------------------------------------


def test_config_shows_values_and_sources_and_no_secret(
    own_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (own_folder / "voicepool.toml").write_text(
        '[server]\nport = 8001\n[llm]\nengine = "phrasebook"\napi_key = "sesame-sesame"\n'
        'more = { token = "sesame" }\n'
    )
    monkeypatch.setenv("VOICEPOOL_API_KEYS", f"{KEY},{KEY}2")
    monkeypatch.setenv("VOICEPOOL_ADMIN_KEYS", f"{KEY}3")
    assert run("config", "--workers", "3", "--queue-timeout", "500ms") == ExitCode.OK
    out = capsys.readouterr().out
    lines = {line.split("  #")[0].rstrip(): line.split("# ")[-1] for line in out.splitlines()}
    assert lines["port = 8001"] == "voicepool.toml:2"
    assert lines["api_keys = (2 keys)"] == "VOICEPOOL_API_KEYS"
    assert lines["admin_keys = (1 key)"] == "VOICEPOOL_ADMIN_KEYS"
    assert lines["workers = 3"] == "--workers"
    assert lines["max_connections = 3"] == "follows workers"
    assert lines["queue_timeout = 0.5s"] == "--queue-timeout"
    assert lines['engine = "phrasebook"'] == "voicepool.toml"
    assert run("config", "--json") == ExitCode.OK
    as_json = capsys.readouterr().out
    assert json.loads(as_json)["server"]["port"] == {"value": 8001, "source": "voicepool.toml:2"}
    for shown in (out, as_json):
        assert KEY not in shown
        assert "sesame" not in shown


# --- start -----------------------------------------------------------------------------------


@contextmanager
def started(
    *arguments: str, folder: Path = ROOT, **environ: str
) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "voicepool", "start", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, **environ},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=DEADLINE)


def until(process: subprocess.Popen[str], word: str) -> str:
    """What the server prints, up to the line with `word`."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if word in line:
            return seen
    raise AssertionError(f"never printed {word!r}: {seen}")


def test_start_shows_a_banner_serves_and_drains(own_folder: Path) -> None:
    with started("--workers", "1", "--runtime-dir", str(own_folder)) as process:
        seen = until(process, "  try")
        assert "warming up: 0 of 1 workers ready" in seen
        assert "profile   embedded (" in seen
        assert "engines   vad silero, stt pocketsphinx, llm phrasebook, tts espeak" in seen
        assert "workers   1 of 1 warm, up to 1 call at once" in seen
        url = seen.partition("address   ")[2].split()[0]
        assert url.endswith("/v1/realtime")
        status = subprocess.run(
            [sys.executable, "-m", "voicepool", "status", "--url", url],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=DEADLINE,
            check=True,
        )
        assert "1 idle of 1 wanted" in status.stdout
        assert ", embedded" in status.stdout
        process.send_signal(signal.SIGTERM)
        rest, logs = process.communicate(timeout=DEADLINE)
    assert process.returncode == ExitCode.OK
    assert rest.splitlines()[-1] == "stopped"
    assert all(json.loads(line)["ts"] for line in logs.splitlines())
    assert list(own_folder.iterdir()) == []


def test_a_reload_does_not_forget_a_file_that_is_gone(own_folder: Path) -> None:
    """Nor the keys in it, and then let everybody in."""
    file = own_folder / "voicepool.toml"
    file.write_text(f'[server]\napi_keys = ["{KEY}"]\n[speech]\napp = "tests.apps.echo:Echo"\n')
    with started("--workers", "1", PYTHONPATH=str(ROOT), folder=own_folder) as process:
        until(process, "  workers")
        file.unlink()
        process.send_signal(signal.SIGHUP)
        assert process.stderr is not None
        said = next(line for line in process.stderr if "reload" in line and "begins" not in line)
        assert json.loads(said)["event"] == "reload refused, nothing has changed"
        assert json.loads(said)["error"].startswith("voicepool.toml: cannot be read: No such file")


def test_a_terminal_that_stalls_holds_nobody_up() -> None:
    screen, terminal = os.openpty()
    os.set_blocking(terminal, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(terminal, b".")
    os.set_blocking(terminal, True)
    command = "start --port 0 --workers 1 --app tests.apps.echo:create --gpus none"
    process = subprocess.Popen(
        [sys.executable, "-m", "voicepool", *command.split()],
        stdout=terminal,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    hung = threading.Timer(DEADLINE, process.kill)
    hung.start()
    assert process.stderr is not None
    assert any("worker ready" in line for line in process.stderr)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    hung.cancel()
    os.close(screen)
    os.close(terminal)
    assert process.returncode == ExitCode.OK


def test_start_hosts_an_app_of_the_users_own() -> None:
    with started("--app", "tests.apps.echo:create", "--workers", "1") as process:
        seen = until(process, "  workers")
        assert "app       tests.apps.echo:create" in seen


def test_the_banner_says_when_fewer_workers_fit_than_were_asked_for() -> None:
    server: Any = SimpleNamespace(  # as much of a Supervisor as a banner is about
        url="ws://127.0.0.1:8001",
        settings=Settings(app="a.b:c", workers=3, max_connections=3),
        reception=SimpleNamespace(paths={"/b", "/a"}, has_page=True),
    )
    progress = Progress("serving", warm=1, target=3, detail="1 of 3 workers fit; lower --workers")
    assert banner(server, progress, None).splitlines() == [
        "ready",
        "  address   ws://127.0.0.1:8001/a",
        "  page      http://127.0.0.1:8001/",
        "  app       a.b:c",
        "  workers   1 of 3 warm, up to 3 calls at once",
        "  note      1 of 3 workers fit; lower --workers",
    ]


@pytest.mark.parametrize(
    ("host", "here"), [("0.0.0.0", "127.0.0.1"), ("[::]", "[::1]"), ("10.0.0.1", "10.0.0.1")]
)
def test_the_banner_names_a_page_that_gets_the_microphone(host: str, here: str) -> None:
    server: Any = SimpleNamespace(
        url=f"ws://{host}:8001",
        settings=Settings(app="a.b:c"),
        reception=SimpleNamespace(paths={"/v1/realtime"}, has_page=True),
    )
    lines = banner(server, Progress("serving", warm=2, target=2), None).splitlines()
    assert lines[1] == f"  address   ws://{host}:8001/v1/realtime"
    assert lines[2] == f"  page      http://{here}:8001/"
    assert lines[-1].endswith(f" --url ws://{here}:8001")


def test_a_link_local_address_is_printed_with_its_link() -> None:
    number, name = socket.if_nameindex()[0]
    bound: Any = SimpleNamespace(getsockname=lambda: ("fe80::1", 8000, 0, number))
    assert _url(bound, secure=False) == f"ws://[fe80::1%{name}]:8000"
    everywhere: Any = SimpleNamespace(getsockname=lambda: ("::", 8000, 0, 0))
    assert _url(everywhere, secure=True) == "wss://[::]:8000"


def refused(*arguments: str) -> str:
    """Why a server does not start."""
    with started(*arguments) as process:
        out, err = process.communicate(timeout=DEADLINE)
        assert (process.returncode, out) == (ExitCode.CANNOT_LISTEN, "")
        return err


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        complaint = refused("--port", str(port))
    assert complaint == (
        f"voicepool: 127.0.0.1:{port} is taken by another program; "
        "stop it, or choose another --port\n"
    )


def test_an_address_that_is_not_ours() -> None:
    complaint = refused("--host", "192.0.2.1", "--no-auth")
    assert complaint == (
        "voicepool: 192.0.2.1:0 is no address of this machine; choose another --host\n"
    )


@pytest.mark.parametrize("host", ["fe80::1", "[fe80::1]"])
def test_an_address_that_needs_its_link(host: str) -> None:
    complaint = refused("--host", host, "--no-auth")
    assert complaint == (
        "voicepool: [fe80::1]:0 is an address within one link only: "
        "say which, as --host fe80::1%eth0\n"
    )


def test_a_runtime_folder_that_cannot_be(own_folder: Path) -> None:
    (own_folder / "file").touch()
    folder = str(own_folder / "file" / "run")
    complaint = refused("--runtime-dir", folder)
    assert complaint.startswith(f"voicepool: runtime_dir: {folder}: Not a directory")
