"""The blocking stages of a pipeline: a thread per engine, and what runs in it.

A recogniser or synthesiser may hold its thread for seconds, or for ever: everything here has a
deadline, and the event loop never waits in a call of theirs.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import queue
import threading
import time
import traceback
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import numpy as np

from voicepool.engines.base import (
    INPUT_RATE,
    Polyglot,
    RecognizerStream,
    Samples,
    SpeechChunk,
    SpeechRecognizer,
    SpeechSynthesizer,
    Transcript,
)
from voicepool.errors import EngineError
from voicepool.figures import count
from voicepool.logs import FloodGuard
from voicepool.tasks import TaskSet
from voicepool.turns import LONGEST_TURN

T = TypeVar("T")
Stage = Literal["stt", "llm", "tts"]
logger = logging.getLogger(__name__)
flood = FloodGuard(logger)
"""A caller may ask again and again for what fails."""

MOST_JOBS = 64
"""Jobs that wait for an engine; its users have one or two each."""
MOST_BACKLOG = INPUT_RATE * 30
"""Samples that wait for the recogniser before the caller's sound is held up."""

_FOR_CALLERS: dict[Stage, str] = {
    "stt": "The speech recogniser failed.",
    "llm": "The language model failed.",
    "tts": "The speech synthesiser failed.",
}


class StageFailed(EngineError):
    """A stage could not do its work; the message is fit for the caller."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(_FOR_CALLERS[stage])
        self.stage = stage


def stage_failed(stage: Stage, cause: Exception) -> StageFailed:
    """The failure to raise for `cause`, which is counted, and logged by its kind only: an engine's
    message may quote what was said."""
    count(f"engine_errors.{stage}")
    flood.warning("a stage failed", stage=stage, error=type(cause).__name__)
    return StageFailed(stage)


def log_fault(message: str, fault: BaseException) -> None:
    """Log a fault of ours by its kind and place: what it says may quote what was said."""
    frames = "".join(traceback.format_tb(fault.__traceback__))
    logger.error(message, extra={"error": type(fault).__name__, "frames": frames})


@dataclass(frozen=True, slots=True)
class Span:
    """When an engine worked, by the monotonic clock, in seconds."""

    began: float
    ended: float

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    def since(self, start: float) -> float:
        """The seconds of it that fall after `start`."""
        return max(0.0, self.ended - max(self.began, start))


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """What a job returned, and when it ran."""

    value: T
    span: Span


class EngineThread:
    """One engine's own thread: its jobs run one at a time, in order, each with a deadline.

    A job that outlives its deadline keeps the thread until it returns; what is asked meanwhile
    fails at once. The thread is a daemon: an engine stuck in C for ever holds up nobody's exit.
    """

    def __init__(self, name: str, deadline: float) -> None:
        self._name = name
        self._deadline = deadline
        self._jobs: queue.Queue[_Job | None] = queue.Queue(MOST_JOBS)
        self._thread: threading.Thread | None = None
        self._ended: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._overdue: concurrent.futures.Future[object] | None = None
        self._closed = False

    async def run(self, work: Callable[[], T]) -> Done[T]:
        """Do `work` in the thread. Raises what it raises, or EngineError past the deadline.

        Cancelled, it skips work that has not begun; work that has begun goes on unheard.
        """
        if self._overdue is not None and not self._overdue.done():
            raise EngineError(f"{self._name} does not answer")
        future: concurrent.futures.Future[Done[T]] = concurrent.futures.Future()

        def job() -> None:
            if future.set_running_or_notify_cancel():
                _fulfil(future, work)

        self._submit(job)
        try:
            # Not `wait_for`: in Python 3.11 it may swallow a cancellation that meets a result.
            async with asyncio.timeout(self._deadline):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            if future.running():
                self._overdue = future  # type: ignore[assignment]
            raise EngineError(f"{self._name} did not answer in {self._deadline:g} s") from None

    def post(self, work: Callable[[], object]) -> None:
        """Do `work` in the thread some time, if it lives; nobody waits, failures are logged."""

        def job() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - the thread outlives any engine's fault
                logger.warning(
                    "an engine failed to clean up",
                    extra={"engine": self._name, "error": type(error).__name__},
                )

        with suppress(EngineError):
            self._submit(job)

    async def close(self, timeout: float) -> bool:
        """Take no more jobs and wait for the thread's end; False if it does not end in time."""
        if self._closed or self._thread is None:
            self._closed = True
            return True
        self._closed = True
        if self._jobs.full():
            self._jobs.get_nowait()  # whoever asked for it has gone
        self._jobs.put_nowait(None)
        done, _ = await asyncio.wait([asyncio.wrap_future(self._ended)], timeout=timeout)
        if done:
            self._thread.join()  # it has nothing left to do
        return bool(done)

    def _submit(self, job: _Job) -> None:
        if self._closed:
            raise EngineError(f"{self._name} is closed")
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            raise EngineError(f"{self._name} has too much to do") from None
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            del job  # or what it refers to would live until the next one
        if self._ended.set_running_or_notify_cancel():
            self._ended.set_result(None)


_Job = Callable[[], None]


def _fulfil(future: concurrent.futures.Future[Done[T]], work: Callable[[], T]) -> None:
    began = time.monotonic()
    try:
        value = work()
    except BaseException as error:  # noqa: BLE001 - it is the asker's to judge
        # Neither a SystemExit nor a StopIteration may go through a future to the event loop.
        if not isinstance(error, Exception) or isinstance(error, StopIteration):
            error = EngineError(f"the engine raised {type(error).__name__}")
        future.set_exception(error)
    else:
        future.set_result(Done(value, Span(began, time.monotonic())))


class Utterance:
    """One turn of the caller on its way through the recogniser, fed as it is spoken."""

    def __init__(
        self,
        item_id: str,
        thread: EngineThread,
        recognizer: SpeechRecognizer,
        *,
        language: str | None,
        prompt: str,
        tasks: TaskSet,
        on_partial: Callable[[str, str], None],
    ) -> None:
        self.item_id = item_id
        self.samples = 0
        """Length of the sound so far; what exceeds the longest turn is left out."""
        self.spoke_until: float | None = None
        """When the last of its speech was heard (monotonic clock), where a detector heard it."""
        self._thread = thread
        self._tasks = tasks
        self._open: Callable[[], RecognizerStream] = lambda: recognizer.stream(
            language=language, prompt=prompt
        )
        self._on_partial = on_partial
        self._stream: RecognizerStream | None = None
        """The thread's; made by the first job, so that making it may block too."""
        self._backlog: deque[Samples] = deque()
        self._held: list[Samples] | None = None
        """Sound that waits for `release`; None where none is held back."""
        self._waiting = 0
        self._drained = asyncio.Event()
        self._drained.set()
        self._feeder: asyncio.Task[None] | None = None
        self._failure: StageFailed | None = None
        self._over = False

    def feed(self, samples: Samples) -> None:
        """More sound of the turn; never waits. Ignored once the recogniser has failed."""
        samples = samples[: LONGEST_TURN - self.samples]
        if self._failure or self._over or not len(samples):
            return
        self.samples += len(samples)
        if self._held is not None:
            self._held.append(samples)
            return
        self._pass_on(samples)

    def hold(self) -> None:
        """Keep what is fed from now on from the recogniser: it is likely the closing silence.

        A turn that ends so is finished without it, so `finish` need not do the work of the last
        `snapshot` again.
        """
        if self._held is None:
            self._held = []

    def release(self) -> None:
        """It was not: the recogniser gets it."""
        held, self._held = self._held, None
        for samples in held or ():
            self._pass_on(samples)

    def _pass_on(self, samples: Samples) -> None:
        self._waiting += len(samples)
        self._backlog.append(samples)
        if self._waiting > MOST_BACKLOG:
            self._drained.clear()
        if self._feeder is None or self._feeder.done():
            self._feeder = self._tasks.spawn(self._feed_all())

    async def ready(self) -> None:
        """Wait while the recogniser is far behind."""
        await self._drained.wait()

    async def caught_up(self) -> None:
        """Wait until the recogniser has heard, or lost, all that it was given."""
        if self._feeder is not None:
            await asyncio.wait([self._feeder])

    async def snapshot(self) -> Transcript:
        """What the transcript would be if the turn ended now. Raises StageFailed."""
        return (await self._ask(lambda stream: stream.snapshot())).value

    async def finish(self) -> Done[Transcript]:
        """The turn is over: its transcript. Raises StageFailed."""
        self._over = True
        self.samples -= sum(map(len, self._held or ()))
        try:
            return await self._ask(lambda stream: stream.finish())
        finally:
            self.discard()

    def discard(self) -> None:
        """Drop what is left of it. May be called at any time."""
        self._over = True
        self._on_partial = _ignore_partial
        self._backlog.clear()
        self._drained.set()
        if self._feeder is not None:
            self._feeder.cancel()
        self._thread.post(self._close)

    async def _ask(self, question: Callable[[RecognizerStream], T]) -> Done[T]:
        if self._failure:
            raise self._failure

        def work() -> T:
            self._feed_backlog()
            return question(self._stream_now())

        try:
            return await self._thread.run(work)
        except Exception as error:  # any failure of an engine is a StageFailed to us
            raise self._fail(error) from error

    async def _feed_all(self) -> None:
        while self._backlog:
            try:
                partial = (await self._thread.run(self._feed_backlog)).value
            except Exception as error:  # noqa: BLE001 - as in _ask
                self._fail(error)
                return
            self._waiting = sum(map(len, tuple(self._backlog)))
            if self._waiting <= MOST_BACKLOG:
                self._drained.set()
            if partial is not None and partial.text:
                self._on_partial(self.item_id, partial.text)
        # A snapshot may take the rest between any two lines above.
        self._waiting = 0
        self._drained.set()

    def _fail(self, error: Exception) -> StageFailed:
        if self._failure is None:
            self._failure = stage_failed("stt", error)
        self._backlog.clear()
        self._drained.set()
        return self._failure

    # -- in the thread

    def _stream_now(self) -> RecognizerStream:
        if self._stream is None:
            self._stream = self._open()
        return self._stream

    def _feed_backlog(self) -> Transcript | None:
        pieces: list[Samples] = []
        with suppress(IndexError):  # the loop appends at the other end, and may clear it
            while True:
                pieces.append(self._backlog.popleft())
        return self._stream_now().feed(np.concatenate(pieces)) if pieces else None

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def language_of(synthesizer: SpeechSynthesizer, voice: str) -> str:
    """What a voice speaks, see Polyglot. Only after `preload`."""
    return synthesizer.language_of(voice) if isinstance(synthesizer, Polyglot) else "en"


def _ignore_partial(item_id: str, text: str) -> None:
    """The turn is over; what its recogniser still says of its beginning is stale."""


class Speaker:
    """A synthesiser in its thread: one clause at a time, pulled chunk by chunk."""

    def __init__(self, thread: EngineThread, synthesizer: SpeechSynthesizer) -> None:
        self._thread = thread
        self._synthesizer = synthesizer
        self._turn = asyncio.Lock()
        """Two replies may be made at once, two clauses not: an engine need not interleave them."""

    @property
    def rate(self) -> int:
        """Samples per second of the chunks."""
        return self._synthesizer.sample_rate

    def language(self, voice: str) -> str:
        """What the voice speaks, see Polyglot."""
        return language_of(self._synthesizer, voice)

    async def speak(
        self, text: str, *, voice: str, speed: float
    ) -> AsyncGenerator[Done[SpeechChunk], None]:
        """The text's sound, as it is made. Raises StageFailed. Closing it cancels the rest."""
        async with self._turn:
            chunks = None
            try:
                opened = await self._run(
                    lambda: self._synthesizer.synthesize(text, voice=voice, speed=speed)
                )
                chunks = opened.value
                began = opened.span.began
                while True:
                    done = await self._run(lambda: next(chunks, None))
                    if done.value is None:
                        return
                    yield Done(done.value, Span(min(began, done.span.began), done.span.ended))
                    began = float("inf")
            finally:
                # In the thread, after the chunk that may be in the making; whoever speaks next
                # comes after it there too.
                if isinstance(chunks, Generator):
                    self._thread.post(chunks.close)

    async def _run(self, work: Callable[[], T]) -> Done[T]:
        try:
            return await self._thread.run(work)
        except Exception as error:
            raise stage_failed("tts", error) from error
