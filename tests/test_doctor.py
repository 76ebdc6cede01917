"""What the doctor makes of what was seen: each finding, its mark and its remedy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from voicepool.budgetspec import Reading
from voicepool.config import Settings
from voicepool.doctor import fit, judge, judgegpu, report
from voicepool.doctor.facts import (
    Checked,
    CTranslate2,
    Cuda,
    Driver,
    Host,
    Library,
    Torch,
    gather,
    in_cores,
)
from voicepool.doctor.findings import (
    Bound,
    Finding,
    Mark,
    Report,
    Section,
    note,
    ok,
    problem,
    wrong,
)
from voicepool.doctor.judgegpu import Needs
from voicepool.engines.registry import resolve_profile
from voicepool.errors import ExitCode
from voicepool.gpu import Gpu
from voicepool.ipc import Sight

GIB = 1 << 30
HOST = Host(
    kernel="6.1.0-18-amd64",
    python="3.12.3",
    memory=Reading(64 * GIB, 4 * GIB),
    machine_memory=64 * GIB,
    swap=0,
    cores=16.0,
    machine_cores=16,
    files=524_288,
    tasks=None,
    overcommit=0,
    temp="/tmp",
    temp_free=50 * GIB,
    container=False,
    cards=0,
    servers=(),
    mps=None,
    mps_pipe=False,
)
GPU = Gpu("GPU-a", "0", "NVIDIA A10G", 24 * GIB, GIB)
SIGHT = Sight(driver="550.54.15", gpus=(GPU,))
BLIND = Sight(error="no NVIDIA driver is installed (there is no libnvidia-ml.so.1)")
CUDA_NEEDS = Needs(gpu=True, torch=True, ctranslate2=True)


def host(**changes: Any) -> Host:
    return msgspec.structs.replace(HOST, **changes)


def gpu(**changes: Any) -> Gpu:
    return replace(GPU, **changes)


def the_one(findings: list[Finding], words: str) -> Finding:
    """The finding that says this; all problems have a remedy."""
    for finding in findings:
        assert finding.mark is not Mark.PROBLEM or finding.remedy, finding
    (found,) = [finding for finding in findings if words in finding.text]
    return found


def marks(findings: list[Finding]) -> set[Mark]:
    return {finding.mark for finding in findings}


# --- the host --------------------------------------------------------------------------------


def test_a_good_host_is_fine() -> None:
    assert marks(judge.judge_host(HOST, Settings())) == {Mark.OK}


@pytest.mark.parametrize(
    ("changes", "words", "mark", "remedy"),
    [
        ({"kernel": "4.19.0"}, "Linux 4.19.0", Mark.PROBLEM, "5.3"),
        (
            {"memory": Reading(8 * GIB, GIB)},
            "8 GiB of RAM, 7 GiB of it free, by a control group's limit (the machine has 64 GiB)",
            Mark.OK,
            "",
        ),
        ({"swap": 2 * GIB}, "2 GiB of swap", Mark.OK, ""),
        ({"cores": 1.5}, "1.5 cores of the machine's 16", Mark.OK, ""),
        ({"files": 1024}, "1024 open files", Mark.NOTE, "LimitNOFILE="),
        ({"temp_free": None}, "/tmp cannot be written", Mark.PROBLEM, "--runtime-dir"),
        ({"temp_free": 10 << 20}, "10 MiB free in /tmp", Mark.NOTE, "--runtime-dir"),
        (
            {"overcommit": 2},
            "vm.overcommit_memory = 2",
            Mark.NOTE,
            "sysctl vm.overcommit_memory=0",
        ),
        ({"servers": (71, 72)}, "runs already (its zygote is pid 71, 72)", Mark.NOTE, ""),
    ],
)
def test_what_is_special_about_a_host(
    changes: dict[str, Any], words: str, mark: Mark, remedy: str
) -> None:
    found = the_one(judge.judge_host(host(**changes), Settings()), words)
    assert found.mark is mark
    assert remedy in found.remedy


def test_cores_in_words() -> None:
    assert [in_cores(n) for n in (1.0, 2.0, 0.5, 1.5)] == [
        "1 core",
        "2 cores",
        "0.5 cores",
        "1.5 cores",
    ]


# --- GPUs ------------------------------------------------------------------------------------


def gpus(
    sight: Sight, needs: Needs = CUDA_NEEDS, machine: Host = HOST, **settings: Any
) -> list[Finding]:
    return judgegpu.judge(
        sight, Settings(**{"max_connections": 1, **settings}), machine, needs, None
    )


def test_a_gpu() -> None:
    found = the_one(gpus(SIGHT), "cuda:0")
    assert found == ok("cuda:0: NVIDIA A10G, 24 GiB, 1 GiB in use, driver 550.54.15")


@pytest.mark.parametrize(
    ("sight", "machine", "words", "remedy"),
    [
        (BLIND, HOST, "no NVIDIA GPU is on the PCI bus", "--profile cpu"),
        (BLIND, host(cards=1), "an NVIDIA GPU is on the PCI bus, but no", "install the driver"),
        (BLIND, host(cards=2, container=True), "2 NVIDIA GPUs are", "docker run --gpus all"),
        (Sight(error="the NVIDIA driver is not loaded"), HOST, "not loaded", "modprobe nvidia"),
        (Sight(error="the NVIDIA driver was replaced while in use"), HOST, "replaced", "reboot"),
        (Sight(error="this user may not use the NVIDIA driver"), HOST, "may not", "/dev/nvidia"),
        (Sight(error="the GPU probe did not answer"), HOST, "did not answer", "nvidia-smi"),
        (Sight(driver="550"), HOST, "the NVIDIA driver sees no GPU", "--gpus all"),
        (Sight(driver="550", lost=1), HOST, "1 GPU cannot be read", "nvidia-smi"),
    ],
)
def test_no_gpu_is_a_problem_where_one_is_needed_else_not(
    sight: Sight, machine: Host, words: str, remedy: str
) -> None:
    needed = the_one(gpus(sight, machine=machine), words)
    assert needed.mark is Mark.PROBLEM
    assert remedy in needed.remedy
    assert the_one(gpus(sight, Needs(), machine), words).mark is not Mark.PROBLEM


def test_a_lost_gpu_beside_one_that_works_is_worth_a_note() -> None:
    sight = Sight(driver="550", gpus=(GPU,), lost=1)
    assert the_one(gpus(sight), "1 GPU cannot be read").mark is Mark.NOTE


def test_gpus_that_workers_do_not_get() -> None:
    two = Sight(driver="550", gpus=(GPU, gpu(uuid="GPU-b", index="1", compute_mode="prohibited")))
    assert "CUDA_VISIBLE_DEVICES=1" in the_one(gpus(two, visible_gpus="1"), "cuda:0").text
    assert "gpus = 1" in the_one(gpus(two, gpus="1"), "cuda:0").text
    forbidden = the_one(gpus(two), "cuda:1")
    assert forbidden.mark is Mark.PROBLEM
    assert forbidden.remedy == "sudo nvidia-smi -i 1 -c DEFAULT"


def test_a_setting_that_names_no_gpu() -> None:
    found = the_one(gpus(SIGHT, gpus="3"), "gpus: '3' is none of the GPUs here")
    assert found.mark is Mark.PROBLEM
    assert "0 NVIDIA A10G (GPU-a)" in found.remedy


@pytest.mark.parametrize("settings", [{"gpus": "none"}, {"visible_gpus": ""}])
def test_gpus_that_are_all_taken_away(settings: dict[str, Any]) -> None:
    findings = gpus(SIGHT, **settings)
    assert [found.mark for found in findings if found.remedy].count(Mark.PROBLEM) == 1
    assert marks(gpus(SIGHT, Needs(), **settings)) == {Mark.NOTE}


# --- CUDA's libraries ------------------------------------------------------------------------

TORCH = Torch("2.9.0", "12.8", 1)
CT2 = CTranslate2("4.6.0", 1, "", (Library("libcublas.so.12"),))


def libraries(
    torch: Torch | None = TORCH,
    ctranslate2: CTranslate2 | None = CT2,
    *,
    driver: str = "12.8",
    ending: str = "",
    needs: Needs = CUDA_NEEDS,
    sight: Sight = SIGHT,
) -> list[Finding]:
    cuda = Cuda(Driver(driver), torch, ctranslate2, ending)
    return judgegpu.judge(sight, Settings(max_connections=1), HOST, needs, cuda)


def test_libraries_that_see_the_gpu() -> None:
    findings = libraries()
    assert marks(findings) == {Mark.OK}
    the_one(findings, "the driver runs CUDA up to 12.8")
    the_one(findings, "torch 2.9.0 for CUDA 12.8 sees 1 GPU")
    the_one(findings, "ctranslate2 4.6.0 sees 1 GPU and loads libcublas.so.12")


@pytest.mark.parametrize(
    ("torch", "driver", "words", "remedy"),
    [
        (Torch("2.9.0+cpu"), "12.8", "without CUDA", "the build for CUDA 12.8 or older"),
        (Torch("2.9.0+cpu"), "", "without CUDA", "a build for your CUDA version"),
        (Torch("2.9.0", "13.0", 0, "old"), "12.8", "too new for the driver", "update the driver"),
        (Torch("2.9.0", "12.8", 0, "why"), "12.8", "sees no GPU: why", "nvidia-smi"),
        (Torch("2.9.0", "9.2", 0), "12.8", "sees no GPU", "nvidia-smi"),
        (Torch("2.9.0", "12.8", 1, "it cannot compute: x"), "12.8", "cannot compute", "build"),
        (Torch(error="not installed"), "12.8", "not installed", "voicepool[models]"),
    ],
)
def test_torch_that_cannot_use_the_gpu(torch: Torch, driver: str, words: str, remedy: str) -> None:
    found = the_one(libraries(torch, driver=driver), words)
    assert found.mark is Mark.PROBLEM
    assert remedy in found.remedy
    without = libraries(torch, driver=driver, needs=Needs(gpu=True, ctranslate2=True))
    assert the_one(without, words).mark is Mark.NOTE


def test_ctranslate2_that_cannot_use_the_gpu() -> None:
    missing = Library("libcublas.so.12", "cannot open shared object file")
    found = the_one(libraries(ctranslate2=CTranslate2("4.6.0", 1, "", (missing,))), "needs")
    assert found.mark is Mark.PROBLEM
    assert found.text == "ctranslate2 4.6.0 needs libcublas.so.12, not found"
    blind = libraries(ctranslate2=CTranslate2("4.6.0", 0, "driver too old", ()))
    assert the_one(blind, "ctranslate2 4.6.0 sees no GPU: driver too old").mark is Mark.PROBLEM
    absent = libraries(ctranslate2=CTranslate2(error="not installed"))
    assert "voicepool[models]" in the_one(absent, "ctranslate2 is not installed").remedy


def test_libraries_are_not_blamed_for_a_gpu_that_is_not_there() -> None:
    torch, ctranslate2 = Torch("2.9.0", "12.8", 0), CTranslate2("4.6.0", 0)
    findings = libraries(torch, ctranslate2, sight=Sight(driver="550"))
    assert not [found for found in findings if "torch" in found.text or "ctr" in found.text]


def test_commands_that_bring_missing_libraries() -> None:
    here = Library("libcublas.so.12", "no", "/site/nvidia/cublas/lib")
    away = Library("libcudnn_ops.so.9", "no")
    assert judgegpu.library_remedy([here]) == (
        "export LD_LIBRARY_PATH=/site/nvidia/cublas/lib:$LD_LIBRARY_PATH"
    )
    both = judgegpu.library_remedy([here, away, Library("libcudnn_cnn.so.9", "no")])
    assert (
        "pip install nvidia-cudnn-cu12==9.* && export LD_LIBRARY_PATH=/site/nvidia/cublas/lib:"
    ) in both
    assert both.count("nvidia/cudnn/lib") == 1
    assert "nvidia-cudnn-cu12==8.*" in judgegpu.library_remedy([Library("libcudnn.so.8", "no")])
    assert "nvidia-cublas-cu11 " in judgegpu.library_remedy([Library("libcublas.so.11", "no")])
    assert "the package with libodd.so.1" in judgegpu.library_remedy([Library("libodd.so.1", "no")])


@pytest.mark.parametrize(
    ("answers", "culprit"),
    [
        ([], "the driver"),
        ([Driver("12.8")], "torch"),
        ([Driver("12.8"), TORCH], "ctranslate2"),
        ([Driver("12.8"), TORCH, CT2], "the last library"),
    ],
)
def test_the_library_that_has_killed_its_look_is_named(answers: list[Any], culprit: str) -> None:
    cuda = gather(answers, "was ended by SIGSEGV")
    findings = judgegpu.judge(SIGHT, Settings(max_connections=1), HOST, CUDA_NEEDS, cuda)
    found = the_one(findings, f"the look at {culprit} was ended by SIGSEGV")
    assert found.mark is Mark.PROBLEM


# --- CUDA MPS --------------------------------------------------------------------------------


def test_several_workers_on_a_gpu_want_mps() -> None:
    found = the_one(gpus(SIGHT, max_connections=4), "without CUDA MPS")
    assert found.mark is Mark.NOTE
    assert "nvidia-cuda-mps-control -d" in found.remedy
    running = gpus(SIGHT, machine=host(mps=55), max_connections=4)
    assert the_one(running, "CUDA MPS runs (pid 55)").mark is Mark.OK
    elsewhere = gpus(SIGHT, machine=host(mps_pipe=True), max_connections=4)
    assert the_one(elsewhere, "CUDA MPS's pipe is there").mark is Mark.NOTE


def test_a_worker_for_itself_wants_no_mps() -> None:
    assert not [found for found in gpus(SIGHT, max_connections=1) if "MPS" in found.text]
    assert not [found for found in gpus(SIGHT, Needs(), max_connections=9) if "MPS" in found.text]


def test_an_exclusive_gpu_without_mps_takes_one_worker() -> None:
    exclusive = Sight(driver="550", gpus=(gpu(compute_mode="exclusive"),))
    found = the_one(gpus(exclusive, max_connections=2), "takes one process at a time")
    assert found.mark is Mark.PROBLEM
    assert "sudo nvidia-smi -i 0 -c DEFAULT" in found.remedy
    assert marks(gpus(exclusive, machine=host(mps=5), max_connections=2)) == {Mark.OK}


# --- profiles --------------------------------------------------------------------------------

CPU = resolve_profile("cpu", {})
READY = {stage: Checked("ready") for stage in ("vad", "stt", "llm", "tts")}


def profile(*, serious: bool, why_no_gpu: str = "", **changes: Checked) -> list[Finding]:
    return judge.judge_profile(CPU, {**READY, **changes}, why_no_gpu, 8, serious=serious)


def test_a_profile_with_all_that_it_needs() -> None:
    mine = profile(serious=True)
    assert marks(mine) == {Mark.OK}
    assert "ready, base, cpu" in the_one(mine, "stt faster_whisper").text
    assert profile(serious=False) == [ok("all is there: voicepool start --profile cpu")]


@pytest.mark.parametrize(
    ("checked", "text", "remedy"),
    [
        (
            Checked("missing", "faster-whisper: model.bin is not here; get it: voicepool prefetch"),
            "stt faster_whisper: model.bin is not here",
            "get it: voicepool prefetch --profile cpu",
        ),
        (
            Checked("config", "[stt] engine faster_whisper: model: 'bas' does not exist; did you"),
            "stt faster_whisper: [stt] engine faster_whisper: model: 'bas' does not exist",
            "did you",
        ),
        (Checked("config", "odd"), "stt faster_whisper: odd", "configuration file"),
        (Checked("away", "no server"), "stt faster_whisper: no server", "start that server"),
        (Checked("missing", "no model"), "stt faster_whisper: no model", "voicepool doctor"),
        (Checked("fault", "died"), "stt faster_whisper: died", "voicepool start --profile cpu"),
    ],
)
def test_what_a_profile_lacks(checked: Checked, text: str, remedy: str) -> None:
    found = the_one(profile(serious=True, stt=checked), "stt")
    assert (found.mark, found.text) == (Mark.PROBLEM, text)
    assert remedy in found.remedy
    other = profile(serious=False, stt=checked)
    assert [(it.mark, it.text) for it in other] == [(Mark.NOTE, text)]


def test_what_engines_advise() -> None:
    checked = Checked("ready", advice=("it serves 1 of 8 callers; start it with: X",))
    found = the_one(profile(serious=True, llm=checked), "1 of 8")
    assert found == note("llm ollama: it serves 1 of 8 callers", "start it with: X")
    assert len(profile(serious=False, llm=checked)) == 1, "other profiles are in short"


def test_how_a_model_server_answered_all_callers() -> None:
    together = profile(serious=True, llm=Checked("ready", at_once=True))
    assert the_one(together, "8 replies were made at once").mark is Mark.OK
    queued = profile(serious=True, llm=Checked("ready", at_once=False))
    found = the_one(queued, "8 replies were made one after another")
    assert (found.mark, found.remedy) == (Mark.NOTE, "OLLAMA_NUM_PARALLEL=8 ollama serve")


def test_a_profile_without_its_gpu() -> None:
    assert the_one(profile(serious=False, why_no_gpu="none"), "needs a GPU: none")
    assert marks(profile(serious=True, why_no_gpu="none")) == {Mark.OK}, "that is said of the GPUs"


# --- how many fit ----------------------------------------------------------------------------

EIGHT = Settings(profile="cuda", workers=8, max_connections=8, vram_reserve=GIB, ram_reserve=GIB)


def bounds(settings: Settings, machine: Host = HOST, *found: Gpu) -> dict[str, int]:
    needs_gpu = settings.profile == "cuda"
    made = fit.bounds(settings, machine, found, needs_gpu=needs_gpu)
    assert [bound.fits for bound in made] == sorted(bound.fits for bound in made)
    return {bound.what: bound.fits for bound in made}


def test_what_binds_first() -> None:
    # VRAM: (24 - 1 in use - 1 kept free) / 4 = 5. RAM: (24 - 4 - 1 - 1 shared) / 2 = 9.
    machine = host(memory=Reading(24 * GIB, 4 * GIB))
    found = bounds(EIGHT, machine, GPU)
    assert found == {"VRAM": 5, "RAM": 9, "open files": fit.MOST}
    made = fit.bounds(EIGHT, machine, [GPU])
    told = fit.judge(EIGHT, machine, [GPU], made)[0]
    assert told.text.startswith(
        "8 workers asked for, at most 8 at once; 5 fit: VRAM binds first (cuda:0: 24 GiB, 1 GiB "
        "used by others, 1 GiB kept free, 4 GiB a worker); next: RAM, at 9"
    )
    assert told.mark is Mark.NOTE
    assert "--workers 5" in told.remedy
    strict = fit.judge(replace(EIGHT, strict=True), machine, [GPU], made)[0]
    assert strict.mark is Mark.PROBLEM


def test_gpus_add_up_each_by_itself() -> None:
    small = gpu(uuid="GPU-b", index="1", total=8 * GIB, used=0)
    assert bounds(EIGHT, HOST, GPU, small)["VRAM"] == 5 + 1


def test_caps_and_measures_of_the_user_count() -> None:
    settings = replace(EIGHT, vram_per_worker=2 * GIB, ram_per_worker=GIB, ram_budget=5 * GIB)
    assert bounds(settings, HOST, GPU) == {"VRAM": 11, "RAM": 4, "open files": fit.MOST}
    told = fit.judge(settings, HOST, [GPU], fit.bounds(settings, HOST, [GPU]))
    assert not [found for found in told if "guess" in found.text]


def test_limits_of_files_and_processes_count() -> None:
    settings = Settings(profile="embedded", max_waiting=36)
    assert bounds(settings, host(files=400, tasks=320)) == {
        "processes and threads": 10,
        "open files": 75,
        "RAM": 237,
    }
    assert bounds(settings, host(files=10, tasks=0))["open files"] == 0


def test_callers_beyond_what_fits_would_wait() -> None:
    settings = Settings(profile="embedded", workers=2, max_connections=4)
    machine = host(tasks=96)
    told = fit.judge(settings, machine, [], fit.bounds(settings, machine, []))[0]
    assert told.mark is Mark.NOTE
    assert "3 fit: processes and threads binds first" in told.text
    assert "callers beyond 3 would wait" in told.text


def test_no_room_now_and_no_room_ever() -> None:
    settings = Settings(profile="embedded")
    full = host(memory=Reading(4 * GIB, 4 * GIB - (700 << 20)))
    told = fit.judge(settings, full, [], fit.bounds(settings, full, []))[0]
    assert (told.mark, told.text.split(";")[1]) == (
        Mark.PROBLEM,
        " 0 fit: RAM binds first (4 GiB, 3.32 GiB used by others, 64 MiB for what all workers "
        "share, 512 MiB kept free, 256 MiB a worker)",
    )
    tiny = host(memory=Reading(600 << 20, 100 << 20))
    never = fit.judge(settings, tiny, [], fit.bounds(settings, tiny, []))
    assert [found.mark for found in never] == [Mark.PROBLEM]
    assert "ram_reserve" in never[0].remedy


def test_without_the_gpu_that_is_needed_nobody_fits() -> None:
    assert bounds(EIGHT)["VRAM"] == 0
    told = fit.judge(EIGHT, HOST, [], fit.bounds(EIGHT, HOST, [], needs_gpu=True))[0]
    assert told.remedy == "have the driver show a GPU (see GPUs), or take another --profile"
    assert told.mark is Mark.PROBLEM


def test_cores_enter_the_advice() -> None:
    settings = Settings(profile="cpu", max_connections=4)
    few = fit.judge(settings, host(cores=2.0), [], fit.bounds(settings, HOST, []))
    found = the_one(few, "2 cores: enough for about 2 callers")
    assert found.mark is Mark.NOTE
    assert "voicepool bench call" in found.remedy
    many = fit.judge(settings, HOST, [], fit.bounds(settings, HOST, []))
    assert the_one(many, "16 cores: enough for about 16 callers").mark is Mark.OK
    app = replace(settings, app="a:b")
    assert not [
        it for it in fit.judge(app, HOST, [], fit.bounds(app, HOST, [])) if "core" in it.text
    ]


# --- the report ------------------------------------------------------------------------------


def made(*findings: Finding) -> Report:
    return Report("cpu", "configured", [Section("host", findings)], [Bound("RAM", 3, "sums")])


def test_a_report_says_whether_it_would_run() -> None:
    fine, bad = made(ok("a"), note("b")), made(ok("a"), problem("c", "do"), problem("d", "do"))
    assert report.exit_code(fine) == ExitCode.OK
    assert report.exit_code(bad) == ExitCode.CANNOT_WARM
    assert report.as_text(fine, color=False, width=80).endswith(
        "Ready: voicepool start --profile cpu"
    )
    assert report.as_text(bad, color=False, width=80).endswith(
        "2 problems keep cpu from running as asked."
    )


def test_remedies_stay_in_one_line_to_be_copied() -> None:
    long = "word " * 40
    text = report.as_text(made(problem(long, long.strip())), color=False, width=60)
    lines = text.splitlines()
    assert all(len(line) <= 60 for line in lines if "->" not in line)
    assert f"           -> {long.strip()}" in lines


def test_what_servers_say_cannot_write_on_the_terminal() -> None:
    text = report.as_text(made(note("a\x1b[31m\nb", "c\x1b")), color=False, width=80)
    assert "\x1b" not in text
    assert "\x1b[33mnote" in report.as_text(made(note("a")), color=True, width=80)


def test_a_report_for_programs() -> None:
    document = report.as_document(made(problem("a", "b")))
    assert document["exit_code"] == 4
    assert document["sections"] == [
        {"title": "host", "findings": [{"mark": "problem", "text": "a", "remedy": "b"}]}
    ]
    assert document["bounds"] == [{"what": "RAM", "fits": 3, "sums": "sums"}]


def test_what_is_wrong_is_a_problem_where_it_matters() -> None:
    assert wrong("a", "b", serious=True) == problem("a", "b")
    assert wrong("a", "b", serious=False) == note("a", "b")
