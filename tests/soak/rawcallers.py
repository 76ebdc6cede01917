"""Callers who do what no client library would: bytes on a socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from benchmarks.wire import TEXT, frame, request
from tests.rawhttp import Answer, parse
from tests.soak.account import Ended, Outcome
from tests.soak.client import OPEN_PATIENCE, BrokenOff, Refused, Wrong, refusal
from tests.soak.plan import Part
from tests.soak.site import KEY, PATH, STORY, Site

PROBES: Final[tuple[tuple[str, bool, tuple[int, ...]], ...]] = (
    ("/healthz", False, (200,)),
    ("/readyz", False, (200, 503)),
    ("/status", True, (200,)),
    ("/status", False, (401,)),
    ("/", False, (200,)),
    ("/v1/models", True, (200,)),
    ("/v1/realtime", True, (426,)),
    ("/nothing", False, (404,)),
)
"""Path, whether with the key, and what may come back."""


@asynccontextmanager
async def dialled(site: Site) -> AsyncIterator[tuple[StreamReader, StreamWriter]]:
    """A TCP connection; broken off at the end, with an RST where something is left unread."""
    reader, writer = await asyncio.open_connection(*site.address, ssl=site.trust)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _event(kind: str, **fields: Any) -> bytes:
    return frame(TEXT, json.dumps({"type": kind, **fields}).encode())


async def absent(site: Site, rng: random.Random) -> Ended:
    """Connects, and sends nothing."""
    _, writer = await asyncio.open_connection(*site.address)  # under TLS not even its hello
    await asyncio.sleep(rng.uniform(0, 1))
    writer.transport.abort()
    return Ended(Part.ABSENT, Outcome.NO_CALL, asked=False)


async def half_head(site: Site, rng: random.Random) -> Ended:
    """Hangs up before its request is complete."""
    whole = request(site.address, PATH)
    async with dialled(site) as (_, writer):
        writer.write(whole[: rng.randrange(1, len(whole) - 4)])
        await writer.drain()
        await asyncio.sleep(rng.uniform(0, 1))
    return Ended(Part.HALF_HEAD, Outcome.NO_CALL, asked=False)


async def impatient(site: Site, rng: random.Random) -> Ended:
    """Asks for a call, and hangs up without a look at what comes back, if anything does."""
    async with dialled(site) as (_, writer):
        writer.write(request(site.address, PATH))
        await writer.drain()
        # Closed with nothing to read it ends in a FIN: the server has the request in any case.
        await asyncio.sleep(rng.choice((0, rng.uniform(0, 1.5))))
    return Ended(Part.IMPATIENT, Outcome.HUNG_UP, asked=True)


async def fleeting(site: Site, rng: random.Random) -> Ended:
    """Hangs up as soon as it has a worker."""
    async with dialled(site) as (reader, writer):
        await _upgrade(site, reader, writer)
    return Ended(Part.FLEETING, Outcome.HUNG_UP, asked=True, opened=True)


async def never_reads(site: Site, rng: random.Random) -> Ended:
    """Asks for stories, and reads none of them; the stream reader stops at its limit of 64 KiB."""
    async with dialled(site) as (reader, writer):
        await _upgrade(site, reader, writer)
        part = {"type": "input_text", "text": STORY}
        item = {"type": "message", "role": "user", "content": [part]}
        writer.write(_event("conversation.item.create", item=item) + _event("response.create"))
        with contextlib.suppress(OSError):
            await writer.drain()
        await asyncio.sleep(rng.uniform(2, 5))
    return Ended(Part.NEVER_READS, Outcome.HUNG_UP, asked=True, opened=True)


async def _upgrade(site: Site, reader: StreamReader, writer: StreamWriter) -> None:
    """Read the answer to the opening handshake. Raises Refused, BrokenOff and Wrong."""
    port = writer.get_extra_info("sockname")[1]
    try:
        async with asyncio.timeout(OPEN_PATIENCE):
            writer.write(request(site.address, PATH))
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"HTTP/1.1 101"):
                return
            answer = parse(head + await reader.read())
    except TimeoutError:
        raise Wrong(f"no answer within {OPEN_PATIENCE:.0f} s", False) from None
    except (EOFError, OSError) as error:
        raise BrokenOff(port, False, f"in the handshake: {type(error).__name__}") from error
    raise Refused(refusal(answer.status, answer.headers.get("retry-after"), answer.body))


async def probe(site: Site, rng: random.Random) -> Ended:
    """An HTTP request that takes no worker."""
    path, with_key, wanted = rng.choice(PROBES)
    answer = await ask(site, path, with_key)
    if answer.status not in wanted:
        raise Wrong(f"{path} was answered {answer.status}", False)
    return Ended(Part.PROBE, Outcome.NO_CALL, asked=False)


async def ask(site: Site, path: str, with_key: bool) -> Answer:
    """The answer to a GET."""
    key = f"Authorization: Bearer {KEY}\r\n" if with_key else ""
    async with dialled(site) as (reader, writer), asyncio.timeout(OPEN_PATIENCE):
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{key}\r\n".encode())
        return parse(await reader.read())
