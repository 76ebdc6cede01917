"""Real servers whose workers take VRAM of a driver that the test plays with, see tests/nvml."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import ClientConnection

from tests.nvml.driver import GB, MB, NOT_LOADED, Card, Driver
from tests.pools import DEADLINE, PoolServer
from tests.scraping import scrape
from voicepool.config import Settings

Start = Callable[..., PoolServer]
Install = Callable[..., Driver]

LOAD = 2 * GB
"""What a worker takes at loading."""
RESERVE = Settings().vram_reserve


@pytest.fixture
def start(start_pool: Start) -> Start:
    """Starts servers that host the app that takes VRAM."""

    def starting(driver: Driver | None = None, *, load: int = LOAD, **settings: Any) -> PoolServer:
        if driver is not None:
            (driver.folder / "load").write_text(str(load))
        settings = {"app": "tests.apps.gpu:create", "gpus": "auto", **settings}
        return start_pool(**settings)

    return starting


def account(report: dict[str, Any], device: str = "cuda:0") -> dict[str, Any]:
    """A device's row in `/status`."""
    rows = {row["device"]: row for row in report["memory"]["devices"]}
    return rows[device]  # type: ignore[no-any-return]


def place(client: ClientConnection) -> tuple[str, str | None]:
    """What the app was told, and what CUDA would have shown it."""
    hello = json.loads(client.recv(timeout=DEADLINE))
    return hello["device"], hello["gpu"]


def takes(client: ClientConnection, size: int) -> None:
    """Let the caller's worker have so much."""
    client.send(str(size))
    assert client.recv(timeout=DEADLINE) == "done"


# --- one GPU, shared with an LLM -----------------------------------------------------------------


def test_an_llm_that_grows_beside_eight_workers(install_driver: Install, start: Start) -> None:
    driver = install_driver(Card("GPU-a", 24 * GB, others=GB))
    server = start(driver, workers=8, vram_per_worker=4 * GB)
    report = server.until_status(
        lambda s: s["pool"]["states"]["idle"] == 8 and {w["vram"] for w in s["workers"]} == {LOAD},
        "had eight warm workers, all weighed",
    )
    row = account(report)
    assert (row["others"], row["per_worker"], row["workers"]) == (GB, LOAD, 8)
    assert (row["model"], row["uuid"]) == ("NVIDIA A10G", "GPU-a")
    assert (report["memory"]["driver"], report["memory"]["measured"]) == ("550.54.15", True)
    assert row["reserved"] == 8 * LOAD
    seen = scrape(server)
    assert seen.of("workers_vram_bytes") == {"cuda:0": 8 * LOAD}
    assert seen.of("device_memory_bytes")["cuda:0"] == 24 * GB
    assert seen.of("device_others_bytes")["cuda:0"] == GB
    assert seen.of("device_reserved_bytes")["cuda:0"] == 8 * LOAD
    assert seen.of("device_room_workers")["cuda:0"] == row["fits"]

    with server.call() as caller:
        assert place(caller) == ("cuda:0", "GPU-a")
        server.until_status(lambda s: s["pool"]["states"]["serving"] == 1, "served")
        driver.cards[0].others = 24 * GB - RESERVE - 4 * LOAD
        driver.say()
        server.until_status(lambda s: len(s["workers"]) == 4, "had four workers left")
        driver.cards[0].others = 22 * GB
        driver.say()
        report = server.until_status(lambda s: len(s["workers"]) == 1, "had one worker left")
        assert (report["workers"][0]["state"], report["pool"]["target"]) == ("serving", 0)
        assert report["pool"]["bound_by"] == "budget:cuda:0"
        takes(caller, LOAD)

        driver.cards[0].others = GB
        driver.say()
        server.until_status(lambda s: s["pool"]["states"]["idle"] == 7, "was warm again")
    server.logged("memory", device="cuda:0", bound_by="budget:cuda:0")
    assert server.status()["totals"]["lost"] == 0


def test_where_others_fill_the_gpu_now_the_start_waits_and_says_so(
    install_driver: Install, start: Start
) -> None:
    driver = install_driver(Card("GPU-a", 24 * GB, others=23 * GB))
    server = start(driver, workers=1, wait=False)
    detail = server.stage("trouble")["detail"]
    assert "0 of 1 workers fit into the VRAM of cuda:0" in detail
    assert "others use 23 GiB of 24 GiB" in detail
    driver.cards[0].others = 0
    driver.say()
    server.stage("serving")


def test_a_cap_on_what_all_workers_take(install_driver: Install, start: Start) -> None:
    driver = install_driver(Card("GPU-a", 24 * GB))
    server = start(driver, workers=4, vram_budget=5 * GB)
    report = server.until_idle(2)
    assert (report["pool"]["bound_by"], report["memory"]["binds"]) == ("budget:cuda:0", "cuda:0")
    assert (account(report)["cap"], account(report)["fits"]) == (5 * GB, 0)
    assert "raise vram_budget" in server.stage("serving")["detail"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"vram_per_worker": 30 * GB},
            "a worker takes 30 GiB of VRAM of cuda:0 by vram_per_worker, but at most 23.5 GiB of "
            "24 GiB are for workers: lower vram_reserve, or lower "
            "vram_per_worker if that is more than a worker takes",
        ),
        (
            {"vram_budget": GB},
            "a worker takes 2 GiB of VRAM of cuda:0 by vram_per_worker, but at most 1 GiB of",
        ),
    ],
)
def test_a_budget_below_one_worker_stops_the_start(
    install_driver: Install, start: Start, settings: dict[str, Any], words: str
) -> None:
    server = start(install_driver(Card("GPU-a", 24 * GB)), wait=False, **settings)
    assert server.wait() == 2
    assert words in server.stderr[-1]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_pilot_that_is_measured_above_the_cap_stops_the_start(
    install_driver: Install, start: Start, workers: int
) -> None:
    driver = install_driver(Card("GPU-a", 24 * GB))
    server = start(driver, workers=workers, vram_per_worker=512 * MB, vram_budget=GB, wait=False)
    assert server.wait() == 2
    assert not [step for step in server.progress if step["stage"] == "serving"]
    assert server.stage("trouble")["detail"].startswith(
        "a worker takes 2 GiB of VRAM of cuda:0, as measured, but at most 1 GiB of 24 GiB"
    )


# --- workers that leak ---------------------------------------------------------------------------


def test_a_worker_that_leaks_is_replaced_when_idle_and_killed_in_a_call(
    install_driver: Install, start: Start
) -> None:
    driver = install_driver(Card("GPU-a", 24 * GB))
    limits = {"vram_soft_limit": 3 * GB, "vram_hard_limit": 4 * GB}
    server = start(driver, workers=2, **limits)
    leaking, other = (worker["pid"] for worker in server.until_idle()["workers"])
    driver.allocate("GPU-a", 3 * GB + 1, leaking)
    server.logged("worker told to stop", reason="vram_soft_limit", vram=3 * GB + 1)
    pids = {worker["pid"] for worker in server.until_idle()["workers"]}
    assert other in pids
    assert leaking not in pids

    with server.call() as caller:
        place(caller)
        takes(caller, 4 * GB)
        server.until_status(
            lambda s: any(w["vram"] == 4 * GB for w in s["workers"]), "weighed the caller's worker"
        )
        server.logged("worker above a soft limit in its call", vram=4 * GB)
        takes(caller, 4 * GB + 1)
        with pytest.raises(ConnectionClosedError) as closed:
            caller.recv(timeout=DEADLINE)
        assert closed.value.rcvd
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1011, "vram_hard_limit")
    server.logged("worker killed", reason="vram_hard_limit", vram=4 * GB + 1)
    report = server.until_idle()
    assert report["totals"]["exits"] == {"vram_soft_limit": 1, "vram_hard_limit": 1}
    limits = report["totals"]["limits"]
    assert (limits["vram_soft_limit"], limits["vram_hard_limit"]) == (2, 1)
    assert account(report)["per_worker"] == 4 * GB, "the high-water mark of those within limits"


def test_a_worker_with_too_much_memory_is_killed_though_it_cannot_say_so(
    install_driver: Install, start: Start
) -> None:
    driver = install_driver(Card("GPU-a", 24 * GB))
    server = start(driver, workers=1, vram_hard_limit=4 * GB)
    with server.call() as caller:
        place(caller)
        (worker,) = server.until(lambda: server.workers("serving"), "served")
        os.kill(worker["pid"], signal.SIGSTOP)
        driver.allocate("GPU-a", 4 * GB + 1, worker["pid"])
        with pytest.raises(ConnectionClosedError) as closed:
            caller.recv(timeout=DEADLINE)
        assert closed.value.rcvd is None
    server.logged("worker killed", reason="vram_hard_limit")
    report = server.until_idle()
    assert report["totals"]["limits"]["vram_hard_limit"] == 1
    assert report["totals"]["lost"] == 1


# --- devices that come and go --------------------------------------------------------------------


@pytest.mark.parametrize("trouble", ["the card", "the driver"])
def test_a_gpu_that_vanishes_and_returns(
    install_driver: Install, start: Start, trouble: str
) -> None:
    driver = install_driver(Card("GPU-a", 24 * GB))
    server = start(driver, workers=2)
    server.until_idle()

    def well(*, is_well: bool) -> None:
        driver.cards[0].lost = trouble == "the card" and not is_well
        driver.fail = NOT_LOADED if trouble == "the driver" and not is_well else 0
        driver.say()

    with server.call() as caller:
        place(caller)
        server.until_status(lambda s: s["pool"]["states"]["serving"] == 1, "served")
        well(is_well=False)
        server.logged("gpu cannot be read", device="cuda:0")
        report = server.until_status(lambda s: account(s)["missing"], "missed the GPU")
        assert report["pool"]["states"]["serving"] == 1
        assert scrape(server).of("device_missing") == {"host": 0, "cuda:0": 1}
        takes(caller, LOAD)
    report = server.until_status(lambda s: len(s["workers"]) == 1, "had not replaced the worker")
    assert report["pool"]["bound_by"] == "budget:cuda:0"
    with server.call() as second:
        assert place(second) == ("cuda:0", "GPU-a"), "who is warm already serves"
        well(is_well=True)
        server.logged("gpu is back", device="cuda:0")
    server.until_idle()
    assert server.status()["totals"]["lost"] == 0


# --- several GPUs, and parts of them -------------------------------------------------------------


def test_two_unequal_gpus_are_filled_by_room(install_driver: Install, start: Start) -> None:
    driver = install_driver(
        Card("GPU-a", 5 * GB, name="NVIDIA T4"), Card("GPU-b", 10 * GB, name="NVIDIA A10G")
    )
    server = start(driver, workers=7, vram_per_worker=LOAD)
    report = server.until_idle(6)
    assert [(row["workers"], row["fits"]) for row in report["memory"]["devices"][1:]] == [
        (2, 0),
        (4, 0),
    ]
    with contextlib.ExitStack() as calls:
        # More than there are workers on either.
        places = {place(calls.enter_context(server.call())) for _ in range(5)}
    assert places == {("cuda:0", "GPU-a"), ("cuda:0", "GPU-b")}


def test_instances_of_a_split_gpu_are_devices(install_driver: Install, start: Start) -> None:
    driver = install_driver(
        Card("GPU-a", 40 * GB, name="NVIDIA A100"),
        Card("MIG-x", 5 * GB, parent=0, name="NVIDIA A100 MIG 1g.5gb"),
        Card("MIG-y", 5 * GB, parent=0, name="NVIDIA A100 MIG 1g.5gb"),
    )
    server = start(driver, workers=4)
    rows = server.until_idle(4)["memory"]["devices"]
    assert [(row["device"], row["workers"]) for row in rows[1:]] == [
        ("cuda:0:0", 2),
        ("cuda:0:1", 2),
    ]
    with server.call() as caller:
        assert place(caller)[1] in ("MIG-x", "MIG-y")


@pytest.mark.parametrize(
    "settings", [{"visible_gpus": "GPU-b"}, {"visible_gpus": "1"}, {"gpus": "1"}]
)
def test_only_gpus_that_are_visible_and_chosen_are_used(
    install_driver: Install, start: Start, settings: dict[str, str]
) -> None:
    driver = install_driver(Card("GPU-a", 24 * GB), Card("GPU-b", 24 * GB))
    server = start(driver, workers=1, **settings)
    assert [row["device"] for row in server.status()["memory"]["devices"]] == ["host", "cuda:1"]
    with server.call() as caller:
        assert place(caller) == ("cuda:0", "GPU-b")


# --- containers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("pids", ["hidden", "foreign", "unsupported", "nameless"])
def test_where_process_ids_are_hidden_vram_is_known_by_differences(
    install_driver: Install, start: Start, pids: Any
) -> None:
    driver = install_driver(Card("GPU-a", 24 * GB, others=GB))
    driver.pids = pids
    driver.say()
    server = start(driver, workers=8, vram_per_worker=3 * GB)
    report = server.until_status(
        lambda s: [w["vram"] for w in s["workers"] if w["state"] == "idle"] == 8 * [LOAD],
        "had eight warm workers, all weighed",
    )
    assert (account(report)["others"], account(report)["per_worker"]) == (GB, LOAD)


def test_an_llm_that_loads_with_the_pilot_is_not_taken_for_a_worker(
    install_driver: Install, start: Start
) -> None:
    driver = install_driver(Card("GPU-a", 24 * GB))
    driver.pids = "hidden"
    driver.say()
    (driver.folder / "llm").write_text(f"{os.getpid()} {8 * GB}")
    server = start(driver, workers=6, vram_per_worker=3 * GB)
    report = server.until_status(
        lambda s: [w["vram"] for w in s["workers"] if w["state"] == "idle"] == 6 * [LOAD],
        "had six warm workers, all weighed",
    )
    assert account(report)["others"] == 8 * GB


# --- none at all ---------------------------------------------------------------------------------


def test_without_a_driver_an_app_runs_on_the_host(start: Start) -> None:
    server = start(workers=1)
    server.logged("no gpu is used")
    assert [row["device"] for row in server.status()["memory"]["devices"]] == ["host"]
    with server.call() as caller:
        assert place(caller)[0] == "host"


def test_gpus_that_are_not_to_be_used_are_not_shown(install_driver: Install, start: Start) -> None:
    driver = install_driver(Card("GPU-a", 24 * GB))
    server = start(driver, workers=1, gpus="none")
    with server.call() as caller:
        assert place(caller) == ("host", "")


@pytest.mark.parametrize(
    ("card", "settings", "words"),
    [
        (Card("GPU-a", GB), {"visible_gpus": "1"}, "but CUDA_VISIBLE_DEVICES=1 shows none of"),
        (Card("GPU-a", GB, mode=2), {"visible_gpus": "0"}, "but its compute mode prohibits it"),
        (Card("GPU-a", GB, lost=True), {}, "but it cannot be read: see what nvidia-smi says"),
    ],
)
def test_a_gpu_that_cannot_be_used_stops_the_start_of_a_profile_that_needs_it(
    install_driver: Install, start: Start, card: Card, settings: dict[str, str], words: str
) -> None:
    server = start(install_driver(card), app="", profile="cuda", wait=False, **settings)
    assert server.wait() == 2
    assert words in server.stderr[-1]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"gpus": "0"}, "the app tests.apps.gpu:create is to run on a GPU, but no NVIDIA driver"),
        ({"app": "", "profile": "cuda"}, "profile cuda is to run on a GPU, but no NVIDIA driver"),
        (
            {"app": "", "profile": "cuda", "gpus": "none"},
            "profile cuda is to run on a GPU, but gpus = none",
        ),
    ],
)
def test_where_a_gpu_is_needed_and_there_is_none_the_start_stops(
    start: Start, settings: dict[str, str], words: str
) -> None:
    server = start(wait=False, **settings)
    assert server.wait() == 2
    assert words in server.stderr[-1]


def test_a_gpu_that_is_named_and_not_there_stops_the_start(
    install_driver: Install, start: Start
) -> None:
    driver = install_driver(Card("GPU-a", 24 * GB))
    server = start(driver, gpus="0,1", wait=False)
    assert server.wait() == 2
    assert "'1' is none of the GPUs here: 0 NVIDIA A10G (GPU-a)" in server.stderr[-1]
