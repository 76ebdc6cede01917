"""The certificate and its key: judged before the server starts, read again when they are renewed.

Sources: OpenSSL's SSL_CTX_use_certificate_chain_file(3), the PEM labels of RFC 7468.
"""

from __future__ import annotations

import contextlib
import os
import re
import ssl
import time
from pathlib import Path
from typing import Final, NoReturn

from voicepool.errors import ConfigError

LOOK_SECONDS: Final = 1.0
"""At most so often the files are looked at for changes."""

_EXPIRED, _NOT_YET = 10, 9
"""X509_V_ERR_CERT_HAS_EXPIRED and X509_V_ERR_CERT_NOT_YET_VALID."""


def context_from(cert: str, key: str) -> ssl.SSLContext:
    """What connections are made with. Raises ConfigError, naming the file that is wrong."""
    _check_pem("tls_cert", cert, rb"CERTIFICATE", "a certificate")
    text = _check_pem("tls_key", key, rb"[A-Z ]*PRIVATE KEY", "a private key")
    if b"ENCRYPTED" in text:
        raise ConfigError(
            f"tls_key: {key}: is protected by a passphrase, which nobody is there to enter; "
            f"write it without one: openssl pkey -in {key} -out plain.pem"
        )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A client that closes TCP without a goodbye is treated like one that says it: WebSockets and
    # HTTP say themselves where a message ends.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_IGNORE_UNEXPECTED_EOF
    # No session tickets: a Python client before 3.13 that reads in one thread and writes in
    # another, as the synchronous OpenAI SDK does, can lose its request over one.
    context.num_tickets = 0
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(cert, key, password=_no_passphrase)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(
                f"tls_key: {key}: is not the key of the certificate in {cert}; "
                "the first certificate in that file must be the server's own"
            ) from error
        why = (error.reason or str(error)).replace("_", " ").lower()
        raise ConfigError(
            f"tls_cert, tls_key: OpenSSL does not take {cert} and {key}: {why}"
        ) from error
    except OSError as error:
        raise ConfigError(f"tls_cert, tls_key: cannot be read: {error.strerror}") from error
    return context


def _no_passphrase() -> NoReturn:
    """OpenSSL would ask for it at the terminal."""
    raise ConfigError("tls_key: is protected by a passphrase, which nobody is there to enter")


def _check_pem(setting: str, path: str, label: bytes, what: str) -> bytes:
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{setting}: {path}: cannot be read: {error.strerror}") from error
    if not re.search(rb"-----BEGIN " + label + rb"-----", text):
        raise ConfigError(
            f"{setting}: {path}: holds no {what.split()[-1]} in PEM form, "
            f"which begins with -----BEGIN"
        )
    return text


def advice(context: ssl.SSLContext, cert: str, key: str) -> list[str]:
    """What a server can start with and should not.

    Raises ConfigError where no client could connect, or the file has changed since `context` was
    made.
    """
    found = []
    with contextlib.suppress(OSError):
        if Path(key).stat().st_mode & 0o004:
            found.append(f"tls_key: {key} can be read by everybody on this machine: chmod o-r it")
    code, message = _seen_by_client(context, cert)
    if code == _EXPIRED:
        found.append(f"tls_cert: the certificate in {cert} has expired: clients will refuse it")
    elif code == _NOT_YET:
        found.append(f"tls_cert: the certificate in {cert} is not valid yet: is the clock right?")
    elif code:
        found.append(f"tls_cert: clients may refuse the certificate in {cert}: {message}")
    return found


def _seen_by_client(context: ssl.SSLContext, cert: str) -> tuple[int, str]:
    """A handshake in memory with a client that trusts this certificate whoever has signed it: what
    it objects to all the same, as X509_V_ERR number and words; 0 if nothing.

    Raises ConfigError where the two cannot talk at all.
    """
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        trusting.load_verify_locations(cert)
    except OSError as error:
        raise ConfigError(f"tls_cert: {cert}: has changed while it was read") from error
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(down, up)
    server = context.wrap_bio(up, down, server_side=True)
    try:
        for _ in range(2):  # of round trips TLS 1.2 needs two, 1.3 one
            for side in (client, server):
                with contextlib.suppress(ssl.SSLWantReadError):
                    side.do_handshake()
    except ssl.SSLCertVerificationError as error:
        return error.verify_code, error.verify_message
    except ssl.SSLError as error:
        raise ConfigError(f"tls_cert, tls_key: no client could connect: {error.reason}") from error
    return 0, ""


class Certificate:
    """The context for new connections: another one once the files have changed."""

    def __init__(self, cert: str, key: str) -> None:
        """Raises ConfigError."""
        self._files = (cert, key)
        self._stamp = self._look()
        self._looked = time.monotonic()
        self._trouble = ""
        """What was wrong with the files when they were read last."""
        self.context = context_from(cert, key)
        self.advice: list[str] = []
        """On the files as they were renewed last; that on the first is given at the start."""

    def refresh(self) -> bool:
        """Look whether the files have changed; whether they have, and been read anew.

        Raises ConfigError where they are no good: then what was read before stays in force. They
        are tried again until they are, for it may be this process that lacked something; the same
        trouble is told once.
        """
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return False
        self._looked = now
        stamp = self._look()
        if stamp == self._stamp and not self._trouble:
            return False
        self._stamp = stamp  # taken before reading: what changes meanwhile is seen the next time
        try:
            context = context_from(*self._files)
            self.advice = advice(context, *self._files)
        except ConfigError as error:
            told, self._trouble = self._trouble, str(error)
            if told == self._trouble:
                return False
            raise
        self._trouble = ""
        self.context = context
        return True

    def _look(self) -> list[tuple[int, ...] | None]:
        return [_stamp(path) for path in self._files]


def _stamp(path: str) -> tuple[int, ...] | None:
    """What differs once a file has been written to or replaced, also behind a link."""
    try:
        status = os.stat(path)  # noqa: PTH116 - twice for many a connection: no Path is made
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
