"""Connecting to a server as its caller: addresses, and what each way of failing means."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as websocket_connect
from websockets.exceptions import InvalidHandshake, InvalidStatus
from websockets.http11 import Response

from voicepool.config import is_loopback
from voicepool.errors import CallError, ExitCode
from voicepool.logs import escape

CALL_PATH = "/v1/realtime"
OPEN_TIMEOUT = 15.0
"""Above the time that a full server holds a caller by default, so that its 503 arrives."""
CLOSE_TIMEOUT = 2.0
MAX_MESSAGE = 16 << 20
_LONGEST_PAUSE = 30.0
_SECURE = {"ws": "http", "wss": "https"}
_REMEDIES = {
    9: "is this clock right?",
    10: "it has to be renewed on the server, unless this clock is wrong",
    62: "call the server by a name that is in it",
    64: "call the server by a name that is in it",
}
"""What helps against an X509_V_ERR where no authority would: not yet valid, expired, another name,
another address."""


def call_url(url: str) -> str:
    """`url` as a WebSocket address; one that ends with its host, or with "/", where a proxy has
    the server below a path, is completed to that of the Realtime protocol.

    Raises CallError (USAGE).
    """
    parts = _split(url)
    if parts.path and not parts.path.endswith("/"):
        return parts.geturl()
    return parts._replace(path=parts.path.removesuffix("/") + CALL_PATH).geturl()


def http_url(url: str, path: str) -> str:
    """The HTTP address of `path` on the server that `url`, as for `call_url`, names.

    Raises CallError (USAGE).
    """
    parts = urlsplit(call_url(url))
    below = parts.path.removesuffix(CALL_PATH) if parts.path.endswith(CALL_PATH) else ""
    return parts._replace(scheme=_SECURE[parts.scheme], path=below + path, query="").geturl()


def _split(url: str) -> SplitResult:
    """The parts of `url`, whose scheme is ws or wss whatever it said."""
    try:
        parts = urlsplit(url if "://" in url else f"ws://{url}")
        valid = bool(parts.hostname) and parts.port != 0 and url.isprintable() and " " not in url
    except ValueError:
        valid = False
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme) if valid else ""
    if scheme not in _SECURE:
        raise CallError(
            "--url, or VOICEPOOL_URL: expected an address such as ws://127.0.0.1:8000, "
            f"got {url!r}",
            ExitCode.USAGE,
        )
    return parts._replace(scheme=scheme, fragment="")


class _Later(CallError):
    """The server takes this caller later: no worker is free (503), or a limit is reached (429)."""

    def __init__(self, message: str, why: str, retry_after: float) -> None:
        """`why`: its own words; `retry_after`: its advice in seconds."""
        super().__init__(message, ExitCode.UNREACHABLE)
        self.why = why
        self.retry_after = retry_after


@asynccontextmanager
async def connect(
    url: str, api_key: str, wait: float, tell: Callable[[str], None], cafile: Path | None = None
) -> AsyncIterator[ClientConnection]:
    """A connection to `url` for the block; closed after it. `cafile` is for `trusting`.

    While the server asks to come later, tries again for up to `wait` seconds, and tells so each
    time.
    Raises CallError.
    """
    deadline = time.monotonic() + wait
    context = trusting(cafile) if url.startswith("wss:") else None
    while True:
        try:
            websocket = await _open(url, api_key, context)
            break
        except _Later as later:
            left = deadline - time.monotonic()
            if left <= 0:
                raise
            pause = min(later.retry_after, left, _LONGEST_PAUSE)
            # Its advice comes last in what it says, and is taken.
            tell(f"{later.why.partition(';')[0]}; trying again in {pause:.0f} s")
            await asyncio.sleep(pause)
    async with websocket:
        yield websocket


def trusting(cafile: Path | None) -> ssl.SSLContext:
    """TLS with servers whose certificate the system trusts, or, if named, who lead to one of those
    in `cafile` (PEM). Raises CallError (USAGE)."""
    try:
        return ssl.create_default_context(cafile=cafile)
    except OSError as error:  # ssl.SSLError is one, and has no words for people
        why = "no certificates in it" if isinstance(error, ssl.SSLError) else error.strerror
        raise CallError(f"--cafile: {cafile}: {why}", ExitCode.USAGE) from error


async def _open(url: str, api_key: str, context: ssl.SSLContext | None) -> ClientConnection:
    host = urlsplit(url).hostname or ""
    try:
        return await websocket_connect(
            url,
            additional_headers={"Authorization": f"Bearer {api_key}"} if api_key else None,
            compression=None,
            ssl=context,
            # A proxy from the environment cannot reach this machine's own loopback.
            proxy=None if is_loopback(host) else True,
            open_timeout=OPEN_TIMEOUT,
            close_timeout=CLOSE_TIMEOUT,
            max_size=MAX_MESSAGE,
        )
    except InvalidStatus as error:
        raise _refused(url, error.response) from error
    except InvalidHandshake as error:
        raise CallError(
            f"what answers at {url} is no WebSocket server: {escape(str(error))}",
            ExitCode.UNREACHABLE,
        ) from error
    except TimeoutError as error:
        raise CallError(
            f"{url} did not answer within {OPEN_TIMEOUT:.0f} s", ExitCode.UNREACHABLE
        ) from error
    except OSError as error:
        raise no_server(url, error) from error


def no_server(url: str, error: OSError) -> CallError:
    """Nobody listens at `url`, or it cannot be reached, or not be trusted."""
    if isinstance(error, ssl.SSLCertVerificationError):
        why = escape(error.verify_message.rstrip("."))
        remedy = "if its authority is your own, name the file with that one's: --cafile FILE"
        remedy = _REMEDIES.get(error.verify_code, remedy)
        return CallError(
            f"the certificate of {url} is not trusted ({why}); {remedy}", ExitCode.UNREACHABLE
        )
    if isinstance(error, ssl.SSLError):
        why = escape((error.reason or str(error)).replace("_", " ").lower())
        return CallError(
            f"no TLS with {url} ({why}); a server without TLS is called by ws:// or http://",
            ExitCode.UNREACHABLE,
        )
    # asyncio words its errors for programmers; a resolver's numbers are no errno.
    resolver = isinstance(error, socket.gaierror)
    why = os.strerror(error.errno) if error.errno and not resolver else str(error.strerror or error)
    return CallError(
        f"no server at {url} ({escape(why)}); start one with: voicepool start; "
        "or say by --url, or VOICEPOOL_URL, where it is",
        ExitCode.UNREACHABLE,
    )


def _refused(url: str, response: Response) -> CallError:
    status = response.status_code
    if status == 401:
        return CallError(
            f"{_why(response)}; give the key with VOICEPOOL_API_KEY or --api-key",
            ExitCode.UNREACHABLE,
        )
    if _code(response) == "insufficient_scope":
        return CallError(_why(response), ExitCode.UNREACHABLE)
    if status in (429, 503):
        why = _why(response)
        return _Later(
            f"no call now: {why}; let talk try for you with: --wait 60",
            why,
            _seconds(response.headers.get("Retry-After", "")),
        )
    advice = {
        403: "the server does not allow this address or origin (see allowed_hosts in its settings)",
        404: f"the server takes no calls at {urlsplit(url).path}",
    }.get(status, f"the server answered {status}")
    return CallError(f"{advice}: {_why(response)}", ExitCode.UNREACHABLE)


def _seconds(header: str) -> float:
    """A Retry-After header's seconds; its other form, a date, counts as 5."""
    return max(1.0, float(header)) if header.isascii() and header.isdigit() else 5.0


def _code(response: Response) -> str:
    """`error.code` of a JSON body, "" where there is none."""
    try:
        return str(json.loads(response.body or b"")["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return ""


def _why(response: Response) -> str:
    """The server's own words: `error.message` of a JSON body, else the reason phrase."""
    try:
        return escape(str(json.loads(response.body or b"")["error"]["message"]), 400)
    except (ValueError, KeyError, TypeError):
        return escape(f"{response.status_code} {response.reason_phrase}")
