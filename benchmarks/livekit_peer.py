"""LiveKit Agents' process pool, driven alone; runs in the environment of
scripts/install-livekit-bench, never imported.

Set up as its AgentServer does on Linux (forkserver, the framework's own preload), with one idle
process and jobs that end at once. For every line on stdin it launches a job and prints the seconds
from there to the `process_ready` of the replacement, once the used process is gone.
"""

import asyncio
import multiprocessing
import os
import sys
import time
from typing import Any

# No model is wanted: this is the pool's own time.
os.environ["LIVEKIT_AGENTS_PRELOAD_LOCAL_INFERENCE"] = "0"

from livekit.agents import JobExecutorType
from livekit.agents.ipc.proc_pool import ProcPool
from livekit.agents.job import (
    JobAcceptArguments,
    RunningJobInfo,
)
from livekit.protocol import agent

SECONDS = 10.0


async def entrypoint(context: Any) -> None:
    context.shutdown()


def initialize(process: Any) -> None:
    """The pool's counterpart of load and warm-up."""


def make_pool() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["livekit.agents.ipc._preload", "livekit.agents.ipc._preload_freeze"]
    )
    return ProcPool(
        initialize_process_fnc=initialize,
        job_entrypoint_fnc=entrypoint,
        session_end_fnc=None,
        simulation_end_fnc=None,
        num_idle_processes=1,
        initialize_timeout=SECONDS,
        close_timeout=SECONDS,
        session_end_timeout=SECONDS,
        inference_executor=None,
        job_executor_type=JobExecutorType.PROCESS,
        mp_ctx=context,
        memory_warn_mb=0,
        memory_limit_mb=0,
        http_proxy=None,
        loop=asyncio.get_running_loop(),
    )


async def refill(pool: Any) -> float:
    ready, closed = asyncio.Event(), asyncio.Event()
    pool.once("process_ready", lambda _: ready.set())
    pool.once("process_closed", lambda _: closed.set())
    job = RunningJobInfo(
        accept_arguments=JobAcceptArguments(name="", identity="", metadata=""),
        job=agent.Job(id="benchmark"),
        url="ws://127.0.0.1:1",
        token="",
        worker_id="benchmark",
        fake_job=True,
    )
    began = time.perf_counter()
    await pool.launch_job(job)
    await ready.wait()
    seconds = time.perf_counter() - began
    await closed.wait()
    return seconds


async def main() -> None:
    pool = make_pool()
    await pool.start()
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(await refill(pool), flush=True)
    await pool.aclose()


if __name__ == "__main__":
    asyncio.run(main())
