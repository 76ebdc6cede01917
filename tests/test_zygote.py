"""The zygote: what it forks, what it refuses to fork, and that calls outlive it."""

from __future__ import annotations

import asyncio
import os
import resource
import select
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.pools import DEADLINE, PoolServer, hello
from voicepool import forker, ipc, reception
from voicepool.config import Settings
from voicepool.errors import ConfigError
from voicepool.handles import WorkerHandle
from voicepool.pool import Reason
from voicepool.reloader import Trial
from voicepool.zygote import RESERVED, check_paths, load_app

Start = Callable[..., PoolServer]


def status_field(pid: int, name: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split(":", 1)[1].strip() for line in lines if line.startswith(name + ":"))


def zygote_pid(server: PoolServer) -> int:
    return int(server.status()["server"]["zygote"]["pid"])


# --- what a fork is --------------------------------------------------------------------------


def test_zygote_is_single_threaded_and_parent_of_the_workers(start_pool: Start) -> None:
    server = start_pool()
    zygote = zygote_pid(server)
    assert status_field(zygote, "Threads") == "1"
    assert status_field(zygote, "PPid") == str(server.pid)
    for worker in server.workers():
        assert status_field(worker["pid"], "PPid") == str(zygote)


def test_worker_is_a_process_of_its_own(start_pool: Start) -> None:
    server = start_pool()
    for worker in server.workers():
        pid = worker["pid"]
        assert os.getsid(pid) == pid
        ignored = int(status_field(pid, "SigIgn"), 16)
        assert ignored >> (signal.SIGINT - 1) & 1
        score = int(Path(f"/proc/{pid}/oom_score_adj").read_text())
        assert score > int(Path(f"/proc/{server.pid}/oom_score_adj").read_text())
        assert os.getpriority(os.PRIO_PROCESS, pid) == os.getpriority(os.PRIO_PROCESS, server.pid)


def test_workers_share_neither_randomness_nor_temporary_files(start_pool: Start) -> None:
    server = start_pool()
    seen: list[dict[str, Any]] = []
    for _ in range(4):
        with server.call() as caller:
            seen.append(hello(caller))
            caller.send("!litter")
            assert Path(str(caller.recv())).exists()
    assert len({worker["random"] for worker in seen}) == 4
    assert len({worker["tmpdir"] for worker in seen}) == 4
    server.until_idle()
    server.until(
        lambda: not any(Path(worker["tmpdir"]).exists() for worker in seen),
        "removed the temporary folders",
    )


def test_what_a_worker_forked_dies_with_it(start_pool: Start) -> None:
    server = start_pool(workers=1)
    before = len(server.family())
    with server.call() as caller:
        hello(caller)
        caller.send("!fork")
        assert caller.recv(timeout=60) == "forked"
        assert len(server.family()) == before + 1
    server.until_idle()
    server.until(lambda: len(server.family()) == before, "ended the worker's child")


# --- what it refuses -------------------------------------------------------------------------


def test_thread_left_by_preload_is_a_clear_error(start_pool: Start) -> None:
    server = start_pool(app="tests.apps.troubled:LeavesThread", wait=False)
    trouble = server.stage("trouble")
    assert "preload() left a thread running" in trouble["detail"]
    assert "load()" in trouble["detail"]
    assert server.wait() == 2


def test_configuration_error_in_preload_ends_the_start(start_pool: Start) -> None:
    server = start_pool(app="tests.apps.troubled:Misconfigured", wait=False)
    assert server.wait() == 2
    assert "llm.temperature" in server.progress[1]["detail"]


@pytest.mark.parametrize(
    ("app", "words"),
    [
        ("tests.apps.nowhere:create", "no module named"),
        ("tests.apps.echo:nothing", "no callable 'nothing'"),
        ("tests.apps.echo:json.dumps", "no callable"),
        ("builtins:dict", "no app"),
        ("json:loads", "loads() is called without arguments: missing a required argument: 's'"),
        ("echo", "package.module:factory"),
    ],
)
def test_app_that_cannot_be_had_is_a_clear_error(start_pool: Start, app: str, words: str) -> None:
    server = start_pool(app=app, wait=False)
    assert server.wait() == 2
    assert words in server.progress[1]["detail"]


def test_app_that_is_no_python_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "typo.py").write_text("\ndef create(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"typo.py:2: not valid Python"):
        load_app("typo:create", Settings())


@pytest.mark.parametrize("member", ["preload", "load", "warm_up"])
def test_app_that_would_never_be_loaded_is_not_hosted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, member: str
) -> None:
    """`serve` is async, so the others are easily made so; nothing awaits them."""
    (tmp_path / f"async_{member}.py").write_text(
        f"from tests.apps.echo import Echo\n\n\nclass App(Echo):\n"
        f"    async def {member}(self, *_): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=rf"{member}\(\) must not be async"):
        load_app(f"async_{member}:App", Settings())


@pytest.mark.parametrize("paths", [[], "/echo", ["echo"], ["/echo", "/healthz"], ["/metrics"]])
def test_paths_that_no_caller_could_reach(paths: Sequence[str]) -> None:
    with pytest.raises(ConfigError, match="path"):
        check_paths(paths)
    assert check_paths(("/a", "/b")) == ["/a", "/b"]


def test_reserved_paths_are_those_that_the_supervisor_answers() -> None:
    assert RESERVED == (
        reception.HEALTHZ,
        reception.READYZ,
        reception.STATUS,
        reception.METRICS,
    )


def test_preload_that_exits_is_tried_again(
    start_pool: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TROUBLE", str(tmp_path / "flag"))
    server = start_pool(app="tests.apps.troubled:ExitsInPreload", wait=False)
    server.may_log_tracebacks = True
    assert "download failed" in server.stage("trouble")["detail"]
    server.stage("serving")


def test_preload_that_dies_without_a_word_is_told_and_tried_again(
    start_pool: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = tmp_path / "flag"
    monkeypatch.setenv("TROUBLE", str(flag))
    server = start_pool(app="tests.apps.troubled:DiesInPreload", wait=False)
    assert "signal 9" in server.stage("trouble")["detail"]
    flag.touch()
    server.stage("serving")


async def test_preload_that_hangs_is_told_for_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TROUBLE", str(tmp_path / "flag"))
    monkeypatch.setattr(forker, "PRELOAD_SECONDS", 0.1)
    trial = Trial()
    hanging = forker.Forker(Settings(app="tests.apps.troubled:HangsInPreload"), tmp_path, trial)
    async with asyncio.timeout(DEADLINE):
        hanging.start()
        await hanging.settled(trial.ready)
        await hanging.retire()
    assert "not loaded within 0.1 s" in trial.error


def test_strict_start_fails_where_preload_does(
    start_pool: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TROUBLE", str(tmp_path / "flag"))
    server = start_pool(app="tests.apps.troubled:DiesInPreload", strict=True, wait=False)
    assert server.wait() == 4


# --- its death -------------------------------------------------------------------------------


class Forking(Trial):
    """Forks too."""

    def reaped(self, worker: int, pid: int, status: int) -> None: ...


async def test_zygote_outlives_a_reply_for_which_there_was_no_descriptor(tmp_path: Path) -> None:
    trial = Forking()
    living = forker.Forker(
        Settings(app="tests.apps.echo:create", inspectable=True), tmp_path, trial
    )
    ready, gone = asyncio.Event(), asyncio.Event()

    def heard(_: WorkerHandle, message: ipc.FromWorker) -> None:
        if isinstance(message, ipc.Ready):
            ready.set()

    async with asyncio.timeout(DEADLINE):
        living.start()
        await trial.ready.wait()
        zygote, channel = living.pid, living._channel
        assert channel is not None
        handle = WorkerHandle(1, None, tmp_path / "worker-1", heard, lambda _: gone.set())
        living.fork(handle)
        select.select([channel], [], [], DEADLINE)
        lowest = os.dup(0)
        os.close(lowest)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        try:
            living._read()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        lost = handle.pid
        await ready.wait()
        assert lost is None
        assert handle.pid is not None  # by its own word
        handle.stop(Reason.SURPLUS)
        await gone.wait()
        assert living.pid == zygote
        await living.retire()


def test_calls_do_not_notice_the_death_of_the_zygote(start_pool: Start) -> None:
    server = start_pool(spare=1)
    with server.call() as caller:
        hello(caller)
        server.until_status(lambda s: s["pool"]["states"]["idle"] == 2, "refilled")
        old = zygote_pid(server)
        os.kill(old, signal.SIGKILL)
        server.until_status(
            lambda s: (
                s["server"]["zygote"]["pid"] not in (old, None)
                and s["server"]["zygote"]["restarts"] == 1
            ),
            "restarted the zygote",
        )
        caller.send("still there?")
        assert caller.recv(timeout=60) == "still there?"
    # Orphans are the supervisor's to reap, and new workers come from the new zygote.
    for _ in range(4):
        with server.call() as caller:
            hello(caller)
    server.until_idle()
    server.until(lambda: "Z" not in server.family().values(), "had reaped everybody")
    assert server.status()["totals"]["lost"] == 0


def test_hung_zygote_is_replaced(start_pool: Start) -> None:
    server = start_pool(hello_timeout=1.0)
    os.kill(zygote_pid(server), signal.SIGSTOP)
    with server.call() as caller:
        hello(caller)
    server.logged("zygote hangs")
    server.until_idle()


def test_fork_whose_reply_was_lost_is_not_lost(
    start_pool: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TROUBLE", str(tmp_path / "flag"))
    server = start_pool(app="tests.apps.troubled:ZygoteDiesMute", workers=3)
    third = next(worker for worker in server.workers() if worker["worker"] == 3)
    assert third["state"] == "idle"
    assert status_field(third["pid"], "PPid") == str(server.pid)
    os.kill(third["pid"], signal.SIGKILL)
    server.until_status(lambda s: s["totals"]["spawned"] == 4, "replaced the adopted worker")
    server.until_idle()


def test_zygote_that_can_never_come_back_halts_the_pool(
    start_pool: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = tmp_path / "flag"
    monkeypatch.setenv("TROUBLE", str(flag))
    server = start_pool(app="tests.apps.troubled:MisconfiguredLater", spare=1)
    flag.touch()
    with server.call() as caller:
        hello(caller)
        os.kill(zygote_pid(server), signal.SIGKILL)
        # Workers that are warm already still serve.
        with server.call() as other:
            assert hello(other)
    status = server.until_status(lambda s: s["pool"]["halted"], "halted")
    assert "llm.temperature" in status["pool"]["last_error"]
    server.signal(signal.SIGTERM)
    assert server.wait() == 0


def test_stop_while_forks_wait_for_a_zygote(
    start_pool: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = tmp_path / "flag"
    monkeypatch.setenv("TROUBLE", str(flag))
    server = start_pool(app="tests.apps.troubled:HangsInSecondPreload", spare=1)
    old = zygote_pid(server)
    os.kill(old, signal.SIGKILL)
    server.until_status(lambda s: s["server"]["zygote"]["pid"] not in (None, old), "has another")
    with server.call() as caller:
        hello(caller)
        server.until(lambda: server.workers("starting"), "asked for a worker")
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
