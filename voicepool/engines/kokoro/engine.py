"""Speech by Kokoro-82M: the weights in the zygote's memory, the inference in the worker.

Forked workers share the model's memory: nothing writes to it. What `preload` builds (the model
after an inference on one thread, voices, espeak, misaki) serves in a child as it is; on a GPU
`load` moves the weights there. One thread a worker is fastest: with more, OpenMP's threads spin
against those of other workers, and one that has run two cannot be forked.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from voicepool.engines import hub
from voicepool.engines import options as engine_options
from voicepool.engines.base import SpeechChunk, WordTime
from voicepool.engines.kokoro import files, g2p, languages, pieces, sound, text, weights
from voicepool.engines.kokoro.g2p import Word
from voicepool.engines.kokoro.library import library
from voicepool.errors import ConfigError, EngineError, EngineUnavailable

log = logging.getLogger("voicepool.engines.kokoro")

_WHERE = "[tts] engine kokoro"
_SLOWEST, _FASTEST = 0.25, 4.0
_SHORT_TEXT = "I am ready."
_LONG_TEXT = "I am ready, and this sentence is as long as those that I am going to say to you."
_VOICE = re.compile(r"\w[\w-]*")


class Options(msgspec.Struct):
    model: str = files.REPOSITORY
    """A repository of the Hugging Face hub, or a folder with config.json, kokoro-v1_0.pth and the
    voices' .pt files in it or in voices/."""
    voice: str = languages.VOICES[0]
    voices: list[str] | None = None
    """What else callers may choose; by default all that are there and speak the same language."""
    speed: Annotated[float, msgspec.Meta(ge=_SLOWEST, le=_FASTEST)] = 1.0
    language: str = ""
    """ "en-us", "en-gb", "es", "fr", "hi", "it", "pt-br"; by default each voice's own."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """ "auto": the worker's GPU if it has one."""
    g2p: Literal["auto", "espeak", "misaki"] = "auto"
    """How English is pronounced: by misaki's lexicon if spaCy's en_core_web_sm is installed, else
    by espeak's rules. Other languages are always espeak's."""


def create(options: Mapping[str, Any]) -> KokoroSynthesizer:
    """The engine from its table of options. Raises ConfigError."""
    return KokoroSynthesizer(engine_options.convert(options, Options, _WHERE))


class KokoroSynthesizer:
    """SpeechSynthesizer, Polyglot, Checking, Advising, Fetching."""

    name = "kokoro"
    sample_rate = sound.RATE

    def __init__(self, options: Options) -> None:
        self._options = options
        self._source = files.Source(options.model)
        self._configured = tuple(dict.fromkeys((options.voice, *(options.voices or ()))))
        for voice in self._configured:
            if not _VOICE.fullmatch(voice):
                raise ConfigError(f"{_WHERE}: {voice!r} is not the name of a voice")
        self._languages = {voice: self._language(voice) for voice in self._configured}
        self._pronouncers: dict[str, g2p.Pronouncer] = {}
        """By the language's code."""
        self._styles: dict[str, Any] = {}
        """Each voice's tensor."""
        self._model: Any = None
        self._pace = pieces.Pace()
        self._lead = pieces.Lead()

    def _language(self, voice: str) -> languages.Language:
        if self._options.language:
            return languages.find(self._options.language, _WHERE)
        return languages.of_voice(voice, _WHERE)

    # -- before the caller

    def check(self) -> None:
        """See Checking."""
        for module, package in (("torch", "torch"), ("kokoro", "kokoro"), ("misaki", "misaki")):
            engine_options.require_installed(module, package, "models")
        self._source.locate(self._configured)
        for language in self._languages.values():
            g2p.check(language, self._options.g2p)

    def preload(self) -> None:
        located = self._source.locate(self._configured)  # in milliseconds; the imports take seconds
        torch = library("torch", "torch")
        torch.set_num_threads(1)
        model = weights.load_model(located.config, located.weights)
        self._languages = {v: self._language(v) for v in self._offered(located.voices)}
        self._styles = {v: weights.load_voice(located.voices[v], model) for v in self._languages}
        for language in self._languages.values():
            if language.code not in self._pronouncers:
                self._pronouncers[language.code] = g2p.build(language, self._options.g2p)
        self._model = model
        # Fills what torch keeps for later calls, once for all: saves each worker 36 MB and 70 ms.
        self._say(_SHORT_TEXT)
        self._pace = pieces.Pace()
        log.info("kokoro is loaded", extra={"g2p": self.pronunciation, "voices": len(self.voices)})

    def _offered(self, present: Mapping[str, Any]) -> Sequence[str]:
        if self._options.voices is not None:
            return self._configured
        spoken = self._languages[self._options.voice].iso[:2]
        letters = {code for code, it in languages.LANGUAGES.items() if it.iso[:2] == spoken}
        fitting = (voice for voice in present if voice[:1] in letters and voice[2:3] == "_")
        return tuple(dict.fromkeys((*self._configured, *fitting)))

    def fetch(self, report: hub.Report) -> None:
        """See Fetching."""
        self._source.fetch(self._configured, report)

    def load(self, device: str) -> None:
        if self._model is None:
            self.preload()
        wanted = self._options.device
        if wanted == "cpu" or (wanted == "auto" and device == "host"):
            return
        if device == "host":
            raise ConfigError(
                f'{_WHERE}: device = "cuda", but this worker has no GPU; set device = "auto"'
            )
        torch = library("torch", "torch")
        if not torch.cuda.is_available():
            raise EngineUnavailable(
                f"kokoro cannot use the GPU: torch {torch.__version__} finds none; install the "
                "build of torch for your CUDA version (https://pytorch.org/get-started), or set "
                'device = "cpu" in [tts]'
            )
        try:
            self._model = self._model.to(device)
        except RuntimeError as error:
            reason = next(iter(str(error).splitlines()), "")
            raise EngineError(f"kokoro could not be moved to the GPU: {reason}") from error

    def warm_up(self) -> None:
        self._say(_SHORT_TEXT)
        if self._model.device.type == "cuda":
            self._say(_LONG_TEXT)  # kernels are chosen by size
            self._pace = pieces.Pace()  # the first run of a kernel says nothing of the next

    def _say(self, said: str) -> None:
        if not any(len(chunk.samples) for chunk in self.synthesize(said)):
            raise EngineError("kokoro made no sound")

    def advise(self, callers: int) -> Sequence[str]:
        """See Advising."""
        english = any(language.english for language in self._languages.values())
        if not english or self._options.g2p != "auto" or g2p.has_tagger():
            return ()
        return (
            "kokoro pronounces English by espeak's rules; its own lexicon sounds more natural: "
            f"{g2p.install_tagger()}",
        )

    # -- the caller

    @property
    def voices(self) -> tuple[str, ...]:
        return tuple(self._languages)

    @property
    def pronunciation(self) -> str:
        """What turns text into phonemes for the default voice: "espeak" or "misaki"."""
        return self._pronouncers[self._languages[self._options.voice].code].kind

    def language_of(self, voice: str) -> str:
        """See Polyglot."""
        return self._languages[self._chosen(voice)].iso

    def _chosen(self, voice: str) -> str:
        return voice if voice in self._languages else self._options.voice

    def synthesize(
        self, text: str, *, voice: str = "", speed: float = 1.0
    ) -> Generator[SpeechChunk, None, None]:
        """See SpeechSynthesizer: chunks of 200 ms, all of a piece (see `pieces`) at once.

        What the voice's language does not write, and a text without anything to say, is skipped.
        """
        voice = self._chosen(voice)
        speed = self._options.speed * (speed if math.isfinite(speed) else 1.0)
        speed = min(max(speed, _SLOWEST), _FASTEST)
        seconds = 0.0
        self._lead.begin(time.monotonic())
        for start, words in self._pieces(text, voice):
            spoken = self._speak(words, voice, speed)
            times = [
                WordTime(start + word.start, start + word.end, seconds + at)
                for word, at in zip(words, spoken.starts, strict=True)
                if word.end > word.start
            ]
            seconds_before, seconds = seconds, seconds + len(spoken.samples) / sound.RATE
            self._lead.add(seconds - seconds_before, time.monotonic())
            yield from sound.chunks(spoken, times, seconds_before)
        self._lead.end(time.monotonic())

    def _pieces(self, whole: str, voice: str) -> Iterator[tuple[int, list[Word]]]:
        """What is to be spoken at once, and where its portion begins in the text; lazily."""
        language = self._languages[voice]
        pronouncer = self._pronouncers[language.code]
        for portion in text.portions(whole, language.scripts):
            with _failing("could not pronounce a text"):
                words = self._known(pronouncer.pronounce(portion.text))
            while words:
                budget = self._lead.budget(time.monotonic())
                count = pieces.cut(words, self._pace.affordable(budget))
                piece, words = words[:count], words[count:]
                last = piece.pop()
                piece.append(Word(last.start, last.end, last.phonemes.rstrip()))
                if sound.audible(piece):
                    yield portion.start, piece

    def _known(self, words: Sequence[Word]) -> list[Word]:
        """The same words, less phonemes that the model has not learnt."""
        vocabulary = self._model.vocab
        return [
            Word(word.start, word.end, "".join(p for p in word.phonemes if p in vocabulary))
            for word in words
        ]

    def _speak(self, words: Sequence[Word], voice: str, speed: float) -> sound.Spoken:
        phonemes = "".join(word.phonemes for word in words)
        began = time.monotonic()
        audio, durations = self._infer(phonemes, voice, speed)
        self._pace.observe(len(phonemes), time.monotonic() - began)
        return sound.finish(audio, durations, words, speed)

    def _infer(self, phonemes: str, voice: str, speed: float) -> tuple[NDArray[Any], NDArray[Any]]:
        """One run of the model; the result is on the host. Raises EngineError."""
        styles = self._styles[voice]
        style = styles[min(len(phonemes), len(styles)) - 1]
        with _failing("could not speak"):  # KModel itself turns gradients off
            output = self._model(phonemes, style, speed, return_output=True)
            return np.atleast_1d(output.audio.numpy()), np.atleast_1d(output.pred_dur.numpy())


@contextmanager
def _failing(what: str) -> Iterator[None]:
    """Libraries below raise anything, SystemExit too. Of their messages only the type is told:
    they may quote what somebody has said."""
    try:
        yield
    except (Exception, SystemExit) as error:
        raise EngineError(f"kokoro {what}: {type(error).__name__}") from error
