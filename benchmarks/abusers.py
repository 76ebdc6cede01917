"""Hostile clients: `python -m benchmarks.abusers NAME HOST PORT` abuses a server until SIGTERM.

Each takes one caller's place, or none, and does one thing as fast as it can. It stands for many
machines, so it gets what the server leaves of the processor (nice 19): what is measured beside it
is what the server does, not what the abuser costs.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Any

from benchmarks.wire import BINARY, DEADLINE, PING, TEXT, frame, request

REALTIME = "/v1/realtime"
BROWSER = "/ws"
RETRY_SECONDS = 0.02
"""After a refusal: a storm, not a spin."""
TURN_SECONDS = 0.5
HALF_HEADS = 800
BATCH = 64 << 10
"""Bytes sent at once, about."""

Address = tuple[str, int]
Abuse = Callable[[Address], Generator[int, None, None]]
"""Abuses the server at an address for as long as it is iterated; says how often it did, at least
every TURN_SECONDS."""


def event(kind: str, **fields: Any) -> bytes:
    """A client event as a frame."""
    return frame(TEXT, json.dumps({"type": kind, **fields}).encode())


@contextlib.contextmanager
def upgraded(address: Address, path: str) -> Iterator[socket.socket]:
    """A connection with a worker behind it. Raises OSError where there is none."""
    with socket.create_connection(address, DEADLINE) as sock:
        sock.sendall(request(address, path))
        if not sock.recv(65536).startswith(b"HTTP/1.1 101"):
            raise ConnectionRefusedError
        try:
            yield sock
        finally:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)  # closing alone would wait for who reads


def _read_all(sock: socket.socket) -> threading.Thread:
    """Read and forget until the end: what never reads is an abuse of its own."""

    def read() -> None:
        with contextlib.suppress(OSError):
            while sock.recv(1 << 20):
                pass

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    return reader


def flood(
    data: Callable[[random.Random], bytes], *, path: str = REALTIME, reads: bool = True
) -> Abuse:
    """Sends frames without a pause. Cut off by the server, it calls again."""

    def abuse(address: Address) -> Generator[int, None, None]:
        chance, sent = random.Random(1), 0
        while True:
            try:
                with upgraded(address, path) as sock:
                    if reads:
                        _read_all(sock)
                    sock.settimeout(TURN_SECONDS)
                    while True:
                        rest = memoryview(data(chance))
                        while rest:
                            rest = _send(sock, rest)
                            yield sent
                        sent += 1
            except OSError:
                time.sleep(RETRY_SECONDS)
                yield sent

    return abuse


def _send(sock: socket.socket, data: memoryview) -> memoryview:
    """What is left of it when the server has taken some, or none for a while."""
    try:
        return data[sock.send(data) :]
    except TimeoutError:
        return data


def _many(one: bytes) -> Callable[[random.Random], bytes]:
    batch = one * max(1, BATCH // len(one))
    return lambda chance: batch


def _giant(chance: random.Random) -> bytes:
    return event(
        "input_audio_buffer.append", audio=base64.b64encode(chance.randbytes(15 << 20)).decode()
    )


def _sound(chance: random.Random) -> bytes:
    """A tenth of a second of noise, at once after the last."""
    return event(
        "input_audio_buffer.append", audio=base64.b64encode(chance.randbytes(4800)).decode()
    )


def _item(chance: random.Random) -> bytes:
    part = {"type": "input_text", "text": chance.randbytes(500).hex()}
    item = {"type": "message", "role": "user", "content": [part]}
    return event("conversation.item.create", item=item)


def _wants_stories(chance: random.Random) -> bytes:
    part = {"type": "input_text", "text": "Tell me a long story."}
    item = {"type": "message", "role": "user", "content": [part]}
    return event("conversation.item.create", item=item) + event("response.create")


def _frames_of_a_page(chance: random.Random) -> bytes:
    return frame(BINARY, bytes(8) + chance.randbytes(4096))


def reconnect(address: Address) -> Generator[int, None, None]:
    """Calls, and hangs up without a word once it is answered."""
    calls = 0
    while True:
        try:
            with upgraded(address, REALTIME):
                calls += 1
        except OSError:
            time.sleep(RETRY_SECONDS)
        yield calls


def half_heads(address: Address) -> Generator[int, None, None]:
    """Keeps opening connections that never finish their request."""
    held: deque[socket.socket] = deque()
    opened = 0
    try:
        while True:
            try:
                sock = socket.create_connection(address, DEADLINE)
                held.append(sock)
                sock.sendall(b"GET /v1/realtime HTTP/1.1\r\nHost: x\r\nX-")
                opened += 1
            except OSError:
                time.sleep(RETRY_SECONDS)
            if len(held) > HALF_HEADS:
                held.popleft().close()
            yield opened
    finally:
        for sock in held:
            sock.close()


ABUSES: dict[str, Abuse] = {
    "flood of events": flood(_many(event("conversation.item.retrieve", item_id="item_x"))),
    "flood of pings": flood(_many(frame(PING, b"x" * 100))),
    "flood of sound": flood(_sound),
    "giant sound": flood(_giant),
    "deep JSON": flood(_many(frame(TEXT, b"[" * 60_000))),
    "thousands of items": flood(_item),
    "never reads": flood(_wants_stories, reads=False),
    "flood of page frames": flood(_frames_of_a_page, path=BROWSER),
    "reconnect storm": reconnect,
    "half-sent heads": half_heads,
}


def main(name: str, host: str, port: str) -> None:
    os.nice(19)
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    count, told = 0, False
    with contextlib.closing(ABUSES[name]((host, int(port)))) as abuse:
        for count in abuse:
            if count and not told:
                told = True
                print("abusing", flush=True)
            if stopped.is_set():
                break
    print(count, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
