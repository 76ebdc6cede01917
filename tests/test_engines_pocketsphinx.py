"""Closed-phrase recognition: streams, mistakes, and the decision to believe a phrase."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.speech import noisy, pieces, say, silence
from voicepool.engines import plausibility, pocketsphinx
from voicepool.engines.base import INPUT_RATE, Samples
from voicepool.engines.plausibility import Evidence, Segment
from voicepool.errors import ConfigError, EngineError

CAPITAL = "what is the capital of portugal"


@pytest.fixture(scope="module")
def recognizer() -> pocketsphinx.PhraseRecognizer:
    recognizer = pocketsphinx.create({})
    recognizer.preload()
    recognizer.load("host")
    recognizer.warm_up()
    return recognizer


@pytest.fixture(scope="module")
def capital() -> Samples:
    return noisy(say(CAPITAL), seed=1)


def test_partials_grow_into_the_phrase(
    recognizer: pocketsphinx.PhraseRecognizer, capital: Samples
) -> None:
    stream = recognizer.stream(language="en", prompt="ignored")
    partials = [said for piece in pieces(capital) if (said := stream.feed(piece)) is not None]
    assert partials[-1].text == CAPITAL
    assert len({said.text for said in partials}) >= 4
    assert all(a.text != b.text for a, b in itertools.pairwise(partials))
    assert not any(said.final for said in partials)
    final = stream.finish()
    assert final.final
    assert (final.text, final.rejected) == (CAPITAL, "")
    assert final.confidence is not None
    assert 0.5 <= final.confidence <= 1


def test_a_snapshot_does_not_end_the_utterance(
    recognizer: pocketsphinx.PhraseRecognizer, capital: Samples
) -> None:
    stream = recognizer.stream()
    half = len(capital) // 2
    stream.feed(capital[:half])
    early = stream.snapshot()
    assert early.text == ""
    assert early.rejected
    stream.feed(capital[half:])
    snapshot = stream.snapshot()
    assert snapshot.text == CAPITAL
    assert stream.finish() == snapshot


def test_utterances_that_overlap_do_not_mix(
    recognizer: pocketsphinx.PhraseRecognizer, capital: Samples
) -> None:
    call, clip = recognizer.stream(), recognizer.stream()
    joke = noisy(say("tell me a funny joke"), seed=2)
    for number, piece in enumerate(pieces(capital)):
        call.feed(piece)
        if number == 10:
            clip.feed(joke)
        if number == 20:
            assert clip.finish().text == "tell me a funny joke"
    assert call.finish().text == CAPITAL
    after = recognizer.stream()
    assert [said for piece in pieces(joke) if (said := after.feed(piece))]
    after.close()
    after.close()


@pytest.mark.parametrize("gain", [1.0, 0.1])
@pytest.mark.parametrize("text", ["hello there computer", CAPITAL, "tell me a very long story"])
def test_digital_silence_and_a_low_voice_are_no_obstacle(
    recognizer: pocketsphinx.PhraseRecognizer, text: str, gain: float
) -> None:
    stream = recognizer.stream()
    stream.feed(noisy(say(text, rate=150) * np.float32(gain), seed=0, level=0.0))
    assert stream.finish().text == text


@pytest.mark.parametrize(
    "sound",
    [
        np.zeros(0, np.float32),
        np.zeros(1, np.float32),
        silence(1.0),
        np.full(8000, np.nan, np.float32),
        np.full(8000, np.inf, np.float32),
        np.random.default_rng(1).uniform(-1, 1, 16000).astype(np.float32),
        np.sin(np.arange(32000) / 5).astype(np.float32),
    ],
    ids=["nothing", "one sample", "silence", "nan", "inf", "noise", "tone"],
)
def test_what_is_not_speech_is_not_understood(
    recognizer: pocketsphinx.PhraseRecognizer, sound: Samples
) -> None:
    stream = recognizer.stream()
    stream.feed(sound)
    said = stream.finish()
    assert said.text == ""
    assert said.rejected


def test_an_endless_utterance_is_bounded(recognizer: pocketsphinx.PhraseRecognizer) -> None:
    stream = recognizer.stream()
    second = np.random.default_rng(2).standard_normal(INPUT_RATE).astype(np.float32) * 0.01
    for _ in range(int(pocketsphinx.LONGEST_UTTERANCE) + 5):
        stream.feed(second)
    assert stream.finish().rejected == "too long"


def test_an_unfinished_phrase_is_not_understood(
    recognizer: pocketsphinx.PhraseRecognizer,
) -> None:
    heard = Evidence("what is the capital of", (), ())
    assert recognizer.judge(heard).rejected == "an unfinished phrase"


@pytest.mark.parametrize(
    "text", ["i would like to", "what is the capital of", "tell me a very long", "hello"]
)
def test_the_beginning_of_a_phrase_is_known_as_one(
    recognizer: pocketsphinx.PhraseRecognizer, text: str
) -> None:
    stream = recognizer.stream()
    stream.feed(noisy(say(text), seed=1))
    said = stream.snapshot()
    assert (said.text, said.beginning, said.complete) == ("", text, False)


def test_a_whole_phrase_is_known_as_one(
    recognizer: pocketsphinx.PhraseRecognizer, capital: Samples
) -> None:
    stream = recognizer.stream()
    stream.feed(capital)
    said = stream.finish()
    assert (said.text, said.beginning, said.complete) == (CAPITAL, "", True)


@pytest.mark.parametrize(
    "text", ["the committee postponed its decision", "well i was thinking about the weather"]
)
def test_what_is_no_phrase_is_the_beginning_of_none(
    recognizer: pocketsphinx.PhraseRecognizer, text: str
) -> None:
    stream = recognizer.stream()
    stream.feed(noisy(say(text), seed=1))
    said = stream.finish()
    assert (said.text, said.beginning, said.complete) == ("", "", False)
    assert said.rejected


def test_rejection_can_be_turned_off(tmp_path: Path) -> None:
    poor = Evidence("tell me a funny joke", (Segment("tell", 0, 50, -5000.0, 3),), ())
    eager = pocketsphinx.create({"reject": False})
    assert eager.judge(poor).text == "tell me a funny joke"
    assert pocketsphinx.create({}).judge(poor).rejected == "an unlikely phrase"


def test_streams_need_a_loaded_engine() -> None:
    with pytest.raises(EngineError, match="not been loaded"):
        pocketsphinx.create({}).stream()


def own_book(folder: Path, more: str) -> pocketsphinx.PhraseRecognizer:
    path = folder / "my.toml"
    path.write_text(
        'replace = true\n[[phrase]]\nid = "pool"\nsay = "greetings voicepool"\nreply = "Hi."\n'
        + more
    )
    return pocketsphinx.create({"phrasebook": str(path)})


def test_an_unknown_word_is_reported_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"my.toml: phrase 'pool': .*'voicepool'.*pronunciation"):
        own_book(tmp_path, "").preload()


def test_an_unknown_phone_is_reported(tmp_path: Path) -> None:
    recognizer = own_book(tmp_path, '[pronunciations]\nvoicepool = "V OYE S P UW L"')
    with pytest.raises(ConfigError, match=r"'voicepool': no phone 'OYE'; did you mean 'OY'"):
        recognizer.preload()


def test_a_pronunciation_teaches_a_word(tmp_path: Path) -> None:
    recognizer = own_book(tmp_path, '[pronunciations]\nvoicepool = "V OY S P UW L"')
    recognizer.preload()
    stream = recognizer.stream()
    stream.feed(noisy(say("greetings voicepool"), seed=3))
    assert stream.finish().text == "greetings voicepool"


def segments(*scores: float) -> tuple[Segment, ...]:
    return tuple(
        Segment("w", at * 30, at * 30 + 29, score * 30, 4) for at, score in enumerate(scores)
    )


def test_confidence_falls_with_each_sign_of_a_wrong_phrase() -> None:
    loop = (Segment("AA", 0, 119, -120.0, 1),)
    good = plausibility.confidence(Evidence("a b c", segments(-1.5, -1.5, -1.5), loop))
    assert good > 0.9
    poor_all_over = segments(-6, -6, -6)
    one_word_wrong = segments(-1.5, -9, -1.5)
    missed_speech = (*segments(-1.5, -1.5, -1.5), Segment("<sil>", 90, 119, -60.0, 0))
    for words in (poor_all_over, one_word_wrong, missed_speech):
        assert plausibility.confidence(Evidence("a b c", words, loop)) < good
    assert plausibility.confidence(Evidence("a", segments(-8), loop)) < 0.5
    assert plausibility.confidence(Evidence("a", (), loop)) == 0


frames = st.integers(0, 300)
anything = st.lists(
    st.builds(
        Segment,
        st.just("w"),
        frames,
        frames,
        st.floats(-1e5, 1e5),
        st.integers(0, 9),
    ),
    max_size=6,
).map(tuple)


@settings(deadline=None)
@given(anything, anything)
def test_confidence_is_a_probability_whatever_the_decoder_says(
    words: tuple[Segment, ...], phones: tuple[Segment, ...]
) -> None:
    assert 0 <= plausibility.confidence(Evidence("w", words, phones)) <= 1
