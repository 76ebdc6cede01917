"""The files that browsers get: the page of our own, or a folder of client files of the user's.

Nothing outside the folder is ever sent, whatever a request or a link in the folder says, and
nothing hidden. Small files are kept in memory for as long as they are unchanged; of large ones only
the descriptor is passed on, and the kernel sends them (`Farewells`).

Sources: RFC 9110 (conditional requests), Content Security Policy Level 3, Fetch (nosniff).
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from voicepool.answers import FileAnswer, refuse, start
from voicepool.errors import ConfigError
from voicepool.request import Head

OWN: Final = Path(__file__).parent / "web"
"""The page that comes with voicepool."""
INDEX: Final = "index.html"
STATIC_PREFIX: Final = "static/"
"""Where RealtimeVoiceChat's page looks for the files that lie beside it."""

MAX_FILE: Final = 32 << 20
"""The largest file that is sent."""
SMALL_FILE: Final = 256 << 10
CACHE_BYTES: Final = 8 << 20
"""Small files in memory, together."""

TYPES: Final = {
    ".avif": "image/avif",
    ".css": "text/css; charset=utf-8",
    ".flac": "audio/flac",
    ".gif": "image/gif",
    ".htm": "text/html; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".map": "application/json",
    ".md": "text/markdown; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".mp3": "audio/mpeg",
    ".mp4": "video/mp4",
    ".ogg": "audio/ogg",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".ttf": "font/ttf",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
    ".wav": "audio/wav",
    ".webm": "video/webm",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    ".xml": "text/xml; charset=utf-8",
}
"""By suffix, so that it does not depend on what the host's MIME tables say."""

_COMMON: Final = {
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_OWN: Final = {
    **_COMMON,
    # "ws: wss:" because some browsers do not count WebSockets to the page's host as 'self'.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True, slots=True)
class _Small:
    """A file in memory, and what its status was when it was read."""

    key: tuple[int, ...]
    etag: str
    content: bytes


class Pages:
    """One folder of files and the answers to requests for them."""

    def __init__(self, folder: str = "") -> None:
        """`folder` holds client files of the user's; "" stands for our own page.

        Raises ConfigError where it is no folder, or has no index.html.
        """
        self.own = not folder
        self._headers = _OWN if self.own else _COMMON
        self._cache: OrderedDict[Path, _Small] = OrderedDict()
        self._cached = 0
        root = Path(folder) if folder else OWN
        if not root.is_dir():
            raise ConfigError(f"static: {folder!r} is not a folder; name the one with {INDEX}")
        self._root = root.resolve()
        if not (self._root / INDEX).is_file():
            raise ConfigError(f"static: {folder!r} has no {INDEX}, which is what / answers with")

    def answer(self, head: Head) -> bytes | FileAnswer | None:
        """The response; None where no file is meant. The caller owns the FileAnswer."""
        is_head = head.method == "HEAD"
        for path in self._candidates(head.path):
            try:
                fd = self._open(path)
            except (OSError, RuntimeError, ValueError) as error:
                # Links that go round in circles; a name that the file system cannot have.
                if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE):
                    message = "the server has too many files open; try again in a moment"
                    return refuse(503, message, "overloaded", {"Retry-After": "2"}, head=is_head)
                continue
            if head.method not in ("GET", "HEAD"):
                os.close(fd)
                message = f"{head.path[:200]!a} answers GET and HEAD only"
                return refuse(405, message, "method_not_allowed", {"Allow": "GET, HEAD"})
            return self._send(head, path, fd, is_head=is_head)
        return None

    def _candidates(self, target: str) -> Iterator[Path]:
        """The files that a request's path may mean, the likeliest first."""
        name = INDEX if target == "/" else _relative(target)
        if name is not None:
            yield self._root / name
            if name.startswith(STATIC_PREFIX) and not self.own:
                yield self._root / name.removeprefix(STATIC_PREFIX)

    def _open(self, path: Path) -> int:
        """A descriptor of a regular file inside the folder.

        Raises OSError, RuntimeError and ValueError.
        """
        real = path.resolve(strict=True)
        if not real.is_relative_to(self._root) or _hidden(real.relative_to(self._root).parts):
            raise FileNotFoundError(path)
        # O_NONBLOCK: opening a named pipe would wait for its other end.
        fd = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise FileNotFoundError(path)
        return fd

    def _send(self, head: Head, path: Path, fd: int, *, is_head: bool) -> bytes | FileAnswer:
        keep = False
        try:
            status = os.fstat(fd)
            if status.st_size > MAX_FILE:
                message = (
                    f"{head.path[:200]!a} is larger than the {MAX_FILE >> 20} MiB that are sent "
                    "from here; put it on a web server"
                )
                return refuse(403, message, "file_too_large", head=is_head)
            small = self._small(path, fd, status) if status.st_size <= SMALL_FILE else None
            etag = small.etag if small else f'"{status.st_mtime_ns:x}-{status.st_size:x}"'
            headers = {**self._headers, "ETag": etag}
            if _matches(head, etag):
                return start(304, headers)
            headers["Content-Type"] = TYPES.get(path.suffix.lower(), "application/octet-stream")
            size = len(small.content) if small else status.st_size
            headers["Content-Length"] = str(size)
            answer = start(200, headers)
            if is_head:
                return answer
            if small:
                return answer + small.content
            keep = True
            return FileAnswer(answer, fd, size)
        finally:
            if not keep:
                os.close(fd)

    def _small(self, path: Path, fd: int, status: os.stat_result) -> _Small:
        """The file's content, from memory unless it has changed."""
        key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        known = self._cache.get(path)
        if known is not None and known.key == key:
            self._cache.move_to_end(path)
            return known
        content = os.pread(fd, SMALL_FILE, 0)
        # Of the content, as packages are often installed with equal times for all versions.
        fresh = _Small(key, f'"{hashlib.sha256(content).hexdigest()[:32]}"', content)
        self._cached += len(content) - (len(known.content) if known else 0)
        self._cache[path] = fresh
        self._cache.move_to_end(path)
        while self._cached > CACHE_BYTES:
            _, oldest = self._cache.popitem(last=False)
            self._cached -= len(oldest.content)
        return fresh


def _relative(target: str) -> str | None:
    """The path of a file below the folder; None for what cannot be one."""
    if not target.startswith("/"):
        return None
    try:
        parts = [unquote(part, errors="strict") for part in target[1:].split("/")]
    except UnicodeDecodeError:
        return None
    # After decoding: %2F, %2E%2E and %5C must mean nothing else than what they stand for.
    strange = any(not part or not part.isprintable() or set(part) & set("/\\") for part in parts)
    return None if strange or _hidden(parts) else "/".join(parts)


def _hidden(parts: list[str] | tuple[str, ...]) -> bool:
    """Whether one of them is a dot file, or "." or ".."."""
    return any(part.startswith(".") for part in parts)


def _matches(head: Head, etag: str) -> bool:
    """Whether the client has this version already (RFC 9110, 13.1.2: weak comparison)."""
    return any(tag in ("*", etag, f"W/{etag}") for tag in head.tokens("if-none-match"))
