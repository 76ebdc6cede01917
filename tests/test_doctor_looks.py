"""The doctor's looks at a real host, at libraries and at engines, in child processes that fail."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import psutil
import pytest

from tests.models import kokoro as kokoro_models
from tests.models import whisper as whisper_models
from tests.ollama_server import Model, OllamaServer
from voicepool.doctor import cuda, engines, host
from voicepool.doctor.child import Child
from voicepool.doctor.engines import Look, Wanted
from voicepool.doctor.facts import Answer, Checked, CTranslate2, Cuda, Driver, Library, gather

# --- the machine -----------------------------------------------------------------------------


def test_this_host(tmp_path: Path) -> None:
    seen = host.look(str(tmp_path), {})
    assert 0 < seen.memory.used < seen.memory.total <= seen.machine_memory
    assert 0 < seen.cores <= seen.machine_cores
    assert seen.files == resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert seen.kernel == os.uname().release
    assert seen.temp == str(tmp_path)
    assert seen.temp_free is not None
    assert seen.temp_free > 0


def test_a_folder_that_will_be_made_counts_as_its_parent(tmp_path: Path) -> None:
    assert host.look(str(tmp_path / "not" / "yet"), {}).temp_free is not None
    (tmp_path / "file").touch()
    assert host.look(str(tmp_path / "file" / "folder"), {}).temp_free is None


def test_the_pipe_of_mps_is_found_where_it_is_configured(tmp_path: Path) -> None:
    environ = {"CUDA_MPS_PIPE_DIRECTORY": str(tmp_path)}
    assert not host.look("", environ).mps_pipe
    (tmp_path / "control").touch()
    assert host.look("", environ).mps_pipe


@pytest.fixture
def named_process(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """One that is called as CUDA MPS's daemon is, as far as the kernel keeps the name."""
    program = tmp_path / "nvidia-cuda-mps-control"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "60"]) as process:
        yield process
        process.kill()


def test_a_daemon_is_found_by_its_name(named_process: subprocess.Popen[bytes]) -> None:
    assert host.look("", {}).mps == named_process.pid


def test_quotas_of_control_groups(tmp_path: Path) -> None:
    inner, outer = tmp_path / "a/b", tmp_path / "a"
    inner.mkdir(parents=True)
    assert host.usable_cores(4, [inner, outer]) == 4.0
    (inner / "cpu.max").write_text("max 100000\n")
    (outer / "cpu.max").write_text("150000 100000\n")
    assert host.usable_cores(4, [inner, outer]) == 1.5
    assert host.usable_cores(1, [inner, outer]) == 1.0


def test_limits_of_control_groups(tmp_path: Path) -> None:
    inner, outer = tmp_path / "a/b", tmp_path / "a"
    inner.mkdir(parents=True)
    assert host.free_pids([inner, outer]) is None
    (inner / "pids.max").write_text("max\n")
    (outer / "pids.max").write_text("100\n")
    (outer / "pids.current").write_text("30\n")
    assert host.free_pids([inner, outer]) == 70
    (inner / "pids.max").write_text("10\n")
    (inner / "pids.current").write_text("12\n")
    assert host.free_pids([inner, outer]) == 0


# --- children --------------------------------------------------------------------------------


class Question(msgspec.Struct):
    text: str


class Reply(msgspec.Struct):
    number: int


MISBEHAVING = """
import os, signal, sys, time
import msgspec
sys.path.insert(0, {root!r})
from voicepool.doctor.child import Desk
from tests.test_doctor_looks import Question, Reply

desk = Desk()
how = desk.request(Question).text
print("a library that talks")
desk.tell(Reply(1))
if how == "crash":
    os.kill(os.getpid(), signal.SIGSEGV)
elif how == "exit":
    sys.exit(3)
elif how == "hang":
    signal.alarm(0)
    signal.pause()
elif how == "garble":
    os.write(desk._out, b'{{"numb')
    os._exit(0)
desk.tell(Reply(2))
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "misbehaving.py").write_text(
        MISBEHAVING.format(root=str(Path(__file__).parent.parent))
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "misbehaving"


@pytest.mark.parametrize(
    ("how", "deadline", "numbers", "ending"),
    [
        ("well", 60.0, [1, 2], ""),
        ("crash", 60.0, [1], "was ended by SIGSEGV"),
        ("exit", 60.0, [1], "ended with code 3"),
        ("garble", 60.0, [1], ""),
    ],
)
def test_what_a_child_said_before_it_ended(
    module: str, how: str, deadline: float, numbers: list[int], ending: str
) -> None:
    with closing(Child[Reply](module, Question(how), Reply, deadline)) as child:
        answers, ended = child.answers()
    assert [answer.number for answer in answers] == numbers
    assert ended == ending


def test_a_child_that_hangs_is_given_up_and_ended(module: str) -> None:
    child = Child[Reply](module, Question("hang"), Reply, 4.0)
    answers, ended = child.answers()
    process = psutil.Process(child._process.pid)
    child.close()
    assert [answer.number for answer in answers] in ([1], [])  # a slow machine imports for long
    assert ended == "took more than 4 s"
    assert not process.is_running()


def test_what_was_said_in_time_is_heard_by_who_comes_late(module: str) -> None:
    with closing(Child[Reply](module, Question("well"), Reply, 60.0)) as child:
        child._process.wait()
        child._end -= 60.0
        answers, ended = child.answers()
    assert [answer.number for answer in answers] == [1, 2]
    assert ended == ""


# --- CUDA's libraries ------------------------------------------------------------------------


def look_at_cuda(*, torch: bool = False) -> Cuda:
    request = cuda.Request(torch=torch, compute=True)
    with closing(Child[Answer](cuda.MODULE, request, Answer, cuda.DEADLINE)) as child:
        return gather(*child.answers())


def compile_library(folder: Path, name: str, code: str = "int nothing;") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / f"{name}.c"
    source.write_text(code)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / name, source], check=True)
    return folder


def test_libraries_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    seen = look_at_cuda(torch=True)
    assert seen.ending == ""
    assert seen.driver is not None
    assert bool(seen.driver.cuda) != bool(seen.driver.error)
    assert seen.torch is not None
    assert (seen.torch.version, seen.torch.cuda, seen.torch.devices) == (
        torch.__version__,
        torch.version.cuda or "",
        0,
    )
    assert seen.ctranslate2 is not None
    assert seen.ctranslate2.version
    assert seen.ctranslate2.devices == 0


def test_torch_is_left_alone_where_no_engine_wants_it() -> None:
    assert look_at_cuda().torch is None


def test_what_the_driver_can_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "int cuDriverGetVersion(int *version) { *version = 12080; return 0; }"
    folder = compile_library(tmp_path, "libcuda.so.1", code)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(folder))
    assert look_at_cuda().driver == Driver("12.8")
    compile_library(tmp_path, "libcuda.so.1", "int cuDriverGetVersion(int *v) { return 100; }")
    assert look_at_cuda().driver == Driver(error="cuDriverGetVersion fails with 100")


def blas(seen: Cuda) -> Library:
    assert isinstance(seen.ctranslate2, CTranslate2)
    (found,) = [it for it in seen.ctranslate2.libraries if it.name == "libcublas.so.12"]
    return found


def test_a_library_that_the_loader_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = blas(look_at_cuda())
    if not missing.error:
        pytest.skip("this machine has cuBLAS")
    assert "libcublas.so.12" in missing.error
    assert missing.folder == ""
    folder = compile_library(tmp_path, "libcublas.so.12")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(folder))
    assert blas(look_at_cuda()).error == ""


def test_a_library_that_pip_has_put_where_nobody_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = compile_library(tmp_path / "nvidia/cublas/lib", "libcublas.so.12")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = blas(look_at_cuda())
    if not found.error:
        pytest.skip("this machine has cuBLAS")
    assert found.folder == str(folder)


def test_names_are_read_from_a_packages_files(tmp_path: Path) -> None:
    package = tmp_path / "ctranslate2"
    package.mkdir()
    bundled = tmp_path / "ctranslate2.libs"
    bundled.mkdir()
    (package / "_ext.so").write_bytes(b"\0libcudnn_ops.so.9\0libcublas.so.12.4.5\0libm.so.6\0")
    (bundled / "libctranslate2.so.4").write_bytes(b"xlibcublas.so.12\0")
    assert cuda.library_names(package) == ["libcublas.so.12", "libcudnn_ops.so.9"]


# --- engines ---------------------------------------------------------------------------------


def look(*wanted: Wanted, callers: int = 2, probe: bool = False) -> list[Checked]:
    with closing(Look(wanted, callers, probe=probe)) as running:
        return running.results()


def test_embedded_engines_are_ready() -> None:
    names = {"vad": "silero", "stt": "pocketsphinx", "llm": "phrasebook", "tts": "espeak"}
    found = look(*(Wanted(stage, {"engine": name}) for stage, name in names.items()))
    assert found == [Checked("ready")] * 4


def test_models_that_are_there(tmp_path: Path) -> None:
    whisper = whisper_models.make(tmp_path / "whisper")
    kokoro = kokoro_models.make(tmp_path / "kokoro")
    found = look(
        Wanted("stt", {"engine": "faster_whisper", "model": str(whisper), "device": "cpu"}),
        Wanted("tts", {"engine": "kokoro", "model": str(kokoro), "device": "cpu"}),
    )
    assert [it.outcome for it in found] == ["ready", "ready"]


def test_what_is_missing_or_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    found = look(
        Wanted("stt", {"engine": "faster_whisper", "model": "tiny"}),
        Wanted("stt", {"engine": "faster_whisper", "model": "tinny"}),
        Wanted("stt", {"engine": "faster_whisper", "device": "gpu"}),
        Wanted("tts", {"engine": "kokoro"}),
        Wanted("tts", {"engine": "espeak", "volume": 3}),
    )
    assert [it.outcome for it in found] == ["missing", "config", "config", "missing", "config"]
    assert "voicepool prefetch" in found[0].message
    assert "did you mean 'tiny'?" in found[1].message
    assert "voices/af_heart.pt" in found[3].message
    assert "unknown option 'volume'" in found[4].message


def test_a_model_server() -> None:
    with OllamaServer({"llama3.2": Model()}, slots=4) as server:
        table = {"engine": "ollama", "host": server.url}
        ready, absent = look(
            Wanted("llm", table), Wanted("llm", {**table, "model": "nonsense"}), callers=4
        )
        assert ready.outcome == "ready"
        assert any("OLLAMA_NUM_PARALLEL=4" in line for line in ready.advice)
        assert absent.outcome == "missing"
        assert "ollama pull nonsense" in absent.message
        assert not server.generations, "nobody asked for a reply"
    (away,) = look(Wanted("llm", table))
    assert away.outcome == "away"
    assert "ollama serve" in away.message


@pytest.mark.parametrize(("slots", "at_once"), [(4, True), (1, False)])
def test_a_model_server_that_is_tried(slots: int, at_once: bool) -> None:
    from tests.llm_server import Script

    script = Script(reply="one two three four five six", token_seconds=0.05)
    with OllamaServer({"llama3.2": Model(script)}, slots=slots) as server:
        (found,) = look(
            Wanted("llm", {"engine": "ollama", "host": server.url}), callers=2, probe=True
        )
        assert (found.outcome, found.at_once) == ("ready", at_once)
        assert server.generations


def test_an_engine_that_kills_its_look_is_blamed_and_the_others_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The registry's own modules, replaced for the child alone.
    (tmp_path / "pocketsphinx.py").write_text("import os; os._exit(9)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = look(
        Wanted("vad", {"engine": "silero"}),
        Wanted("stt", {"engine": "pocketsphinx"}),
        Wanted("llm", {"engine": "phrasebook"}),
    )
    assert [it.outcome for it in found] == ["ready", "fault", "ready"]
    assert found[1].message == "the check ended with code 9"


def test_the_doctor_itself_loads_no_library_of_an_engine() -> None:
    program = (
        "import sys; from voicepool.doctor import command; from voicepool.config import Settings;"
        "command.examine(Settings(profile='cuda'), {});"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=True
    )
    loaded = set(done.stdout.split())
    assert "psutil" in loaded
    assert not loaded & {"torch", "ctranslate2", "kokoro", "faster_whisper", "ollama", "pynvml"}


def test_modules_that_judge_do_not_look() -> None:
    program = (
        "import sys; from voicepool.doctor import facts, findings, fit, judge, judgegpu, report;"
        "from voicepool.doctor import judgeservice, judgeunit, servicefacts; print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert not set(done.stdout.split()) & {"psutil", "subprocess", "resource", "ctypes"}


def test_the_module_names_are_those_of_the_modules() -> None:
    assert cuda.__name__ == cuda.MODULE
    assert engines.__name__ == engines.MODULE
