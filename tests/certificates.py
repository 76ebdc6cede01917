"""Certificates of an authority of our own, for tests that speak TLS."""

from __future__ import annotations

import datetime
import ssl
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Files:
    """A server's certificate and key, and the authority that vouches for it."""

    cert: Path
    key: Path
    ca: Path

    @property
    def settings(self) -> dict[str, str]:
        return {"tls_cert": str(self.cert), "tls_key": str(self.key)}

    @property
    def trust(self) -> ssl.SSLContext:
        """How clients connect."""
        return ssl.create_default_context(cafile=self.ca)


class Authority:
    """Issues into `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def _ca(self) -> trustme.CA:
        return trustme.CA()

    def issue(self, name: str = "server", not_after: datetime.datetime | None = None) -> Files:
        """For 127.0.0.1 and localhost; written over what was issued under that name before."""
        issued = self._ca.issue_cert("localhost", "127.0.0.1", not_after=not_after)
        files = Files(
            self.folder / f"{name}.pem", self.folder / f"{name}.key", self.folder / "ca.pem"
        )
        files.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        files.key.write_bytes(issued.private_key_pem.bytes())
        files.key.chmod(0o600)
        files.ca.write_bytes(self._ca.cert_pem.bytes())
        return files
