"""API keys with names, scopes and an expiry: what they are, the file, and `voicepool key`."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicepool import keysfile
from voicepool.cli import main
from voicepool.config import Settings
from voicepool.errors import ConfigError, ExitCode
from voicepool.forker import child_environment
from voicepool.keys import (
    MAX_COMPLAINTS,
    Key,
    Keyring,
    Scope,
    digest_of,
    plain,
    read_lines,
    write_line,
)
from voicepool.rules import access_rules

TEXT, OTHER = "a-key-that-is-long-enough", "another-key-that-is-long"
HEX = hashlib.sha256(TEXT.encode()).hexdigest()
NOW = datetime.datetime(2026, 6, 15, 12, tzinfo=datetime.UTC).timestamp()
CALL, ADMIN = frozenset({Scope.CALL}), frozenset({Scope.ADMIN})
BOTH = CALL | ADMIN


def line(name: str, text: str, scopes: frozenset[Scope] = CALL, expires: str = "") -> str:
    """A key's line."""
    day = datetime.date.fromisoformat(expires) if expires else None
    return write_line(Key(digest_of(text), scopes, name, day)) + "\n"


def complaint(run: Callable[[], object]) -> str:
    with pytest.raises(ConfigError) as caught:
        run()
    return str(caught.value)


# --- keys ------------------------------------------------------------------------------------


def test_keys_are_found_by_their_digests() -> None:
    keys = [Key(digest_of(str(number)), CALL, f"k{number}") for number in range(100)]
    ring = Keyring(keys)
    assert (len(ring), list(ring)) == (100, keys)
    for key in keys:
        assert ring.holder(key.digest) is key
    for digest in (digest_of("100"), b"", keys[0].digest[:-1], keys[0].digest + b"x"):
        assert ring.holder(digest) is None


def test_no_text_of_a_key_is_kept() -> None:
    (key,) = plain([TEXT])
    assert key == Key(bytes.fromhex(HEX), CALL)
    assert TEXT not in repr(key)


def test_plain_key_in_both_lists_has_both_scopes() -> None:
    assert plain([TEXT], [OTHER, TEXT]) == (
        Key(digest_of(TEXT), BOTH),
        Key(digest_of(OTHER), ADMIN),
    )


def test_scope_is_granted_while_somebody_holds_it() -> None:
    ring = Keyring([Key(digest_of(TEXT), ADMIN, "ops", datetime.date(2026, 6, 15))])
    assert ring.grants(Scope.ADMIN, NOW)
    assert not ring.grants(Scope.CALL, NOW)
    assert not ring.grants(Scope.ADMIN, NOW + 24 * 3600)


# --- the lines of the file -------------------------------------------------------------------


def test_lines_are_read() -> None:
    text = (
        "# keys of the house\r\n"
        "\n"
        f"  web-1.example\tcall   sha256:{HEX.upper()}   # the website\r\n"
        f"ops@home admin,call sha256:{digest_of(OTHER).hex()} expires=2027-02-28"
    )
    assert read_lines(text, "keys") == (
        Key(bytes.fromhex(HEX), CALL, "web-1.example"),
        Key(digest_of(OTHER), BOTH, "ops@home", datetime.date(2027, 2, 28)),
    )


@pytest.mark.parametrize("scopes", [CALL, ADMIN, BOTH])
@pytest.mark.parametrize("expires", [None, datetime.date.min, datetime.date.max])
def test_lines_that_are_written_can_be_read(
    scopes: frozenset[Scope], expires: datetime.date | None
) -> None:
    key = Key(digest_of(TEXT), scopes, "web", expires)
    assert read_lines(write_line(key), "keys") == (key,)
    assert key.expired(NOW) == (expires == datetime.date.min)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (TEXT, "expected NAME SCOPES sha256:HEX [expires=YYYY-MM-DD], got 1 word;"),
        (
            f"web call sha256:{HEX} expires=2027-01-01 more",
            "expected NAME SCOPES sha256:HEX [expires=YYYY-MM-DD], got 5 words;",
        ),
        (f"web call {TEXT}", "the third word is not sha256: and 64 hex digits"),
        (f"web call sha256:{HEX[1:]}", "the third word is not"),
        (f"web call sha256:{HEX}0", "the third word is not"),
        (f"web call md5:{HEX}", "the third word is not"),
        (f"web root sha256:{HEX}", "the scopes of a key are call, admin or call,admin"),
        (f"web call, sha256:{HEX}", "the scopes of a key"),
        (f"web call,call sha256:{HEX}", "the scopes of a key"),
        (f"web CALL sha256:{HEX}", "the scopes of a key"),
        (f"-web call sha256:{HEX}", "a key's name has 1 to 40 letters"),
        (f"{'w' * 41} call sha256:{HEX}", "a key's name has"),
        (f"a=b call sha256:{HEX}", "a key's name has"),
        (f"wéb call sha256:{HEX}", "a key's name has"),
        (f"0a1b2c3d call sha256:{HEX}", "8 hex digits are no name"),
        (f"web call sha256:{HEX} until=2027-01-01", "the fourth word is not expires="),
        (f"web call sha256:{HEX} expires=2027-02-29", "expected a date such as"),
        (f"web call sha256:{HEX} expires=20270228", "expected a date such as"),
        (f"web call sha256:{HEX} expires=", "expected a date such as"),
        (f"first call sha256:{HEX}", "the name first is that of line 1 too"),
        (f"web call sha256:{digest_of('first').hex()}", "web has the same key as line 1"),
    ],
)
def test_wrong_line_is_told_by_its_number_and_never_repeated(wrong: str, words: str) -> None:
    text = f"{line('first', 'first')}# a comment\n{wrong}\n"
    message = complaint(lambda: read_lines(text, "the/keys"))
    assert message.startswith(f"the/keys:3: {words}")
    assert TEXT not in message
    assert HEX[:8] not in message


def test_all_wrong_lines_are_told_unless_there_are_many() -> None:
    told = complaint(lambda: read_lines("x\n" * MAX_COMPLAINTS, "keys")).splitlines()
    assert [text.split(" ")[0] for text in told] == [f"keys:{n}:" for n in range(1, 11)]
    *told, last = complaint(lambda: read_lines("x\n" * 1000, "keys")).splitlines()
    assert len(told) == MAX_COMPLAINTS
    assert last == "keys: 990 more lines are wrong"


@given(st.text(alphabet="web call,admin:sha256=#\r\n\t0f-é\0\ud800"))
def test_any_text_is_read_or_complained_of(text: str) -> None:
    with contextlib.suppress(ConfigError):
        assert all(key.scopes for key in read_lines(text, "keys"))


# --- the file --------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(line("web", TEXT) + line("ops", OTHER, ADMIN))
    path.chmod(0o640)
    return path


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"web\n", ":1: expected NAME"),
        (b"\xff\xfe", ": not UTF-8 text"),
        (b"#" * (keysfile.MAX_BYTES + 1), ": is longer than"),
    ],
)
def test_file_that_cannot_be_taken(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "keys"
    path.write_bytes(content)
    settings = Settings(keys_file=str(path))
    assert complaint(lambda: keysfile.sealed(settings)).startswith(f"keys_file: {path}{words}")


def test_file_that_is_none(tmp_path: Path) -> None:
    missing = complaint(lambda: keysfile.read(str(tmp_path / "none"), "keys_file: "))
    assert "cannot be read: No such file or directory" in missing
    assert "voicepool key new NAME --file FILE" in missing
    assert complaint(lambda: keysfile.read(str(tmp_path))) == f"{tmp_path}: is not a file"
    os.mkfifo(tmp_path / "pipe")
    assert "is not a file" in complaint(lambda: keysfile.read(str(tmp_path / "pipe")))


def test_sealed_settings_have_every_key_and_no_text(file: Path) -> None:
    text = "a-third-key-in-the-settings"
    settings = keysfile.sealed(Settings(api_keys=(text,), admin_keys=(text,), keys_file=str(file)))
    assert settings.keys == (
        Key(digest_of(text), BOTH),
        Key(digest_of(TEXT), CALL, "web"),
        Key(digest_of(OTHER), ADMIN, "ops"),
    )
    assert (settings.api_keys, settings.admin_keys) == ((), ())
    assert settings.asks_for_keys
    assert text not in repr(settings)


def test_key_of_the_file_that_is_in_the_settings_too(file: Path) -> None:
    settings = Settings(admin_keys=(TEXT,), keys_file=str(file))
    message = complaint(lambda: keysfile.sealed(settings))
    assert "the key of web is in api_keys or admin_keys too" in message
    assert TEXT not in message


def test_empty_file_lets_nobody_in(tmp_path: Path) -> None:
    (tmp_path / "keys").touch(0o600)
    settings = keysfile.sealed(Settings(keys_file=str(tmp_path / "keys")))
    assert settings.keys == ()
    assert access_rules(settings).asks_for_keys
    (advice,) = keysfile.advice(settings)
    assert advice.startswith("nobody can call: no key of scope call is in force")


def test_advice(file: Path) -> None:
    settings = keysfile.sealed(Settings(keys_file=str(file)))
    assert keysfile.advice(settings) == []
    file.chmod(0o644)
    (advice,) = keysfile.advice(settings)
    assert advice == f"keys_file: {file} can be read by everybody on this machine: chmod o-r it"
    file.chmod(0o600)
    with file.open("a") as keys:
        keys.write(line("old", "old", expires="2020-01-01"))
    (advice,) = keysfile.advice(keysfile.sealed(settings))
    assert advice == f"keys_file: {file}: expired, delete their lines: old"
    assert keysfile.advice(Settings()) == []


def test_workers_and_zygotes_know_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VOICEPOOL_API_KEYS", "VOICEPOOL_ADMIN_KEYS"):
        monkeypatch.setenv(name, TEXT)
    assert TEXT not in child_environment().values()


def test_server_does_not_start_with_a_wrong_file(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(f"web call {TEXT}\n")
    assert main(["start", "--port", "0", "--keys-file", str(file)]) == ExitCode.USAGE
    err = capsys.readouterr().err
    assert err.startswith(f"voicepool: keys_file: {file}:1: the third word is not sha256:")
    assert TEXT not in err


# --- voicepool key ---------------------------------------------------------------------------


def run(*arguments: str) -> int:
    try:
        return main(["key", *arguments])
    except SystemExit as exit:
        return int(exit.code or 0)


def test_new_key_is_printed_with_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("new", "web") == ExitCode.OK
    out, err = capsys.readouterr()
    key, written = out.splitlines()
    assert (len(key), key[:3], err) == (51, "vp_", "")
    assert int(key[3:], 16) > 0
    assert read_lines(written, "keys") == (Key(digest_of(key), CALL, "web"),)


def test_new_key_goes_to_a_file_of_its_owner_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "keys"
    old = os.umask(0)
    try:
        assert run("new", "web", "--file", str(path)) == ExitCode.OK
    finally:
        os.umask(old)
    out, err = capsys.readouterr()
    (key,) = out.splitlines()
    assert path.stat().st_mode & 0o777 == 0o600
    assert f"its line is in {path}" in err
    assert key not in path.read_text()
    path.write_text(path.read_text().rstrip("\n"))  # as some editors leave it
    path.chmod(0o640)
    words = ("--scope", "call,admin", "--expires", "9999-12-31", "--file", str(path))
    assert run("new", "ops", *words) == ExitCode.OK
    other = capsys.readouterr().out.strip()
    assert path.stat().st_mode & 0o777 == 0o640
    assert keysfile.read(str(path)) == (
        Key(digest_of(key), CALL, "web"),
        Key(digest_of(other), BOTH, "ops", datetime.date.max),
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("new",), "NAME"),
        (("new", "web"), "has a key named web already"),
        (("new", "a b"), "a key's name has"),
        (("new", "new", "--scope", "root"), "the scopes of a key are"),
        (("new", "new", "--expires", "tomorrow"), "expected a date such as"),
        (("new", "new", "--expires", "2020-01-01"), "2020-01-01 is over"),
        (("list",), "--file"),
        (("lst",), "invalid choice"),
    ],
)
def test_mistakes(
    file: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    before = file.read_text()
    more = ("--file", str(file)) if arguments[0] == "new" else ()
    assert run(*arguments, *more) == ExitCode.USAGE
    out, err = capsys.readouterr()
    assert words in err
    assert out == ""
    assert file.read_text() == before


def test_file_with_faults_or_out_of_reach_gets_no_line(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text("wrong\n")
    assert run("new", "web", "--file", str(file)) == ExitCode.USAGE
    assert f"{file}:1: expected NAME" in capsys.readouterr().err
    assert file.read_text() == "wrong\n"
    assert run("new", "web", "--file", str(file.parent / "no" / "keys")) == ExitCode.USAGE
    out, err = capsys.readouterr()
    assert "cannot be written: No such file or directory" in err
    assert out == ""


def test_what_is_no_file_gets_no_line(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipe = file.parent / "pipe"
    os.mkfifo(pipe)
    assert run("new", "web", "--file", str(pipe)) == ExitCode.USAGE
    out, err = capsys.readouterr()
    assert f"{pipe}: is not a file" in err
    assert out == ""


def test_list_shows_whose_keys_there_are_and_none_of_them(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with file.open("a") as keys:
        keys.write(line("old", "old", BOTH, "2020-01-01") + line("new", "new", CALL, "9999-12-31"))
    assert run("list", "--file", str(file)) == ExitCode.OK
    out = capsys.readouterr().out
    assert [text.split() for text in out.splitlines()] == [
        ["NAME", "SCOPES", "EXPIRES", "FINGERPRINT"],
        ["web", "call", "never", HEX[:8]],
        ["ops", "admin", "never", digest_of(OTHER).hex()[:8]],
        ["old", "call,admin", "2020-01-01", "(expired)", digest_of("old").hex()[:8]],
        ["new", "call", "9999-12-31", digest_of("new").hex()[:8]],
    ]
    assert HEX not in out


@pytest.mark.parametrize("words", [(), ("new",), ("list",)])
def test_help_teaches(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    assert run(*words, "--help") == ExitCode.OK
    out = capsys.readouterr().out
    taught = {
        (): ("keys_file", "sha256:HEX", "examples:", "systemctl reload"),
        ("new",): ("--scope", "--expires", "--file", "KEY=$("),
        ("list",): ("fingerprint", "sha256sum"),
    }
    assert all(word in out for word in taught[words])
