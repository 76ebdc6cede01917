"""From text to the phonemes that Kokoro was trained on, word by word; needs no network, ever.

English: misaki's lexicon (https://github.com/hexgrad/misaki), which the model was trained with, if
the tagger that it needs, spaCy's en_core_web_sm, is installed as a package: it tells "I read" from
"I have read" and knows the training data's stresses. Else, and for all other languages,
espeak-ng's rules, written in misaki's phonemes: well understood, less natural in places.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal, Protocol

from voicepool import remedies
from voicepool.engines.kokoro.align import share_out
from voicepool.engines.kokoro.languages import Language
from voicepool.engines.kokoro.library import library, quiet
from voicepool.engines.kokoro.text import PAUSES, Token, once, tokens
from voicepool.errors import ConfigError, EngineUnavailable

log = logging.getLogger("voicepool.engines.kokoro")

Kind = Literal["espeak", "misaki"]
TAGGER = "en_core_web_sm"

_MOST_PHONEMES = 500
"""Of one "word": the model takes 510 at once."""


_CLOSING = frozenset(".!?…,;:)”")
"""Marks that follow a word without a blank, also where the language writes one ("oui ?")."""


@dataclass(frozen=True, slots=True)
class Word:
    """A written word, or one of several parts of an endless one."""

    start: int
    end: int
    """Its place in the text. Later parts of an endless word have none: their end is their start."""
    phonemes: str
    """With the marks around it; a blank at the end parts it from the next."""


class Pronouncer(Protocol):
    """How one language is pronounced. Lasts through a fork; for one thread at a time."""

    @property
    def kind(self) -> Kind: ...

    def pronounce(self, text: str) -> list[Word]:
        """The words of a cleaned portion (see `text.portions`); takes about a millisecond."""


def has_tagger() -> bool:
    """Whether the lexicon of English can be used. Imports nothing.

    misaki would download a tagger that spaCy does not find among the installed distributions.
    """
    try:
        importlib.metadata.distribution(TAGGER)
    except importlib.metadata.PackageNotFoundError:
        return False
    return importlib.util.find_spec(TAGGER) is not None


def check(language: Language, kind: Literal["auto"] | Kind) -> None:
    """Whether there is such a pronouncer; imports nothing.

    Raises ConfigError for the lexicon of another language than English, EngineUnavailable where
    its tagger is missing.
    """
    if kind == "misaki" and not language.english:
        raise ConfigError(
            '[tts] engine kokoro: g2p = "misaki" knows English alone; leave it at "auto"'
        )
    if kind == "misaki" and not has_tagger():
        raise EngineUnavailable(
            f'[tts] engine kokoro: g2p = "misaki" needs spaCy\'s {TAGGER}; '
            f"install it with: {install_tagger()}"
        )


def install_tagger() -> str:
    """The command."""
    return f"{remedies.python()} -m spacy download {TAGGER}"


def build(language: Language, kind: Literal["auto"] | Kind) -> Pronouncer:
    """The best pronouncer that is there, or the one that is asked for.

    Raises as `check` does, and EngineUnavailable where a package is missing.
    """
    check(language, kind)
    espeak = EspeakPronouncer(language)
    if language.english and kind != "espeak" and has_tagger():
        return LexiconPronouncer(language, espeak)
    return espeak


# --- espeak's rules --------------------------------------------------------------------------


class EspeakPronouncer:
    """Pronouncer by espeak-ng through phonemizer, in misaki's phonemes."""

    kind: Kind = "espeak"

    def __init__(self, language: Language) -> None:
        module = library("misaki.espeak", "misaki")
        with _no_copies_left():
            # misaki's own backends would read "3.14" as two sentences, and leave the flags of
            # foreign words, such as "(fr)", among the phonemes; its notations are what we want.
            self.misaki = (
                module.EspeakFallback(british=language.code == "b")
                if language.english
                else module.EspeakG2P(language=language.espeak)
            )
            self.misaki.backend = _espeak_backend(language.espeak)
        self._say: Callable[[str], str] = self._english if language.english else self._other

    def pronounce(self, text: str) -> list[Word]:
        words: list[Word] = []
        for run in _runs(tokens(text)):
            cores = [token.core for token in run if token.core]
            said = iter(self._pronounce_run(cores) if cores else ())
            for token in run:
                core = next(said) if token.core else ""
                end = " " if token is run[-1] else ""
                _append(words, token, token.before + core + token.after + end)
        return words

    def _pronounce_run(self, cores: Sequence[str]) -> list[str]:
        """The phonemes of each of these words, spoken one after the other without a pause."""
        spoken = " ".join(self._say(" ".join(cores)).split())
        if len(cores) == 1:
            return [spoken]
        return share_out(spoken, [self._say(core) for core in cores])

    def _english(self, text: str) -> str:
        phonemes, _ = self.misaki(SimpleNamespace(text=text))
        return phonemes or ""

    def _other(self, text: str) -> str:
        phonemes, _ = self.misaki(text)
        return str(phonemes)


def _runs(written: Sequence[Token]) -> Iterator[list[Token]]:
    """Words that are spoken without a mark in between."""
    run: list[Token] = []
    for token in written:
        if run and (run[-1].after or not run[-1].core or token.before or not token.core):
            yield run
            run = []
        run.append(token)
    if run:
        yield run


def _append(words: list[Word], token: Token, phonemes: str) -> None:
    """Add a word; what is only a mark goes with the word before it."""
    if not token.core and words:
        last = words[-1]
        if last.phonemes.rstrip()[-1:] not in PAUSES:  # one pause is enough
            before = last.phonemes.rstrip() if phonemes[:1] in _CLOSING else last.phonemes
            words[-1] = Word(last.start, last.end, before + phonemes)
        return
    end = token.end if token.core else token.start
    words.append(Word(token.start, end, phonemes[:_MOST_PHONEMES]))
    for at in range(_MOST_PHONEMES, len(phonemes), _MOST_PHONEMES):
        words.append(Word(end, end, phonemes[at : at + _MOST_PHONEMES]))


def _espeak_backend(language: str) -> Any:
    backend = library("phonemizer.backend", "phonemizer")
    logger = logging.getLogger("voicepool.phonemizer")  # its own writes to stderr, for each text
    logger.setLevel(logging.ERROR)
    return backend.EspeakBackend(
        language,
        punctuation_marks="\0",  # marks are ours: it sees none
        with_stress=True,
        tie="^",
        language_switch="remove-flags",
        logger=logger,
    )


@contextmanager
def _no_copies_left() -> Iterator[None]:
    """Let phonemizer load its copies of libespeak, and delete them at once.

    It copies the library into the temporary folder for each object and deletes the copies at exit,
    so a process that is killed leaves them behind. What is mapped needs no name. Preloading is
    single-threaded, so nobody else sees the temporary folder change.
    """
    api = library("phonemizer.backend.espeak.api", "phonemizer")
    saved, delete = tempfile.tempdir, vars(api.EspeakAPI)["_delete"]
    with tempfile.TemporaryDirectory(prefix="voicepool-espeak-") as folder:
        tempfile.tempdir = folder
        api.EspeakAPI._delete = staticmethod(_nothing_to_delete)
        try:
            yield
        finally:
            api.EspeakAPI._delete = delete
            tempfile.tempdir = saved


def _nothing_to_delete(library: object, folder: str) -> None:
    """Instead of EspeakAPI._delete, which complains about a folder that is gone."""


# --- misaki's lexicon ------------------------------------------------------------------------


class LexiconPronouncer:
    """Pronouncer by misaki's lexicon of English, and espeak's rules for words it does not have."""

    kind: Kind = "misaki"

    def __init__(self, language: Language, espeak: EspeakPronouncer) -> None:
        english = library("misaki.en", "misaki[en]")
        # It prints what it cannot read, and that is what somebody has said.
        english.print = _print_nothing
        self._espeak = espeak
        try:
            with quiet():
                self._misaki = english.G2P(
                    british=language.code == "b", fallback=espeak.misaki, unk=""
                )
        except (Exception, SystemExit) as error:  # it exits where it cannot download the tagger
            raise EngineUnavailable(
                f"spaCy's {TAGGER} cannot be loaded ({type(error).__name__}: {error}); install it "
                f'anew with: {install_tagger()}; or set g2p = "espeak" in [tts]'
            ) from error

    def pronounce(self, text: str) -> list[Word]:
        try:
            # Without its preprocessing: "[word](/phonemes/)" in a text is no command.
            _, spoken = self._misaki(text, preprocess=False)
        except Exception as error:  # noqa: BLE001 - numbers that num2words cannot say, above all
            log.debug("the lexicon gave up on a text", extra={"error": type(error).__name__})
            return self._espeak.pronounce(text)
        return _join(text, spoken)


def _print_nothing(*_: object) -> None:
    """Instead of `print` in misaki.en."""


def _join(text: str, spoken: Sequence[Any]) -> list[Word]:
    """misaki's tokens as written words: it parts "well," in two and never says where they stood."""
    written = tokens(text)
    phonemes = [""] * len(written)
    position = at = 0
    for token in spoken:
        found = text.find(token.text.strip(), position)
        if found >= 0:
            position = found + len(token.text.strip())
            while at + 1 < len(written) and written[at].end <= found:
                at += 1
        if written:
            phonemes[at] += (token.phonemes or "") + (" " if token.whitespace else "")
    words: list[Word] = []
    for token, said in zip(written, phonemes, strict=True):
        # It reads lone marks aloud ("asterisk") that are only there to be seen.
        clean = once(" ".join(said.split())) if token.core else token.before
        _append(words, token, f"{clean} " if clean else "")
    return words
