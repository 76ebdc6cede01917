"""What TLS costs: at the hand-off, and in the relay while a call goes on."""

from __future__ import annotations

import contextlib
import ssl
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import trustme

from benchmarks.apps import FRAME, FRAME_SECONDS
from benchmarks.figures import Figure, absolute, compare
from benchmarks.processes import children, cpu_seconds
from benchmarks.servers import Pool
from benchmarks.wire import Call

RELAY = "vp-tls-relay"


def tls(samples: int, segments: int, seconds: float) -> Iterator[Figure]:
    """One caller at a time, with TLS 1.3 and a full handshake each, and without; then one call of
    24 kHz audio in both directions. No targets: the documented way for high load is a proxy."""
    ours: list[float] = []
    reference: list[float] = []
    with _certificate() as (settings, context):
        with _pool(**settings) as secure, _pool() as plain:
            for server, how in ((secure, context), (plain, None)):
                _one(server, how)
            for i in range(samples):
                turns = [(secure, context, ours), (plain, None, reference)]
                for server, how, taken in turns if i % 2 else turns[::-1]:
                    taken.append(_one(server, how))
        yield compare("tls", "hand-off, 2 workers", "ms", ours, reference, "the same without TLS")
        with _pool(**settings) as secure:
            cost = [_relayed(secure, context, seconds) for _ in range(segments)]
        yield absolute("tls", "relay's CPU per s of audio", "ms", cost)


def _one(server: Pool, context: ssl.SSLContext | None) -> float:
    """Milliseconds from connect to the first message."""
    server.expect()
    with Call(server.address, context=context) as call:
        seconds = call.seconds
    server.settle(1)
    return seconds * 1000


def _relayed(server: Pool, context: ssl.SSLContext, seconds: float) -> float:
    """Milliseconds of the relay's CPU time per second of a call that is full of audio."""
    (relay,) = [pid for pid in children(server.pid) if _name(pid) == RELAY]
    server.expect()
    with Call(server.address, context=context) as call:
        before, began = cpu_seconds(relay), time.perf_counter()
        for frame in range(round(seconds / FRAME_SECONDS)):
            time.sleep(max(0.0, began + frame * FRAME_SECONDS - time.perf_counter()))
            call.send(FRAME)
            call.receive()
        cost = 1000 * (cpu_seconds(relay) - before) / (time.perf_counter() - began)
    server.settle(1)
    return cost


def _name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


@contextlib.contextmanager
def _certificate() -> Iterator[tuple[dict[str, Any], ssl.SSLContext]]:
    """Settings of a server with a certificate (ECDSA, P-256), and how to trust it."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with tempfile.TemporaryDirectory() as folder:
        cert, key = Path(folder) / "cert.pem", Path(folder) / "key.pem"
        issued.cert_chain_pems[0].write_to_path(str(cert))
        issued.private_key_pem.write_to_path(str(key))
        yield {"tls_cert": str(cert), "tls_key": str(key)}, context


def _pool(**settings: Any) -> Pool:
    return Pool("benchmarks.apps:tiny", workers=2, max_connections=2, **settings)
