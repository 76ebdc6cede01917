"""Workers: warm-up, its failures, the one call, and what a hung or broken one costs."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import select
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK, InvalidStatus

from tests.pools import PoolServer, hello
from tests.rawhttp import upgrade
from voicepool import linux
from voicepool.quantities import format_size

Start = Callable[..., PoolServer]


@pytest.fixture
def flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that makes a troubled app well."""
    path = tmp_path / "flag"
    monkeypatch.setenv("TROUBLE", str(path))
    return path


# --- warming up ------------------------------------------------------------------------------


def test_warm_up_that_always_fails_backs_off_and_says_why(start_pool: Start, flag: Path) -> None:
    server = start_pool(app="tests.apps.troubled:FailsToWarm", wait=False)
    server.may_log_tracebacks = True
    server.stage("warming")
    select.select([], [], [], 15.0)
    status = server.status()
    assert 3 <= status["totals"]["spawned"] <= 10
    assert "the model is cold" in status["pool"]["last_error"]
    assert server.stage("trouble")["detail"] == status["pool"]["last_error"]
    assert "the model is cold" in server.logged("worker failed to warm up")["error"]
    flag.touch()
    server.stage("serving")
    server.until_idle()
    server.until_status(lambda s: s["pool"]["last_error"] == "", "forgot the trouble")


def test_app_that_cannot_serve_a_rehearsal_is_not_ready(start_pool: Start) -> None:
    server = start_pool(app="tests.apps.troubled:CannotServe", wait=False)
    server.may_log_tracebacks = True
    assert "this pipeline takes no sockets" in server.stage("trouble")["detail"]
    assert not server.workers("idle")


def test_warm_up_runs_at_low_priority_and_the_call_does_not(start_pool: Start) -> None:
    server = start_pool(app="tests.apps.troubled:TellsPriority")
    with server.call() as caller:
        seen = hello(caller)
    mine = [os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0)]
    assert seen["serving"] == mine
    # Niced where that can be taken back, else a batch job.
    niced = seen["warmed"][0] > mine[0]
    assert niced or seen["warmed"][1] == os.SCHED_BATCH


def test_missing_model_ends_the_start(start_pool: Start) -> None:
    server = start_pool(app="tests.apps.troubled:LacksModel", wait=False)
    assert server.wait() == 2
    assert [step["detail"] for step in server.progress if step["stage"] == "trouble"] == [
        "model tiny.bin is missing; fetch it with: make tiny.bin"
    ]


def test_model_lost_later_stops_the_attempts_and_refuses_callers(
    start_pool: Start, flag: Path
) -> None:
    server = start_pool(app="tests.apps.troubled:LosesModel", workers=1)
    flag.touch()
    with server.call() as caller:
        hello(caller)
    status = server.until_status(lambda s: s["pool"]["halted"] and not s["workers"], "halted")
    assert "make tiny.bin" in status["pool"]["last_error"]
    assert status["totals"]["spawned"] == 2
    with pytest.raises(InvalidStatus) as refused:
        server.call()
    assert refused.value.response.status_code == 503
    assert b"unavailable" in refused.value.response.body
    assert server.get("/readyz")[0] == 503
    assert server.get("/healthz")[0] == 200


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP])
def test_worker_lost_while_warming_is_replaced(start_pool: Start, flag: Path, signum: int) -> None:
    server = start_pool(
        app="tests.apps.troubled:HangsInWarmUp", workers=1, warm_up_timeout=1.0, wait=False
    )
    server.stage("warming")
    worker = server.until(lambda: server.workers("warming"), "was warming")[0]
    os.kill(worker["pid"], signum)
    flag.touch()
    server.stage("serving")
    assert server.status()["workers"][0]["worker"] > 1


def test_warm_up_that_hangs_is_killed_with_its_stack_in_the_log(
    start_pool: Start, flag: Path
) -> None:
    server = start_pool(
        app="tests.apps.troubled:HangsInWarmUp", workers=1, warm_up_timeout=0.5, wait=False
    )
    server.logged("worker killed", reason="warm_up_timeout")
    server.until(lambda: any("in warm_up" in line for line in server.stderr), "dumped the stack")
    flag.touch()
    server.stage("serving")


# --- the call --------------------------------------------------------------------------------


def test_worker_that_has_no_descriptor_left_for_its_call_is_replaced(start_pool: Start) -> None:
    server = start_pool(workers=1)
    server.may_log_tracebacks = True
    (worker,) = server.until_idle()["workers"]
    taken = {int(name) for name in os.listdir(f"/proc/{worker['pid']}/fd")}  # noqa: PTH208
    lowest = next(number for number in itertools.count() if number not in taken)
    # There is one for the caller's socket, and none to serve it with.
    _, hard = resource.prlimit(worker["pid"], resource.RLIMIT_NOFILE)
    resource.prlimit(worker["pid"], resource.RLIMIT_NOFILE, (lowest + 1, hard))
    with server.socket() as client:
        client.sendall(upgrade())
        with contextlib.suppress(ConnectionError):
            assert client.recv(4096) == b""
    server.until_idle()
    with server.call() as caller:
        assert hello(caller)["pid"] != worker["pid"]


def test_worker_serves_one_caller(start_pool: Start) -> None:
    server = start_pool()
    pids = set()
    for number in range(1, 7):
        with server.call() as caller:
            who = hello(caller)
            pids.add(who["pid"])
            assert who["caller"][0] == number
    assert len(pids) == 6
    server.until(lambda: not pids & server.family().keys(), "ended the used workers")


def test_app_that_raises_closes_with_1011_and_its_words_stay_out_of_the_log(
    start_pool: Start,
) -> None:
    server = start_pool()
    with server.call() as caller:
        hello(caller)
        caller.send("!raise secret words")
        with pytest.raises(ConnectionClosedError) as closed:
            caller.recv(timeout=60)
        assert closed.value.rcvd
        assert closed.value.rcvd.code == 1011
    assert server.logged("app failed")["error"] == "KeyError"
    server.until_idle()
    assert "secret words" not in "".join(server.stderr)


def test_log_has_one_line_for_a_call_and_one_more_for_a_crash(start_pool: Start) -> None:
    """However many callers come and go: what becomes of their workers goes without saying."""
    server = start_pool(workers=1, log_level="info")
    for _ in range(3):
        with server.call() as caller:
            hello(caller)
        server.until_idle()
    os.kill(server.workers("idle")[0]["pid"], signal.SIGKILL)
    assert server.logged("worker exited")["level"] == "warning"
    ready = server.until(lambda: _logged(server, "worker ready")[1:], "had another worker")
    assert [line["worker"] for line in ready] == [5]
    assert len(_logged(server, "call ended")) == 3
    assert [line["status"] for line in _logged(server, "worker exited")] == [-signal.SIGKILL]


@pytest.mark.parametrize("why", ["reload", "zygote"])
def test_log_has_a_crash_whose_zygote_is_no_more(start_pool: Start, why: str) -> None:
    """Then it is the supervisor that hears of it."""
    server = start_pool(workers=1, log_level="info")
    with server.call() as caller:
        pid = hello(caller)["pid"]
        zygote = server.status()["server"]["zygote"]["pid"]
        if why == "reload":
            server.reload()
        else:
            os.kill(zygote, signal.SIGKILL)
        server.until(lambda: zygote not in server.family(), "was rid of the old zygote")
        os.kill(pid, signal.SIGKILL)
        line = server.logged("worker exited", pid=pid)
        assert (line["worker"], line["status"], line["level"]) == (1, -signal.SIGKILL, "warning")


def _logged(server: PoolServer, event: str) -> list[dict[str, Any]]:
    return [line for line in server.logs if line["event"] == event]


def test_call_ends_at_the_limit(start_pool: Start) -> None:
    server = start_pool(call_limit=0.3)
    with server.call() as caller:
        hello(caller)
        with pytest.raises(ConnectionClosedOK) as closed:
            caller.recv(timeout=60)
        assert closed.value.rcvd
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1001, "call_limit")
    assert server.until_idle()["totals"]["limits"]["call_limit"] == 1
    assert server.logged("call ended", limit="call_limit")["allowed"] == 0.3


@pytest.mark.parametrize("order", ["!hang", "!stuck"])
def test_hung_worker_costs_its_own_caller_only(start_pool: Start, order: str) -> None:
    server = start_pool(workers=2, heartbeat_timeout=1.0)
    with server.call() as victim, server.call() as bystander:
        hello(victim)
        hello(bystander)
        victim.send(order)
        with pytest.raises(ConnectionClosedError):
            victim.recv(timeout=60)
        bystander.send("all well")
        assert bystander.recv(timeout=60) == "all well"
    server.logged("worker killed", reason="heartbeat_timeout")
    server.until(lambda: any("in _misbehave" in line for line in server.stderr), "dumped the stack")
    totals = server.until_idle()["totals"]
    assert (totals["lost"], totals["completed"]) == (1, 1)


def test_idle_worker_that_stops_is_found_by_its_silence(start_pool: Start) -> None:
    server = start_pool(workers=1, heartbeat_timeout=1.0)
    stopped = server.workers("idle")[0]
    os.kill(stopped["pid"], signal.SIGSTOP)
    server.logged("worker killed", reason="heartbeat_timeout")
    assert server.until_idle()["workers"][0]["pid"] != stopped["pid"]


def test_worker_over_the_hard_limit_is_killed_with_a_reason(start_pool: Start) -> None:
    server = start_pool(workers=1, ram_hard_limit=120 << 20, heartbeat_interval=0.05)
    with server.call() as caller:
        hello(caller)
        caller.send("!eat")
        with pytest.raises(ConnectionClosedError) as closed:
            caller.recv(timeout=60)
        assert closed.value.rcvd
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1011, "hard_limit")
    assert server.logged("worker killed", reason="hard_limit")["private"] > 120 << 20
    totals = server.until_idle()["totals"]
    assert totals["limits"]["hard_limit"] == 1
    assert totals["exits"] == {"hard_limit": 1}


# --- the budget ------------------------------------------------------------------------------


def test_what_does_not_fit_is_said_and_what_fits_serves(start_pool: Start) -> None:
    pilot = start_pool(workers=1)
    worker = pilot.until_idle()["workers"][0]["private"]
    zygote = pilot.status()["memory"]["devices"][0]["zygote"]
    room = zygote + int(2.5 * worker)
    server = start_pool(workers=8, ram_budget=room, ram_per_worker=worker)
    step = server.stage("serving")
    assert 1 <= step["warm"] < 8
    assert "fit into the RAM" in step["detail"]
    assert server.status()["pool"]["bound_by"] == "budget:host"
    with server.call() as caller:
        assert hello(caller)
    server = start_pool(workers=8, ram_budget=room, ram_per_worker=worker, strict=True, wait=False)
    assert server.wait() == 4
    room = zygote + worker // 2
    server = start_pool(workers=8, ram_budget=room, ram_per_worker=1 << 20, wait=False)
    assert server.wait() == 2
    assert "as measured" in server.stage("trouble")["detail"]


def test_a_budget_below_one_worker_stops_the_start_with_what_to_change(start_pool: Start) -> None:
    server = start_pool(workers=1, ram_budget=1 << 20, wait=False)
    assert server.wait() == 2
    assert server.stderr[-1] == (
        "voicepool: a worker takes 256 MiB of RAM by ram_per_worker, but at most 1 MiB of "
        f"{format_size(linux.host_memory().total)} are for workers: raise ram_budget, or lower "
        "ram_reserve, or lower ram_per_worker if that is more than a worker takes\n"
    )


def test_strict_start_fails_when_a_worker_is_missing(start_pool: Start, flag: Path) -> None:
    server = start_pool(strict=True, app="tests.apps.troubled:FailsToWarm", wait=False)
    server.may_log_tracebacks = True
    assert server.wait() == 4
