"""What Kokoro preloads must serve in forked children, and give what it gives unforked.

In interpreters of their own: this one has threads. Nothing may ask for the network, which an audit
hook watches (https://docs.python.org/3/library/audit_events.html).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.models import NOWHERE
from tests.models import kokoro as models

PREPARED = r"""
import hashlib, json, os, sys

def watch(event, args):
    pip = event == "subprocess.Popen" and args[0] == sys.executable  # how spaCy downloads
    if pip or event in ("socket.connect", "socket.getaddrinfo"):
        os.write(2, f"{event} {args}\n".encode())
        os._exit(7)
sys.addaudithook(watch)

from voicepool import linux
from voicepool.engines.kokoro import engine

synthesizer = engine.create({"model": sys.argv[1]})
synthesizer.preload()
"""

FORKED = (
    PREPARED
    + r"""
import gc, torch
from tests.forking import in_children_and_here
assert linux.thread_count() == 1, "preload left a thread"
assert torch.get_num_threads() == 1
assert not torch.cuda.is_initialized() and not linux.holds_gpu()
gc.collect()
gc.freeze()

def talk():
    synthesizer.load("host")
    synthesizer.warm_up()
    torch.manual_seed(1)
    # Short ones: how longer ones are cut into pieces depends on how busy the machine is.
    said = [("In the beginning, there were 56.", ""), ("And then?", "bf_emma"), ("No.", "")]
    chunks = [c for text, voice in said for c in synthesizer.synthesize(text, voice=voice)]
    return {
        "sound": hashlib.sha256(b"".join(c.samples.tobytes() for c in chunks)).hexdigest(),
        "words": [[w.text_start, w.text_end, w.start] for c in chunks for w in c.words],
    }

print(json.dumps(in_children_and_here(talk, 2)))
"""
)

SHARED = (
    PREPARED
    + r"""
import gc
gc.collect(); gc.freeze(); linux.trim_heap()
template = linux.private_bytes()
pid = os.fork()
if pid == 0:
    synthesizer.load("host")
    synthesizer.warm_up()
    linux.trim_heap()
    print(json.dumps([template, linux.private_bytes()]), flush=True)
    os._exit(0)
os.waitpid(pid, 0)
"""
)

KILLED = PREPARED + "os.kill(os.getpid(), 9)"


pytestmark = pytest.mark.timeout(320)  # about 10 s each on a free core


@pytest.fixture(scope="module")
def model() -> Path:
    return models.shared()


def run(script: str, model: Path, temporary: Path) -> subprocess.CompletedProcess[str]:
    temporary.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(model)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": ":".join(sys.path),
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            "TMPDIR": str(temporary),
            "HF_HOME": str(temporary / "nothing"),
            "HF_HUB_OFFLINE": "1",
            "HF_ENDPOINT": NOWHERE,
        },
    )


def results(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def left_behind(temporary: Path) -> list[str]:
    # torch keeps one folder a user there, however many processes there are.
    return [path.name for path in temporary.iterdir() if not path.match("torchinductor_*")]


def test_forked_speech_is_what_it_is_unforked(model: Path, tmp_path: Path) -> None:
    *forked, unforked = results(run(FORKED, model, tmp_path / "tmp"))
    assert len(unforked["words"]) == 9
    for result in forked:
        assert result == unforked
    assert left_behind(tmp_path / "tmp") == []


def test_workers_share_the_weights(model: Path, tmp_path: Path) -> None:
    template, worker = results(run(SHARED, model, tmp_path / "tmp"))
    assert template > 200e6  # the weights alone
    assert worker < 60e6


def test_a_kill_leaves_no_files(model: Path, tmp_path: Path) -> None:
    assert run(KILLED, model, tmp_path / "tmp").returncode == -9
    assert left_behind(tmp_path / "tmp") == []
