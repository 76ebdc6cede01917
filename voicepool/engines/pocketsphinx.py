"""Closed-phrase recognition by PocketSphinx (https://github.com/cmusphinx/pocketsphinx).

The acoustic model is the wheel's en-us; the grammar comes from the phrasebook, and so does the
dictionary: the few hundred words that it needs, in place of the wheel's 134,000, which makes a
decoder of 2 MB in some milliseconds.

Two decoders. The live one follows the speech for partial transcripts, with the cepstral mean that
it has learnt so far. The final one hears the whole utterance again, with the mean of just that
utterance (`full_utt`), and then once more with a loop of phones, so that `plausibility` can tell a
phrase from a sentence that merely had to be mapped to one.

Decoders live in memory alone and make no thread: built in the zygote, they serve in its children.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakSet

import msgspec
import numpy as np

from voicepool.engines import options as engine_options
from voicepool.engines import plausibility
from voicepool.engines.base import INPUT_RATE, Samples, Transcript
from voicepool.engines.phrasebook import book
from voicepool.engines.plausibility import Evidence, Segment
from voicepool.errors import ConfigError, EngineError, EngineUnavailable
from voicepool.remedies import pip_install

LONGEST_UTTERANCE = 20.0
"""Seconds. No phrase is near it; what is longer is not kept."""

SHORTEST_UTTERANCE = 0.2
"""Seconds. The decoder fails at sound that is shorter than a few frames."""

NOISE_FLOOR = np.float32(5e-4)
"""Standard deviation of the noise that is added to all sound. The model has never heard digital
silence (a muted microphone, a synthesised file) and then finds a third of the phrases at best."""

BEAMS = {"beam": 1e-60, "pbeam": 1e-60, "wbeam": 1e-40}
"""Of the final decoder. With the defaults (1e-48, 1e-48, 7e-29) a third of the phrases that it
misses are lost to pruning; wider ones than these cost more and find no more."""

TINIEST = 1e-300
"""Likelihoods below underflow: a word of more than two seconds that fits badly."""

# fmt: off
PHONES = frozenset({
    "AA", "AE", "AH", "AO", "AW", "AY", "B", "CH", "D", "DH", "EH", "ER", "EY", "F", "G", "HH",
    "IH", "IY", "JH", "K", "L", "M", "N", "NG", "OW", "OY", "P", "R", "S", "SH", "T", "TH", "UH",
    "UW", "V", "W", "Y", "Z", "ZH",
})
# fmt: on
"""ARPABET as the en-us model and its dictionary have it, without stress marks."""

Pronunciations = Mapping[str, Sequence[str]]


class Options(msgspec.Struct):
    phrasebook: str = ""
    """The user's phrasebook file; by default the one of [llm]."""
    reject: bool = True
    """False: take the best guess always, as long as it is a complete phrase."""


def create(options: Mapping[str, Any]) -> PhraseRecognizer:
    """The engine from its table of options. Raises ConfigError."""
    checked = engine_options.convert(options, Options, "[stt] engine pocketsphinx")
    return PhraseRecognizer(book.load(checked.phrasebook), reject=checked.reject)


class PhraseRecognizer:
    """SpeechRecognizer for the phrases of a Phrasebook, and nothing else."""

    name = "pocketsphinx"

    def __init__(self, phrasebook: book.Phrasebook, *, reject: bool = True) -> None:
        self.phrasebook = phrasebook
        self.reject = reject
        self._live: _LiveDecoder | None = None
        self._final: _FinalDecoder | None = None

    def preload(self) -> None:
        """Build both decoders. Raises EngineUnavailable, and ConfigError for a word that has no
        pronunciation."""
        acoustics = _Acoustics()
        words = _pronounce(self.phrasebook, acoustics.model)
        grammar = self.phrasebook.jsgf()
        self._live = _LiveDecoder(acoustics.phrases(words, grammar))
        self._final = _FinalDecoder(
            acoustics.phrases(words, grammar, **BEAMS), acoustics.phones(), words
        )

    def load(self, device: str) -> None:
        if self._final is None:
            self.preload()

    def warm_up(self) -> None:
        stream = self.stream()
        stream.feed(np.zeros(INPUT_RATE // 2, np.float32))
        stream.finish()

    def stream(self, *, language: str | None = None, prompt: str = "") -> PhraseStream:
        """Begin an utterance. Hints are of no use to a grammar."""
        if self._live is None:
            raise EngineError("pocketsphinx has not been loaded")
        return PhraseStream(self._live, self)

    def evidence(self, pcm: bytes) -> Evidence:
        """What the final decoder finds in a whole utterance of 16-bit sound; blocks."""
        if self._final is None:
            raise EngineError("pocketsphinx has not been loaded")
        return self._final.hear(pcm)

    def judge(self, heard: Evidence) -> Transcript:
        """The final transcript: the phrase, or "" and the reason why it is not believed."""
        if not heard.text:
            return _refuse("nothing like a phrase")
        confidence = plausibility.confidence(heard)
        if self.phrasebook.match(heard.text) is None:
            # Only where it is likely: anything else that is said has to begin like a phrase too.
            return _refuse("an unfinished phrase", beginning=heard.text if confidence > 0.5 else "")
        if self.reject and confidence < 0.5:
            return _refuse("an unlikely phrase", confidence)
        return Transcript(heard.text, final=True, confidence=confidence, complete=True)


def _refuse(why: str, confidence: float = 0.0, *, beginning: str = "") -> Transcript:
    return Transcript("", final=True, confidence=confidence, rejected=why, beginning=beginning)


class PhraseStream:
    """RecognizerStream of one utterance."""

    def __init__(self, live: _LiveDecoder, recognizer: PhraseRecognizer) -> None:
        self._live = live
        self._recognizer = recognizer
        self._pcm = bytearray()
        self._noise = np.random.default_rng(0)
        self._too_long = False
        self._partial = ""
        self._said: Transcript | None = None

    def feed(self, samples: Samples) -> Transcript | None:
        if not len(samples):
            return None
        pcm = to_pcm(samples, self._noise)
        self._said = None
        if len(self._pcm) + len(pcm) > LONGEST_UTTERANCE * INPUT_RATE * 2:
            self._too_long = True
            return None
        self._pcm += pcm
        text = self._live.follow(self, pcm)
        if text is None or text == self._partial:
            return None
        self._partial = text
        return Transcript(text, final=False)

    def finish(self) -> Transcript:
        said = self.snapshot()
        self.close()
        return said

    def snapshot(self) -> Transcript:
        if self._said is None:
            if self._too_long:
                self._said = _refuse("too long")
            elif len(self._pcm) < SHORTEST_UTTERANCE * INPUT_RATE * 2:
                self._said = _refuse("too short")
            else:
                self._said = self._recognizer.judge(self._recognizer.evidence(bytes(self._pcm)))
        return self._said

    def close(self) -> None:
        self._live.leave(self)
        self._pcm.clear()


def to_pcm(samples: Samples, noise: np.random.Generator) -> bytes:
    """16-bit sound as the decoders hear it, with the noise floor."""
    clean = np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0)
    floor = noise.standard_normal(len(clean), np.float32) * NOISE_FLOOR
    return (np.clip(clean + floor, -1.0, 1.0) * 32767).astype(np.int16).tobytes()


class _LiveDecoder:
    """Follows one utterance at a time: the one that was fed last.

    Another utterance may begin before one ends (a clip to transcribe during a call). The older one
    then gets no more partial transcripts; its final one needs only its own sound.
    """

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder
        self._owner: PhraseStream | None = None
        self._past: WeakSet[PhraseStream] = WeakSet()

    def follow(self, stream: PhraseStream, pcm: bytes) -> str | None:
        """The words so far, None where this stream is not being followed."""
        if self._owner is not stream:
            if stream in self._past:
                return None
            if self._owner is not None:
                self._past.add(self._owner)
                self._decoder.end_utt()
            self._decoder.start_utt()
            self._owner = stream
        try:
            self._decoder.process_raw(pcm, False, False)
        except RuntimeError as error:
            raise EngineError(f"pocketsphinx failed: {error}") from error
        found = self._decoder.hyp()
        return found.hypstr if found is not None else ""

    def leave(self, stream: PhraseStream) -> None:
        self._past.discard(stream)
        if self._owner is stream:
            self._owner = None
            self._decoder.end_utt()


class _FinalDecoder:
    """Hears a whole utterance by the grammar, then by a loop of phones."""

    def __init__(self, phrases: Any, phones: Any, words: Pronunciations) -> None:
        self._phrases = phrases
        self._phones = phones
        self._length = {word: len(spoken[0].split()) for word, spoken in words.items()}

    def hear(self, pcm: bytes) -> Evidence:
        """What there is in 16-bit sound at 16 kHz, with the grammar's best guess, complete or not.

        Takes 0.09 s of one core per second of sound.
        """
        text, words = _decode(self._phrases, pcm)
        phones = _decode(self._phones, pcm)[1] if text else []
        return Evidence(
            text,
            tuple(_segment(it, self._length.get(it.word.partition("(")[0], 0)) for it in words),
            tuple(_segment(it, int(it.word not in _SILENT_PHONES), _PHONE_SCALE) for it in phones),
        )


_SILENT_PHONES = {"SIL", "+NSN+", "+SPN+"}
_PHONE_SCALE = 1024
"""The phone search gives scores in units of 2**10, the grammar search in ones."""


def _decode(decoder: Any, pcm: bytes) -> tuple[str, list[Any]]:
    try:
        decoder.start_utt()
        try:
            decoder.process_raw(pcm, False, True)
            # Once it is ended, a phrase that is not complete has never been.
            unfinished = _best_guess(decoder)
        finally:
            decoder.end_utt()  # else the next utterance could not start
    except RuntimeError as error:
        raise EngineError(f"pocketsphinx failed: {error}") from error
    return _best_guess(decoder) or unfinished or ("", [])


def _best_guess(decoder: Any) -> tuple[str, list[Any]] | None:
    found = decoder.hyp()
    return None if found is None else (found.hypstr, list(decoder.seg()))


def _segment(found: Any, phones: int, scale: int = 1) -> Segment:
    score = scale * math.log(max(found.ascore, TINIEST))
    return Segment(found.word, found.start_frame, found.end_frame, score, phones)


class _Acoustics:
    """Makes decoders of the wheel's en-us model. Raises EngineUnavailable."""

    def __init__(self) -> None:
        self._library = engine_options.require("pocketsphinx", "pocketsphinx", "embedded")
        self.model = Path(self._library.get_model_path()) / "en-us"

    def phrases(self, words: Pronunciations, grammar: str, **beams: float) -> Any:
        """A decoder for the phrases of a JSGF grammar."""
        decoder = self._decoder(**beams)
        for word, pronunciations in words.items():
            for number, phones in enumerate(pronunciations, 1):
                decoder.add_word(word if number == 1 else f"{word}({number})", phones, False)
        try:
            decoder.add_jsgf_string("phrases", grammar)
            decoder.activate_search("phrases")
        except (KeyError, RuntimeError, ValueError) as error:
            raise EngineUnavailable(f"pocketsphinx refuses the phrasebook: {error}") from error
        return decoder

    def phones(self) -> Any:
        """A decoder for any sequence of phones."""
        decoder = self._decoder()
        decoder.add_allphone_file("phones", str(self.model / "en-us-phone.lm.bin"))
        decoder.activate_search("phones")
        return decoder

    def _decoder(self, **beams: float) -> Any:
        try:
            return self._library.Decoder(
                hmm=str(self.model / "en-us"),
                lm=None,
                dict=None,
                samprate=INPUT_RATE,
                loglevel="FATAL",
                lw=1.0,  # the default weighs the grammar so that branches of many words lose
                **beams,
            )
        except (RuntimeError, ValueError) as error:
            raise EngineUnavailable(
                f"pocketsphinx cannot load its en-us model ({error}); install it anew with: "
                f"{pip_install('--force-reinstall pocketsphinx')}"
            ) from error


def _pronounce(phrasebook: book.Phrasebook, model: Path) -> Pronunciations:
    """Word -> its pronunciations, for all that can be spoken."""
    needed = phrasebook.words()
    found: dict[str, list[str]] = {
        word: list(phones) for word, phones in phrasebook.pronunciations.items() if word in needed
    }
    for word, phones in ((word, phones) for word, many in found.items() for phones in many):
        for phone in phones.split():
            if phone not in PHONES:
                raise ConfigError(
                    f"pronunciation of {word!r}: no phone {phone!r}; "
                    f"{engine_options.nearest(phone, PHONES)}"
                )
    given = set(found)
    for word, phones in _dictionary(model / "cmudict-en-us.dict"):
        if word in needed and word not in given:
            found.setdefault(word, []).append(phones)
    for word, entry in needed.items():
        if word not in found:
            raise ConfigError(
                f"{entry.source}: phrase {entry.id!r}: the recogniser does not know the word "
                f"{word!r}; use another, or add its pronunciation: "
                f'[pronunciations] {word} = "HH AH L OW"'
            )
    return found


def _dictionary(path: Path) -> Iterable[tuple[str, str]]:
    """(word, phones) of each line; further pronunciations of a word stand as "word(2)"."""
    try:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                word, _, phones = line.rstrip().partition(" ")
                yield word.partition("(")[0], phones
    except OSError as error:
        raise EngineUnavailable(f"pocketsphinx has no dictionary: {error}") from error
