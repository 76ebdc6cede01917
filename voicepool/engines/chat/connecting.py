"""What looking for a server and keeping a connection to it take, for either client library."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Iterable
from urllib.parse import SplitResult, urlsplit

GLANCE = 1.5
"""Seconds that a step of a look at the server may take in the zygote, which forks nobody then."""
KEPT_ALIVE = 60.0
"""Seconds that an idle connection is kept. One that a router has forgotten would look alive."""
MOST_CONNECTIONS = 16
"""Of one worker, which has one caller."""
MOST_NAMES = 5


def split_url(url: str) -> SplitResult:
    """The parts of an HTTP URL. Raises ValueError, which quotes neither a user nor a password."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"{parts.scheme}:// is not http:// or https://")
    if parts.username is not None or parts.password is not None:
        raise ValueError("it must not hold a user or password")
    if not url.isprintable() or " " in url:
        raise ValueError("it has blanks or control characters")
    _ = parts.port  # raises for one that is no number below 65536
    return parts


def import_async_backend() -> None:
    """Import what both libraries import when they are first awaited, before the fork.

    Not in a running event loop, where nobody is about to fork.
    """
    import anyio
    import anyio.lowlevel

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        anyio.run(anyio.lowlevel.checkpoint)


def there(model: str, names: Iterable[str]) -> str:
    """For an error message: the models that a server has, those most like `model` first."""
    close = difflib.get_close_matches(model, list(names), n=MOST_NAMES, cutoff=0.0)
    return f"it has {', '.join(close)}" if close else "it has none"
