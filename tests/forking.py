"""The same work in forked children and in their parent, for interpreters of their own."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

DEADLINE = 60.0


def in_thread(work: Callable[[], Any]) -> Any:
    """What `work` returns in a thread, as engines run in a worker; IndexError where it hangs."""
    box: list[Any] = []
    thread = threading.Thread(target=lambda: box.append(work()), daemon=True)
    thread.start()
    thread.join(DEADLINE)
    return box[0]


def in_children_and_here(work: Callable[[], Any], children: int) -> list[Any]:
    """What `work` returns in each child, one after another, and then in this process, as JSON has
    it. Raises AssertionError where a child fails or hangs."""
    results = [_in_child(work) for _ in range(children)]
    return [*results, json.loads(json.dumps(in_thread(work)))]


def _in_child(work: Callable[[], Any]) -> Any:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read)
            os.write(write, json.dumps(in_thread(work)).encode())
            os._exit(0)
        except BaseException as error:  # noqa: BLE001 - it must never go on as its parent
            print(repr(error), file=sys.stderr)
            os._exit(1)
    os.close(write)
    with os.fdopen(read) as pipe:
        result = json.loads(pipe.read() or "null")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return result
