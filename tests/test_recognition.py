"""How well the recogniser hears the whole phrasebook, and how well it tells that it is not meant.

Figures are printed with `pytest -s` and kept as properties of the test (`--junitxml`).
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from tests import sentences
from tests.speech import noisy, pieces, say
from voicepool.engines import pocketsphinx
from voicepool.engines.phrasebook import grammar

VOICES = (("en-us", 150, 20), ("en", 175, 40))
"""Voice, words per minute, milliseconds a piece. What rejection was fitted to had other voices."""

pytestmark = pytest.mark.timeout(400)  # about 50 s each on a free core

Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def recognizer() -> pocketsphinx.PhraseRecognizer:
    recognizer = pocketsphinx.create({})
    recognizer.preload()
    return recognizer


def hear(
    recognizer: pocketsphinx.PhraseRecognizer, text: str, voice: str, rate: int, ms: int, seed: int
) -> str:
    """What the recogniser understands of a sentence that is streamed to it."""
    stream = recognizer.stream()
    for piece in pieces(noisy(say(text, voice=voice, rate=rate), seed=seed), milliseconds=ms):
        stream.feed(piece)
    return stream.finish().text


def report(record: Record, name: str, count: int, total: int, examples: list[str]) -> None:
    record(name, f"{count}/{total}")
    print(f"\n{name}: {count} of {total} ({count / total:.1%})")
    for example in examples:
        print(f"    {example}")


@pytest.mark.parametrize(("voice", "rate", "ms"), VOICES)
def test_phrases_are_understood(
    recognizer: pocketsphinx.PhraseRecognizer,
    record_property: Record,
    voice: str,
    rate: int,
    ms: int,
) -> None:
    random = Random(rate)
    book = recognizer.phrasebook
    wrong = []
    for number, pattern in enumerate(book.patterns()):
        text = grammar.sample(pattern, book.lists, random)
        heard = hear(recognizer, text, voice, rate, ms, seed=number)
        if heard != text:
            wrong.append(f"{voice}: {text!r} heard as {heard!r}")
    total = len(book.patterns())
    report(record_property, f"phrases understood ({voice})", total - len(wrong), total, wrong)
    assert total >= 60
    assert 1 - len(wrong) / total >= 0.93


def test_other_sentences_are_rejected(
    recognizer: pocketsphinx.PhraseRecognizer, record_property: Record
) -> None:
    taken = []
    for number, text in enumerate(sentences.FOREIGN):
        voice, rate, ms = VOICES[number % len(VOICES)]
        heard = hear(recognizer, text, voice, rate, ms, seed=1000 + number)
        if heard:
            taken.append(f"{voice}: {text!r} taken for {heard!r}")
    report(record_property, "foreign sentences taken", len(taken), len(sentences.FOREIGN), taken)
    assert len(sentences.FOREIGN) == 100
    assert len(taken) <= 10


def test_near_misses_are_counted(
    recognizer: pocketsphinx.PhraseRecognizer, record_property: Record
) -> None:
    """One wrong word is hard to hear: the bar is only that more are rejected than taken."""
    near = sentences.near_misses()
    taken = []
    for number, text in enumerate(near):
        voice, rate, ms = VOICES[number % len(VOICES)]
        heard = hear(recognizer, text, voice, rate, ms, seed=2000 + number)
        if heard:
            taken.append(f"{voice}: {text!r} taken for {heard!r}")
    report(record_property, "near misses taken", len(taken), len(near), taken)
    assert len(taken) < len(near) / 2
