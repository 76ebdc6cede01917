"""GPUs as the real pynvml tells of them, over the stand-in driver; and which of them we may use."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from tests.nvml.driver import GB, NOT_LOADED, Card, Driver
from voicepool import commands, gpuprobe, linux
from voicepool.config import Settings
from voicepool.errors import ConfigError
from voicepool.gpu import Gpu, chosen, listing, usable, visible
from voicepool.gpuprobe import GpuProbe, survey

Install = Callable[..., Driver]


@asynccontextmanager
async def probing() -> AsyncIterator[GpuProbe]:
    probe = GpuProbe()
    try:
        yield probe
    finally:
        await probe.close()


# --- what NVML tells -----------------------------------------------------------------------------


def test_a_gpu_and_its_processes(install_driver: Install) -> None:
    driver = install_driver(Card("GPU-a", 24 * GB, others=GB))
    driver.allocate("GPU-a", 3 * GB)
    seen = survey()
    assert (seen.driver, seen.lost, seen.error) == ("550.54.15", 0, "")
    assert seen.gpus == (Gpu("GPU-a", "0", "NVIDIA A10G", 24 * GB, 4 * GB, {os.getpid(): 3 * GB}),)


def test_what_the_dead_had_is_forgotten(install_driver: Install) -> None:
    driver = install_driver(Card("GPU-a", 24 * GB))
    dead = os.spawnlp(os.P_NOWAIT, "true", "true")
    driver.allocate("GPU-a", GB, dead)
    os.waitid(os.P_PID, dead, os.WEXITED | os.WNOWAIT)
    assert survey().gpus[0].used == 0, "although its zombie is there"
    os.waitpid(dead, 0)


def test_a_gpu_that_is_split_stands_for_its_instances(install_driver: Install) -> None:
    install_driver(
        Card("GPU-a", 40 * GB, name="NVIDIA A100"),
        Card("MIG-x", 5 * GB, parent=0, name="NVIDIA A100 MIG 1g.5gb"),
        Card("MIG-y", 5 * GB, parent=0, name="NVIDIA A100 MIG 1g.5gb", others=GB),
    )
    seen = survey().gpus
    assert [(gpu.device, gpu.uuid, gpu.parent, gpu.used) for gpu in seen] == [
        ("cuda:0:0", "MIG-x", "GPU-a", 0),
        ("cuda:0:1", "MIG-y", "GPU-a", GB),
    ]


@pytest.mark.parametrize("pids", ["unsupported", "nameless", "flaky"])
def test_processes_that_the_driver_does_not_tell_about(install_driver: Install, pids: str) -> None:
    driver = install_driver(Card("GPU-a", 24 * GB))
    driver.pids = pids  # type: ignore[assignment]
    driver.say()
    driver.allocate("GPU-a", GB)
    expected = {os.getpid(): None} if pids == "nameless" else None
    assert survey().gpus[0].processes == expected


@pytest.mark.parametrize("pids", ["mps", "old"])
def test_clients_of_mps_and_what_an_old_driver_lists(install_driver: Install, pids: str) -> None:
    driver = install_driver(Card("GPU-a", 24 * GB))
    driver.pids = pids  # type: ignore[assignment]
    driver.say()
    driver.allocate("GPU-a", GB)
    seen = survey()
    assert seen.lost == 0
    assert seen.gpus[0].processes == {os.getpid(): GB}


@pytest.mark.parametrize(("code", "mode"), [(0, "default"), (2, "prohibited"), (3, "exclusive")])
def test_the_compute_mode(install_driver: Install, code: int, mode: str) -> None:
    install_driver(Card("GPU-a", GB, mode=code))
    assert survey().gpus[0].compute_mode == mode


def test_without_a_driver() -> None:
    assert survey().error == "no NVIDIA driver is installed (there is no libnvidia-ml.so.1)"


def test_with_a_driver_that_is_not_loaded(install_driver: Install) -> None:
    driver = install_driver(Card("GPU-a", GB))
    driver.fail = NOT_LOADED
    driver.say()
    assert survey().error == "the NVIDIA driver is not loaded"


def test_with_a_driver_and_no_gpu(install_driver: Install) -> None:
    install_driver()
    seen = survey()
    assert (seen.gpus, seen.error) == ((), "")


def test_a_lost_gpu_is_counted_and_the_others_are_told(install_driver: Install) -> None:
    install_driver(Card("GPU-a", GB, lost=True), Card("GPU-b", GB))
    seen = survey()
    assert (seen.lost, [gpu.uuid for gpu in seen.gpus]) == (1, ["GPU-b"])


def test_a_driver_that_hangs_is_given_up(install_driver: Install) -> None:
    driver = install_driver(Card("GPU-a", GB))
    driver.hang = True
    driver.say()
    assert survey(0.3).error == "the GPU probe did not answer"


# --- the probe of a server -----------------------------------------------------------------------


async def test_the_probe_looks_again_and_again_with_one_process(install_driver: Install) -> None:
    driver = install_driver(Card("GPU-a", 8 * GB))
    async with probing() as probe:
        assert (await probe.look()).gpus[0].used == 0
        pid = probe.pid
        driver.cards[0].others = GB
        driver.say()
        assert (await probe.look()).gpus[0].used == GB
        assert probe.pid == pid
    assert probe.pid is None


async def test_a_gpu_that_was_lost_is_seen_again_by_the_next_process(
    install_driver: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpuprobe, "RENEWAL", 0.0)
    driver = install_driver(Card("GPU-a", 8 * GB), Card("GPU-b", 8 * GB))
    async with probing() as probe:
        await probe.look()
        driver.cards[0].lost = True
        driver.say()
        assert (await probe.look()).lost == 1
        driver.cards[0].lost = False
        driver.say()
        assert len((await probe.look()).gpus) == 2


@pytest.mark.parametrize("trouble", ["fails", "dies", "hangs"])
async def test_a_driver_in_trouble_is_tried_again_after_a_while(
    install_driver: Install, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    # Half of it has to be longer than it takes to end a process.
    monkeypatch.setattr(gpuprobe, "BACKOFF_BASE", 1.0)
    driver = install_driver(Card("GPU-a", GB))
    async with probing() as probe:
        assert len((await probe.look()).gpus) == 1
        driver.fail, driver.hang = NOT_LOADED * (trouble == "fails"), trouble == "hangs"
        driver.say()
        if trouble == "dies":
            assert probe.pid is not None
            os.kill(probe.pid, signal.SIGKILL)
        seen = await probe.look(0.3 if trouble == "hangs" else gpuprobe.PATIENCE)
        assert seen.error
        assert seen.gpus == ()
        assert await probe.look() is seen, "it is not asked each time"
        driver.fail, driver.hang = 0, False
        driver.say()
        await asyncio.sleep(gpuprobe.BACKOFF_BASE)  # the longest first wait
        assert (await probe.look()).error == ""


async def test_a_probe_that_cannot_be_ended_is_not_asked_again(
    install_driver: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpuprobe, "GOODBYE", 0.1)
    monkeypatch.setattr(gpuprobe, "BACKOFF_BASE", 0.0)
    driver = install_driver(Card("GPU-a", GB))
    driver.hang = True
    driver.say()
    async with probing() as probe:
        with monkeypatch.context() as kernel:  # one that holds the process in a system call
            kernel.setattr(linux, "signal_pidfd", lambda *_: None)
            assert (await probe.look(0.3)).error
        stuck = probe.pid
        assert stuck is not None
        driver.hang = False
        driver.say()
        assert (await probe.look()).error, "its answer would come now, but it is given up"
        assert probe.pid == stuck, "and none is started beside it"
        os.kill(stuck, signal.SIGKILL)
        await asyncio.to_thread(os.waitid, os.P_PID, stuck, os.WEXITED | os.WNOWAIT)
        assert (await probe.look()).error == ""


# --- what it decides -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (Settings(), True),
        (Settings(visible_gpus="0"), True),
        (Settings(visible_gpus=""), False),
        (Settings(gpus="none"), False),
    ],
)
def test_the_profile_auto_knows_of_the_gpus_that_may_be_used(
    install_driver: Install, settings: Settings, told: bool
) -> None:
    install_driver(Card("GPU-a", 24 * GB))
    assert ("there is a GPU, NVIDIA A10G" in commands._choice(settings).why) == told


# --- which ones we may use -----------------------------------------------------------------------


def gpu(index: str, uuid: str, parent: str = "", mode: str = "default") -> Gpu:
    return Gpu(uuid, index, "A", GB, 0, {}, mode, parent)  # type: ignore[arg-type]


FOUR = [
    gpu("0", "GPU-a1"),
    gpu("1", "GPU-a2"),
    gpu("2:0", "MIG-b1", "GPU-c"),
    gpu("2:1", "MIG-b2", "GPU-c"),
]


@pytest.mark.parametrize(
    ("variable", "indices"),
    [
        (None, ["0", "1", "2:0", "2:1"]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("1", ["1"]),
        ("1,0", ["1", "0"]),
        (" 1 , 0", ["1", "0"]),
        ("0,-1,1", ["0"]),
        ("0,7,1", ["0"]),
        ("0,0", []),
        ("2", ["2:0", "2:1"]),
        ("GPU-a2", ["1"]),
        ("GPU-a2,GPU-a1", ["1", "0"]),
        ("GPU-a", []),
        ("GPU-c", ["2:0", "2:1"]),
        ("MIG-b2", ["2:1"]),
        ("MIG-b2,GPU-c", []),
        ("1gpu", ["1"]),
    ],
)
def test_what_cuda_visible_devices_shows(variable: str | None, indices: list[str]) -> None:
    assert [gpu.index for gpu in visible(FOUR, variable)] == indices


@pytest.mark.parametrize(
    ("setting", "indices"),
    [
        ("auto", ["0", "1", "2:0", "2:1"]),
        ("none", []),
        ("1", ["1"]),
        ("1, 2:1", ["1", "2:1"]),
        ("2", ["2:0", "2:1"]),
        ("GPU-a1,0", ["0"]),
        ("MIG-b1", ["2:0"]),
    ],
)
def test_what_the_setting_chooses(setting: str, indices: list[str]) -> None:
    assert [gpu.index for gpu in chosen(FOUR, setting)] == indices


def test_a_gpu_that_is_not_there_is_an_error_that_lists_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"'3' is none of the GPUs here: 0 A \(GPU-a1\), 1 A"):
        chosen(FOUR, "0,3")
    assert listing([]) == "there are none"


def test_both_restrict_and_a_prohibited_gpu_is_left_out() -> None:
    gpus = [*FOUR, gpu("3", "GPU-d", mode="prohibited")]
    assert [gpu.index for gpu in usable(gpus, "3,1", "auto")] == ["1"]
    with pytest.raises(ConfigError):
        usable(gpus, "1", "0")
