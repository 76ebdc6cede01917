"""Speech recognition by Whisper on CTranslate2 (https://github.com/SYSTRAN/faster-whisper).

The encoder always hears 30 s, so a transcript of a short utterance costs as much as one of a long
one, and partial and final transcripts are the same work: see `stream` for when partials
are made. Decoding is greedy at temperature 0. The ladder of temperatures that Whisper climbs when
a transcript looks wrong (Radford et al., 2022, https://arxiv.org/abs/2212.04356, section 4.5)
would multiply the caller's wait just when the sound is bad; in its place the length of a
transcript is bounded by that of its sound, repetitions are cut, and Whisper's own test for silence
applies: a window counts as silence when the model gives that more than 60 % and finds its words
less likely than exp(-1) a token. What is not speech the pipeline's detector has kept away before.

A CTranslate2 model made before a fork hangs in the child, and so would its threads: `preload`
imports the libraries and makes the files ready (`files`), `load` makes the model.
"""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import numpy as np

from voicepool.engines import hub
from voicepool.engines import options as engine_options
from voicepool.engines.base import INPUT_RATE, Samples
from voicepool.engines.faster_whisper.files import ModelFiles, Source
from voicepool.engines.faster_whisper.pacing import Pace
from voicepool.engines.faster_whisper.stream import NOTHING, Heard, WhisperStream
from voicepool.engines.faster_whisper.text import clean, unspecial
from voicepool.errors import ConfigError, EngineError, EngineUnavailable

_WHERE: Final = "[stt] engine faster_whisper"
AUTO: Final = "auto"

DEVICES: Final = (AUTO, "cpu", "cuda")
COMPUTE_TYPES: Final = (
    AUTO,
    "int8",
    "int8_float32",
    "int8_float16",
    "int8_bfloat16",
    "int16",
    "float16",
    "bfloat16",
    "float32",
)
"""CTranslate2's names (https://opennmt.net/CTranslate2/quantization.html)."""
_PREFERRED: Final = {"cpu": ("int8", "float32"), "cuda": ("float16", "int8", "float32")}
"""What "auto" takes, the first that the device supports."""

SHORTEST_INTERVAL: Final = 0.5
"""Seconds between partial transcripts, however fast the device is: people read no faster."""

MOST_PROMPT: Final = 2000
"""Characters; Whisper keeps the last 223 tokens."""
_TOKENS_AT_LEAST, _TOKENS_PER_SECOND = 24, 40
"""Nobody speaks so fast, even in scripts where a letter takes three tokens."""
_MOST_NEW_TOKENS: Final = 220
"""That the library can be told: with the longest prompt they fill the decoder's 448 positions."""


class Options(msgspec.Struct):
    model: str = "base"
    """A name such as "base", "distil-large-v3" or "large-v3-turbo", a repository of the Hub, or
    the path of a folder with a model in CTranslate2's format."""
    device: str = AUTO
    """"cpu", "cuda", or "auto": the worker's. Where it is "cpu", weights can be made ready for all
    workers before they are forked."""
    compute_type: str = AUTO
    """"auto": "int8" on the CPU, "float16" on GPUs that are good at it. A type that the device
    does not support is an error."""
    beam_size: Annotated[int, msgspec.Meta(ge=1, le=10)] = 1
    """1 is greedy. 5 is Whisper's own choice for files: some errors fewer, for a decoder that
    works five times as much while the caller waits."""
    language: str = ""
    """ISO 639-1. Callers' hints count only where this is ""; without either it is detected."""
    initial_prompt: str = ""
    """What Whisper shall believe was said before: names and terms in their spelling."""
    threads: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    """Of the CPU, for each worker."""
    partials: Annotated[float, msgspec.Meta(ge=0, le=0.5)] = 0.25
    """The share of a worker's thread that partial transcripts may take; 0 for none.

    A final transcript waits for a partial one at work. In turns of one to seven seconds that are
    fed as they are spoken, for this long on average (and in one turn of twenty):

        a transcript takes      0.05 s     0.1 s         0.2 s         0.5 s         1 s
        share 0.25              0 ms       1 (14) ms     7 (62) ms     45 (300) ms   130 (680) ms
        share 0.5               0 ms       2 (14) ms     20 (110) ms   90 (400) ms   210 (790) ms
    """
    download_root: str = ""
    """The folder for downloads; by default the Hub library's cache."""


def create(options: Mapping[str, Any]) -> WhisperRecognizer:
    """The engine from its table of options. Raises ConfigError."""
    checked = engine_options.convert(options, Options, _WHERE)
    for key, known in (("device", DEVICES), ("compute_type", COMPUTE_TYPES)):
        value = getattr(checked, key)
        if value not in known:
            raise ConfigError(
                f"{_WHERE}: {key}: {value!r} does not exist; {engine_options.nearest(value, known)}"
            )
    return WhisperRecognizer(checked)


class WhisperRecognizer:
    """SpeechRecognizer, Checking and Fetching."""

    name = "faster_whisper"

    def __init__(self, options: Options) -> None:
        self._options = options
        self._pace = Pace(options.partials, SHORTEST_INTERVAL)
        self._files: ModelFiles | None = None
        self._model: Any = None

    # -- before the caller

    def fetch(self, report: hub.Report) -> None:
        self._source().fetch(report)

    def check(self) -> None:
        """See Checking. What a GPU supports, only a worker can tell."""
        self._source().find()
        if self._options.device == "cpu":
            self._compute_type("cpu", 0)

    def preload(self) -> None:
        """Takes 1 s, and 0.2 s for each 100 MB of weights that are converted to 8 bits."""
        _import("faster_whisper")
        # At INFO it tells how long each utterance was and in what language.
        logging.getLogger("faster_whisper").setLevel(logging.WARNING)
        on_cpu = self._options.device == "cpu"
        int8 = on_cpu and self._compute_type("cpu", 0).startswith("int8")
        self._files = ModelFiles(self._source().find(), int8=int8)

    def load(self, device: str) -> None:
        if self._files is None:
            self.preload()
        kind, index = self._place(device)
        model = self._make_model(kind, index, self._compute_type(kind, index))
        language = self._options.language
        if language and language not in model.supported_languages:
            raise ConfigError(
                f"{_WHERE}: language: the model {self._options.model!r} does not know "
                f"{language!r}; {engine_options.nearest(language, model.supported_languages)}"
            )
        self._model = model

    def warm_up(self) -> None:
        """A partial transcript is the same work. Raises EngineUnavailable where a library of the
        GPU is missing, which CTranslate2 notices only now."""
        try:
            self._transcribe(np.zeros(INPUT_RATE, np.float32), None, "")
        except Exception as error:
            raise _failed(f"cannot run the model {self._options.model!r}", error) from error

    # -- the caller

    def stream(self, *, language: str | None = None, prompt: str = "") -> WhisperStream:
        """Begin an utterance. A hint that the model does not know is ignored."""
        if self._model is None:
            raise EngineError("faster-whisper has not been loaded")
        spoken = self._language(language)
        before = self._prompt(prompt)
        return WhisperStream(
            lambda sound: self._hear(sound, spoken, before), self._pace, language=spoken or ""
        )

    def _hear(self, sound: Samples, language: str | None, prompt: str) -> Heard:
        try:
            return self._transcribe(sound, language, prompt)
        except Exception as error:
            # Not its text: that might quote what was said.
            raise EngineError(f"faster-whisper failed with {type(error).__name__}") from error

    def _transcribe(self, sound: Samples, language: str | None, prompt: str) -> Heard:
        # Twice: of what the library allows, prompt and all, CTranslate2 uses half. In more than
        # two seconds there may be as many tokens as it takes by itself, 224.
        most = 2 * (_TOKENS_AT_LEAST + _TOKENS_PER_SECOND * len(sound) // INPUT_RATE)
        segments, _ = self._model.transcribe(
            sound,
            # Detection as for a change of language within a file ("multilingual") uses the one
            # encoding that there is; `language=None` would encode everything twice.
            language=language or "en",
            multilingual=language is None,
            initial_prompt=prompt or None,
            beam_size=self._options.beam_size,
            temperature=0.0,
            condition_on_previous_text=False,
            without_timestamps=True,
            vad_filter=False,
            max_new_tokens=most if most <= _MOST_NEW_TOKENS else None,
        )
        heard = [_heard(segment) for segment in segments]  # a window gives one, or none
        return heard[0] if heard else NOTHING

    def _language(self, hint: str | None) -> str | None:
        """The language to expect; None: detect it."""
        known = self._model.supported_languages
        if len(known) == 1:
            return str(known[0])
        wanted = self._options.language or (hint or "").partition("-")[0].lower()
        return wanted if wanted in known else None

    def _prompt(self, prompt: str) -> str:
        both = (self._options.initial_prompt, prompt)
        parts = (unspecial(part[-MOST_PROMPT:]).strip() for part in both)
        return " ".join(part for part in parts if part)[-MOST_PROMPT:]

    # -- the model

    def _source(self) -> Source:
        return Source(self._options.model, self._options.download_root)

    def _place(self, device: str) -> tuple[str, int]:
        """CTranslate2's name for the device of the worker, and its index."""
        on_gpu = device.startswith("cuda")
        if self._options.device == "cuda" and not on_gpu:
            raise EngineUnavailable(
                f'{_WHERE}: device = "cuda", but this worker has no GPU; run `voicepool doctor`, '
                'or write device = "cpu"'
            )
        if self._options.device == "cpu" or not on_gpu:
            return "cpu", 0
        return "cuda", int(device.partition(":")[2] or 0)

    def _compute_type(self, kind: str, index: int) -> str:
        """Of the configured one or the best. For "cuda" only after the fork: it opens the GPU.

        Raises ConfigError where the device does not support it.
        """
        try:
            supported = _import("ctranslate2").get_supported_compute_types(kind, index)
        except (RuntimeError, ValueError) as error:
            raise _failed(f"cannot use {kind}", error) from error
        wanted = self._options.compute_type
        if wanted == AUTO:
            return next(name for name in _PREFERRED[kind] if name in supported)
        if wanted not in supported:
            raise ConfigError(
                f"{_WHERE}: compute_type: {kind} does not support {wanted!r} here; "
                f"write one of: {', '.join(sorted(supported))}"
            )
        return wanted

    def _make_model(self, kind: str, index: int, compute_type: str) -> Any:
        assert self._files is not None
        with tempfile.TemporaryDirectory(prefix="whisper-") as folder:
            self._files.arrange(Path(folder))
            try:
                model = _import("faster_whisper").WhisperModel(
                    folder,
                    device=kind,
                    device_index=index,
                    compute_type=compute_type,
                    cpu_threads=self._options.threads,
                    num_workers=1,
                    local_files_only=True,
                )
            except (RuntimeError, ValueError, OSError) as error:
                raise _failed(f"cannot load the model {self._options.model!r}", error) from error
        model.hf_tokenizer = self._files.tokenizer
        return model


def _import(module: str) -> Any:
    return engine_options.require(module, "faster-whisper", "models")


def _heard(segment: Any) -> Heard:
    tokens = len(segment.tokens) + 1  # its end counts, as in the average
    return Heard(clean(segment.text), tokens, segment.avg_logprob * tokens)


_REMEDIES: Final = (
    (r"libcu\w+|libnv\w+", "`voicepool doctor` names the packages that bring CUDA's libraries"),
    (r"driver|CUDA", "run `voicepool doctor`"),
    (r"features shape", "the model's preprocessor_config.json is missing or another model's"),
    (r"", "delete the model's files and run: voicepool prefetch"),
)  # fmt: skip


def _failed(what: str, error: Exception) -> EngineError:
    """What CTranslate2 says before there is a caller whom it could quote, and the remedy."""
    said = str(error)
    if "out of memory" in said:
        return EngineError(f"faster-whisper {what}: {said}; use fewer workers or a smaller model")
    remedy = next(remedy for pattern, remedy in _REMEDIES if re.search(pattern, said))
    return EngineUnavailable(f"faster-whisper {what}: {said}; {remedy}")
