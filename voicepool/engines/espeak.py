"""Speech by espeak-ng (https://github.com/espeak-ng/espeak-ng), called in process through ctypes.

The library and its data come with espeakng-loader. Declarations: src/include/espeak-ng/speak_lib.h.

A process has one espeak, not re-entrant: a lock guards each call. A call speaks one clause and
returns after a few milliseconds (real-time factor 0.001-0.002); cutting the text at clause ends
sounds the same as leaving that to espeak, and it is what makes cancelling a long text simple: the
generator is closed and the next clause is never begun.
"""

from __future__ import annotations

import ctypes as c
import functools
import re
import threading
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import numpy as np

from voicepool.engines import options as engine_options
from voicepool.engines.base import Samples, SpeechChunk, WordTime
from voicepool.errors import EngineError, EngineUnavailable
from voicepool.remedies import pip_install

VOICES = (
    "en-us",
    "en-us+f3",
    "en-us+m3",
    "en",
    "en+f3",
    "en-gb-scotland",
    "en-gb-x-rp",
    "en-029",
    "en-us-nyc",
)
"""The English voices that are offered. Any other name that espeak has can be configured."""

CHUNK_SECONDS = 0.06
LONGEST_PAUSE = 0.25
"""Seconds of silence after a clause, at speed 1. espeak's own 0.35 s are long between clauses that
come one by one, and count as sound that is still playing."""
_QUIET = 0.01
"""Of the loudest sample: 40 dB below it nothing is heard."""
_CLAUSE_MIN = 24
_CLAUSE_MAX = 200
"""Characters. A clause ends at punctuation; else it is cut at a space, a longer word anywhere."""

_LANGUAGE = re.compile(r"[a-z]{2,3}(?:-[a-z]{2})?\b")

_SLOWEST, _FASTEST = 80, 450
"""Words per minute that espeak accepts."""

_OUTPUT_SYNCHRONOUS = 2
_DONT_EXIT = 0x8000
_CHARACTERS_UTF8 = 1
_END_PAUSE = 0x1000
_POSITION_CHARACTER = 1
_RATE, _PITCH = 1, 3
_EVENT_END, _EVENT_WORD = 0, 1


class _Event(c.Structure):
    class _Id(c.Union):
        _fields_ = (("number", c.c_int), ("name", c.c_char_p), ("string", c.c_char * 8))

    _fields_ = (
        ("type", c.c_int),
        ("unique_identifier", c.c_uint),
        ("text_position", c.c_int),  # of the first character, from 1
        ("length", c.c_int),
        ("audio_position", c.c_int),  # milliseconds
        ("sample", c.c_int),
        ("user_data", c.c_void_p),
        ("id", _Id),
    )


_Callback = c.CFUNCTYPE(c.c_int, c.POINTER(c.c_short), c.c_int, c.POINTER(_Event))


class Options(msgspec.Struct):
    voice: str = VOICES[0]
    """An espeak voice name, for example "en-us", "en+f3" or "de"."""
    rate: Annotated[int, msgspec.Meta(ge=_SLOWEST, le=_FASTEST)] = 160
    """Words per minute at speed 1."""
    pitch: Annotated[int, msgspec.Meta(ge=0, le=99)] = 50


def create(options: Mapping[str, Any]) -> EspeakSynthesizer:
    """The engine from its table of options. Raises ConfigError."""
    return EspeakSynthesizer(engine_options.convert(options, Options, "[tts] engine espeak"))


@dataclass(frozen=True, slots=True)
class _Spoken:
    """One clause: its sound, and (index of a character, seconds) for each word event."""

    samples: Samples
    events: list[tuple[int, float]]


class _Library:
    """The process's one espeak."""

    def __init__(self) -> None:
        loader = engine_options.require("espeakng_loader", "espeakng-loader", "embedded")
        try:
            lib = c.CDLL(loader.get_library_path())
        except OSError as error:
            raise EngineUnavailable(
                f"espeak-ng cannot be loaded ({error}); install it anew with: "
                f"{pip_install('--force-reinstall espeakng-loader')}"
            ) from error
        _declare(lib)
        self.rate = lib.espeak_Initialize(
            _OUTPUT_SYNCHRONOUS, 60, loader.get_data_path().encode(), _DONT_EXIT
        )
        """Samples per second."""
        if self.rate <= 0:
            raise EngineUnavailable(
                "espeak-ng found no usable data; install it anew with: "
                f"{pip_install('--force-reinstall espeakng-loader')}"
            )
        self._lib = lib
        self._lock = threading.Lock()
        self._chunks: list[Samples] = []
        self._events: list[tuple[int, float]] = []
        self._callback = _Callback(self._collect)  # espeak keeps the pointer: we keep the object
        lib.espeak_SetSynthCallback(self._callback)

    def has_voice(self, voice: str) -> bool:
        with self._lock:
            return self._set_voice(voice)

    def speak(self, text: str, voice: str, rate: int, pitch: int) -> _Spoken:
        """Speak a clause. `text` holds no NUL. Blocks for some milliseconds."""
        utf8 = text.encode("utf-8", "replace") + b"\0"
        with self._lock:
            self._chunks, self._events = [], []
            if not self._set_voice(voice):
                raise EngineError(f"espeak has no voice {voice!r}")
            self._lib.espeak_SetParameter(_RATE, rate, 0)
            self._lib.espeak_SetParameter(_PITCH, pitch, 0)
            failed = self._lib.espeak_Synth(
                utf8,
                len(utf8),
                0,
                _POSITION_CHARACTER,
                0,
                # Neither SSML nor [[phonemes]]: markup in the text is text.
                _CHARACTERS_UTF8 | _END_PAUSE,
                None,
                None,
            )
            chunks, events = self._chunks, self._events
            self._chunks, self._events = [], []
        if failed:
            raise EngineError(f"espeak failed with status {failed}")
        return _Spoken(np.concatenate(chunks) if chunks else np.zeros(0, np.float32), events)

    def _set_voice(self, voice: str) -> bool:
        return bool(self._lib.espeak_SetVoiceByName(voice.encode("utf-8", "replace")) == 0)

    def _collect(self, wave: Any, count: int, events: Any) -> int:
        """Called by espeak within `speak`, on its thread; must not raise."""
        at = 0
        while events and events[at].type != _EVENT_END:
            if events[at].type == _EVENT_WORD:
                event = events[at]
                self._events.append((event.text_position - 1, event.sample / self.rate))
            at += 1
        if wave and count > 0:
            pcm = np.ctypeslib.as_array(wave, (count,))
            self._chunks.append(pcm.astype(np.float32) / np.float32(32768))
        return 0


def _declare(lib: c.CDLL) -> None:
    lib.espeak_Initialize.argtypes = (c.c_int, c.c_int, c.c_char_p, c.c_int)
    lib.espeak_Initialize.restype = c.c_int
    lib.espeak_SetSynthCallback.argtypes = (_Callback,)
    lib.espeak_SetSynthCallback.restype = None
    lib.espeak_SetVoiceByName.argtypes = (c.c_char_p,)
    lib.espeak_SetVoiceByName.restype = c.c_int
    lib.espeak_SetParameter.argtypes = (c.c_int, c.c_int, c.c_int)
    lib.espeak_SetParameter.restype = c.c_int
    lib.espeak_Synth.argtypes = (
        c.c_char_p,
        c.c_size_t,
        c.c_uint,
        c.c_int,
        c.c_uint,
        c.c_uint,
        c.POINTER(c.c_uint),
        c.c_void_p,
    )
    lib.espeak_Synth.restype = c.c_int


@functools.cache
def _library() -> _Library:
    return _Library()


class EspeakSynthesizer:
    """SpeechSynthesizer. Safe to preload: espeak makes no thread in this mode."""

    name = "espeak"

    def __init__(self, options: Options) -> None:
        self._options = options
        self._voices: tuple[str, ...] = ()

    def preload(self) -> None:
        library = _library()
        if not library.has_voice(self._options.voice):
            raise EngineUnavailable(
                f"espeak has no voice {self._options.voice!r}; "
                f"{engine_options.nearest(self._options.voice, VOICES)} "
                "(`espeak-ng --voices` lists all)"
            )
        self._voices = tuple(dict.fromkeys((self._options.voice, *VOICES)))

    def load(self, device: str) -> None:
        if not self._voices:
            self.preload()

    def warm_up(self) -> None:
        for _ in self.synthesize("I am ready."):
            pass

    @property
    def sample_rate(self) -> int:
        return int(_library().rate)

    @property
    def voices(self) -> tuple[str, ...]:
        return self._voices

    def language_of(self, voice: str) -> str:
        """See Polyglot: espeak names voices after their languages ("de", "en-gb-x-rp+f3")."""
        found = _LANGUAGE.match(self._chosen(voice))
        return found[0] if found else ""

    def synthesize(
        self, text: str, *, voice: str = "", speed: float = 1.0
    ) -> Generator[SpeechChunk, None, None]:
        """See SpeechSynthesizer: chunks of 60 ms, about 10 ms of work per clause.

        A text without anything to say (blanks, lone punctuation) gives no chunk. espeak's noise
        generator runs on from call to call: the same text never gives quite the same samples.
        Words that it speaks as one ("in the") have one time, at the first.
        """
        library = _library()
        chosen = self._chosen(voice)
        rate = min(max(round(self._options.rate * speed), _SLOWEST), _FASTEST)
        offset = 0
        for start, clause in split_clauses(text):
            spoken = library.speak(clause, chosen, rate, self._options.pitch)
            words = _word_times(clause, start, spoken.events, offset / library.rate)
            samples = _trimmed(spoken.samples, int(LONGEST_PAUSE / speed * library.rate))
            yield from _chunks(samples, words, library.rate, offset)
            offset += len(samples)

    def _chosen(self, voice: str) -> str:
        return voice if voice in self._voices else self._options.voice


_CLAUSE_END = re.compile(r"[.,;:?!…]+[\"')\]]*\s|\n\s*")
_UNSPEAKABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters (espeak's own commands begin with one) and halves of characters."""
_WORD = re.compile(r"\S+")


def split_clauses(text: str) -> Iterator[tuple[int, str]]:
    """The clauses of a text, each with its first character's index; clauses hold no controls.

    Joined, they have as many characters as the text, less what cannot be spoken at all.
    """
    start = 0
    while start < len(text):
        end = _clause_end(text, start)
        clause = _UNSPEAKABLE.sub(" ", text[start:end])
        if any(character.isalnum() or ord(character) > 0x2000 for character in clause):
            yield start, clause
        start = end


def _clause_end(text: str, start: int) -> int:
    last = start + _CLAUSE_MAX
    found = _CLAUSE_END.search(text, min(start + _CLAUSE_MIN, len(text)), last)
    if found is not None:
        return found.end()
    if len(text) <= last:
        return len(text)
    space = max(text.rfind(" ", start, last), text.rfind("\n", start, last))
    return space + 1 if space > start else last


def _word_times(
    clause: str, start: int, events: list[tuple[int, float]], offset: float
) -> list[WordTime]:
    """Written words with their times: espeak tells of spoken ones, of which "56" has two."""
    times: list[WordTime] = []
    heard = iter(sorted(events))
    event = next(heard, None)
    for word in _WORD.finditer(clause):
        while event is not None and event[0] < word.start():
            event = next(heard, None)
        if event is None:
            break
        if event[0] < word.end():
            times.append(WordTime(start + word.start(), start + word.end(), offset + event[1]))
    return times


def _trimmed(samples: Samples, pause: int) -> Samples:
    """The clause with at most `pause` samples of silence after it; before it espeak has none."""
    loud = np.flatnonzero(np.abs(samples) > _QUIET * np.abs(samples).max(initial=0.0))
    return samples[: int(loud[-1]) + 1 + pause] if len(loud) else samples


def _chunks(
    samples: Samples, words: list[WordTime], rate: int, offset: int
) -> Iterator[SpeechChunk]:
    size = int(rate * CHUNK_SECONDS)
    pending = words
    for at in range(0, len(samples), size):
        piece = samples[at : at + size]
        end = (offset + at + len(piece)) / rate
        last = at + size >= len(samples)
        begun = [word for word in pending if last or word.start < end]
        pending = pending[len(begun) :]
        yield SpeechChunk(piece, tuple(begun))
