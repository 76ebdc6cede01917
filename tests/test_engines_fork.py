"""What `preload` builds before a fork must serve in the children, and give what it gives unforked.

The fork happens in an interpreter of its own: this one has threads.
"""

from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = r"""
import asyncio, json, os
import numpy as np
from tests.forking import in_children_and_here
from tests.speech import noisy, pieces, say
from voicepool.engines import registry
from voicepool.engines.base import ChatRequest, Message, TextDelta

def talk(engines):
    # One call's work: a fresh state of each engine, in a thread as in a worker.
    for engine in (engines.vad, engines.stt, engines.llm, engines.tts):
        engine.load("host")
        engine.warm_up()
    detector, stream = engines.vad.stream(), engines.stt.stream()
    speech = [detector.push(w) for w in pieces(SOUND, milliseconds=32) if len(w) == 512]
    partials = [said.text for p in pieces(SOUND) if (said := stream.feed(p)) is not None]
    heard = stream.finish()
    async def answer():
        request = ChatRequest([Message("user", heard.text)])
        deltas = [delta async for delta in engines.llm.generate(request)]
        return "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))
    reply = asyncio.run(answer())
    words = [w.text_start for c in engines.tts.synthesize(reply) for w in c.words]
    return {
        "speech": [round(p, 4) for p in speech], "partials": partials, "heard": heard.text,
        "confidence": round(heard.confidence, 4), "reply": reply, "words": words,
    }

SOUND = noisy(say("what is the capital of norway"), seed=1)
engines = registry.build(registry.resolve_profile("embedded", {}))
for engine in (engines.vad, engines.stt, engines.llm, engines.tts):
    engine.preload()
tasks = len(os.listdir("/proc/self/task"))
assert tasks == 1, f"preload made {tasks - 1} threads"
print(json.dumps(in_children_and_here(lambda: talk(engines), 3)))
"""


def test_forked_engines_give_what_unforked_ones_give() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": ":".join(sys.path),
            "OPENBLAS_NUM_THREADS": "1",
        },
    )
    assert done.returncode == 0, done.stderr
    *forked, unforked = json.loads(done.stdout)
    assert unforked["heard"] == "what is the capital of norway"
    assert unforked["reply"] == "The capital of Norway is Oslo."
    assert max(unforked["speech"]) > 0.5
    for result in forked:
        assert result == unforked
