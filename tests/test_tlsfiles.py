"""The certificate and its key: what is said of bad ones, and what happens when they change."""

from __future__ import annotations

import datetime
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from tests.certificates import Authority, Files
from voicepool import tlsfiles
from voicepool.cli import main
from voicepool.errors import ConfigError, ExitCode
from voicepool.tlsfiles import Certificate, advice, context_from


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def told(files: Files) -> list[str]:
    cert, key = str(files.cert), str(files.key)
    return advice(context_from(cert, key), cert, key)


def test_good_files_need_no_advice(authority: Authority) -> None:
    assert told(authority.issue()) == []


def test_both_in_one_file(authority: Authority) -> None:
    files = authority.issue()
    files.key.write_bytes(files.key.read_bytes() + files.cert.read_bytes())
    assert told(Files(files.key, files.key, files.ca)) == []


def test_expired(authority: Authority) -> None:
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    (line,) = told(authority.issue(not_after=past))
    assert "has expired" in line


def test_key_that_everybody_can_read(authority: Authority) -> None:
    files = authority.issue()
    files.key.chmod(0o644)
    (line,) = told(files)
    assert f"{files.key} can be read by everybody" in line


def _missing(files: Files) -> None:
    files.cert.unlink()


def _folder(files: Files) -> None:
    files.key.unlink()
    files.key.mkdir()


def _no_pem(files: Files) -> None:
    files.cert.write_bytes(b"\x30\x82\x01\x00")


def _no_key_in_it(files: Files) -> None:
    files.key.write_bytes(files.cert.read_bytes())


def _torn(files: Files) -> None:
    files.cert.write_bytes(files.cert.read_bytes()[:200])


def _of_another(files: Files) -> None:
    files.key.write_bytes(Authority(files.key.parent).issue("other").key.read_bytes())


def _with_passphrase(files: Files) -> None:
    key = load_pem_private_key(files.key.read_bytes(), None)
    locked = BestAvailableEncryption(b"secret")
    files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked))


BAD: dict[str, tuple[Callable[[Files], None], str]] = {
    "missing": (_missing, r"tls_cert: .*server.pem: cannot be read: No such file"),
    "folder": (_folder, r"tls_key: .*server.key: cannot be read: Is a directory"),
    "no PEM": (_no_pem, r"tls_cert: .*server.pem: holds no certificate in PEM form"),
    "no key": (_no_key_in_it, r"tls_key: .*server.key: holds no key in PEM form"),
    "torn": (_torn, r"OpenSSL does not take .*server.pem and .*server.key"),
    "of another": (_of_another, r"server.key: is not the key of the certificate in .*server.pem"),
    "passphrase": (_with_passphrase, r"server.key: is protected by a passphrase.*openssl pkey"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files(authority: Authority, name: str) -> None:
    spoil, message = BAD[name]
    files = authority.issue()
    spoil(files)
    with pytest.raises(ConfigError, match=message):
        context_from(str(files.cert), str(files.key))


def test_bad_files_keep_the_server_from_starting(authority: Authority) -> None:
    files = authority.issue()
    files.key.unlink()
    arguments = ["start", "--tls-cert", str(files.cert), "--tls-key", str(files.key)]
    done = subprocess.run(
        [sys.executable, "-m", "voicepool", *arguments, "--profile", "embedded"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == ExitCode.USAGE
    assert done.stderr.endswith("server.key: cannot be read: No such file or directory\n")
    assert "Traceback" not in done.stderr


def test_one_without_the_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--tls-cert", "cert.pem"]) == ExitCode.USAGE
    assert "tls_cert (--tls-cert) is of no use without tls_key" in capsys.readouterr().err
    assert main(["config", "--tls-key", "key.pem"]) == ExitCode.USAGE
    assert "tls_key (--tls-key) is of no use without tls_cert" in capsys.readouterr().err


# --- renewal ---------------------------------------------------------------------------------


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tlsfiles, "LOOK_SECONDS", 0.0)


@pytest.mark.usefixtures("at_once")
def test_unchanged_files_are_not_read_again(authority: Authority) -> None:
    files = authority.issue()
    certificate = Certificate(str(files.cert), str(files.key))
    before = certificate.context
    assert not certificate.refresh()
    assert certificate.context is before


@pytest.mark.usefixtures("at_once")
def test_renewed_files_are(authority: Authority) -> None:
    files = authority.issue()
    certificate = Certificate(str(files.cert), str(files.key))
    before = certificate.context
    authority.issue()
    assert certificate.refresh()
    assert certificate.context is not before
    assert not certificate.refresh()


@pytest.mark.usefixtures("at_once")
def test_one_that_has_expired_is_used_and_told_of(authority: Authority) -> None:
    """A renewal that copied last year's file. There is nothing better to be had here."""
    files = authority.issue()
    certificate = Certificate(str(files.cert), str(files.key))
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    authority.issue(not_after=past)
    assert certificate.refresh()
    (line,) = certificate.advice
    assert "has expired" in line
    authority.issue()
    assert certificate.refresh()
    assert certificate.advice == []


def test_file_that_changes_while_it_is_read(authority: Authority) -> None:
    files = authority.issue()
    context = context_from(str(files.cert), str(files.key))
    files.cert.write_bytes(b"half of a certif")
    with pytest.raises(ConfigError, match="has changed while it was read"):
        advice(context, str(files.cert), str(files.key))


@pytest.mark.usefixtures("at_once")
def test_links_are_followed(authority: Authority, tmp_path: Path) -> None:
    """As certbot renews: the names are links, which point to new files then."""
    old, new = authority.issue("1"), authority.issue("2")
    cert, key = tmp_path / "fullchain.pem", tmp_path / "privkey.pem"
    cert.symlink_to(old.cert)
    key.symlink_to(old.key)
    certificate = Certificate(str(cert), str(key))
    for link, target in ((cert, new.cert), (key, new.key)):
        link.unlink()
        link.symlink_to(target)
    assert certificate.refresh()


@pytest.mark.usefixtures("at_once")
def test_broken_files_change_nothing_and_are_told_once(authority: Authority) -> None:
    files = authority.issue()
    certificate = Certificate(str(files.cert), str(files.key))
    before = certificate.context
    files.key.write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="holds no key"):
        certificate.refresh()
    assert not certificate.refresh()
    assert certificate.context is before
    authority.issue()
    assert certificate.refresh()


def test_files_are_not_looked_at_for_every_connection(authority: Authority) -> None:
    files = authority.issue()
    certificate = Certificate(str(files.cert), str(files.key))
    authority.issue()
    assert not certificate.refresh()
